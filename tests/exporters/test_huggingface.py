"""An exported folder is, in plain transformers, the same network that the checkpoint decodes to."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import mediant
from mediant.checkpoint.reader import open_checkpoint
from mediant.errors import StorageError, UsageError
from mediant.exporters.huggingface import export


def test_the_same_weights(tiny_checkpoint, tmp_path):
    folder = tiny_checkpoint("llama_tied")
    export(str(folder), tmp_path / "out")
    network, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values())
    state = network.state_dict()
    for name, weights in open_checkpoint(folder).state(aliases=True):
        assert torch.equal(state[name], torch.from_numpy(weights))
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("fox").input_ids
    with pytest.raises(StorageError, match="exists"):
        export(str(folder), tmp_path / "out")
    with pytest.raises(UsageError, match="bfloat16"):
        export(str(folder), tmp_path / "other", "int4")


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_a_loaded_checkpoint_is_saved_with_the_names_of_the_original(name, tiny_folder, tiny_checkpoint, tmp_path):
    folder = tiny_checkpoint(name)
    mediant.load(folder).save_pretrained(tmp_path / "saved")
    export(str(folder), tmp_path / "exported")
    names = load_file(tiny_folder(name) / "model.safetensors").keys()
    assert load_file(tmp_path / "saved" / "model.safetensors").keys() == names
    assert load_file(tmp_path / "exported" / "model.safetensors").keys() == names
