from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediant.errors import PlanError
from mediant.forms.cast.form import Cast
from mediant.forms.parts import ITEM_BYTES, MOST_WEIGHTS
from mediant.forms.quantize.form import Quantize
from mediant.forms.quantize.grid_info import GridInfo, first_level
from mediant.kernels.bit_planes import pack
from mediant.kernels.tiles import pack_scale_codes, pack_tiles
from mediant.values import RowSpan, TensorInfo

AFFINE = GridInfo(first={3: -3.5, 5: -15.5})
MATRIX = TensorInfo("w", (4, 10), "float32", "linear", "out_in")
PLAN = Quantize(runs=(RowSpan(1, 3), RowSpan(3, 5)), group=4, scale_bits=6)


@st.composite
def plans(draw: st.DrawFn) -> tuple[TensorInfo, Quantize, GridInfo]:
    runs = tuple(RowSpan(*run) for run in draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 8)), min_size=1)))
    columns, group = draw(st.integers(1, 40)), draw(st.integers(1, 50))
    info = TensorInfo("w", (sum(run.rows for run in runs), columns), "float32", "linear", "out_in")
    scale_bits = draw(st.sampled_from((3, 4, 5, 6, 7, 8, 16)))
    bit_widths = {run.bits for run in runs}
    form = draw(
        st.sampled_from(
            (
                GridInfo(first=dict.fromkeys(bit_widths, 0.0)),
                GridInfo(counts={bits: 1 << (bits - 1) for bits in bit_widths}),
                GridInfo(zero_point=True),
            )
        )
    )
    return info, Quantize(runs=runs, group=group, scale_bits=scale_bits), form


@given(plans())
def test_shapes_are_those_of_arrays_really_packed(case: tuple[TensorInfo, Quantize, GridInfo]) -> None:
    info, plan, form = case
    rows, columns = info.shape
    groups = math.ceil(columns / plan.group)
    parts = plan.parts(info, form)

    def packed(width: int) -> int:
        return sum(pack(np.zeros((run.rows, width), np.uint8), run.bits).size for run in plan.runs)

    expected = {"codes": ("uint8", (packed(columns),))}
    if plan.scale_bits == 16:
        expected |= {"scales": ("bfloat16", (rows, groups))}
    else:
        scales = pack(np.zeros((rows, groups), np.uint8), plan.scale_bits).size
        expected |= {"row_scales": ("bfloat16", (rows,)), "scale_codes": ("uint8", (scales,))}
    if form.zero_point:
        expected |= {"zeros": ("uint8", (packed(groups),))}
    for bits in form.counts:
        expected |= {f"levels.{bits}": ("float32", (1 << (bits - 1),))}
    assert parts == expected
    assert plan.nbytes(info, form) == sum(ITEM_BYTES[d] * math.prod(s) for d, s in expected.values())


@pytest.mark.parametrize("storage", ["tiles", "nested"])
def test_tiles_take_what_packing_gives(storage: str) -> None:
    info = TensorInfo("w", (21, 70), "float32", "linear", "out_in")
    runs = (RowSpan(9, 3), RowSpan(4, 5), RowSpan(8, 4))
    plan = Quantize(runs=runs, group=64, scale_bits=5, storage=storage)
    tiles = sum(pack_tiles(np.zeros((run.rows, 70), np.uint8), run.bits, storage).size for run in runs)
    codes = pack_scale_codes(np.zeros((21, 2), np.uint8), runs, 5).size
    parts = plan.parts(info, GridInfo(first=dict.fromkeys((3, 4, 5), 0.5)))
    assert parts == {
        "tiles": ("uint8", (tiles,)), "row_scales": ("bfloat16", (21,)), "scale_codes": ("uint8", (codes,)),
    }  # fmt: skip
    for wrong in ({"group": 48}, {"scale_bits": 16}):
        with pytest.raises(PlanError, match="cannot be stored as"):
            dataclasses.replace(plan, **wrong).parts(info, GridInfo(first=dict.fromkeys((3, 4, 5), 0.5)))
    with pytest.raises(PlanError, match="no zero points"):
        plan.parts(info, GridInfo(zero_point=True))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4, 5)])
