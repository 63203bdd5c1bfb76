"""Prune a matrix and store what is left: pattern x score, and values as numbers or as codes of a grid.

With a grid, values are rounded after pruning: scales are fitted to what each row keeps, neighbours in the row sharing
one, and columns are gone through from first to last as in scores/sparsegpt.py, a rounding error spread over the later
weights that are kept. Minimises the layer's loss (methods/layer.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from mediant import discovery
from mediant.errors import PlanError
from mediant.forms.cast.form import Cast
from mediant.forms.encoding import Encoded
from mediant.forms.parts import numbers
from mediant.forms.quantize.encode import Errors, levels, quantize
from mediant.forms.quantize.form import Quantize
from mediant.forms.sparse.form import Sparse, compact_info
from mediant.kernels.bit_planes import pack, unpack
from mediant.kernels.dequantize import dequantize
from mediant.kernels.nearest_code import nearest_code
from mediant.kernels.scale_codes import decode_scales
from mediant.methods.layer import Layer, Term
from mediant.methods.pruning.scores.sparsegpt import upper_factor
from mediant.statistics.metric_factors import damped
from mediant.values import Array, Certificate, TensorInfo

BLOCK = 128
NOTHING_CLIPPED = Certificate(0.0, 0.0, 0.0, 0.0)


def encode(layer: Layer, plan: Sparse, info: TensorInfo, hint: object = None) -> Encoded:
    """Prunes a layer's matrix [rows, columns] by its plan.

    Raises:
        PlanError: the pattern does not fit the matrix, or methods that do not go together.
    """
    positions = plan.positions(info)
    pattern, score = discovery.make("pruning.patterns", plan.pattern), discovery.make("pruning.scores", plan.score)
    mask, weights = score.prune(layer, pattern)
    if isinstance(plan.values, Quantize):
        values, decoded = _quantized(layer, plan.values, compact_info(info, positions), mask, weights)
    else:
        values, decoded = _cast(plan.values, info, mask, weights)
    found = Errors(layer).certificate(decoded, {0: np.zeros(1)})
    # No bound is known for pruning, nor for rounding whose errors go through weights that stay zero.
    certificate = Certificate(
        found.relative_error, found.weighted_error, values.certificate.bound, values.certificate.clipped
    )
    return Encoded({"positions": positions.encode(mask), **values.parts}, decoded, certificate)


def trial_losses(layer: Layer, plans: Mapping[int, Sparse]) -> dict[int, float]:
    """Returns the loss of a layer's matrix by plans that differ in nothing but their bit widths: it is pruned once for
    all.
    """
    rows, columns = layer.matrix.shape
    info = TensorInfo("a matrix", (rows, columns), "float32", "linear", "out_in")
    plan = next(iter(plans.values()))
    compact = compact_info(info, plan.positions(info))
    score = discovery.make("pruning.scores", plan.score)
    mask, weights = score.prune(layer, discovery.make("pruning.patterns", plan.pattern))
    values = {bits: given.values for bits, given in plans.items() if isinstance(given.values, Quantize)}
    return {bits: layer.loss(_quantized(layer, v, compact, mask, weights)[1]) for bits, v in values.items()}


def _cast(plan: Cast, info: TensorInfo, mask: Array, weights: Array) -> tuple[Encoded, Array]:
    found = plan.stored(weights[mask].astype(np.float32), info.name)
    decoded = np.zeros(mask.shape, np.float32)
    decoded[mask] = numbers(found["data"], plan.dtype)
    return Encoded(found, decoded, NOTHING_CLIPPED), decoded


def _quantized(layer: Layer, plan: Quantize, info: TensorInfo, mask: Array, weights: Array) -> tuple[Encoded, Array]:
    rows, row = info.matrix_shape
    compact = Layer(weights[mask].reshape(rows, row).astype(np.float32), (Term(np.ones(rows), np.ones(row)),))
    found = quantize(compact, replace(plan, rounding={"name": "nearest"}))
    matrix = found.matrix
    if plan.rounding.get("name") == "babai":
        codes, matrix = _with_feedback(layer, plan, compact, found, mask, weights)
        found = Encoded({**found.parts, "codes": codes}, matrix, found.certificate)
    decoded = np.zeros(mask.shape, np.float32)
    decoded[mask] = matrix.reshape(-1)
    return found, decoded


def _with_feedback(
    layer: Layer, plan: Quantize, compact: Layer, found: Encoded, mask: Array, weights: Array
) -> tuple[Array, Array]:
    """Packed codes and decoded weights [rows, row], each rounding error spread over the later columns."""
    if "zeros" in found.parts:
        raise PlanError("Sparse weights with rounding 'babai' go with a grid without zero points.")
    damping = float(plan.rounding.get("damping", 0.01))
    factor = upper_factor(torch.from_numpy(damped(np.asarray(layer.terms[-1].full()), damping)))
    scales = _scales(plan, found.parts, compact.matrix.shape)
    pieces, matrices, start = [], [], 0
    for run in plan.runs:
        here = slice(start, start + run.rows)
        table = levels(compact, plan, run.bits)
        codes = _codes(torch.from_numpy(weights[here].copy()), mask[here], factor, scales[here], table, plan.group)
        pieces.append(pack(codes.reshape(-1), run.bits))
        matrices.append(dequantize(codes, scales[here], None, table.astype(np.float32), plan.group))
        start += run.rows
    return np.concatenate(pieces), np.concatenate(matrices)


def _scales(plan: Quantize, parts: dict[str, Array], shape: tuple[int, ...]) -> Array:
    """Decoded scales [rows, groups]."""
    groups = -(-shape[1] // plan.group)
    stored = dict(parts)
    if "scale_codes" in stored:
        codes = unpack(stored["scale_codes"], shape[0] * groups, plan.scale_bits)
        stored["scale_codes"] = codes.reshape(shape[0], groups)
    return decode_scales(stored, plan.scale_form)


def _codes(weights: torch.Tensor, mask: Array, factor: torch.Tensor, scales: Array, table: Array, group: int) -> Array:
    """Returns codes [rows, row] of the weights kept, column by column."""
    rows, columns = mask.shape
    place = np.cumsum(mask, axis=1) - 1
    codes = np.zeros((rows, int(mask[0].sum())), np.uint8)
    floats, none = table.astype(np.float32), np.zeros(rows, np.float32)
    for begin in range(0, columns, BLOCK):
        end = min(columns, begin + BLOCK)
        errors = torch.zeros(rows, end - begin, dtype=torch.float64)
        for j in range(begin, end):
            at, kept = np.maximum(place[:, j], 0), mask[:, j]
            scale = scales[np.arange(rows), at // group]
            found = nearest_code(weights[:, j, None].numpy().astype(np.float32), scale, none, table)[:, 0]
            codes[kept, at[kept]] = found[kept]
            value = torch.from_numpy(np.where(kept, floats[found] * scale, np.float32(0)).astype(np.float64))
            errors[:, j - begin] = (weights[:, j] - value) / factor[j, j]
            weights[:, j + 1 : end] -= errors[:, j - begin, None] * factor[j, j + 1 : end]
        weights[:, end:] -= errors @ factor[begin:end, end:]
    return codes
