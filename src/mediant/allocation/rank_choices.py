"""Ways to store a matrix as factors, whole or sparse: measures what it loses by each that is on offer.

The loss of the first r components is known exactly for all r from one decomposition (forms/factors/encode.py).
Where factors are quantized too, what that adds is measured at one middle rank for every bit width, as a share of what
the factors stand for, and taken to be the same share at other ranks. Methods whose factors of one rank say nothing of
another's are run for every rank on offer. With a pattern of zeros, each matrix may be sparse as well: what it then
loses is measured at every bit width, so dense, sparse and thin compete for the same bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mediant import discovery
from mediant.allocation.error_curves import error_curve
from mediant.allocation.layers import Matrix, matrices, quantizable
from mediant.checkpoint.manifest import entry_bytes
from mediant.errors import PlanError
from mediant.forms import Form, from_dict, kept
from mediant.forms.encoding import trial_losses
from mediant.forms.factors.encode import encode, nested_losses
from mediant.forms.factors.form import Factors
from mediant.forms.quantize.encode import quantize
from mediant.forms.quantize.form import Quantize
from mediant.kernels.rotation import rotate_back
from mediant.methods.layer import Layer, in_basis
from mediant.methods.low_rank import Factors as Product
from mediant.methods.low_rank import LowRank
from mediant.methods.stack import prepare_any
from mediant.models.weights import WeightReader
from mediant.planning.recipe import Recipe
from mediant.progress import SILENT, Progress
from mediant.statistics.hessian import Hessians
from mediant.values import Model, RowSpan, Statistics, TensorInfo
from mediant.workers import compute_alone, ordered

# Ranks on offer for a matrix, and for one whose every rank has to be tried.
RANKS, TRIED_RANKS = 48, 6


@dataclass(frozen=True)
class Offer:
    """What a matrix may become: factors by a method of `methods/low_rank`, and what a recipe makes of matrices.

    `factors` are cast to what the recipe keeps, quantized, or cast beside a quantized matrix; with `whole`, a matrix
    may also stay in one piece.
    """

    recipe: Recipe
    low_rank: Mapping[str, Any]
    factors: str = "cast"
    whole: bool = True

    @cached_property
    def method(self) -> LowRank:
        """The method that finds factors."""
        found: LowRank = discovery.make("low_rank", self.low_rank)
        return found


@dataclass(frozen=True)
class Option:
    """One way to store a tensor: its plan, its bytes, and the loss predicted for it, in nats per token.

    The bytes are those of the parts and of what manifest and header say about them.
    """

    plan: Form
    bytes: int
    loss: float


@dataclass(frozen=True)
class Choice:
    """The ways on offer for one tensor, from the smallest to the largest, each losing less than all before it."""

    tensor: str
    options: tuple[Option, ...]


def measure_ranks(
    model: Model,
    statistics: Statistics | None,
    offer: Offer,
    hessians: Hessians | None = None,
    progress: Progress = SILENT,
) -> list[Choice]:
    """Measures the ranks on offer for every matrix, in model order."""
    targets = quantizable(model)

    def choice(matrix: Matrix) -> Choice:
        hessian = None if hessians is None else hessians.of(matrix.info.name)
        layer = prepare_any(matrix.values, None, matrix.statistics, hessian)
        losses = _Losses(layer, offer)
        return _choice(matrix.info, ((plan, losses.of(plan)) for plan in plans(matrix.info, offer)))

    with WeightReader(model) as weights:
        work = ordered(choice, matrices(model, statistics, weights), compute_alone)
        found = {c.tensor: c for c in progress.track(work, "Measuring ranks", len(targets))}
    return [found[info.name] for info in targets]


def outline_ranks(model: Model, offer: Offer) -> list[Choice]:
    """Returns the smallest and the largest way on offer for every matrix, before anything is measured."""
    found = []
    for info in quantizable(model):
        sizes = sorted((_bytes(info, plan), i, plan) for i, plan in enumerate(plans(info, offer)))
        ends = [Option(plan, size, -float(size)) for size, _, plan in (sizes[0], sizes[-1])]
        found.append(Choice(info.name, tuple(ends)))
    return found


def plans(info: TensorInfo, offer: Offer) -> Iterator[Form]:
    """Yields all ways on offer for a tensor."""
    cast = kept(offer.recipe.keep)
    if offer.factors == "cast":
        thin = [_factored(offer, rank, cast, cast) for rank in ranks(info, offer)]
        yield from _with_whole(info, offer, cast, thin)
        return
    rows = info.matrix_shape[0]
    for bits in offer.recipe.bit_widths:
        base = Quantize.of_recipe(vars(offer.recipe), (RowSpan(rows, bits),))
        if offer.factors == "residual":
            yield from [base] if offer.whole else []
            yield from (
                dataclasses.replace(_factored(offer, rank, cast, cast), base=base) for rank in ranks(info, offer)
            )
        else:
            thin = [_quantized(offer, r, rows, bits) for r in ranks(info, offer)]
            yield from _with_whole(info, offer, base, thin)
            yield from _sparse(info, offer, bits)


def _sparse(info: TensorInfo, offer: Offer, bits: int) -> Iterator[Form]:
    """Yields the matrix with few of its weights, where the recipe has a pattern that fits it."""
    plan = offer.recipe.sparse_plan((RowSpan(info.matrix_shape[0], bits),))
    if offer.recipe.pattern and info.role == "linear":
        with contextlib.suppress(PlanError):
            plan.parts(info)
            yield plan


def _with_whole(info: TensorInfo, offer: Offer, whole: Form, thin: Sequence[Form]) -> Iterator[Form]:
    """Yields the whole matrix and all products that are smaller than it, or just the products."""
    if not offer.whole:
        yield from thin
        return
    yield whole
    yield from (plan for plan in thin if _bytes(info, plan) < _bytes(info, whole))


def ranks(info: TensorInfo, offer: Offer) -> list[int]:
    """Ranks on offer: up to where factors take as much as the matrix, or a quarter of that for a residual."""
    rows, columns = info.matrix_shape
    full = min(rows, columns)
    if offer.factors == "residual":
        most = max(1, full // 4)
    else:
        most = max(1, rows * columns // (rows + columns)) if offer.whole else full
    count = RANKS if offer.method.nested else TRIED_RANKS
    return sorted({max(1, round(most * (i + 1) / count)) for i in range(count)})


def _factored(offer: Offer, rank: int, left: Form, right: Form) -> Factors:
    return Factors(low_rank=offer.low_rank, rank=rank, left=left, right=right)


def _quantized(offer: Offer, rank: int, rows: int, bits: int) -> Factors:
    """Returns a product of quantized factors. They are stored as rows: no kernel takes them as tiles, which would be
    padded.
    """
    left, right = (
        dataclasses.replace(Quantize.of_recipe(vars(offer.recipe), (RowSpan(height, bits),)), storage="rows")
        for height in (rows, rank)
    )
    return _factored(offer, rank, dataclasses.replace(left, basis={}), right)


class _Losses:
    """Predicted losses of one layer under any plan that `plans` offers."""

    def __init__(self, layer: Layer, offer: Offer) -> None:
        self.layer, self.offer = layer, offer
        self.nested = offer.method.nested
        self._factors: Product | None = None
        self._curves: dict[int, np.ndarray] = {}
        self._noise: dict[int, float] = {}
        self._bit_widths: dict[int, float] = {}
        self._pruned: dict[int, float] = {}

    def of(self, plan: Form) -> float:
        """Nats per token."""
        if plan.plain:
            return 0.0
        if isinstance(plan, Quantize):
            return self._whole(plan.runs[0].bits)
        if not isinstance(plan, Factors):
            return self._sparse(plan)
        if not self.nested:
            return self.layer.loss(encode(self.layer, plan).matrix)
        if plan.base is not None:
            return float(self._curve(plan.base.runs[0].bits)[plan.rank])
        tail = self._curve(0)
        loss = float(tail[plan.rank])
        if plan.right is not None and plan.right.runs:
            loss += self._noise_share(plan.right.runs[0].bits) * (float(tail[0]) - loss)
        return loss

    def _curve(self, bits: int) -> np.ndarray:
        """Returns the loss at ranks 0, 1, ... of the matrix, or of what quantizing it to so many bits leaves."""
        if bits not in self._curves:
            target = self.layer.matrix.astype(np.float64)
            if bits:
                plan = Quantize.of_recipe(vars(self.offer.recipe), (RowSpan(len(target), bits),))
                result = quantize(in_basis(self.layer, plan.rotation), plan)
                target = in_basis(self.layer, plan.rotation).matrix.astype(np.float64) - result.matrix
                target = _back(target, plan)
            found = self._decomposed(target)
            self._curves[bits] = nested_losses(self.layer, found)
            # Decomposing is most of the work, so what quantizing factors adds is measured on the same ones.
            self._factors = found if bits == 0 else self._factors
        return self._curves[bits]

    def _decomposed(self, target: np.ndarray) -> Product:
        joint, method = self.layer.joint(), self.offer.method
        found: Product = method.factors(target, min(target.shape), joint.rows, joint.columns)
        return found

    def _whole(self, bits: int) -> float:
        if not self._bit_widths:
            plan = Quantize.of_recipe(vars(self.offer.recipe), ())
            self._bit_widths = error_curve(in_basis(self.layer, plan.rotation), plan, self.offer.recipe.bit_widths)
        return self._bit_widths[bits]

    def _sparse(self, plan: Form) -> float:
        """Measured for all bit widths at once, as the matrix is pruned once."""
        if not self._pruned:
            rows = plan.runs[0].rows
            self._pruned = trial_losses(
                self.layer, {bits: plan.with_runs((RowSpan(rows, bits),)) for bits in self.offer.recipe.bit_widths}
            )
        return self._pruned[plan.runs[0].bits]

    def _noise_share(self, bits: int) -> float:
        """Returns the loss added by quantizing the factors, relative to the loss of zeroing what they approximate."""
        if bits not in self._noise:
            rows, columns = self.layer.matrix.shape
            middle = max(1, rows * columns // (rows + columns) // 2)
            tail = self._curve(0)
            product = encode(self.layer, _quantized(self.offer, middle, rows, bits), known=self._factors)
            loss = self.layer.loss(product.matrix)
            signal = float(tail[0] - tail[middle])
            self._noise[bits] = max(0.0, loss - float(tail[middle])) / signal if signal > 0 else 0.0
        return self._noise[bits]


def _back(matrix: np.ndarray, plan: Form) -> np.ndarray:
    if plan.rotation is None:
        return matrix
    return rotate_back(matrix.astype(np.float32), plan.rotation).astype(np.float64)


def _choice(info: TensorInfo, priced: Iterator[tuple[Form, float]]) -> Choice:
    """Without the ways that take more bytes than another which loses no more."""
    everything = sorted(
        (Option(plan, _bytes(info, plan), loss) for plan, loss in priced), key=lambda o: (o.bytes, o.loss)
    )
    kept: list[Option] = []
    for option in everything:
        if not kept or option.loss < kept[-1].loss:
            kept.append(option)
    return Choice(info.name, tuple(kept))


def _bytes(info: TensorInfo, plan: Form) -> int:
    return plan.nbytes(info) + entry_bytes(info, plan)


def choices_to_json(choices: Sequence[Choice]) -> bytes:
    """Measured choices, to be kept in a workspace."""
    return json.dumps([[c.tensor, [[o.plan.to_dict(), o.bytes, o.loss] for o in c.options]] for c in choices]).encode()


def choices_from_json(data: bytes) -> list[Choice]:
    """Returns the inverse of `choices_to_json`."""
    return [
        Choice(tensor, tuple(Option(from_dict(plan), size, loss) for plan, size, loss in options))
        for tensor, options in json.loads(data)
    ]
