"""A matrix as the product of two thin ones, each stored as numbers or as codes, plus a quantized base where planned.

W ~ base + left right. The base is quantized first, as any matrix is; a method of `methods/low_rank` finds factors for
what it leaves, W - base, in the metric of the layer's loss (methods/layer.py). The right factor is stored next: an
error E in its row k costs about 1/2 (left^T F left)_kk E H E^T. The left factor is then fitted anew to what the right
one has become, W H right^T (right H right^T)^-1, which is optimal for any weights of rows, and stored: an error in it
costs 1/2 f_i E (right H right^T) E^T. So both are quantized by the same code as whole matrices, Babai rounding
included.

Cost: that of the low-rank method, and of quantizing rank * (rows + columns) weights.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mediant import discovery
from mediant.errors import PlanError
from mediant.forms import Form
from mediant.forms.cast.form import Cast
from mediant.forms.encoding import Encoded
from mediant.forms.factors.form import Factors
from mediant.forms.parts import numbers
from mediant.forms.quantize.encode import quantize
from mediant.forms.quantize.form import Quantize
from mediant.kernels.factor_product import factor_product
from mediant.kernels.rotation import rotate_back
from mediant.methods.layer import Layer, Term, in_basis
from mediant.methods.low_rank import Factors as Product
from mediant.statistics.metric_factors import damped
from mediant.values import Array, Certificate, LayerStatistics, TensorInfo

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

# Of the metric of the left factor, which is singular where components of the right one are.
DAMPING = 1e-8


@dataclasses.dataclass(frozen=True)
class Stored:
    """One stored matrix: its parts, and what they decode to."""

    parts: dict[str, Array]
    matrix: Floats


def encode(
    layer: Layer, plan: Factors, info: TensorInfo | None = None, hint: object = None, known: Product | None = None
) -> Encoded:
    """Returns the parts of a layer's matrix, in the model's own basis, under a plan.

    Args:
        layer: the matrix and its metric.
        plan: how it is to be factored.
        info: not looked at, nor is `hint`.
        hint: as for other forms.
        known: the matrix's factors of a higher rank, where they are known, whose first are those of the plan's rank.

    Raises:
        PlanError: factors that do not fit the type they are to be cast to, or a residual without a base.
    """
    method = discovery.make("low_rank", plan.low_rank)
    if plan.base is None:
        return _whole(layer, {}, *_factored(layer, layer.matrix.astype(np.float64), method, plan, known))
    found, product = [], np.zeros_like(layer.matrix)
    for _ in range(getattr(method, "rounds", 1)):
        base = _stored(dataclasses.replace(layer, matrix=layer.matrix - product, shared=None), plan.base, "base")
        left, right = _factored(layer, layer.matrix.astype(np.float64) - base.matrix, method, plan)
        found.append(_whole(layer, {"base": base}, left, right))
        product = factor_product(left.matrix, right.matrix)
    return min(found, key=lambda result: result.certificate.weighted_error)


def nested_losses(layer: Layer, factors: Product) -> Doubles:
    """Returns the layer's loss, exactly, with the first 0, 1, 2, ... components of factors whose sum is the whole
    matrix.

    Leaving out the components from r on costs 1/2 sum_ij (left^T F left)_ij (right H right^T)_ij over i, j >= r.
    """
    left, right = torch.from_numpy(factors.left), torch.from_numpy(factors.right)
    total = torch.zeros(len(right), len(right), dtype=torch.float64)
    for term in layer.terms:
        through = (
            right * torch.from_numpy(term.columns) if term.columns.ndim == 1 else right @ torch.from_numpy(term.columns)
        )
        total += (left.T @ (torch.from_numpy(term.rows)[:, None] * left)) * (through @ right.T)
    # Sums over the lower right squares, each from the next: its diagonal entry, and its row and column twice.
    beyond = total.triu(1).sum(1)
    tails = (total.diagonal() + 2 * beyond).flip(0).cumsum(0).flip(0)
    return np.append(0.5 * tails.numpy(), 0.0).clip(min=0)


def _factored(
    layer: Layer, target: Doubles, method: Any, plan: Factors, known: Product | None = None
) -> tuple[Stored, Stored]:
    """Left and right factor of a target [rows, columns], as they are stored."""
    if plan.left is None or plan.right is None:
        raise PlanError("A plan with factors does not say how the left and the right one are stored.")
    joint = layer.joint()
    if known is None:
        known = method.factors(target, plan.rank, joint.rows, joint.columns)
    found = balanced(Product(known.left[:, : plan.rank], known.right[: plan.rank]))
    weights = (joint.rows[:, None] * np.square(found.left)).sum(axis=0)
    right = _stored(_as_layer(found.right, (Term(weights, joint.columns),)), plan.right, "right factor")
    terms = tuple(Term(t.rows, _seen_through(right.matrix, t)) for t in layer.terms)
    fitted = found.left
    if isinstance(plan.right, Quantize) and method.nested:
        fitted = refitted(target, right.matrix, joint)
    return _stored(_as_layer(fitted, terms), plan.left, "left factor"), right


def balanced(factors: Product) -> Product:
    """Scales both sides of every component to equal root mean squares; the product stays."""
    left, right = (np.sqrt(np.square(f).mean(axis=axis)) for f, axis in zip(factors, (0, 1), strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.sqrt(right / left)
    ratio = np.where((left > 0) & (right > 0), ratio, 1.0)
    return Product(factors.left * ratio, factors.right / ratio[:, None])


def refitted(target: Doubles, right: Floats, joint: Term) -> Doubles:
    """Returns the left factor that is best for a right one in the metric: target H right^T (right H right^T)^-1."""
    b = right.astype(np.float64)
    through = b * joint.columns if joint.columns.ndim == 1 else b @ joint.columns
    metric = torch.from_numpy(damped(through @ b.T, DAMPING))
    solved = torch.cholesky_solve(torch.from_numpy(through @ target.T), torch.linalg.cholesky(metric))
    return np.ascontiguousarray(solved.T.numpy())


def _seen_through(right: Floats, term: Term) -> Doubles:
    """Right H right^T [rank, rank]: the metric of the left factor's columns."""
    b = right.astype(np.float64)
    metric: Doubles = (b * term.columns if term.columns.ndim == 1 else b @ term.columns) @ b.T
    return metric


