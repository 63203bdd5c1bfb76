import shutil
from dataclasses import replace

import pytest
import torch

from mediant.errors import ModelError
from mediant.models.opening import open_model
from mediant.models.reference import load_reference, load_tokenizer, parameters_to_modules


def test_loads_what_was_saved(architecture, tiny_folder, tiny_network):
    loaded, saved = load_reference(open_model(str(tiny_folder(architecture)))), tiny_network(architecture)
    assert not loaded.training
    assert type(loaded) is type(saved)
    found, expected = loaded.state_dict(), saved.state_dict()
    assert list(found) == list(expected)
    assert all(found[n].dtype == torch.float32 and torch.equal(found[n], expected[n]) for n in expected)


def test_another_precision(tiny_folder):
    loaded = load_reference(open_model(str(tiny_folder("llama"))), torch.bfloat16)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}


def test_a_model_that_went_away(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder("llama"), tmp_path / "copy")
    model = open_model(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="transformers cannot load the model"):
        load_reference(model)


def test_the_tokenizer(tiny_folder, tokenizer, tmp_path):
    model = open_model(str(tiny_folder("llama")))
    text = "the quick brown fox 12"
    for source in (model, model.path):
        found = load_tokenizer(source)
        assert found(text).input_ids == tokenizer(text).input_ids
        assert found.decode(found(text).input_ids) == text
    with pytest.raises(ModelError, match="has no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer in .* cannot be read"):
        load_tokenizer(replace(model, path=tmp_path))


def test_each_tensor_knows_its_module(architecture, tiny_folder, tiny_network):
    network = tiny_network(architecture)
    owners = parameters_to_modules(network)
    for info in open_model(str(tiny_folder(architecture))).tensors:
        assert owners[info.name] is network.get_submodule(info.module)
        for name in (info.name, *info.aliases):
            assert getattr(owners[name], name.rpartition(".")[2]).shape == info.shape
