"""Powers of two and sums of them."""

from __future__ import annotations

import numpy as np
import pytest

from mediant.methods.grids.log2 import Log2, sums


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("zero", [False, True])
def test_single_powers(bits, zero):
    levels = Log2(zero=zero).levels(bits)
    assert len(levels) == 2**bits - zero
    np.testing.assert_array_equal(levels, -levels[::-1])
    assert (0 in levels) == zero
    assert not np.signbit(levels[levels == 0]).any()
    powers = levels[levels > 0]
    assert (np.frexp(powers)[0] == 0.5).all()
    assert powers[-1] == 1
    assert (powers[1:] == 2 * powers[:-1]).all()


@pytest.mark.parametrize("terms", range(1, 8))
def test_sums_are_distinct_and_of_so_many_powers_at_most(terms):
    for bits in range(terms + 1, 9):
        levels = Log2(terms=terms).levels(bits)
        assert len(levels) == 2**bits - 1
        units = levels / levels[levels > 0].min()
        assert (units == np.rint(units)).all()
        if units[-1] < 2.0**63:
            assert max(int(u).bit_count() for u in np.abs(units)) <= terms


def test_one_bit_a_term_is_the_uniform_grid():
    # p_i is 0 or 2^-i then, so that the sums are binary numbers.
    np.testing.assert_array_equal(np.sort(sums(7, 7)) * 2**6, np.arange(2**7))


def test_two_terms_as_in_the_paper():
    # Li, Dong and Wang, section 2.2: k = 2, n = 2 for 4 magnitude bits.
    first, second = [0, 1, 1 / 4, 1 / 16], [0, 1 / 2, 1 / 8, 1 / 32]
    expected = sorted(a + b for a in first for b in second)
    assert Log2(terms=2).levels(5)[15:].tolist() == expected


def test_without_zero_one_bit_is_a_sign():
    assert Log2(zero=False).levels(1).tolist() == [-1, 1]
    with pytest.raises(ValueError, match="2 to 8 bits, not 1"):
        Log2().levels(1)


@pytest.mark.parametrize(("parameters", "match"), [({"terms": 0}, "not 0"), ({"terms": 8}, "not 8")])
def test_other_numbers_of_terms_are_refused(parameters, match):
    with pytest.raises(ValueError, match=match):
        Log2(**parameters)


def test_sums_have_a_zero():
    with pytest.raises(ValueError, match="has a level at 0"):
        Log2(zero=False, terms=2)
