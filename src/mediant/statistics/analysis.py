"""Everything that is known about a model's parameters, tensor by tensor and kind by kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch

from mediant.models.matrix_form import to_matrix
from mediant.models.weights import WeightReader
from mediant.progress import SILENT, Progress
from mediant.statistics.distributions import Families, families
from mediant.statistics.moments import Moments, merge, moments, outliers
from mediant.statistics.quantization_order import Sensitivity, Target, nominal_loss, order, sensitivity
from mediant.statistics.spectrum import Spectrum, spectrum
from mediant.values import Array, LayerStatistics, Model, Role, Statistics, TensorInfo
from mediant.workers import ordered


@dataclass(frozen=True)
class TensorAnalysis:
    """Figures of one tensor.

    `outliers` counts weights beyond six standard deviations. `spectrum` is None without a matrix form or
    when not asked for, `sensitivity` without calibration, `loss` (see `targets`) without a matrix form or
    where calibration never came. `expert_tokens` are the tokens that each expert of a stack saw in calibration.
    """

    info: TensorInfo
    moments: Moments
    outliers: int
    families: Families
    spectrum: Spectrum | None
    sensitivity: Sensitivity | None
    loss: float | None
    expert_tokens: tuple[int, ...] | None = None


@dataclass(frozen=True)
class KindAnalysis:
    """Figures of all tensors of one role together; outliers are counted by each tensor's own deviation."""

    role: Role
    tensors: int
    moments: Moments
    outliers: int
    families: dict[str, int]


@dataclass(frozen=True)
class Analysis:
    """Figures of the tensors, of their kinds, and the order of targets, best first."""

    tensors: tuple[TensorAnalysis, ...]
    kinds: tuple[KindAnalysis, ...]
    targets: tuple[Target, ...]


def analyze(
    model: Model,
    tensors: Sequence[TensorInfo] | None = None,
    statistics: Statistics | None = None,
    spectra: bool = True,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Analysis:
    """Analyzes some or all tensors of a model, one on each thread; the threads do not change the result.

    Args:
        model: the model; its weights are read lazily.
        tensors: which of its tensors; None means all.
        statistics: what calibration learned; None orders the targets by the weights alone.
        spectra: whether to compute singular values, by far the most work.
        seed: chooses the sample to which the families are fitted.
        progress: who looks.

    Raises:
        ModelError: a tensor cannot be read or is not finite.
    """
    chosen = model.tensors if tensors is None else tuple(tensors)
    layers = statistics.layers if statistics else {}

    def work(job: tuple[TensorInfo, Array]) -> TensorAnalysis:
        info, array = job
        return analyze_tensor(array, info, layers.get(info.name), statistics is not None, spectra, seed)

    with WeightReader(model) as weights:
        jobs = ((info, weights.read(info.name)) for info in chosen)
        analyzed = tuple(progress.track(ordered(work, jobs, _alone), "Analyzing tensors", len(chosen)))
    losses = {t.info.name: t.loss for t in analyzed if t.info.layout != "none"}
    return Analysis(analyzed, by_kind(analyzed), order(chosen, losses, model.weights, statistics is not None))


def analyze_tensor(
    array: Array, info: TensorInfo, layer: LayerStatistics | None, calibrated: bool, spectra: bool, seed: int
) -> TensorAnalysis:
    """Figures of one tensor of finite values, in the shape in which the model stores it."""
    matrix = to_matrix(array, info) if info.layout != "none" else None
    found = moments(array)
    return TensorAnalysis(
        info=info,
        moments=found,
        outliers=outliers(array, found),
        families=families(array, seed),
        spectrum=spectrum(matrix) if spectra and matrix is not None else None,
        sensitivity=sensitivity(layer) if layer else None,
        loss=nominal_loss(matrix, info, layer) if matrix is not None and (layer or not calibrated) else None,
        expert_tokens=_tokens(layer),
    )


def _tokens(layer: LayerStatistics | None) -> tuple[int, ...] | None:
    counts = None if layer is None else layer.expert_tokens
    return None if counts is None else tuple(int(count) for count in counts)


def by_kind(tensors: Sequence[TensorAnalysis]) -> tuple[KindAnalysis, ...]:
    """Returns the kinds that occur, the one with the most weights first."""
    roles = {t.info.role for t in tensors}
    kinds = [_kind(role, [t for t in tensors if t.info.role == role]) for role in roles]
    return tuple(sorted(kinds, key=lambda k: (-k.moments.count, k.role)))


def _alone() -> None:
    torch.set_num_threads(1)


def _kind(role: Role, tensors: Sequence[TensorAnalysis]) -> KindAnalysis:
    best = [t.families.best for t in tensors]
    counts: dict[str, int] = {name: best.count(name) for name in sorted(set(best), key=lambda n: (-best.count(n), n))}
    together = reduce(merge, (t.moments for t in tensors))
    return KindAnalysis(role, len(tensors), together, sum(t.outliers for t in tensors), counts)
