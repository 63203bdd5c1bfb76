from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from mediant.errors import CheckpointError
from mediant.forms import Encoding
from mediant.forms.cast.form import Cast
from mediant.forms.quantize.form import Quantize
from mediant.forms.quantize.grid_info import GridInfo
from mediant.kernels.bfloat16 import from_float32
from mediant.kernels.bit_planes import pack
from mediant.values import RowSpan, TensorInfo

Sample = Any

LAYOUTS = {
    "out_in": ((4, 3), lambda t, r, c: t[r, c]),
    "in_out": ((3, 4), lambda t, r, c: t[c, r]),
    "experts_out_in": ((2, 2, 3), lambda t, r, c: t[r // 2, r % 2, c]),
    "experts_in_out": ((2, 3, 2), lambda t, r, c: t[r // 2, c, r % 2]),
}
FORM = GridInfo(first={4: 0.0})


def encoding(layout: str = "out_in", shape: tuple[int, ...] = (4, 3), **parts: np.ndarray) -> Encoding:
    """Rows of three codes of four bits from 0 to 11, each row with a scale of its own."""
    info = TensorInfo("w", shape, "float32", "linear", layout)
    plan = Quantize(runs=(RowSpan(4, 4),), group=64, scale_bits=16)
    scales = from_float32(np.float32([[1], [2], [4], [8]]))
    return Encoding(info, plan, {"codes": pack(np.arange(12, dtype=np.uint8), 4), "scales": scales} | parts, None, FORM)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_tensor_its_matrix_stands_for(layout: str) -> None:
    shape, element = LAYOUTS[layout]
    tensor = encoding(layout, shape).decode()
    assert (tensor.shape, tensor.dtype, tensor.flags.c_contiguous) == (shape, np.float32, True)
    for row in range(4):
        for column in range(3):
            assert element(tensor, row, column) == 2**row * (3 * row + column)


def test_the_grid_of_the_plan_is_the_default(sample_checkpoint: Sample) -> None:
    for item in sample_checkpoint.encodings:
        np.testing.assert_array_equal(item.decode(), dataclasses.replace(item, side=None).decode())
        assert item.decode().shape == item.info.shape


def test_sound_encodings_pass(sample_checkpoint: Sample) -> None:
    for item in sample_checkpoint.encodings:
        item.verify()


@pytest.mark.parametrize(
    "parts",
    [
        {"codes": np.zeros(7, np.uint8)},
        {"codes": np.zeros(8, np.int8)},
        {"scales": np.zeros((4, 1), np.float16)},
        {"scales": np.zeros(4, np.uint16)},
        {"more": np.zeros(1, np.uint8)},
    ],
)
def test_other_parts_are_refused(parts: dict[str, np.ndarray]) -> None:
    encoding().verify()
    with pytest.raises(CheckpointError, match="are not those of its plan"):
        encoding(**parts).verify()


@pytest.mark.parametrize("pattern", [0x7F80, 0xFF80, 0x7FC0, 0x7F81])
def test_scales_that_are_not_finite_are_refused(pattern: int) -> None:
    with pytest.raises(CheckpointError, match="'scales' of 'w' holds a number that is not finite"):
        encoding(scales=np.array([[0], [0], [pattern], [0]], np.uint16)).verify()


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_cast_weights_that_are_not_finite_are_refused(dtype: str, value: float) -> None:
    info, plan = TensorInfo("w", (2,), "float32", "norm"), Cast(dtype)

    def stored(values: np.ndarray) -> Encoding:
        return Encoding(info, plan, {"data": from_float32(values) if dtype == "bfloat16" else values.astype(dtype)})

    stored(np.float32([1, 2])).verify()
    with pytest.raises(CheckpointError, match="holds a number that is not finite"):
        stored(np.float32([1, value])).verify()


def test_scales_whose_weights_would_overflow_are_refused() -> None:
    largest = np.full((4, 1), 0x7F7F, np.uint16)
    with pytest.raises(CheckpointError, match="too large for finite weights"):
        encoding(scales=largest).verify()


def table(levels: list[float], codes: np.ndarray) -> Encoding:
    item = encoding(codes=pack(codes.astype(np.uint8), 4), **{"levels.4": np.float32(levels)})
    return dataclasses.replace(item, side=GridInfo(counts={4: len(levels)}))


def test_a_code_without_a_level_is_refused() -> None:
    levels = [-1.0, 0.5, 0.75]
    table(levels, np.arange(12) % 3).verify()
    with pytest.raises(CheckpointError, match="has the code 3, but only 3 levels"):
        table(levels, np.arange(12) % 4).verify()


@pytest.mark.parametrize("levels", [[0.0, 0.0], [1.0, 0.0]])
def test_levels_that_do_not_ascend_are_refused(levels: list[float]) -> None:
    with pytest.raises(CheckpointError, match="do not ascend"):
        table(levels, np.zeros(12)).verify()


@pytest.mark.parametrize("level", [np.nan, np.inf])
def test_levels_that_are_not_finite_are_refused(level: float) -> None:
    with pytest.raises(CheckpointError, match=r"'levels.4' of 'w' holds a number that is not finite"):
        table([0.0, level], np.zeros(12)).verify()


def test_every_stored_bit_of_the_codes_matters(sample_checkpoint: Sample) -> None:
    """The comparison of decoded weights would see any wrong bit, but for unused ones and zero scales."""
    item = next(e for e in sample_checkpoint.encodings if e.info.name == "layers.1.down")
    right = item.decode()
    codes = item.parts["codes"]
    for bit in range(8 * codes.size):
        damaged = codes.copy()
        damaged[bit // 8] ^= 1 << (bit % 8)
        wrong = dataclasses.replace(item, parts={**item.parts, "codes": damaged}).decode()
        place = bit % 72
        changed = np.flatnonzero(wrong.ravel() != right.ravel())
        assert changed.tolist() == ([] if place < 9 else [place])
