"""Products straight from stored codes: the native twins against the reference, and that against decoded weights."""

from __future__ import annotations

import numpy as np
import pytest

from mediant.kernels import native
from mediant.kernels.bfloat16 import from_float32
from mediant.kernels.packed_matrix import (
    COARSE,
    FINE,
    PackedMatrix,
    PackedRun,
    WholeLevels,
    quantize_activations,
    widths_of,
)
from mediant.kernels.rotation import rotate, rotate_back
from mediant.kernels.scale_codes import ScaleForm
from mediant.kernels.tiles import WIDTHS, pack_scale_codes, pack_tiles
from mediant.methods.grids.gaussian_int import GaussianInt
from mediant.methods.grids.vq2d import Vq2d
from mediant.values import RowSpan

SETS = [] if native is None else native.instruction_sets()
THREE = ScaleForm(3, False, 4)
EPS = float(np.finfo(np.float32).eps)


@pytest.fixture(params=SETS)
def instruction_set(request):
    assert native is not None
    before = native.instruction_set()
    assert native.force_instruction_set(request.param)
    yield request.param
    native.force_instruction_set(before)


def packed(runs, columns, form=THREE, group=32, storage="tiles", seed=None, kept=None, grid=None, unaligned=0):
    """A random matrix, its parts `unaligned` bytes off their natural place."""
    generator = np.random.default_rng(columns)
    rows, groups = sum(r for r, _ in runs), -(-columns // group)

    def placed(part: np.ndarray) -> np.ndarray:
        room = np.zeros(part.nbytes + 64, np.uint8)
        begin = -room.ctypes.data % 32 + unaligned * part.itemsize
        room[begin : begin + part.nbytes] = part.view(np.uint8).reshape(-1)
        return room[begin : begin + part.nbytes].view(part.dtype)

    def run(count: int, bits: int) -> PackedRun:
        codes = generator.integers(0, 1 << bits, (count, columns)).astype(np.uint8)
        used = min(bits, kept or bits)
        levels = (grid or GaussianInt()).levels(used).reshape(-1).astype(np.float32)
        data = placed(pack_tiles(codes, bits, storage))
        return PackedRun(count, widths_of(storage, bits, used), data, WholeLevels.of(levels, used))

    made = tuple(run(*r) for r in runs)
    scales = from_float32(generator.uniform(0.5, 2, rows).astype(np.float32))
    codes = generator.integers(0, 1 << form.bits, (rows, groups)).astype(np.uint8)
    stored = pack_scale_codes(codes, tuple(RowSpan(*r) for r in runs), form.bits)
    return PackedMatrix((rows, columns), made, placed(scales), placed(stored), form, group, seed)


def tolerance(matrix: PackedMatrix, x: np.ndarray) -> np.ndarray:
    """Float32 sums over b blocks err by at most b + 6 roundings of what is summed; [count, rows]."""
    rotated = x if matrix.seed is None else rotate(x, matrix.seed)
    blocks = -(-x.shape[1] // 32)
    size = np.abs(rotated).astype(np.float64) + np.abs(rotated).max(axis=1, keepdims=True) / COARSE
    # A level's distance from 0 and the zero it is counted from are both at most the width of the grid.
    widest = max(float(r.levels.unit * (float(r.levels.numbers.max()) + abs(r.levels.zero))) for r in matrix.runs)
    largest = np.abs(matrix._factors_by_group()).max(axis=1) * widest
    rows = np.abs(np.float32(1) * (matrix.row_scales.astype(np.uint32) << 16).view(np.float32)) * largest
    bound: np.ndarray = (blocks + 6) * EPS * size.sum(axis=1)[:, None] * rows
    return bound


SHAPES = [([(1, 4)], 1), ([(8, 4)], 32), ([(9, 2), (31, 3), (8, 4)], 70), ([(70, 4), (5, 5)], 130), ([(33, 3)], 257)]


@pytest.mark.parametrize("precise", [False, True])
@pytest.mark.parametrize("count", [0, 1, 3, 37])
@pytest.mark.parametrize(("runs", "columns"), SHAPES)
def test_native_equals_the_reference(instruction_set, runs, columns, count, precise):
    matrix = packed(runs, columns)
    x = np.random.default_rng(count).standard_normal((count, columns)).astype(np.float32)
    found, expected = matrix.multiply(x, precise), matrix.multiply_reference(x, precise)
    assert found.shape == expected.shape == (count, matrix.shape[0])
    assert np.all(np.abs(found - expected) <= tolerance(matrix, x))


@pytest.mark.parametrize("storage", ["tiles", "nested"])
@pytest.mark.parametrize("bits", range(1, 9))
def test_every_bit_width(instruction_set, storage, bits):
    matrix = packed([(43, bits)], 100, storage=storage)
    for count in (1, 5):
        x = np.random.default_rng(bits).standard_normal((count, 100)).astype(np.float32)
        assert np.all(np.abs(matrix.multiply(x) - matrix.multiply_reference(x)) <= tolerance(matrix, x))


@pytest.mark.parametrize("columns", [96, 100, 35])
@pytest.mark.parametrize("seed", [None, 5])
def test_codes_in_pairs(instruction_set, columns, seed):
    matrix = packed([(19, 2), (9, 3), (5, 2)], columns, grid=Vq2d(), seed=seed)
    for count in (1, 5):
        x = np.random.default_rng(count).standard_normal((count, columns)).astype(np.float32)
        for precise in (False, True):
            wrong = np.abs(matrix.multiply(x, precise) - matrix.multiply_reference(x, precise))
            assert np.all(wrong <= tolerance(matrix, x))
    whole = matrix.matrix() if seed is None else rotate_back(matrix.matrix(), seed)
    for row in (0, 18, 19, 32):
        np.testing.assert_allclose(matrix.row(row), whole[row], rtol=1e-5, atol=1e-5 * np.abs(whole).max())


def test_the_code_of_a_partner_that_is_not_there_is_refused():
    matrix = packed([(9, 2)], 35, grid=Vq2d())
    run, codes = matrix.runs[0], np.zeros((9, 64), np.uint8)
    codes[4, 39] = 1
    data = pack_tiles(codes, 2, "tiles")
    with pytest.raises(ValueError, match="partner"):
        PackedMatrix(
            matrix.shape, (PackedRun(9, run.widths, data, run.levels),), matrix.row_scales, matrix.scale_codes, THREE
        )


@pytest.mark.parametrize("kept", [2, 3])
def test_leading_bits_alone(instruction_set, kept):
    matrix = packed([(20, 4), (11, 5), (3, 2)], 96, storage="nested", kept=kept)
    x = np.ones((1, 96), np.float32)
    assert np.all(np.abs(matrix.multiply(x) - matrix.multiply_reference(x)) <= tolerance(matrix, x))


@pytest.mark.parametrize("form", [ScaleForm(2, False), ScaleForm(4), ScaleForm(5, False, 4), ScaleForm(8)])
@pytest.mark.parametrize("group", [32, 96])
def test_other_scales_and_groups(instruction_set, form, group):
    matrix = packed([(19, 3), (40, 4)], 200, form, group)
    x = np.random.default_rng(0).standard_normal((2, 200)).astype(np.float32)
    assert np.all(np.abs(matrix.multiply(x) - matrix.multiply_reference(x)) <= tolerance(matrix, x))
    assert np.all(np.abs(matrix.multiply(x[:1]) - matrix.multiply_reference(x[:1])) <= tolerance(matrix, x[:1]))


@pytest.mark.parametrize("precise", [False, True])
@pytest.mark.parametrize("seed", [None, 5])
def test_fixed_ranges_clip(instruction_set, precise, seed):
    matrix = packed([(19, 3), (40, 4)], 100, seed=seed)
    x = np.random.default_rng(3).standard_normal((5, 100)).astype(np.float32)
    dynamic, ranges = matrix.multiply(x, precise), np.array([0.5, 4, 0, 1], np.float32)
    matrix.set_ranges(ranges)
    found, expected = matrix.multiply(x, precise), matrix.multiply_reference(x, precise)
    assert np.all(np.abs(found - expected) <= tolerance(matrix, x))
    assert not np.allclose(found, dynamic, rtol=0.1)
    if seed is None:
        wide = np.repeat(ranges, 32)[:100]
        assert np.array_equal(found, matrix.multiply(np.clip(x, -wide, wide), precise))
    matrix.set_ranges(None)
    assert np.array_equal(matrix.multiply(x, precise), dynamic)


def test_the_largest_as_range_is_what_is_found_without(instruction_set):
    matrix = packed([(19, 3)], 64)
    x = np.random.default_rng(3).standard_normal((1, 64)).astype(np.float32)
    dynamic = matrix.multiply(x)
    matrix.set_ranges(np.abs(x).reshape(2, 32).max(1))
    assert np.array_equal(matrix.multiply(x), dynamic)


@pytest.mark.parametrize("ranges", [[1.0], [1.0, 2.0, 3.0], [1.0, -1.0], [1.0, np.nan], [np.inf, 1.0]])
def test_ranges_that_are_none_are_refused(ranges):
    matrix = packed([(8, 3)], 64)
    with pytest.raises(ValueError, match="range"):
        matrix.set_ranges(np.array(ranges, np.float32))
    assert matrix.ranges is None


@pytest.mark.parametrize("unaligned", [1, 3])
def test_parts_need_no_alignment(instruction_set, unaligned):
    x = np.random.default_rng(0).standard_normal((1, 64)).astype(np.float32)
    there = packed([(24, 4), (24, 3)], 64, unaligned=unaligned).multiply(x)
    assert np.array_equal(there, packed([(24, 4), (24, 3)], 64).multiply(x))


@pytest.mark.parametrize("columns", [64, 96, 70, 9])
def test_rotation(instruction_set, columns):
    matrix = packed([(17, 4)], columns, seed=2**60 + 7)
    x = np.random.default_rng(1).standard_normal((3, columns)).astype(np.float32)
    assert np.all(np.abs(matrix.multiply(x, True) - matrix.multiply_reference(x, True)) <= tolerance(matrix, x))
    plain = rotate_back(matrix.matrix(), 2**60 + 7)
    assert np.array_equal(np.stack([matrix.row(i) for i in range(17)]), plain)


def test_the_result_does_not_depend_on_threads(instruction_set, monkeypatch):
    matrix = packed([(203, 4), (57, 3)], 96)
    x = np.random.default_rng(1).standard_normal((2, 96)).astype(np.float32)
    results = []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("MEDIANT_THREADS", threads)
        results += [matrix.multiply(x), matrix.multiply(x[:1])]
    for other in results[2:]:
        assert any(np.array_equal(other, one) for one in results[:2] if one.shape == other.shape)


@pytest.mark.parametrize("precise", [False, True])
def test_the_reference_is_the_product_with_decoded_weights(precise):
    matrix = packed([(30, 4), (10, 3)], 128, seed=5)
    x = np.random.default_rng(2).standard_normal((4, 128)).astype(np.float32)
    weights = rotate_back(matrix.matrix().astype(np.float64), 5)
    rotated = rotate(x, 5)
    # An activation is off by half a step of its block at most.
    step = np.abs(rotated).reshape(4, 4, 32).max(axis=2).repeat(32, axis=1) / (FINE if precise else COARSE)
    bound = step / 2 @ np.abs(matrix.matrix().T) + tolerance(matrix, x)
    error = np.abs(matrix.multiply_reference(x, precise) - x.astype(np.float64) @ weights.T)
    assert np.all(error <= bound)
    assert np.any(error > bound / 1000), "a bound that nothing comes near says little"


def test_strange_activations(instruction_set):
    matrix = packed([(16, 4)], 64)
    x = np.ones((4, 64), np.float32)
    x[0], x[1, 3], x[2, 40], x[3] = 0, np.nan, -np.inf, 1e-38
    found = matrix.multiply(x)
    assert np.all(found[[0, 3]] == 0)
    assert np.isnan(found[1:3]).all()
    assert np.isnan(matrix.multiply(x[1:2])).all()
    numbers, scales = quantize_activations(x, False)
    assert not numbers[[0, 3]].any()
    assert np.isnan(scales[1, 0])


def test_the_comparison_can_fail():
    matrix = packed([(16, 4)], 64)
    x = np.random.default_rng(2).standard_normal((2, 64)).astype(np.float32)
    right = matrix.multiply_reference(x)
    for wrong in (right * 1.01, right[::-1], -right, right + 1e-3 * np.abs(right).max()):
        assert not np.all(np.abs(wrong - right) <= tolerance(matrix, x))
    assert not np.array_equal(matrix.multiply_reference(x), matrix.multiply_reference(x, True))


@pytest.mark.parametrize(
    ("levels", "bits", "what"),
    [([0, 1, 2.3, 4], 2, "whole steps"), ([0, 1, 2, 40], 2, "at most 31"), ([*range(63), 70], 6, "at most 63")],
)
def test_levels_that_kernels_do_not_take(levels, bits, what):
    with pytest.raises(ValueError, match=what):
        WholeLevels.of(np.float32(levels), bits)


def test_every_bit_width_of_the_bell_grid_is_taken():
    for bits in range(1, 9):
        levels = GaussianInt().levels(bits)
        whole = WholeLevels.of(levels.astype(np.float32), bits)
        assert np.array_equal(whole.unit * (whole.numbers - whole.zero), levels)


def test_wrong_arguments_are_refused():
    matrix = packed([(16, 4)], 64)
    with pytest.raises(ValueError, match="64 columns"):
        matrix.multiply(np.zeros((1, 65), np.float32))
    run = matrix.runs[0]
    arguments = (matrix.row_scales, matrix.scale_codes, THREE)
    with pytest.raises(ValueError, match="17 rows"):
        PackedMatrix((17, 64), (run,), *arguments)
    with pytest.raises(ValueError, match="size"):
        PackedMatrix((16, 64), (run,), matrix.row_scales, matrix.scale_codes[:-1], THREE)
    with pytest.raises(ValueError, match="cannot be cut"):
        widths_of("tiles", 4, 3)
    for levels in (WholeLevels(run.levels.numbers[:8], 1.5, 1.0), WholeLevels(np.zeros(64, np.uint8), 0.0, 1.0)):
        with pytest.raises(ValueError, match="levels"):
            PackedMatrix((16, 64), (PackedRun(16, (4, 2), run.data, levels),), *arguments)
    if native is not None:
        short = PackedRun(16, WIDTHS["tiles"][4], run.data[:-32], run.levels)
        with pytest.raises(ValueError, match="regions"):
            PackedMatrix((16, 64), (short,), *arguments)
        assert not native.force_instruction_set("abacus")
