"""The folder loads in transformers, has the same bytes each time, in one file or more, and is whole or not there."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from mediant.models.dense_folder import write_folder
from mediant.models.lazy import LazyTensor
from mediant.models.opening import open_model
from mediant.models.weights import WeightReader


@pytest.mark.parametrize("shard_bytes", [1 << 30, 4000])
def test_it_is_the_same_model(shard_bytes, tiny_folder, contents, tmp_path):
    model = open_model(str(tiny_folder("llama_tied")))
    for name in ("one", "two"):
        with WeightReader(model) as weights:
            write_folder(tmp_path / name, model.config, weights.lazy(), {"a.txt": b"a"}, shard_bytes=shard_bytes)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert ((tmp_path / "one" / "model.safetensors").exists()) == (shard_bytes == 1 << 30)
    before = AutoModelForCausalLM.from_pretrained(model.path).state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "one").state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_failure_leaves_nothing(tmp_path):
    def fails() -> torch.Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "out", {}, {"w": LazyTensor((1,), torch.float32, fails)}, {})
    with pytest.raises(ValueError, match="'w'"):
        write_folder(tmp_path / "out", {}, {"w": LazyTensor((2,), torch.float32, lambda: torch.zeros(1))}, {})
    assert list(tmp_path.iterdir()) == []
