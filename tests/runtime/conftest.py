"""Checkpoints of the tiny models, every tensor cast, so that what must come out is known to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedModel

from mediant.checkpoint.writer import write
from mediant.models.companions import companion_files
from mediant.models.opening import open_model
from mediant.models.weights import WeightReader
from mediant.values import Encoding, Plan, TensorPlan


@pytest.fixture(scope="session")
def tiny_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, tiny_folder: Callable[[str], Path]
) -> Callable[..., Path]:
    """The checkpoint of the tiny model of that name, cast to float32 (exact) or float16. Not to be changed."""
    made: dict[tuple[str, str], Path] = {}

    def checkpoint(name: str, dtype: str = "float32") -> Path:
        if (name, dtype) not in made:
            made[name, dtype] = tmp_path_factory.mktemp("checkpoints") / f"{name}-{dtype}"
            write_cast(tiny_folder(name), made[name, dtype], dtype)
        return made[name, dtype]

    return checkpoint


def write_cast(source: Path, target: Path, dtype: str) -> None:
    model = open_model(str(source))
    plan = Plan(model.fingerprint, "cast", 0, {t.name: TensorPlan("cast", dtype) for t in model.tensors})
    with WeightReader(model) as weights:
        encodings = [
            Encoding(t, plan.tensors[t.name], {"data": weights.read(t.name).astype(np.dtype(dtype))})
            for t in model.tensors
        ]
    write(target, model, plan, None, encodings, companion_files(model, "a test"))


@pytest.fixture(scope="session")
def half_network(tiny_network: Callable[[str], PreTrainedModel]) -> Callable[[str], PreTrainedModel]:
    """The network of a tiny model with every weight rounded to float16, in float32."""
    return lambda name: tiny_network(name).half().float()
