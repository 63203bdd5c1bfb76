"""The tables of docs/experiments.md, put between their markers, and its figure."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from mediant import files

Row = dict[str, Any]
Rows = list[Row]

LANGUAGE, CONTROL, ENCODER = "SmolLM2", "SmolLM2 off grid", "MiniLM"
# mathematics.md of the design, section 1: decibels lost at equal numbers of values, and bits lost by raw fractions.
DESIGN_DECIBELS = {2: 0.0, 3: 1.5, 4: 2.0, 5: 3.4, 8: 4.6}
DESIGN_BITS = {8: 0.6, 64: 2.2}
GREY, BLUE, TEAL, PURPLE, RED, ORANGE, GOLD = (
    "#7a7a7a", "#1f4e9e", "#0f8b8d", "#6a3d9a", "#b2182b", "#e08214", "#c9a227",
)  # fmt: skip
FIXED = {
    "uniform, absmax": GREY,
    "uniform": BLUE,
    "Lloyd": TEAL,
    "powers of two": GOLD,
    "sums of two powers": ORANGE,
    "Farey": RED,
    "continued fractions, absmax": PURPLE,
}
BY_ENTROPY = {
    "one step": BLUE,
    "uniform": GREY,
    "Lloyd": TEAL,
    "Farey": RED,
    "continued fractions, raw": PURPLE,
    "error bound, raw": ORANGE,
}
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "mediant", "font.size": 8, "axes.titlesize": 9}


def write_tables(page: Path, results: Row) -> None:
    """Replaces what stands between the markers of each table."""
    text = page.read_text(encoding="utf-8")
    for name, table in tables(results).items():
        text = inserted(text, name, table)
    files.write(page, text.encode())


def tables(results: Row) -> dict[str, str]:
    """The Markdown tables by the name of their marker."""
    return {
        "equal-bits": quality_tables(results["quality"], results["errors"]),
        "denominators": denominators(results["errors"]),
    }


def inserted(page: str, name: str, table: str) -> str:
    """The page with the table between `<!-- table: name -->` and `<!-- end -->`."""
    pattern = re.compile(rf"(<!-- table: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    if len(pattern.findall(page)) != 1:
        raise ValueError(f"the page must have one place for the table {name!r}")
    return pattern.sub(lambda found: f"{found[1]}\n{table.strip()}\n\n{found[2]}", page)


def quality_tables(rows: Rows, errors: Rows) -> str:
    """One table for each text, the figures of the three models side by side."""
    texts = list(dict.fromkeys(row["text"] for row in rows))
    return "\n".join(quality_table([row for row in rows if row["text"] == text], errors) for text in texts)


def quality_table(rows: Rows, errors: Rows) -> str:
    """Methods down, in the order of the sweep."""
    models: dict[str, dict[str, Row]] = {}
    for row in rows:
        models.setdefault(row["model"], {})[row["method"]] = row
    main = models[LANGUAGE]
    head = next(iter(main.values()))
    lines = [
        f"SmolLM2 on {head['windows']} windows of {head['window']} tokens, {head['text']}; perplexity of the reference"
        f" {head['reference_perplexity']:.2f}.\n",
        "| method | bits, fixed | bits, entropy | error, dB | bits lost | adders | divisions | KL | perplexity"
        " | off grid: dB, KL | encoder: bits, dB, cosine |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in main.items():
        control, encoder = (models.get(model, {}).get(name) for model in (CONTROL, ENCODER))
        lines.append(quality_line(row, bits_lost(errors, LANGUAGE, row), control, encoder))
    return "\n".join(lines) + "\n"


def quality_line(row: Row, lost: float, control: Row | None, encoder: Row | None) -> str:
    cells = [
        row["method"],
        f"{row['fixed_bits']:.2f}",
        f"{row['entropy_bits']:.2f}",
        f"{row['decibels']:.1f}",
        f"{lost:z.2f}",
        f"{row['adders']:.2f}",
        f"{row['divisions']:.2f}",
        f"{row['kl']:.3f} ± {row['kl_se']:.3f}",
        f"{row['perplexity']:.1f}",
        f"{control['decibels']:.1f}, {control['kl']:.3f}" if control else "",
        f"{encoder['entropy_bits']:.2f}, {encoder['decibels']:.1f}, {encoder['cosine']:.4f}" if encoder else "",
    ]
    return "| " + " | ".join(cells) + " |"


def denominators(rows: Rows) -> str:
    """What a bound N on denominators costs against equal steps."""
    lines = [
        "| N | values | dB lost, absmax scale | dB lost, best scale | design | bits lost, raw | design |",
        "|---|---|---|---|---|---|---|",
    ]
    for n in bounds(rows):
        values = next(r["values"] for r in rows if r["method"] == f"continued fractions, absmax {n}")
        lost = [
            cell(rows, f"continued fractions, absmax {n}", f"as many equal steps, absmax {n}"),
            cell(rows, f"Farey {n}", f"as many equal steps {n}"),
        ]
        bits = " / ".join(f"{raw_loss(rows, model, n):z.1f}" for model in (LANGUAGE, CONTROL, ENCODER))
        design = [f"{claims[n]:.1f}" if n in claims else "" for claims in (DESIGN_DECIBELS, DESIGN_BITS)]
        lines.append(f"| {n} | {values} | {lost[0]} | {lost[1]} | {design[0]} | {bits} | {design[1]} |")
    return "\n".join(lines) + "\n"


def bounds(rows: Rows) -> list[int]:
    """The bounds on denominators that were tried, in order."""
    start = "continued fractions, raw "
    return sorted({int(r["method"].removeprefix(start)) for r in rows if r["method"].startswith(start)})


def cell(rows: Rows, method: str, rival: str) -> str:
    """Decibels that the rival is better by, on the three models; empty where one of the two is missing."""
    pairs = [(found(rows, model, method), found(rows, model, rival)) for model in (LANGUAGE, CONTROL, ENCODER)]
    differences = [b["decibels"] - a["decibels"] for a, b in pairs if a and b]
    return " / ".join(f"{d:z.1f}" for d in differences)


def raw_loss(rows: Rows, model: str, n: int) -> float:
    """Bits by entropy that raw fractions take more than one step of the same error."""
    row = found(rows, model, f"continued fractions, raw {n}")
    if row is None:
        raise ValueError(f"there is no row of the raw fractions of {model} with N = {n}")
    return bits_lost(rows, model, row)


def bits_lost(rows: Rows, model: str, row: Row) -> float:
    """Bits by entropy that a row takes more than one step of the same error, interpolated between the steps tried."""
    bits, decibels = series(rows, model, "one step", "entropy_bits")
    if not decibels[0] <= row["decibels"] <= decibels[-1]:
        raise ValueError(f"no steps of {model} have errors on both sides of {row['decibels']:.2f} dB")
    return float(row["entropy_bits"] - np.interp(row["decibels"], decibels, bits))


def found(rows: Rows, model: str, method: str) -> Row | None:
    return next((r for r in rows if r["model"] == model and r["method"] == method), None)


def series(rows: Rows, model: str, family: str, bits: str) -> np.ndarray:
    """Bits and decibels [2, rows] of a family, by growing bits; a row's family is its name without the last word."""
    chosen = [r for r in rows if r["model"] == model and r["method"].rpartition(" ")[0] == family]
    return np.array(sorted((r[bits], r["decibels"]) for r in chosen)).reshape(-1, 2).T


