"""Checkpoints of tiny models whose tensors are all cast, which takes no calibration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mediant.checkpoint.writer import write
from mediant.forms.cast.form import Cast
from mediant.models.opening import open_model
from mediant.models.sidecar_files import sidecar_files
from mediant.pipeline.encode import encode_all
from mediant.planning.plan import Plan


@pytest.fixture
def tiny_checkpoint(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """The folder of a checkpoint of the tiny model of that name."""

    def folder(name: str) -> Path:
        model = open_model(str(tiny_folder(name)))
        plan = Plan(model.fingerprint, "cast", 0, {t.name: Cast() for t in model.tensors})
        write(tmp_path / name, model, plan, None, encode_all(model, plan, None), sidecar_files(model, ""))
        return tmp_path / name

    return folder
