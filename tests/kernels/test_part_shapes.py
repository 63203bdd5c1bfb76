from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediant.errors import PlanError
from mediant.kernels.bit_planes import pack
from mediant.kernels.part_shapes import (
    ITEM_BYTES,
    MOST_WEIGHTS,
    GridForm,
    first_level,
    grid_form,
    part_shapes,
    payload_bytes,
)
from mediant.kernels.tiles import pack_scale_codes, pack_tiles
from mediant.plans import Run, TensorPlan
from mediant.values import TensorInfo

AFFINE = GridForm(first={3: -3.5, 5: -15.5})
MATRIX = TensorInfo("w", (4, 10), "float32", "linear", "out_in")
PLAN = TensorPlan("quantize", runs=(Run(1, 3), Run(3, 5)), group=4, scale_bits=6)


@st.composite
def plans(draw: st.DrawFn) -> tuple[TensorInfo, TensorPlan, GridForm]:
    runs = tuple(Run(*run) for run in draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 8)), min_size=1)))
    columns, group = draw(st.integers(1, 40)), draw(st.integers(1, 50))
    info = TensorInfo("w", (sum(run.rows for run in runs), columns), "float32", "linear", "out_in")
    scale_bits = draw(st.sampled_from((3, 4, 5, 6, 7, 8, 16)))
    depths = {run.bits for run in runs}
    form = draw(
        st.sampled_from(
            (
                GridForm(first=dict.fromkeys(depths, 0.0)),
                GridForm(counts={bits: 1 << (bits - 1) for bits in depths}),
                GridForm(zero_point=True),
            )
        )
    )
    return info, TensorPlan("quantize", runs=runs, group=group, scale_bits=scale_bits), form


@given(plans())
def test_shapes_are_those_of_arrays_really_packed(case: tuple[TensorInfo, TensorPlan, GridForm]) -> None:
    info, plan, form = case
    rows, columns = info.shape
    groups = math.ceil(columns / plan.group)
    parts = part_shapes(info, plan, form)

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
    assert payload_bytes(info, plan, form) == sum(ITEM_BYTES[d] * math.prod(s) for d, s in expected.values())


@pytest.mark.parametrize("storage", ["tiles", "nested"])
def test_tiles_take_what_packing_gives(storage: str) -> None:
    info = TensorInfo("w", (21, 70), "float32", "linear", "out_in")
    runs = (Run(9, 3), Run(4, 5), Run(8, 4))
    plan = TensorPlan("quantize", runs=runs, group=64, scale_bits=5, storage=storage)
    tiles = sum(pack_tiles(np.zeros((run.rows, 70), np.uint8), run.bits, storage).size for run in runs)
    codes = pack_scale_codes(np.zeros((21, 2), np.uint8), runs, 5).size
    parts = part_shapes(info, plan, GridForm(first=dict.fromkeys((3, 4, 5), 0.5)))
    assert parts == {
        "tiles": ("uint8", (tiles,)), "row_scales": ("bfloat16", (21,)), "scale_codes": ("uint8", (codes,)),
    }  # fmt: skip
    for wrong in ({"group": 48}, {"scale_bits": 16}):
        with pytest.raises(PlanError, match="cannot be stored as"):
            part_shapes(info, dataclasses.replace(plan, **wrong), GridForm(first=dict.fromkeys((3, 4, 5), 0.5)))
    with pytest.raises(PlanError, match="no zero points"):
        part_shapes(info, plan, GridForm(zero_point=True))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4, 5)])
def test_a_cast_tensor_keeps_its_shape(dtype: str, shape: tuple[int, ...]) -> None:
    info = TensorInfo("w", shape, "float32", "other")
    assert part_shapes(info, TensorPlan("cast", dtype)) == {"data": (dtype, shape)}
    assert payload_bytes(info, TensorPlan("cast", dtype)) == math.prod(shape) * ITEM_BYTES[dtype]


def test_the_runs_of_all_layouts_count_rows_of_outputs() -> None:
    for layout, shape in {"in_out": (10, 4), "experts_out_in": (2, 2, 10), "experts_in_out": (2, 10, 2)}.items():
        info = dataclasses.replace(MATRIX, layout=layout, shape=shape)
        assert part_shapes(info, PLAN, AFFINE) == part_shapes(MATRIX, PLAN, AFFINE)


@pytest.mark.parametrize(
    ("info", "plan", "message"),
    [
        ({}, {"runs": (Run(1, 3), Run(2, 5))}, "do not add up to its 4 rows"),
        ({}, {"runs": (Run(5, 3), Run(-1, 5))}, "do not add up"),
        ({}, {"runs": ()}, "do not add up"),
        ({}, {"runs": (Run(4, 0),)}, "outside 1 to 8 bits"),
        ({}, {"runs": (Run(4, 9),)}, "outside 1 to 8 bits"),
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
        ({"shape": (0, MOST_WEIGHTS)}, {"method": "cast"}, "cannot have the shape"),
        ({}, {"method": "cast", "dtype": "float64"}, "cannot be cast to 'float64'"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(info: dict, plan: dict, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        part_shapes(dataclasses.replace(MATRIX, **info), dataclasses.replace(PLAN, **plan), AFFINE)


def test_an_unknown_grid_is_refused() -> None:
    with pytest.raises(PlanError, match="no method 'no_such_grid'"):
        payload_bytes(MATRIX, dataclasses.replace(PLAN, grid={"name": "no_such_grid"}))


FIXED = [
    ({"name": "uniform"}, GridForm(first={2: -2, 5: -16})),
    ({"name": "uniform", "kind": "symmetric"}, GridForm(first={2: -1, 5: -15})),
    ({"name": "uniform", "kind": "half"}, GridForm(first={2: -1.5, 5: -15.5})),
    ({"name": "uniform", "kind": "zero_point"}, GridForm(zero_point=True)),
    ({"name": "lloyd"}, GridForm(counts={2: 4, 5: 32})),
    ({"name": "rationals"}, GridForm(counts={2: 3, 5: 25})),
]


@pytest.mark.parametrize(("spec", "form"), FIXED)
def test_a_grid_shows_its_form_without_the_weights(spec: dict, form: GridForm) -> None:
    assert grid_form(dataclasses.replace(PLAN, grid=spec, runs=(Run(3, 5), Run(1, 2)))) == form


def test_a_grid_without_such_a_depth_is_refused() -> None:
    with pytest.raises(PlanError, match=r"does not have the depths \(3, 5\)"):
        grid_form(dataclasses.replace(PLAN, grid={"name": "floats"}))


def test_affine_means_steps_of_one_from_a_multiple_of_a_half() -> None:
    assert first_level(np.arange(8) - 3.5) == -3.5
    assert first_level(np.array([4.0])) == 4
    for table in ([0, 1, 3], [0.25, 1.25], [0, 2], [0, 1, 1], [1, 0]):
        assert first_level(np.array(table, np.float64)) is None
