"""The tables of `mediant inspect`, made for 100 columns."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mediant.forms import Form
from mediant.planning.plan import described

Figures = Mapping[str, Any]


def show(console: Console, figures: Figures, plans: Mapping[str, Form], tensors: bool) -> None:
    """Prints the summary, where the bytes are, every tensor in its form's words if wanted, and the ledger."""
    _summary(console, figures)
    console.print(_files_table(figures))
    console.print(_roles_table(figures["roles"]))
    if tensors:
        console.print(_tensors_table(figures["tensors"], plans))
    if stacks := [entry for entry in figures["tensors"] if entry.get("expert_bits")]:
        console.print(_experts_table(stacks))
    _ledger(console, figures, plans)


def _summary(console: Console, figures: Figures) -> None:
    model, calibration = figures["model"], figures["calibration"]
    lines = {
        "model": f"{model['name']} ({model['architecture']}, {model['weights']:,} weights)",
        "size": f"{figures['bytes']:,} bytes, {_bits(figures['bits_per_weight'])} bits per weight, everything counted",
        "other coding": _other_coding(figures),
        "asked for": f"{figures['target_bytes']:,} bytes" if figures["target_bytes"] else "",
        "structure": _structure(figures),
        "recipe": f"{figures['recipe']}, seed {figures['seed']}, by mediant {figures['tool_version']}",
        "calibration": f"{calibration['source']}, {calibration['tokens']:,} tokens" if calibration else "none",
        "predicted": "" if figures["predicted_loss"] is None else f"{figures['predicted_loss']:.4g} nats per token",
    }
    for name, text in lines.items():
        if text:
            console.print(f"[bold]{name:13}[/bold]{escape(text)}")


def _other_coding(figures: Figures) -> str:
    """Says how many bytes the same codes would take in the coding that they are not in."""
    sizes = figures["bytes_by_coding"]
    if sizes["fixed"] != figures["bytes"]:
        return f"about {sizes['fixed']:,} bytes with codes of a fixed length"
    return "" if sizes["entropy"] == sizes["fixed"] else f"about {sizes['entropy']:,} bytes entropy-coded"


def _structure(figures: Figures) -> str:
    edits = ", then ".join(described(edit) for edit in figures["structure"])
    return f"{edits}; before that {figures['original_weights']:,} weights" if edits else ""


def _files_table(figures: Figures) -> Table:
    table = _table("Bytes", ("file or part",), ("bytes", "share"))
    for name, size in figures["files"].items():
        table.add_row(escape(name), *_size_cells(size, figures["bytes"]))
    for kind, size in figures["parts"].items():
        table.add_row(f"  of parts: {kind}", *_size_cells(size, figures["bytes"]), style="dim")
    return table


def _roles_table(lines: Iterable[Figures]) -> Table:
    table = _table("Roles", ("role", "method"), ("tensors", "weights", "bytes", "bits per weight"))
    for line in lines:
        counts = (f"{line[name]:,}" for name in ("tensors", "weights", "bytes"))
        table.add_row(line["role"], line["method"], *counts, _bits(line["bits_per_weight"]))
    return table


def _tensors_table(entries: Iterable[Figures], plans: Mapping[str, Form]) -> Table:
    columns = ("shape", "bits", "bytes", "error", "of bound")
    table = _table("Tensors", ("tensor", "stored as"), columns)
    for entry in entries:
        shape, said = "×".join(map(str, entry["shape"])), plans[entry["name"]].words()
        bit_width = f"({entry['bits_per_weight']:.2f})" if said.bit_width is None else said.bit_width
        cells = (shape, bit_width, f"{entry['bytes']:,}", *_errors(entry["certificate"]))
        name = entry["name"].removesuffix(".weight")
        table.add_row(escape(name), escape(said.short), *cells)
    return table


def _experts_table(entries: Iterable[Figures]) -> Table:
    """Returns the bit widths of the experts of every stack, those with the fewest bits first."""
    table = _table("Experts", ("tensor", "experts of each bit width"), ("experts",))
    for entry in entries:
        bits = Counter(f"{bit_width:.3g}" for bit_width in sorted(entry["expert_bits"]))
        bit_widths = ", ".join(f"{count} of {bit_width} bits" for bit_width, count in bits.items())
        table.add_row(escape(entry["name"]), bit_widths, str(len(entry["expert_bits"])))
    return table


def _ledger(console: Console, figures: Figures, plans: Mapping[str, Form]) -> None:
    coverage, weights = figures["coverage"], figures["model"]["weights"]
    pruned = f"{coverage['pruned']:,} pruned, " if coverage["pruned"] else ""
    console.print(
        f"[bold]Coverage[/bold]: {coverage['weights']:,} of {weights:,} weights: {coverage['quantized']:,} quantized, "
        f"{pruned}{coverage['untouched']:,} cast"
        + (f", {coverage['factored']:,} factored." if coverage["factored"] else ".")
    )
    for (pattern, dtype), count in _untouched(figures["tensors"], plans).items():
        console.print(f"  not quantized, {dtype}: {escape(pattern)}" + (f" ({count} tensors)" if count > 1 else ""))
    for name in coverage["missing_files"]:
        console.print(f"  [yellow]missing file[/yellow]: {escape(name)}")
    for name in coverage["foreign_files"]:
        console.print(f"  [yellow]not part of the checkpoint[/yellow]: {escape(name)}")
    if figures["verified"]:
        console.print(f"Read and checked: {len(figures['tensors'])} tensors, every SHA-256 as in the manifest.")


def _untouched(entries: Iterable[Figures], plans: Mapping[str, Form]) -> Counter[tuple[str, str]]:
    """Cast tensors with the numbers in their names as `*`."""
    cast = (entry["name"] for entry in entries if plans[entry["name"]].ledger == "cast")
    return Counter((re.sub(r"(?<=\.)\d+(?=\.)", "*", name), plans[name].words().short) for name in cast)


def _errors(certificate: Figures | None) -> tuple[str, str]:
    """Returns the relative squared error, and the share of the worst case that the weighted error is, if that is known.

    In brackets where weights are outside the grid, as then the bound need not hold. The JSON has all figures.
    """
    if certificate is None:
        return "–", "–"
    error, worst = f"{certificate['relative_error']:.1e}", certificate["worst_error"]
    if not worst:
        return error, "–"
    share = f"{100 * certificate['weighted_error'] / worst:.0f} %"
    return error, f"({share})" if certificate["clipped"] else share


def _size_cells(size: int, total: int) -> tuple[str, str]:
    return f"{size:,}", f"{100 * size / total:.2f} %"


def _bits(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _table(title: str, left: Iterable[str], right: Iterable[str]) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for name in left:
        table.add_column(name, overflow="fold", no_wrap=name != "tensor")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table
