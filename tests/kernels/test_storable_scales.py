"""The native twin has the reference's bits, and no other scale that can be stored errs less."""

from __future__ import annotations

import numpy as np
import pytest

from mediant.kernels import native
from mediant.kernels.babai import scale_factors
from mediant.kernels.scale_codes import ScaleForm
from mediant.kernels.storable_scales import Search, storable_scales, storable_scales_reference
from mediant.methods.grids.gaussian_int import GaussianInt
from mediant.methods.grids.uniform import Uniform

FORM = ScaleForm(3, signed=False, steps=4)
GRIDS = {
    "gaussian_int": lambda bits: GaussianInt().levels(bits).astype(np.float32),
    "uniform": lambda bits: Uniform("symmetric").levels(bits).astype(np.float32),
}


def _matrix(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    matrix = generator.standard_t(4, (rows, columns)).astype(np.float32)
    matrix[0] = 0
    matrix[1, 5] = 1e10
    return matrix


@pytest.mark.skipif(native is None, reason="needs the native kernels")
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("form", [FORM, ScaleForm(6)])
def test_the_native_twin_has_the_references_bits(grid, bits, form):
    matrix, weights = _matrix(9, 75), np.random.default_rng(1).random(75).astype(np.float32)
    levels = GRIDS[grid](bits)
    found = storable_scales(matrix, weights, levels, 32, form)
    expected = storable_scales_reference(matrix, weights, Search.of(levels), 32, scale_factors(form))
    np.testing.assert_array_equal(found.codes, expected.codes)
    np.testing.assert_array_equal(found.scale_codes, expected.scale_codes)
    np.testing.assert_array_equal(found.row_scales, expected.row_scales)


def test_no_other_scale_code_errs_less():
    matrix, weights = _matrix(6, 64, 2)[2:], np.random.default_rng(3).random(64).astype(np.float32)
    levels = GaussianInt().levels(3)
    found = storable_scales(matrix, weights, levels.astype(np.float32), 32, FORM)

    def errors(scales: np.ndarray) -> np.ndarray:
        steps = np.repeat(scales, 32, axis=1).astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            nearest = levels[np.abs(matrix[..., None] - steps[..., None] * levels).argmin(-1)]
        return (weights * (matrix - steps * nearest) ** 2).reshape(len(matrix), 2, 32).sum(-1)

    least = errors(found.scales(FORM))
    for factor in scale_factors(FORM):
        other = errors(np.broadcast_to(found.row_scales[:, None] * factor, (len(matrix), 2)))
        assert (least <= other * (1 + 64 * np.finfo(np.float32).eps)).all()


def test_rows_are_independent():
    matrix, weights = _matrix(16, 64, 4), np.ones(64, np.float32)
    levels = GRIDS["gaussian_int"](3)
    whole = storable_scales(matrix, weights, levels, 32, FORM)
    piece = storable_scales(matrix[8:], weights, levels, 32, FORM)
    np.testing.assert_array_equal(whole.codes[8:], piece.codes)
    np.testing.assert_array_equal(whole.row_scales[8:], piece.row_scales)


def test_what_does_not_fit_is_refused():
    levels = GRIDS["gaussian_int"](3)
    with pytest.raises(ValueError, match="columns need as many weights"):
        storable_scales(_matrix(2, 32), np.ones(31, np.float32), levels, 32, FORM)
    with pytest.raises(ValueError, match="not as numbers of 16"):
        storable_scales(_matrix(2, 32), np.ones(32, np.float32), levels, 32, ScaleForm(16))
