"""The tables of `mediant analyze`, made for 100 columns; a narrower terminal cuts them, a file does not."""

from __future__ import annotations

import math
from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mediant.statistics.analysis import Analysis, KindAnalysis, TensorAnalysis
from mediant.statistics.distributions import Families
from mediant.statistics.quantization_order import human_count, human_share
from mediant.values import Model, Statistics

WIDTH = 100
NAME_WIDTH = 31
NARROW = 28
VALUES = ("min", "max", "mean", "std", "kurtosis", "> 6σ")
VALUES_LEGEND = "kurtosis: excess; > 6σ: weights beyond six standard deviations; t ν: Student t and its degrees"
SPECTRUM_LEGEND = (
    "rank: effective rank/smaller side; stable: ‖W‖²/σ₁²; 90 %: singular values that hold 90 % of ‖W‖²;\n"
    "smooth: energy at low frequencies over that of white noise, along inputs/outputs"
)
SENSITIVITY_LEGEND = (
    "\ngradient: mean E[(∂ℓ/∂y)²]; Hessian: mean E[x²]; Fisher: of one weight, the mean of their products"
)
TARGETS_LEGEND = "(share of the model), (predicted loss per byte saved from 16 to 4 bits, against the median)"
EXPERTS_LEGEND = (
    "used: share of all choices of the router; starved: experts that saw fewer tokens than they have inputs"
)
FAMILY_NAMES = {
    "gaussian": "Gaussian",
    "laplace": "Laplace",
    "student_t": "Student t",
    "uniform": "uniform",
    "constant": "constant",
}


def show(console: Console, model: Model, analysis: Analysis, statistics: Statistics | None) -> None:
    """Prints kinds, values, matrices and the order of targets, each with its legend."""
    if not console.is_terminal:
        console = Console(file=console.file, width=max(console.width, WIDTH), highlight=False)
    size = human_count(model.weights)
    console.print(f"[bold]{escape(model.name)}[/bold]: {escape(model.architecture)}, {size} weights")
    tables = [(kinds_table(analysis.kinds), ""), (values_table(analysis.tensors), VALUES_LEGEND)]
    matrices = [t for t in analysis.tensors if t.spectrum or t.sensitivity]
    if matrices:
        legend = SPECTRUM_LEGEND + (SENSITIVITY_LEGEND if statistics else "")
        tables.append((matrices_table(matrices, statistics is not None), legend))
    routed = [t for t in analysis.tensors if t.expert_tokens]
    if routed:
        tables.append((experts_table(routed), EXPERTS_LEGEND))
    tables.append((targets_table(analysis, statistics), TARGETS_LEGEND))
    for table, legend in tables:
        console.print()
        console.print(table)
        if legend:
            console.print(escape(legend), style="dim")
    _print_kept(console, analysis)


def kinds_table(kinds: Iterable[KindAnalysis]) -> Table:
    """Returns one line a kind; the family is the one that most of its tensors have."""
    columns = ("tensors", "weights", *VALUES, "family of most")
    table = table_of("Kinds", ("kind",), columns)
    for kind in kinds:
        best, times = next(iter(kind.families.items()))
        size = human_count(kind.moments.count)
        table.add_row(kind.role, str(kind.tensors), size, *_value_cells(kind), f"{FAMILY_NAMES[best]} ({times})")
    return table


def values_table(tensors: Iterable[TensorAnalysis]) -> Table:
    """Range, moments and family of every tensor."""
    table = table_of("Values", ("tensor",), ("shape", *VALUES, "family"))
    for t in tensors:
        shape = "×".join(map(str, t.info.shape))
        table.add_row(short_name(t.info.name), shape, *_value_cells(t), _family(t.families))
    return table


def matrices_table(tensors: Iterable[TensorAnalysis], calibrated: bool) -> Table:
    """Spectrum of every matrix, and its sensitivity where it was measured."""
    sensitive = ("gradient", "Hessian", "Fisher") if calibrated else ()
    table = table_of("Matrices", ("tensor",), ("σ₁", "rank", "stable", "90 %", "99 %", "smooth", *sensitive))
    for t in tensors:
        cells = (*_spectral_cells(t), *(_sensitivity_cells(t) if calibrated else ()))
        table.add_row(short_name(t.info.name), *cells)
    return table


