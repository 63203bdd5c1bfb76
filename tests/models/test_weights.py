import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mediant.errors import ModelError
from mediant.models import reference
from mediant.models.opening import open_model
from mediant.models.weights import WeightReader

FUSED = ("mixtral", "qwen3_moe")


def assert_reads_like(folder, state):
    """Every tensor of the folder's model equals the state dict's, under its name and its aliases."""
    model = open_model(str(folder))
    with WeightReader(model) as weights:
        for info in model.tensors:
            array = weights.read(info.name)
            assert array.dtype == np.float32
            assert array.shape == info.shape
            for name in (info.name, *info.aliases):
                np.testing.assert_array_equal(array, state[name].float().numpy())
    return model


@pytest.fixture
def copy(tiny_folder, tmp_path):
    """A copy of a tiny folder that may be changed."""
    return lambda name: shutil.copytree(tiny_folder(name), tmp_path / name)


def rename(folder, change):
    weights = load_file(folder / "model.safetensors")
    save_file({change(name): t for name, t in weights.items()}, folder / "model.safetensors")


def test_reads_what_transformers_loads(architecture, tiny_folder, tiny_network):
    assert_reads_like(tiny_folder(architecture), tiny_network(architecture).state_dict())


def test_reads_without_loading_the_model(architecture, tiny_folder, monkeypatch):
    model = open_model(str(tiny_folder(architecture)))
    monkeypatch.setattr(reference, "load_reference", lambda *_: pytest.fail("the whole model was loaded"))
    with WeightReader(model) as weights:
        for info in model.tensors:
            if info.role != "expert" or architecture not in FUSED:
                weights.read(info.name)


def test_experts_lie_one_by_one_in_the_files(tiny_folder):
    assert any(".experts.3." in name for name in load_file(tiny_folder("mixtral") / "model.safetensors"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama_tied", "mixtral"])
def test_half_precision(name, dtype, tiny_network, tmp_path):
    network = tiny_network(name).to(dtype)
    network.save_pretrained(tmp_path)
    model = assert_reads_like(tmp_path, network.state_dict())
    assert {t.dtype for t in model.tensors} == {str(dtype).removeprefix("torch.")}


def test_float32_weights_that_the_config_calls_bfloat16(copy, tiny_network):
    folder = copy("mixtral")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    assert_reads_like(folder, tiny_network("mixtral").state_dict())


@pytest.mark.parametrize("name", ["llama_tied", "gpt2"])
def test_names_without_the_base_prefix(name, copy, tiny_network):
    folder = copy(name)
    rename(folder, lambda n: n.removeprefix("model.").removeprefix("transformer."))
    assert_reads_like(folder, tiny_network(name).state_dict())


def test_names_with_a_base_prefix_too_many(copy, tiny_network):
    folder = copy("bert")
    rename(folder, lambda n: "bert." + n)
    assert_reads_like(folder, tiny_network("bert").state_dict())


def test_names_that_transformers_renames(copy, tiny_network):
    folder = copy("bert")
    rename(
        folder, lambda n: n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    )
    assert_reads_like(folder, tiny_network("bert").state_dict())


def test_shards(tiny_network, tmp_path):
    network = tiny_network("llama_tied")
    network.save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_reads_like(tmp_path, network.state_dict())


def test_only_the_head_of_a_tied_pair_is_stored(copy, tiny_network):
    folder = copy("llama_tied")
    rename(folder, lambda n: "lm_head.weight" if "embed_tokens" in n else n)
    assert_reads_like(folder, tiny_network("llama_tied").state_dict())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_must_be_finite(value, copy):
    folder = copy("llama")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3:5] = value
    save_file(weights, folder / "model.safetensors")
    model = open_model(str(folder))
    with WeightReader(model) as reader:
        reader.read("lm_head.weight")
        with pytest.raises(ModelError, match=r"'model\.norm\.weight'.* holds 2 values that are not finite"):
            reader.read("model.norm.weight")


def test_the_caller_may_change_what_was_read(tiny_folder):
    model = open_model(str(tiny_folder("llama")))
    with WeightReader(model) as reader:
        first = reader.read("lm_head.weight")
        expected = first.copy()
        first[:] = 0
        np.testing.assert_array_equal(reader.read("lm_head.weight"), expected)


def test_no_such_tensor(tiny_folder):
    with WeightReader(open_model(str(tiny_folder("llama")))) as reader, pytest.raises(KeyError):
        reader.read("model.nothing")


@pytest.mark.parametrize("lost", ["layers.1.mlp.experts", "layers.1.mlp.experts.2"])
def test_an_expert_that_is_missing_is_not_invented(lost, copy):
    folder = copy("qwen3_moe")
    weights = load_file(folder / "model.safetensors")
    save_file({n: t for n, t in weights.items() if lost not in n}, folder / "model.safetensors")
    model = open_model(str(folder))
    with WeightReader(model) as reader, pytest.raises(ModelError, match=r"lack tensors|cannot load"):
        reader.read("model.layers.0.mlp.experts.down_proj")