def test_a_cast_tensor_keeps_its_shape(dtype: str, shape: tuple[int, ...]) -> None:
    info = TensorInfo("w", shape, "float32", "other")
    assert Cast(dtype).parts(info) == {"data": (dtype, shape)}
    assert Cast(dtype).nbytes(info) == math.prod(shape) * ITEM_BYTES[dtype]


def test_the_runs_of_all_layouts_count_rows_of_outputs() -> None:
    for layout, shape in {"in_out": (10, 4), "experts_out_in": (2, 2, 10), "experts_in_out": (2, 10, 2)}.items():
        info = dataclasses.replace(MATRIX, layout=layout, shape=shape)
        assert PLAN.parts(info, AFFINE) == PLAN.parts(MATRIX, AFFINE)


@pytest.mark.parametrize(
    ("info", "plan", "message"),
    [
        ({}, {"runs": (RowSpan(1, 3), RowSpan(2, 5))}, "do not add up to its 4 rows"),
        ({}, {"runs": (RowSpan(5, 3), RowSpan(-1, 5))}, "do not add up"),
        ({}, {"runs": ()}, "do not add up"),
        ({}, {"runs": (RowSpan(4, 0),)}, "outside 1 to 8 bits"),
        ({}, {"runs": (RowSpan(4, 9),)}, "outside 1 to 8 bits"),
        ({}, {"group": 0}, "from 1"),
        ({}, {"scale_bits": 2}, "scales take 16 bits or 3 to 8"),
        ({}, {"scale_bits": 9}, "scales take 16 bits or 3 to 8"),
        ({"layout": "none"}, {}, "is not a matrix"),
        ({"layout": "experts_in_out"}, {}, "is not a matrix"),
        ({"shape": (4,)}, {}, "is not a matrix"),
        ({"shape": (4, 0)}, {}, "is empty"),
        ({"shape": (0, 4)}, {"runs": ()}, "is empty"),
        ({"shape": (-4, -10)}, {}, "cannot have the shape"),
        ({"shape": (MOST_WEIGHTS, 1)}, {}, "cannot have the shape"),
        ({"shape": (1 << 40, 1 << 40)}, {}, "cannot have the shape"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(info: dict, plan: dict, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        dataclasses.replace(PLAN, **plan).parts(dataclasses.replace(MATRIX, **info), AFFINE)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [((0, MOST_WEIGHTS), "float16", "cannot have the shape"), ((4, 10), "float64", "cannot be cast to 'float64'")],
)
def test_a_cast_that_does_not_fit_is_refused(shape: tuple[int, ...], dtype: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Cast(dtype).parts(dataclasses.replace(MATRIX, shape=shape))


def test_an_unknown_grid_is_refused() -> None:
    with pytest.raises(PlanError, match="no method 'no_such_grid'"):
        dataclasses.replace(PLAN, grid={"name": "no_such_grid"}).nbytes(MATRIX)


FIXED = [
    ({"name": "uniform"}, GridInfo(first={2: -2, 5: -16})),
    ({"name": "uniform", "kind": "symmetric"}, GridInfo(first={2: -1, 5: -15})),
    ({"name": "uniform", "kind": "half"}, GridInfo(first={2: -1.5, 5: -15.5})),
    ({"name": "uniform", "kind": "zero_point"}, GridInfo(zero_point=True)),
    ({"name": "lloyd"}, GridInfo(counts={2: 4, 5: 32})),
    ({"name": "rationals"}, GridInfo(counts={2: 3, 5: 25})),
]


@pytest.mark.parametrize(("spec", "form"), FIXED)
def test_a_grid_shows_its_form_without_the_weights(spec: dict, form: GridInfo) -> None:
    assert dataclasses.replace(PLAN, grid=spec, runs=(RowSpan(3, 5), RowSpan(1, 2))).side(MATRIX) == form


def test_a_grid_without_such_a_bit_width_is_refused() -> None:
    with pytest.raises(PlanError, match=r"does not have the bit widths \(3, 5\)"):
        dataclasses.replace(PLAN, grid={"name": "floats"}).side(MATRIX)


def test_affine_means_steps_of_one_from_a_multiple_of_a_half() -> None:
    assert first_level(np.arange(8) - 3.5) == -3.5
    assert first_level(np.array([4.0])) == 4
    for table in ([0, 1, 3], [0.25, 1.25], [0, 2], [0, 1, 1], [1, 0]):
        assert first_level(np.array(table, np.float64)) is None
