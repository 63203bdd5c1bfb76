"""Tables of `mediant bench`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.table import Table


def speeds_table(figures: dict[str, Any], counts: list[int]) -> Table:
    """Speeds by thread count; what is not measured yet is a dash."""
    other = figures.get("against")
    table = Table(box=None, header_style="dim")
    for name in ("threads", "decode tok/s", "prefill tok/s", "GB/s here", "of it reached"):
        table.add_column(name, justify="right")
    if other is not None:
        for name in ("llama.cpp decode", "ratio", "llama.cpp prefill", "ratio"):
            table.add_column(name, justify="right")
    for count in map(str, counts):
        row = [
            count,
            f"{figures['decode_tokens_per_second'][count]:.1f}",
            _or_dash(figures["prefill_tokens_per_second"], count, lambda value: f"{value:.0f}"),
            _or_dash(figures.get("bandwidth_bytes_per_second"), count, lambda value: f"{value / 1e9:.1f}"),
            _or_dash(figures.get("bandwidth_fraction"), count, lambda value: f"{100 * value:.0f} %"),
        ]
        if other is not None:
            for kind in ("decode", "prefill"):
                row.append(_or_dash(other[f"{kind}_tokens_per_second"], count, lambda value: f"{value:.1f}"))
                row.append(_or_dash(figures[f"{kind}_ratio"], count, lambda value: f"{value:.2f}"))
        table.add_row(*row)
    table.caption = _caption(figures)
    table.caption_justify = "left"
    return table


def _or_dash(values: Mapping[str, float] | None, key: str, form: Callable[[float], str]) -> str:
    return form(values[key]) if values and key in values else "–"


def _caption(figures: dict[str, Any]) -> str:
    from mediant.planning.size import human

    lines = [
        f"{human(figures['bytes_per_token'])} a token, {figures['bits_per_weight']:.2f} bits per weight;"
        f" activations of {figures['activation_bits']} bits"
    ]
    if "peak_memory_bytes" in figures:
        lines[0] += (
            f"; peak memory {human(int(figures['peak_memory_bytes']))}; loaded in {figures['load_seconds']:.2f} s"
        )
    other = figures.get("against", {})
    if "peak_memory_bytes" in other:
        lines.append(
            f"llama.cpp: peak memory {human(int(other['peak_memory_bytes']))}; loaded in {other['load_seconds']:.2f} s"
        )
    return "\n".join(lines)


def curve_table(rows: list[dict[str, float]], threads: int) -> Table:
    """KL divergence, speed and bytes at each precision."""
    table = Table(box=None, header_style="dim", caption=f"{threads} threads; KL to all bits, text by the model itself")
    for name in ("bits", "KL, nats a token", "decode tok/s", "bytes a token"):
        table.add_column(name, justify="right")
    for row in rows:
        speed = f"{row['decode_tokens_per_second']:.1f}"
        table.add_row(f"{row['precision']:g}", f"{row['kl']:.4f}", speed, str(row["bytes_per_token"]))
    return table
