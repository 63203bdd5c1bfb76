"""Values go in unchanged or are refused with the place of the first that is wrong."""

import numpy as np
import pytest

from mediant.errors import UsageError
from mediant.numbers.arrays import finite_doubles, integers, narrowed, objects, place, whole_number


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_keep_their_value(kind):
    values = np.array([0.1, -3.5, 6e-8], kind)
    assert finite_doubles(values).dtype == np.float64
    assert finite_doubles(values).tolist() == values.tolist()


def test_integers_become_doubles_only_where_exact():
    assert finite_doubles([2**53, -(2**53)]).tolist() == [2.0**53, -(2.0**53)]
    with pytest.raises(UsageError, match=r"x\[1\] is 9007199254740993"):
        finite_doubles([0, 2**53 + 1])


@pytest.mark.parametrize(
    ("values", "where"),
    [
        (np.nan, "x is nan"),
        ([1.0, np.inf], r"x\[1\] is inf"),
        ([[1.0, 2.0], [3.0, -np.inf]], r"x\[1, 1\] is -inf"),
    ],
)
def test_what_is_not_finite_is_named(values, where):
    with pytest.raises(UsageError, match=where):
        finite_doubles(values)


@pytest.mark.parametrize("values", ["0.5", [True], [1 + 2j], np.zeros(2, np.longdouble), [None]])
def test_what_is_no_double_is_refused(values):
    with pytest.raises(UsageError, match="x has the type"):
        finite_doubles(values)


def test_integers_are_int64_or_refused():
    assert integers(np.array([1, 255], np.uint8), "p").dtype == np.int64
    assert integers([2**63 - 1, -(2**63) + 1], "p").tolist() == [2**63 - 1, -(2**63) + 1]
    for wrong in ([0, -(2**63)], np.array([0, 2**63], np.uint64), np.array([0, 2**64], object)):
        with pytest.raises(UsageError, match=r"p\[1\]"):
            integers(wrong, "p")
    with pytest.raises(UsageError, match="takes integers"):
        integers([1.0], "p")


@pytest.mark.parametrize("wrong", [0, 8, 2.0, True, "3", None])
def test_whole_numbers_have_limits(wrong):
    assert whole_number(np.int32(7), "n", 1, 7) == 7
    with pytest.raises(UsageError, match="n is"):
        whole_number(wrong, "n", 1, 7)


def test_python_integers_are_kept_only_where_needed():
    assert narrowed(objects([1, -(2**63) + 1], (2, 1))).dtype == np.int64
    assert narrowed(objects([1, 2**63], (2,))).tolist() == [1, 2**63]
    assert narrowed(objects([], (0, 3))).shape == (0, 3)


def test_places_are_indices():
    assert place(5, (2, 3)) == "[1, 2]"
    assert place(0, ()) == ""