def write_figure(path: Path, results: Row) -> None:
    """Rate against error by both counts, and rate against KL."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 3.6), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        rates(left, results["errors"], FIXED, "fixed_bits", (1, 6.5), (2, 36))
        rates(middle, results["errors"], BY_ENTROPY, "entropy_bits", (0, 8), (2, 46))
        divergences(right, results["quality"])
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None})
    files.write(path, re.sub(rb"[ \t]+\n", b"\n", buffer.getvalue()))


def rates(
    axes: Axes, rows: Rows, families: dict[str, str], bits: str, across: tuple[float, float], up: tuple[float, float]
) -> None:
    """Error over bits of the copy off the grid, each family a line."""
    for family, color in families.items():
        axes.plot(*series(rows, CONTROL, family, bits), "o-", color=color, label=family, ms=3, lw=1)
    axes.set(
        xlim=across, ylim=up, xlabel=f"bits per weight, {bits.removesuffix('_bits')}", ylabel="signal to error, dB"
    )
    axes.set_title("SmolLM2 off grid")
    axes.legend(frameon=False, fontsize=7)
    axes.grid(alpha=0.25)


def divergences(axes: Axes, rows: Rows) -> None:
    """KL over bits by entropy for the methods of the first text."""
    text = rows[0]["text"]
    for number, row in enumerate(judged(rows, text), start=1):
        axes.plot(row["entropy_bits"], row["kl"], "o", color=BLUE, ms=4)
        axes.annotate(str(number), (row["entropy_bits"], row["kl"]), xytext=(4, 3), textcoords="offset points")
    names = "\n".join(f"{n} {row['method']}" for n, row in enumerate(judged(rows, text), start=1))
    axes.text(0.02, 0.02, names, transform=axes.transAxes, fontsize=6, va="bottom")
    axes.set(yscale="log", xlabel="bits per weight, entropy", ylabel=f"KL, nats per token ({text})")
    axes.margins(0.12)
    for axis in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        axis(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_title("SmolLM2")
    axes.grid(alpha=0.25)


def judged(rows: Rows, text: str) -> Iterator[Row]:
    yield from (row for row in rows if row["text"] == text and row["model"] == LANGUAGE)
