"""Lloyd-Max levels of the bell curve: the published errors, and the two conditions of optimality."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate
from scipy.stats import norm

from mediant.methods.grids.gaussian import Gaussian

# Max 1960, table I: mean squared error for 2, 4, 8 and 16 levels.
PUBLISHED = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497}


def squared_error(levels):
    edges = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
    return sum(
        integrate.quad(lambda x, m=m: (x - m) ** 2 * norm.pdf(x), a, b)[0]
        for m, a, b in zip(levels, edges[:-1], edges[1:], strict=True)
    )


@pytest.mark.parametrize("bits", PUBLISHED)
def test_has_the_published_error(bits):
    assert squared_error(Gaussian().levels(bits)) == pytest.approx(PUBLISHED[bits], rel=2e-3)  # four digits printed


def test_the_error_comparator_sees_a_worse_table():
    assert squared_error(Gaussian().levels(3) * 1.1) > PUBLISHED[3] * 1.01


@pytest.mark.parametrize("bits", range(1, 9))
def test_symmetric(bits):
    levels = Gaussian().levels(bits)
    np.testing.assert_array_equal(levels, -levels[::-1])


def test_other_bit_widths_are_refused():
    with pytest.raises(ValueError, match="1 to 8"):
        Gaussian().levels(9)