def _as_layer(matrix: Doubles, terms: tuple[Term, ...]) -> Layer:
    """Returns a factor as a layer of its own, with the diagonal for methods that look at nothing else."""
    columns = terms[0].columns
    diagonal = columns if columns.ndim == 1 else np.diag(columns)
    statistics = LayerStatistics(diagonal, np.zeros_like(diagonal), terms[0].rows, tokens=0)
    return Layer(np.ascontiguousarray(matrix, np.float32), terms, statistics)


def _stored(layer: Layer, plan: Form, name: str) -> Stored:
    if isinstance(plan, Quantize):
        result = quantize(in_basis(layer, plan.rotation), plan)
        matrix = result.matrix if plan.rotation is None else rotate_back(result.matrix, plan.rotation)
        return Stored(result.parts, matrix)
    if not isinstance(plan, Cast):
        raise PlanError(f"The {name} of a product is neither cast nor quantized.")
    found = plan.stored(layer.matrix, name)
    return Stored(found, numbers(found["data"], plan.dtype))


def _whole(layer: Layer, base: dict[str, Stored], left: Stored, right: Stored) -> Encoded:
    start = base["base"].matrix if base else None
    matrix = factor_product(left.matrix, right.matrix, start)
    stored = {**base, "left": left, "right": right}
    parts = {f"{name}.{part}": array for name, one in stored.items() for part, array in one.parts.items()}
    return Encoded(parts, matrix, _certificate(layer, matrix))


def _certificate(layer: Layer, matrix: Floats) -> Certificate:
    return Certificate(
        relative_error=layer.relative_error(matrix),
        weighted_error=layer.weighted_error(matrix),
        bound=0.0,
        clipped=0.0,
    )
