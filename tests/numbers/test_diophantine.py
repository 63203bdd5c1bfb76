"""Extended Euclid and a x + b y = c against their equations and against search."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mediant.errors import UsageError
from mediant.numbers.diophantine import extended_gcd, solve

WIDE = st.integers(-(2**63) + 1, 2**63 - 1)
LARGEST = 2**63 - 1


@given(st.lists(st.tuples(WIDE, WIDE), max_size=6))
@example([(0, 0), (0, 5), (-5, 0), (LARGEST, LARGEST - 1), (-LARGEST, LARGEST), (LARGEST, 2)])
def test_extended_gcd_satisfies_its_equation_within_its_bounds(pairs):
    a, b = np.array([p for p, _ in pairs], np.int64), np.array([q for _, q in pairs], np.int64)
    for (m, n), g, x, y in zip(pairs, *(part.tolist() for part in extended_gcd(a, b)), strict=True):
        assert g == math.gcd(m, n)
        assert m * x + n * y == g
        if g:
            assert abs(x) <= max(1, abs(n) // (2 * g))
            assert abs(y) <= max(1, abs(m) // (2 * g))


def test_extended_gcd_broadcasts():
    g, x, y = extended_gcd(np.arange(1, 4)[:, None], [6, 9])
    assert g.tolist() == [[1, 1], [2, 1], [3, 3]]
    assert (np.arange(1, 4)[:, None] * x + np.array([6, 9]) * y == g).all()
    assert extended_gcd(np.zeros(0, int), 3)[0].shape == (0,)


@given(WIDE, WIDE, st.integers(-(2**63) + 1, 2**63 - 1))
@example(1, -3, LARGEST)
@example(LARGEST, -3, -LARGEST)
@example(-2, 0, 6)
@example(0, 7, -21)
def test_solutions_solve_and_step_by_the_least(a, b, c):
    g = math.gcd(a, b)
    if g == 0 or c % g:
        with pytest.raises(UsageError):
            solve(a, b, c)
        return
    x, y, step_x, step_y = (int(part) for part in solve(a, b, c))
    for t in (0, 1, -1, 10**9):
        assert a * (x + t * step_x) + b * (y + t * step_y) == c
    assert math.gcd(step_x, step_y) == 1
    assert (0 <= x < step_x) if b else (step_x, step_y) == (0, 1)


@pytest.mark.parametrize("a", range(-6, 7))
def test_every_small_solution_is_found(a):
    for b in range(-6, 7):
        for c in range(-6, 7):
            inside = {(x, y) for x in range(-20, 21) for y in range(-20, 21) if a * x + b * y == c}
            if a == b == 0 or c % math.gcd(a, b):
                assert a == b == 0 or not inside
                continue
            x, y, step_x, step_y = (int(part) for part in solve(a, b, c))
            family = {(x + t * step_x, y + t * step_y) for t in range(-200, 201)}
            assert inside <= family


def test_solutions_of_arrays_are_int64():
    assert solve([2, 3], [3, 5], [1, 4]).x.dtype == np.int64
    assert solve([[2, 4]], [[3], [5]], 1).x.shape == (2, 2)
    # The products pass int64 on the way.
    large = solve([LARGEST, 1], [-3, 1], [-LARGEST, 0])
    assert large.y.dtype == np.int64
    assert LARGEST * int(large.x[0]) - 3 * int(large.y[0]) == -LARGEST


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (([2, 2], [4, 4], [6, 7]), r"Equation\[1\] 2 x \+ 4 y = 7 has no integer solution: gcd\(a, b\) = 2"),
        ((0, 0, 0), "no unknowns"),
        ((0.5, 1, 1), "a has the type"),
        ((1, -(2**63), 1), "b is"),
    ],
)
def test_what_has_no_solution_is_refused(arguments, what):
    with pytest.raises(UsageError, match=what):
        solve(*arguments)
