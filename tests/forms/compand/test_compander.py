"""The compander: its cells, the figures its source's curve gives, and the search that mends them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mediant.forms.compand.companded_matrix import levels
from mediant.forms.compand.compander import codes, decoded, fit
from mediant.forms.compand.demands import clusters, demand
from mediant.forms.compand.encode import at_bit_widths
from mediant.methods.layer import prepare

# Quadrature of a standard Gaussian: the midpoints of equal steps, and their probabilities.
STEP = 2.0**-10
POINTS = np.arange(-8 + STEP / 2, 8, STEP)
DENSITY = np.exp(-(POINTS**2) / 2) * STEP / np.sqrt(2 * np.pi)


def gaussian_error(scale, bits):
    """Mean squared error on a standard Gaussian; the cells' kinks leave about STEP² of error."""
    points = torch.from_numpy(POINTS.astype(np.float32))[:, None]
    s, mu, b = torch.tensor([scale]), torch.zeros(1), torch.tensor([bits])
    found = decoded(codes(points, s, mu, b), s, mu, b)[:, 0].numpy()
    return float((DENSITY * (found - POINTS) ** 2).sum())


def exact_error(inner, outer, edge):
    """The same by the moments of a Gaussian over the cells [0, edge] and [edge, infinity), twice."""
    tail, density = math.erfc(edge / math.sqrt(2)) / 2, math.exp(-(edge**2) / 2) / math.sqrt(2 * math.pi)
    first = (0.5 - tail) * (1 + inner**2) - edge * density - 2 * inner * (1 / math.sqrt(2 * math.pi) - density)
    second = tail * (1 + outer**2) + edge * density - 2 * outer * density
    return 2 * (first + second)


def test_the_plain_compander_errs_far_more_than_lloyd_at_2_bits():
    # By hand: levels 0.6103 and 2.9407, cells that meet at 1.4704 = 3 ln 2 / sqrt 2. Lloyd-Max has 0.1175 (Max 1960).
    assert gaussian_error(1.0, 2) == pytest.approx(exact_error(0.6103, 2.9407, 1.4704), abs=1e-4)
    assert gaussian_error(1.0, 2) == pytest.approx(0.308, abs=1e-3)
    # A scale alone brings it within a quarter of that.
    assert 0.1175 < min(gaussian_error(s, 2) for s in np.arange(0.3, 1, 0.05)) < 1.25 * 0.1175


def test_every_level_is_in_its_own_cell():
    for bits in range(1, 9):
        t = torch.from_numpy(levels(bits))[:, None]
        found = codes(t, torch.ones(1), torch.zeros(1), torch.tensor([bits]))[:, 0]
        assert found.tolist() == list(range(2**bits))


def test_the_search_never_loses_and_gains_much_at_low_bit_widths():
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(120, 40, generator=generator) + 0.2
    bit_widths = torch.arange(40) % 9
    errors = [
        (decoded(codes(weights, *pair, bit_widths), *pair, bit_widths) - weights).square().sum(0)
        for pair in (fit(weights, bit_widths, search=False), fit(weights, bit_widths))
    ]
    assert (errors[1] <= errors[0]).all()
    assert errors[1][bit_widths == 2].sum() < 0.6 * errors[0][bit_widths == 2].sum()


@pytest.mark.parametrize("row", [0, 1, 399])
def test_one_weight_far_from_all_others_is_not_cut_off(row):
    # So SmolLM2 writes its massive activations: 5.9 in a column of weights of 0.04. Which row it is must not matter.
    weights = 0.04 * torch.randn(400, 1, generator=torch.Generator().manual_seed(1))
    weights[row] = 5.9
    bit_widths = torch.tensor([6])
    pair = fit(weights, bit_widths)
    assert abs(float(decoded(codes(weights, *pair, bit_widths), *pair, bit_widths)[row]) - 5.9) < 0.3


def test_equal_weights_are_kept():
    weights = torch.full((10, 3), 0.5)
    bit_widths = torch.tensor([0, 1, 8])
    pair = fit(weights, bit_widths)
    assert torch.equal(decoded(codes(weights, *pair, bit_widths), *pair, bit_widths), weights)


def test_clusters_hold_rows_that_are_alike():
    generator = np.random.default_rng(0)
    loud = np.arange(12) % 3
    matrix = (generator.normal(size=(12, 50)) * 10.0 ** loud[:, None]).astype(np.float32)
    found = clusters(matrix, np.ones(12), 4)
    np.testing.assert_array_equal(found, loud)
    squares = clusters(np.ones((12, 2), np.float32), np.float32(10.0) ** loud, 4)
    np.testing.assert_array_equal(squares, loud)


def test_an_encoding_decodes_to_what_was_measured():
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(12, 9)).astype(np.float32)
    layer = prepare(matrix, None, None)
    of_rows = clusters(matrix, np.ones(12), 6)
    bit_widths = (np.arange(18) % 9).reshape(2, 9).astype(np.uint8)
    found = at_bit_widths(layer, of_rows, bit_widths)
    error = np.square(found.matrix - matrix.astype(np.float64)).sum() / np.square(matrix.astype(np.float64)).sum()
    assert found.certificate.relative_error == pytest.approx(error, rel=1e-9)
    finest = bit_widths[of_rows] == 8
    assert (
        np.abs(found.matrix - matrix)[finest].max()
        < 0.1
        < np.abs(found.matrix - matrix)[bit_widths[of_rows] == 0].max()
    )


def test_a_demand_is_the_mean_of_its_groups():
    generator = np.random.default_rng(0)
    matrix, squares = generator.normal(size=(6, 3)).astype(np.float32), generator.random((6, 3))
    of_rows = np.array([0, 1, 0, 1, 1, 1], np.uint8)
    found = demand(matrix, squares, of_rows)
    np.testing.assert_allclose(found.squares[0], squares[[0, 2]].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.variances[1], matrix[[1, 3, 4, 5]].var(axis=0), rtol=1e-5)
    assert found.sizes.tolist() == [[2.0] * 3, [4.0] * 3]
