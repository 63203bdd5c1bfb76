"""Edits carried out on the tiny models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from mediant.models.opening import open_model
from mediant.pipeline.apply_edits import LearningContext, apply_edits
from mediant.pipeline.workspace import Workspace


@pytest.fixture
def edited_network(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Callable[..., PreTrainedModel]:
    """The tiny model of that name after some edits, as plain transformers loads it."""

    def network(name: str, *edits: Mapping[str, Any]) -> PreTrainedModel:
        original = open_model(str(tiny_folder(name)))
        model = apply_edits(original, edits, LearningContext(original, lambda: torch.zeros(1, 2), Workspace(tmp_path)))
        assert (model.unedited, model.edits) == (original, edits)
        loaded, report = AutoModelForCausalLM.from_pretrained(model.path, output_loading_info=True)
        assert not any(report.values())
        return loaded.eval()

    return network
