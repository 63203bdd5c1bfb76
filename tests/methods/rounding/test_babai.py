"""What Babai and K-best rounding do beyond their kernels: orders are undone, and unknown ones refused."""

from __future__ import annotations

import numpy as np
import pytest

from mediant.errors import PlanError
from mediant.forms.quantize.encode import quantize
from mediant.forms.quantize.form import Quantize
from mediant.methods.layer import prepare
from mediant.values import RowSpan


def plan(**rounding):
    return Quantize(
        grid={"name": "gaussian"},
        scale={"name": "exact"},
        rounding={"name": "babai", **rounding},
        runs=(RowSpan(40, 3),),
        group=8,
        scale_bits=4,
    )


def layer(**rounding):
    g = np.random.default_rng(0)
    inputs = g.normal(size=(44, 200)) * np.exp(g.normal(size=(44, 1)))
    mixed = (np.eye(44) + 0.2 * g.normal(size=(44, 44))) @ inputs
    return prepare(g.normal(size=(40, 44)).astype(np.float32), plan(**rounding).rotation, None, mixed @ mixed.T / 200)


@pytest.mark.parametrize("name", ["babai", "k_best"])
@pytest.mark.parametrize("order", ["largest", "pivot"])
def test_another_order_is_undone_and_errs_less(name, order):
    loss = {}
    for o in ("natural", order):
        chosen = plan(name=name, order=o)
        loss[o] = layer().loss(quantize(layer(), chosen).matrix)
    # If codes or scales were not put back in place, the error would be that of weights drawn at random.
    assert loss[order] < loss["natural"]


def test_more_beams_and_more_sweeps_err_less():
    def loss(**rounding):
        return layer().loss(quantize(layer(), plan(**rounding)).matrix)

    assert loss(name="k_best", beams=8) < loss(name="k_best", beams=1) == loss() < loss(sweeps=0)


@pytest.mark.parametrize("wrong", [{"order": "smallest"}, {"name": "k_best", "beams": 0}, {"sweeps": -1}])
def test_wrong_parameters_are_refused(wrong):
    with pytest.raises(PlanError, match="refuses"):
        quantize(layer(), plan(**wrong))
