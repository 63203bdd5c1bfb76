"""Babai for several readings against its reference, against plain Babai, and for what it is there for."""

from __future__ import annotations

import numpy as np
import pytest

from mediant.kernels import nested_babai as module
from mediant.kernels.babai import babai
from mediant.kernels.descent import descent
from mediant.kernels.nested_babai import nested_babai
from mediant.kernels.scale_codes import ScaleForm
from mediant.statistics.metric_factors import factorize

TABLE = np.float32([-2.1, -1.3, -0.7, -0.2, 0.2, 0.7, 1.3, 2.1])
COARSE = np.repeat(TABLE.reshape(4, 2).mean(axis=1), 2).astype(np.float32)
READINGS = np.stack([TABLE, COARSE])
FORM = ScaleForm(3, signed=False, steps=4)

# More rows than are taken together, and strips, chunks and groups that end in the midst of one another.
ODD = (37, 175, 48)


@pytest.mark.parametrize(("rows", "columns", "group"), [(1, 1, 4), (3, 7, 4), (5, 33, 16), (9, 40, 64), ODD])
@pytest.mark.parametrize("weights", [[4, 1], [0, 1]])
def test_native_is_the_reference_to_the_bit(rows, columns, group, weights, problem, monkeypatch):
    w, metric = problem(rows, columns, seed=rows)
    w[0, 0] = 0
    for sweeps in (0, 2):
        arguments = w, factorize(metric), READINGS, np.float32(weights), group, FORM, sweeps
        native = nested_babai(*arguments)
        with monkeypatch.context() as patch:
            patch.setattr(module, "native", None)
            reference = nested_babai(*arguments)
        np.testing.assert_array_equal(native.row_scales, reference.row_scales)
        np.testing.assert_array_equal(native.scale_codes, reference.scale_codes)
        np.testing.assert_array_equal(native.codes, reference.codes)


def test_one_reading_is_babai_with_descent(problem):
    w, metric = problem(9, 40)
    basis = factorize(metric)
    found = nested_babai(w, basis, READINGS[:1], np.float32([1]), 8, FORM, 2)
    plain = babai(w, basis, TABLE, 8, FORM)
    np.testing.assert_array_equal(found.scale_codes, plain.scale_codes)
    np.testing.assert_array_equal(found.codes, descent(w, plain.codes, plain.scales(FORM), basis.metric, TABLE, 8, 2))


def test_a_reading_that_counts_errs_less(problem, error):
    w, metric = problem(64, 48)

    def errors(weights):
        found = nested_babai(w, factorize(metric), READINGS, np.float32(weights), 16, FORM, 2)
        return [error(w, found, metric, table, 16, FORM).sum() for table in READINGS]

    fine_alone, both, coarse_alone = errors([1, 0]), errors([4, 1]), errors([0, 1])
    assert fine_alone[0] < both[0] < coarse_alone[0]
    assert coarse_alone[1] < both[1] < fine_alone[1]
    # What is gained for the coarse reading is more than what the fine one loses.
    assert both[1] / fine_alone[1] * both[0] / fine_alone[0] < 1


def test_arguments_are_checked(problem):
    w, metric = problem(2, 4)
    with pytest.raises(ValueError, match="readings"):
        nested_babai(w, factorize(metric), READINGS, np.float32([1]), 4, FORM, 0)
