"""Weights beyond a type's range are found, and a compressed model keeps them in a type that holds them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from mediant.models.opening import open_model
from mediant.models.weight_range import beyond
from mediant.pipeline.compress import compress
from mediant.pipeline.request import CompressRequest

NORM = "model.norm.weight"
FLOAT16_MAX = 65504.0


@pytest.fixture
def wide(tiny_folder, tmp_path):
    """A folder of a model with one weight of the last norm set, and that weight's value taken out of the head."""

    def made(value):
        folder = tmp_path / f"model-{value}"
        shutil.copytree(tiny_folder("llama"), folder)
        weights = load_file(folder / "model.safetensors")
        weights["lm_head.weight"][:, 3] /= value
        weights[NORM][3] = value
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return folder

    return made


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_that_fits_is_not_beyond_and_the_next_is(wide, sign):
    for value, found in ((FLOAT16_MAX, set()), (np.nextafter(np.float32(FLOAT16_MAX), np.float32(1e9)), {NORM})):
        model = open_model(str(wide(sign * float(value))))
        names = [t.name for t in model.tensors]
        assert beyond(model, names, "float16") == found
        assert not beyond(model, names, "bfloat16")
        assert not beyond(model, [n for n in names if n != NORM], "float16")


def test_a_compressed_model_keeps_it_as_bfloat16(wide, tmp_path):
    folder = wide(9e4)
    checkpoint = compress(CompressRequest(str(folder), tmp_path / "out", size="45%", recipe="rtn"))
    assert abs(checkpoint.weight(NORM)[3] / 9e4 - 1) <= 2**-8
    stored = {name: entry.plan.to_dict().get("dtype") for name, entry in checkpoint.tensors.items()}
    assert stored[NORM] == "bfloat16"
    assert set(stored.values()) - {None} == {"bfloat16", "float16"}
    assert (tmp_path / "out" / "mediant.json").is_file()
