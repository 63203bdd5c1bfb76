"""The analysis of whole tiny models: each tensor by the functions it is made of, kinds, threads, calibration."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mediant.models.matrix_form import to_matrix
from mediant.models.opening import open_model
from mediant.models.weights import WeightReader
from mediant.statistics.analysis import analyze
from mediant.statistics.distributions import families
from mediant.statistics.moments import moments, outliers
from mediant.statistics.quantization_order import nominal_loss
from mediant.statistics.spectrum import spectrum
from mediant.values import LayerStatistics, Model, Statistics

Folder = Callable[[str], Path]
EPS = float(np.finfo(np.float64).eps)


@pytest.fixture
def model(tiny_folder: Folder) -> Model:
    return open_model(str(tiny_folder("llama")))


def calibrated(model: Model, skip: str) -> Statistics:
    """Statistics of all matrices but one, by the size of the matrix."""
    layers = {
        t.name: LayerStatistics(np.ones(t.matrix_shape[1]), np.zeros(t.matrix_shape[1]), np.ones(t.matrix_shape[0]), 9)
        for t in model.tensors
        if t.layout != "none" and t.name != skip
    }
    return Statistics(layers, model.fingerprint, "text", 9, "a test")


def plain(value: object) -> object:
    """Comparable: arrays as lists, NaN as a word."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    return "nan" if isinstance(value, float) and math.isnan(value) else value


def test_every_architecture_is_covered(architecture: str, tiny_folder: Folder) -> None:
    model = open_model(str(tiny_folder(architecture)))
    found = analyze(model)
    assert [t.info for t in found.tensors] == list(model.tensors)
    assert sorted(t.name for t in found.targets) == sorted(t.name for t in model.tensors)
    assert sum(k.moments.count for k in found.kinds) == model.weights
    assert sum(k.tensors for k in found.kinds) == len(model.tensors)
    for tensor in found.tensors:
        assert (tensor.spectrum is None) == (tensor.loss is None) == (tensor.info.layout == "none")


def test_a_tensor_is_what_its_parts_say(model: Model) -> None:
    found = {t.info.name: t for t in analyze(model, seed=3).tensors}
    with WeightReader(model) as weights:
        for info in model.tensors:
            array, tensor = weights.read(info.name), found[info.name]
            assert tensor.moments == moments(array)
            assert tensor.outliers == outliers(array, tensor.moments)
            assert tensor.families == families(array, 3)
            if info.layout != "none":
                matrix = to_matrix(array, info)
                assert tensor.loss == nominal_loss(matrix, info)
                assert tensor.spectrum is not None
                assert np.allclose(
                    tensor.spectrum.singular_values, spectrum(matrix).singular_values, rtol=0, atol=1e-12
                )


def test_kinds_hold_all_their_tensors_values(model: Model) -> None:
    found = analyze(model, spectra=False)
    with WeightReader(model) as weights:
        for kind in found.kinds:
            arrays = [weights.read(t.name).ravel() for t in model.tensors if t.role == kind.role]
            together = np.concatenate(arrays).astype(np.float64)
            assert kind.moments.count == together.size
            assert kind.moments.mean == pytest.approx(together.mean(), abs=together.size * EPS * kind.moments.absmax)
            assert kind.moments.std == pytest.approx(together.std(), rel=together.size * EPS)
            assert sum(kind.families.values()) == kind.tensors == len(arrays)
            assert list(kind.families.values()) == sorted(kind.families.values(), reverse=True)
    assert [k.moments.count for k in found.kinds] == sorted((k.moments.count for k in found.kinds), reverse=True)


def test_threads_do_not_change_the_result(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for count in ("1", "3"):
        monkeypatch.setenv("MEDIANT_THREADS", count)
        results.append(plain(dataclasses.asdict(analyze(model))))
    assert results[0] == results[1]
    assert results[0] != plain(dataclasses.asdict(analyze(model, model.tensors[:2])))


def test_calibration_decides_the_losses(model: Model) -> None:
    missed = next(t.name for t in model.tensors if t.role == "linear")
    found = analyze(model, statistics=calibrated(model, missed), spectra=False)
    alone = {t.info.name: t for t in analyze(model, spectra=False).tensors}
    for tensor in found.tensors:
        name = tensor.info.name
        assert tensor.spectrum is None
        if tensor.info.layout == "none" or name == missed:
            assert tensor.loss is None
            assert tensor.sensitivity is None
        elif tensor.info.role != "embedding":
            # all sensitivities are 1: half the squared error that the weights alone predict
            assert tensor.loss == pytest.approx(alone[name].loss / 2, rel=tensor.info.size * EPS)
            assert tensor.sensitivity.fisher == 1
    assert {t.name: t.verdict for t in found.targets}[missed] == "unknown"


def test_some_tensors_keep_their_share_of_the_whole(model: Model) -> None:
    one = model.tensors[0]
    found = analyze(model, [one], spectra=False)
    assert [t.info for t in found.tensors] == [one]
    assert found.targets[0].share == one.size / model.weights
