"""How calibration runs the model: whole where memory allows it, else block by block."""

from __future__ import annotations

import types

import numpy as np
import psutil
import pytest
import torch

from mediant.models.opening import open_model
from mediant.pipeline import calibrate
from mediant.pipeline.calibrate import Calibrator, whole_pass_bytes
from mediant.pipeline.workspace import Workspace
from mediant.progress import Silent
from mediant.statistics.calibration_text import CalibrationText


class Said(Silent):
    """Keeps what is said."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def calibrated(model, folder, free, monkeypatch):
    """What a calibrator finds and says with so much free memory."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=free))
    text = CalibrationText(torch.randint(2, 300, (2, 16), generator=torch.Generator().manual_seed(0)), "random")
    said = Said()
    found = Calibrator(
        model, lambda: text, (text.source, text.fingerprint), True, Workspace.open(folder, {}, resume=False), said
    )
    return found.statistics, found.hessians, said.lines


@pytest.mark.parametrize("fits", [False, True])
def test_a_model_larger_than_the_free_memory_is_run_block_by_block(tiny_folder, tmp_path, monkeypatch, fits):
    model = open_model(str(tiny_folder("llama")))
    needed = whole_pass_bytes(model, hessian=True)
    usual, usual_hessians, _ = calibrated(model, tmp_path / "usual", 10**12, monkeypatch)
    free = int(needed / calibrate.MEMORY_SHARE) + (10 if fits else -10)
    found, hessians, lines = calibrated(model, tmp_path / "tight", free, monkeypatch)
    assert any("block by block" in line for line in lines) != fits
    assert found.layers.keys() == usual.layers.keys()
    for name in usual_hessians.inputs:
        assert np.array_equal(hessians.of(name), usual_hessians.of(name))


def test_the_estimate_counts_weights_and_hessians(tiny_folder):
    model = open_model(str(tiny_folder("llama")))
    weights = sum(t.size for t in model.tensors)
    columns = [t.shape[1] for t in model.tensors if t.role in ("linear", "head")]
    assert whole_pass_bytes(model, hessian=False) == 4 * weights
    assert whole_pass_bytes(model, hessian=True) == 4 * weights + 4 * sum(c * c for c in columns)
