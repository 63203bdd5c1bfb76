"""In which order the tensors should give up bytes, and why.

Every matrix is imagined at one nominal bit width: b = 4 bits instead of 16, on even levels between -s and s,
s the largest magnitude of each 64 neighbouring columns of a row. Its noise per weight is Δ² / 12 with
Δ = 2 s / (2^b - 1). The loss that this noise costs, per byte it saves, puts the tensors in order, the
cheapest first:

- calibrated: ½ Σ_ij g_i² h_j Δ_ij² / 12, the expected rise of the loss per token to second order, g_i²
  being `LayerStatistics.output_fisher` and h_j `input_square`;
- from the weights alone: Σ_ij Δ_ij² / 12, or the mean over rows where a token reads but one row (an
  embedding that is not also the head). It takes all inputs for equally large: a first guess.

Costs are told against the median tensor, which one huge embedding cannot move. A tensor whose loss per
weight is λ times that of another deserves ½ log2 λ bits more (reverse water-filling), so a factor of 4 is
one bit: the step between the verdicts.

Sources:
    Bennett: Spectra of quantized signals, Bell System Technical Journal 27(3), 1948 (Δ² / 12).
    Cover, Thomas: Elements of Information Theory, 2nd ed., section 10.3.3 (reverse water-filling).
    Young: Radio: rate-distortion optimization for LLM compression, arXiv 2409.02026, eq. 6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mediant.values import Array, LayerStatistics, TensorInfo

NOMINAL_BITS = 4
STORED_BITS = 16
GROUP = 64
BLOCK = 1 << 20
ONE_BIT = 4.0
# A tensor below this share of the model's weights cannot save as much as a report of it is worth.
WORTH = 1e-4

Verdict = Literal["first", "next", "last", "unknown", "keep"]
ADVICE: Mapping[Verdict, str] = {
    "first": "quantize first",
    "next": "quantize next",
    "last": "quantize last",
    "unknown": "judge by hand",
    "keep": "keep",
}


@dataclass(frozen=True)
class Sensitivity:
    """How much the model's output depends on one matrix, from its calibrated statistics.

    `gradient` is the mean over outputs of E[(dl/dy_i)²] (Fisher); `hessian` the mean over inputs of
    E[x_j²], the diagonal of the layer's own Hessian up to a factor 2; `fisher` the mean of their
    products, the Fisher information of one weight. `peak` is the largest E[x_j²] over their mean: large
    where a few inputs are outliers. A tied embedding counts both of its uses in `fisher`, and its use as
    an embedding in the others.
    """

    gradient: float
    hessian: float
    fisher: float
    peak: float


@dataclass(frozen=True)
class Target:
    """One tensor's place in the order.

    `share` is that of the model's weights, `saved_bytes` what the nominal bit width saves, `loss` what it costs
    and `relative_loss` the loss per byte over that of the median ranked tensor; None where nothing is known.
    """

    name: str
    weights: int
    share: float
    saved_bytes: int
    loss: float | None
    relative_loss: float | None
    verdict: Verdict
    reason: str


def sensitivity(layer: LayerStatistics) -> Sensitivity:
    """Summary of the statistics of one matrix."""
    g, h = float(np.mean(layer.output_fisher)), float(np.mean(layer.input_square))
    fisher = sum(float(np.mean(rows)) * float(np.mean(columns)) for rows, columns in _uses(layer))
    return Sensitivity(g, h, fisher, float(np.max(layer.input_square)) / h if h > 0 else 0.0)


def nominal_loss(matrix: Array, info: TensorInfo, layer: LayerStatistics | None = None) -> float:
    """Loss of a matrix [m, n] at the nominal bit width: half the calibrated metric, else squared error.

    With statistics of a causal model that is the expected KL in nats per token; of an encoder, half the
    squared error of its output.
    """
    if layer is not None and layer.input_square.ndim == 2:
        parts = np.split(matrix, len(layer.input_square))
        return sum(nominal_loss(part, info, layer.expert(e)) for e, part in enumerate(parts))
    if layer is None:
        m, n = matrix.shape
        rows = 1 / m if info.role == "embedding" and not info.aliases else 1.0
        uses = [(np.full(m, rows), np.ones(n))]
    else:
        uses = [(0.5 * rows, columns) for rows, columns in _uses(layer)]
    starts = np.arange(0, matrix.shape[1], GROUP)
    sums = [(rows, np.add.reduceat(columns, starts)) for rows, columns in uses]
    step, loss = max(1, BLOCK // matrix.shape[1]), 0.0
    for at in range(0, matrix.shape[0], step):
        noise = _noise(matrix[at : at + step], starts)
        loss += sum(float(rows[at : at + step] @ (noise @ columns)) for rows, columns in sums)
    return loss


def order(
    tensors: Sequence[TensorInfo], losses: Mapping[str, float | None], weights: int, calibrated: bool
) -> tuple[Target, ...]:
    """Tensors from the one that should be quantized first to those that should be kept.

    Args:
        tensors: those to rank.
        losses: `nominal_loss` by name; None for a matrix that calibration never reached; a tensor without a
            matrix form has no entry.
        weights: of the whole model, for the shares.
        calibrated: whether the losses come from statistics; decides the words of the reason only.
    """
    worth = {t.name for t in tensors if t.name in losses and t.size >= WORTH * weights}
    rates = {t.name: loss / t.size for t in tensors if t.name in worth and (loss := losses[t.name]) is not None}
    median = float(np.median(list(rates.values()))) if rates else 0.0
    kind = "sensitivity" if calibrated else "noise"
    targets = []
    for t in tensors:
        relative = _relative(rates[t.name], median) if t.name in rates else None
        verdict = _verdict(t.name in worth, relative)
        reason = _reason(t, t.size / weights, relative, verdict, kind)
        saved = t.size * (STORED_BITS - NOMINAL_BITS) // 8
        targets.append(Target(t.name, t.size, t.size / weights, saved, losses.get(t.name), relative, verdict, reason))
    return tuple(sorted(targets, key=_place))


def _uses(layer: LayerStatistics) -> list[tuple[Array, Array]]:
    """Returns the row and column sensitivities of each use of the matrix; a tied embedding has two."""
    uses = [(layer.output_fisher, layer.input_square)]
    if layer.head_fisher is not None and layer.head_square is not None:
        uses.append((layer.head_fisher, layer.head_square))
    return uses


def _noise(rows: Array, starts: Array) -> Array:
    """Expected squared error per weight of each group, float64 [rows, groups]."""
    high = np.maximum.reduceat(rows, starts, axis=1)
    low = np.minimum.reduceat(rows, starts, axis=1)
    step = np.maximum(high, -low).astype(np.float64) * (2 / (2**NOMINAL_BITS - 1))
    noise: Array = step * step / 12
    return noise


def _relative(rate: float, median: float) -> float:
    """Rate over the median; where most tensors cost nothing, one that costs anything is a bit above them."""
    if median > 0:
        return rate / median
    return ONE_BIT if rate > 0 else 0.0


def _place(target: Target) -> tuple[int, float, int]:
    """Sort key: by loss per byte, the larger first among equals; then unknown, then kept ones."""
    group = {"unknown": 1, "keep": 2}.get(target.verdict, 0)
    return group, target.relative_loss or 0.0, -target.weights


def _verdict(worth: bool, relative: float | None) -> Verdict:
    if not worth:
        return "keep"
    if relative is None:
        return "unknown"
    if relative * ONE_BIT <= 1:
        return "first"
    return "last" if relative >= ONE_BIT else "next"


def _reason(info: TensorInfo, share: float, relative: float | None, verdict: Verdict, kind: str) -> str:
    size = f"{human_count(info.size)} weights"
    if verdict == "keep":
        why = "not worth it" if share < WORTH else "no matrix form"
        return f"{info.role}, {size}, {why}: {ADVICE[verdict]}"
    size += f" ({human_share(share)})"
    if relative is None:
        return f"{size}, not reached by calibration: {ADVICE[verdict]}"
    amount = {"first": "little", "next": "average", "last": "high"}[verdict]
    return f"{size}, {amount} {kind} ({human_factor(relative)}): {ADVICE[verdict]}"


def human_count(number: float) -> str:
    """Returns a count in three digits and a unit.

    >>> human_count(576), human_count(28_311_552), human_count(999_999)
    ('576', '28.3 M', '1 M')
    """
    for unit in ("", " k", " M", " G"):
        text = f"{number:.3g}"
        if float(text) < 1000:
            return text + unit
        number /= 1000
    return f"{number:.3g} T"


def human_share(share: float) -> str:
    """Returns a share in per cent, with decimals only where they matter.

    >>> human_share(0.2134), human_share(0.0213), human_share(0.00004), human_share(0)
    ('21 %', '2.1 %', '< 0.1 %', '0 %')
    """
    if 0 < share < 0.001:
        return "< 0.1 %"
    percent = 100 * share
    return f"{percent:.2g} %" if percent < 10 else f"{percent:.0f} %"


def human_factor(factor: float) -> str:
    """Returns a factor as a person writes it.

    >>> human_factor(0.0623), human_factor(1.04), human_factor(38.2), human_factor(0)
    ('1/16', '1.0 ×', '38 ×', '0 ×')
    """
    if 0 < factor < 0.5:
        return f"1/{human_count(float(f'{1 / factor:.0f}'))}"
    return f"{factor:.1f} ×" if 0 < factor < 10 else f"{factor:.0f} ×"
