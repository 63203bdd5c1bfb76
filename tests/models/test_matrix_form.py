import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediant.errors import PlanError
from mediant.models.matrix_form import from_matrix, to_matrix
from mediant.values import TensorInfo

sizes = st.integers(1, 5)


def stacked(layout, experts, rows, columns):
    inner = (rows, columns) if layout.endswith("out_in") else (columns, rows)
    return TensorInfo("w", (experts, *inner) if layout.startswith("experts") else inner, "float32", "linear", layout)


@given(st.sampled_from(["out_in", "in_out", "experts_out_in", "experts_in_out"]), sizes, sizes, sizes)
def test_each_weight_is_where_its_output_and_input_say(layout, experts, rows, columns):
    info = stacked(layout, experts, rows, columns)
    array = np.arange(info.size, dtype=np.float32).reshape(info.shape)
    matrix = to_matrix(array, info)
    assert matrix.shape == info.matrix_shape
    for row, column in np.ndindex(matrix.shape):
        expert, output = divmod(row, rows)
        place = (output, column) if layout.endswith("out_in") else (column, output)
        assert matrix[row, column] == array[(expert, *place) if layout.startswith("experts") else place]


@given(st.sampled_from(["out_in", "in_out", "experts_out_in", "experts_in_out"]), sizes, sizes, sizes)
def test_the_two_directions_are_inverse(layout, experts, rows, columns):
    info = stacked(layout, experts, rows, columns)
    array = np.random.default_rng(0).standard_normal(info.shape)
    back = from_matrix(to_matrix(array, info), info)
    np.testing.assert_array_equal(back, array)
    assert back.flags.c_contiguous
    matrix = np.random.default_rng(1).standard_normal(info.matrix_shape)
    np.testing.assert_array_equal(to_matrix(from_matrix(matrix, info), info), matrix)


def test_a_vector_has_no_matrix():
    with pytest.raises(PlanError, match="no matrix form"):
        to_matrix(np.ones(3), TensorInfo("b", (3,), "float32", "bias"))
