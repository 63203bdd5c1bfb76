"""The charts of a report, as SVG to be put inline: no scripts, no fonts, the same bytes every time.

Text takes the colour and the typeface of the page around it, so that a chart is readable in light and in dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from mediant.planning.size import human
from mediant.reports.summary import TensorRow

WIDTH = 4.6  # inches; a phone shows the text of this width at about its nominal size
INK = "#010203"  # stands for the page's text colour
BAR = "#0f8b8d"
# From pale to deep at even steps of lightness; no end of it melts into a white or a black page.
BITS = LinearSegmentedColormap.from_list("bits", ["#e9d8a6", "#94d2bd", "#0a9396", "#005f73", "#3d2c5e"])
METADATA = ("Date", "Creator", "Format", "Type")
FOR_A_PAGE = (
    (r"<svg [^>]*(viewBox=\"[^\"]*\")[^>]*>", r'<svg aria-hidden="true" \1>'),
    (r"\s*<style.*?</style>", ""),  # would hold for the whole page
    (r" ?font-family: [^;\"]*;", ""),
)
MOST_NUMBERED_LAYERS = 48
MOST_LETTERS = 26
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mediant",
    "text.parse_math": False,
    "font.size": 8,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def bits_by_layer(rows: Iterable[TensorRow]) -> Markup | None:
    """Heat map of the stored bits per weight of each matrix, layers down, modules across; None without layers."""
    cells = {(r.layer, r.kind): r.bits for r in rows if r.layer >= 0 and r.certificate is not None}
    if not cells:
        return None
    layers, kinds = sorted({layer for layer, _ in cells}), list(dict.fromkeys(kind for _, kind in cells))
    table = np.array([[cells.get((layer, kind), np.nan) for kind in kinds] for layer in layers])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.4 + 0.14 * len(layers)), layout="constrained")
        axes = figure.subplots()
        _heat(axes, table, numbered=len(layers) <= MOST_NUMBERED_LAYERS)
        labels = [cropped(name) for name in short_names(kinds)]
        axes.set_xticks(range(len(kinds)), labels, rotation=40, ha="left", rotation_mode="anchor")
        step = max(1, len(layers) // 16)
        axes.set_yticks(range(0, len(layers), step), [str(n) for n in layers[::step]])
        axes.set_ylabel("layer")
        return _svg(figure, "bits")


def bytes_by_kind(sizes: Mapping[str, int]) -> Markup:
    """Bars of the bytes of each kind of tensor, in the given order, with the size and the share of the whole."""
    total = max(1, sum(sizes.values()))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.5 + 0.24 * len(sizes)), layout="constrained")
        axes = figure.subplots()
        bars = axes.barh(range(len(sizes)), list(sizes.values()), height=0.72, color=BAR)
        labels = [f"{human(size)}, {100 * size / total:.1f} %" for size in sizes.values()]
        axes.bar_label(bars, labels, color=INK, padding=3)
        axes.set_yticks(range(len(sizes)), [cropped(kind) for kind in sizes])
        axes.set_xlim(0, 1.45 * max(1, *sizes.values()))
        axes.invert_yaxis()
        axes.set_xticks([])
        _bare(axes)
        return _svg(figure, "bytes")


def error_by_bits(rows: Iterable[TensorRow]) -> Markup | None:
    """Relative error over stored bits of each matrix, beside the slope of a quarter per bit; None without errors.

    A bit more halves the step of a grid, which quarters its squared error, step^2 / 12 (Bennett 1948).
    """
    points = [(r.bits, r.certificate.relative_error) for r in rows if r.certificate is not None]
    points = [(bits, error) for bits, error in points if error > 0]
    if not points:
        return None
    bits, errors = np.array(points).T
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
        axes = figure.subplots()
        axes.scatter(bits, errors, s=14, color=BAR, alpha=0.6, linewidths=0)
        ends = np.array([bits.min() - 0.2, bits.max() + 0.2])
        middle = np.exp(np.mean(np.log(errors) + bits * np.log(4)))
        axes.plot(ends, middle * 4.0**-ends, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("stored bits per weight")
        axes.set_ylabel("relative error")
        _bare(axes)
        return _svg(figure, "errors")


def short_names(kinds: Sequence[str]) -> list[str]:
    """Returns the last part of each path, or the whole path where two would be the same.

    >>> short_names(["attn.c_proj", "mlp.c_fc", "mlp.c_proj"])
    ['attn.c_proj', 'c_fc', 'mlp.c_proj']
    """
    last = [kind.rpartition(".")[2] for kind in kinds]
    return [name if last.count(name) == 1 else kind for name, kind in zip(last, kinds, strict=True)]


def cropped(label: str) -> str:
    """Returns the label, or its end where it is too long for a chart."""
    return label if len(label) <= MOST_LETTERS else "…" + label[1 - MOST_LETTERS :]


def _heat(axes: Axes, table: np.ndarray, numbered: bool) -> None:
    norm = Normalize(np.nanmin(table), max(np.nanmax(table), np.nanmin(table) + 0.1))
    edges = [np.arange(n + 1) - 0.5 for n in reversed(table.shape)]
    axes.pcolormesh(*edges, table, cmap=BITS, norm=norm)
    axes.invert_yaxis()
    axes.tick_params(labeltop=True, labelbottom=False)
    _bare(axes)
    if numbered:
        for (row, column), bits in np.ndenumerate(table):
            if np.isfinite(bits):
                color = "#ffffff" if norm(bits) > 0.45 else "#000000"
                axes.text(column, row, f"{bits:.1f}", ha="center", va="center", size=5.5, color=color)


def _bare(axes: Axes) -> None:
    axes.set_facecolor("none")
    axes.tick_params(which="both", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _svg(figure: Figure, name: str) -> Markup:
    """Returns the figure as an element for a page; `name` keeps its ids apart from those of other figures."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(METADATA))
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    for pattern, new in FOR_A_PAGE:
        text = re.sub(pattern, new, text)
    text = re.sub(r'(\bid="|"#|url\(#)', rf"\g<1>{name}-", text)
    return Markup(text)
