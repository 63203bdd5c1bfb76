"""Checkpoints of the tiny models, every tensor cast, so that what must come out is known to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from transformers import PreTrainedModel

from mediant.checkpoint.writer import write
from mediant.forms import Encoding
from mediant.forms.cast.form import Cast
from mediant.models.opening import open_model
from mediant.models.sidecar_files import sidecar_files
from mediant.models.weights import WeightReader
from mediant.planning.plan import Plan
from mediant.values import TensorInfo


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
    def encode(info: TensorInfo, weights: NDArray[np.float32]) -> Encoding:
        return Encoding(info, Cast(dtype), {"data": weights.astype(np.dtype(dtype))})

    write_encoded(source, target, encode)


def write_encoded(
    source: Path, target: Path, encode: Callable[[TensorInfo, NDArray[np.float32]], Encoding]
) -> dict[str, Encoding]:
    """A checkpoint of the model in a folder, every tensor as `encode` gives it."""
    model = open_model(str(source))
    with WeightReader(model) as weights:
        found = {t.name: encode(t, weights.read(t.name)) for t in model.tensors}
    plan = Plan(model.fingerprint, "test", 0, {name: encoding.plan for name, encoding in found.items()})
    sides = {name: encoding.side for name, encoding in found.items() if encoding.plan.measured}
    write(target, model, plan, None, found.values(), sidecar_files(model, "a test"), sides)
    return found


@pytest.fixture(scope="session")
def half_network(tiny_network: Callable[[str], PreTrainedModel]) -> Callable[[str], PreTrainedModel]:
    """The network of a tiny model with every weight rounded to float16, in float32."""
    return lambda name: tiny_network(name).half().float()
