import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from mediant.errors import ModelError
from mediant.models.opening import open_model

NOT_CAUSAL = ("bert",)


@pytest.fixture
def copy(tiny_folder, tmp_path):
    """A copy of a tiny folder that may be changed."""
    return lambda name: shutil.copytree(tiny_folder(name), tmp_path / name)


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def test_every_weight_is_counted_once(architecture, tiny_folder, tiny_network):
    model, network = open_model(str(tiny_folder(architecture))), tiny_network(architecture)
    assert model.weights == sum(p.numel() for p in network.parameters())
    names = [n for t in model.tensors for n in (t.name, *t.aliases)]
    assert sorted(names) == sorted(network.state_dict())
    assert model.causal is (architecture not in NOT_CAUSAL)
    assert model.architecture == type(network).__name__
    assert model.name == tiny_folder(architecture).name
    assert model.config["model_type"] == network.config.model_type


def test_the_same_content_has_the_same_fingerprint_anywhere(tiny_folder, copy):
    folder = copy("llama")
    change_config(folder, _name_or_path="elsewhere", transformers_version="0.0.1")
    os.utime(folder / "model.safetensors", (0, 0))
    assert open_model(str(folder)).fingerprint == open_model(str(tiny_folder("llama"))).fingerprint


def test_other_content_has_another_fingerprint(tiny_folder, copy):
    folder = copy("llama")
    found = {open_model(str(tiny_folder("llama"))).fingerprint}
    change_config(folder, rms_norm_eps=1e-5)
    found.add(open_model(str(folder)).fingerprint)
    change_weights(folder, lambda w: w["model.norm.weight"].mul_(2))
    found.add(open_model(str(folder)).fingerprint)
    assert len(found) == 3


def test_a_head_that_differs_is_not_tied_whatever_the_config_says(copy, tiny_network):
    folder = copy("llama_tied")
    head = torch.ones(tiny_network("llama_tied").lm_head.weight.shape)
    change_weights(folder, lambda w: w.update({"lm_head.weight": head}))
    model = open_model(str(folder))
    assert model.tensor("lm_head.weight").role == "head"
    assert model.tensor("model.embed_tokens.weight").aliases == ()


def test_a_head_that_is_stored_twice_is_tied(copy):
    folder = copy("llama_tied")
    change_weights(folder, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}))
    assert open_model(str(folder)).tensor("lm_head.weight").name == "model.embed_tokens.weight"


class Listener:
    def __init__(self):
        self.said = []

    def track(self, items, what, total=None):
        yield from items

    def say(self, text):
        self.said.append(text)


def test_tensors_that_may_stay_behind_are_listed_with_the_reason(copy):
    folder, listener = copy("llama"), Listener()
    more = ("visual.blocks.0.attn.qkv.weight", "vision_tower.patch.weight", "mtp.layers.0.input_proj.weight",
            "model.layers.2.eh_proj.weight", "model.layers.2.mlp.up_proj.weight", "audio_tower.conv.weight",
            "score.weight", "model.layers.0.rotary_emb.inv_freq")  # fmt: skip
    change_weights(folder, lambda w: w.update({name: torch.ones(2) for name in more}))
    open_model(str(folder), listener)
    said = "\n".join(listener.said)
    assert len(listener.said) == 4
    for part in ("2 tensors such as v", "a tower for images", "a tower for sound", "a head for another task",
                 "3 tensors such as m", "a head that drafts further tokens"):  # fmt: skip
        assert part in said


@pytest.mark.parametrize(
    "name", ["model.stray", "model.layers.0.self_attn.q_proj.bias", "model.layers.1.mlp.shared_expert.up_proj.weight"]
)
def test_a_tensor_without_a_place_is_refused_by_name(copy, name):
    folder = copy("llama")
    change_weights(folder, lambda w: w.update({name: torch.ones(2)}))
    with pytest.raises(ModelError, match=f"has no place for {name}; its config.json does not fit"):
        open_model(str(folder))


def test_a_missing_tensor(copy):
    folder = copy("llama")
    change_weights(folder, lambda w: w.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(
        ModelError,
        match=r"lack tensors of LlamaForCausalLM, 1 in all, such as model\.layers\.1\.mlp\.up_proj\.weight\.",
    ):
        open_model(str(folder))


def test_a_tensor_of_another_shape(copy):
    folder = copy("llama")
    change_config(folder, vocab_size=300)
    with pytest.raises(ModelError, match=r"'model\.embed_tokens\.weight' .* shape \(320, 32\) .* \(300, 32\)"):
        open_model(str(folder))


def test_an_unknown_architecture(copy):
    folder = copy("llama")
    change_config(folder, model_type="perceptron9000")
    with pytest.raises(ModelError, match=r"model_type 'perceptron9000', which transformers .* does not know"):
        open_model(str(folder))