def experts_table(tensors: Iterable[TensorAnalysis]) -> Table:
    """Shows how the tokens of the text spread over the experts of every stack."""
    columns = ("experts", "least used", "most used", "least tokens", "inputs", "starved")
    table = table_of("Experts", ("tensor",), columns)
    for t in tensors:
        counts, inputs = t.expert_tokens or (), t.info.matrix_shape[1]
        total = max(1, sum(counts))
        shares = (human_share(min(counts) / total), human_share(max(counts) / total))
        starved = sum(count < inputs for count in counts)
        table.add_row(short_name(t.info.name), str(len(counts)), *shares, f"{min(counts):,}", str(inputs), str(starved))
    return table


def targets_table(analysis: Analysis, statistics: Statistics | None) -> Table:
    """Returns the tensors worth quantizing, the cheapest first, each with the reason for its place."""
    source = f"calibrated on {statistics.source}" if statistics else "by the weights alone, see --calibrate"
    table = table_of(f"Order of targets, {source}", ("", "tensor"), ())
    table.add_column("reason")
    for place, target in enumerate((t for t in analysis.targets if t.verdict != "keep"), 1):
        table.add_row(str(place), short_name(target.name, NARROW), target.reason)
    return table


def short_name(name: str, width: int = NAME_WIDTH) -> str:
    """Returns a tensor's name without `.weight`, its first parts cut to a letter until it fits.

    >>> short_name("encoder.layer.0.attention.output.dense.weight")
    'e.l.0.attention.output.dense'
    """
    parts = name.removesuffix(".weight").split(".")
    for i in range(len(parts) - 1):
        if len(".".join(parts)) <= width:
            break
        if not parts[i].isdigit():
            parts[i] = parts[i][:1]
    return escape(".".join(parts))


def table_of(title: str, left: Iterable[str], right: Iterable[str]) -> Table:
    table = Table(
        title=escape(title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=0,
    )
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _value_cells(part: TensorAnalysis | KindAnalysis) -> tuple[str, ...]:
    m = part.moments
    figures = (m.minimum, m.maximum, m.mean, m.std, m.kurtosis)
    return (*map(_figure, figures), human_count(part.outliers))


def _spectral_cells(tensor: TensorAnalysis) -> tuple[str, ...]:
    s = tensor.spectrum
    if s is None:
        return ("–",) * 6
    rank = f"{s.effective_rank:.0f}/{len(s.singular_values)}"
    first, stable = _figure(float(s.singular_values[0])), _figure(s.stable_rank)
    smooth = f"{s.smoothness_inputs:.1f}/{s.smoothness_outputs:.1f}"
    return first, rank, stable, str(s.rank_90), str(s.rank_99), smooth


def _sensitivity_cells(tensor: TensorAnalysis) -> tuple[str, ...]:
    s = tensor.sensitivity
    return ("–",) * 3 if s is None else (_figure(s.gradient), _figure(s.hessian), _figure(s.fisher))


def _print_kept(console: Console, analysis: Analysis) -> None:
    """Prints one line for all the tensors that are not worth it."""
    kept = [t for t in analysis.targets if t.verdict == "keep"]
    if kept:
        weights, share = human_count(sum(t.weights for t in kept)), human_share(sum(t.share for t in kept))
        console.print(
            f"Keep the other {len(kept)}: {weights} weights, {share} of the model, in norms, biases and the like."
        )


def _family(families: Families) -> str:
    if families.best == "student_t":
        return f"t ν {families.fits[0].parameters['degrees']:.2g}"
    return FAMILY_NAMES[families.best]


def _figure(value: float) -> str:
    """Returns a number in at most seven characters; a dash for NaN.

    >>> _figure(0.0553), _figure(-0.000246), _figure(1582.4), _figure(float("nan"))
    ('0.0553', '-2.5e-4', '1.6e3', '–')
    """
    if not math.isfinite(value):
        return "–"
    if value and not 0.01 <= abs(value) < 1000:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.3g}"
