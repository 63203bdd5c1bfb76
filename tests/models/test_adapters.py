"""A folder with an adapter is the tuned model where merging is asked for, and refused otherwise."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, T5Config, T5ForConditionalGeneration

from mediant.errors import ModelError
from mediant.models.adapters import merging
from mediant.models.opening import open_model
from mediant.models.reference import load_reference, load_tokenizer


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDIANT_CACHE", str(tmp_path / "cache"))


def logits(network):
    with torch.inference_mode():
        return network(input_ids=torch.arange(3, 60).reshape(1, -1)).logits


@pytest.fixture
def tuned(tiny_folder, tmp_path):
    """A model's folder, the folder of its adapter alone, and the logits of both together."""
    base = shutil.copytree(tiny_folder("llama_tied"), tmp_path / "base")
    settings = LoraConfig(target_modules=["q_proj", "down_proj"], r=4, task_type="CAUSAL_LM")
    network = get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    network.save_pretrained(tmp_path / "adapter")
    return base, tmp_path / "adapter", logits(network.eval())


def put_beside(base, adapter):
    for file in adapter.iterdir():
        shutil.copy(file, base)


def test_an_adapter_is_refused_with_what_to_do(tuned):
    base, adapter, _ = tuned
    with pytest.raises(ModelError, match=rf"adapter of {base}, not a model: give --merge-adapter .*or give the model"):
        open_model(str(adapter))
    put_beside(base, adapter)
    with pytest.raises(
        ModelError, match=r"beside the weights of a model: give --merge-adapter .* move the adapter's files"
    ):
        open_model(str(base))


@pytest.mark.parametrize("beside", [True, False])
def test_merged_it_is_the_tuned_model(tuned, beside):
    base, adapter, expected = tuned
    if beside:
        put_beside(base, adapter)
    with merging():
        model = open_model(str(base if beside else adapter))
    assert model.name == ("base" if beside else "adapter")
    assert model.tensor("lm_head.weight").name == "model.embed_tokens.weight"
    assert not (model.path / "adapter_config.json").exists()
    scale = float(expected.abs().max())
    torch.testing.assert_close(logits(load_reference(model)), expected, rtol=0, atol=1000 * scale * 2**-24)
    assert load_tokenizer(model).eos_token == "</s>"


def test_another_adapter_is_another_model(tuned):
    base, adapter, _ = tuned
    with merging():
        first = open_model(str(adapter))
        assert open_model(str(adapter)).path == first.path
        tensors = adapter / "adapter_model.safetensors"
        changed = {name: 2 * value for name, value in load_file(tensors).items()}

        save_file(changed, tensors, {"format": "pt"})
        assert open_model(str(adapter)).fingerprint != first.fingerprint
        assert open_model(str(base)).fingerprint != first.fingerprint


def test_what_cannot_be_merged(tuned):
    _, adapter, _ = tuned
    config = json.loads((adapter / "adapter_config.json").read_text())

    def refused(match, **changes):
        (adapter / "adapter_config.json").write_text(json.dumps(config | changes))
        with merging(), pytest.raises(ModelError, match=match):
            open_model(str(adapter))

    refused("There is no folder or file /nowhere", base_model_name_or_path="/nowhere")
    refused("does not name the model it belongs to", base_model_name_or_path=None)
    refused("of the type 'PROMPT_TUNING', which cannot be merged", peft_type="PROMPT_TUNING")
    refused("of the type 'OF_TOMORROW', which cannot be merged", peft_type="OF_TOMORROW")
    refused("peft cannot merge the adapter", target_modules=["no_such_module"])
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    refused("pickles, which can run any code")
    (adapter / "adapter_config.json").write_text("{")
    with merging(), pytest.raises(ModelError, match="cannot be read"):
        open_model(str(adapter))
    (adapter / "adapter_config.json").unlink()
    with merging(), pytest.raises(ModelError, match=r"no adapter_config\.json, without which"):
        open_model(str(adapter))


def test_the_wish_ends_with_its_block(tuned):
    _, adapter, _ = tuned
    with merging():
        open_model(str(adapter))
    with pytest.raises(ModelError, match="not a model"):
        open_model(str(adapter))


@pytest.mark.parametrize("beside", [True, False])
def test_what_is_not_taken_is_refused_before_it_is_merged(beside, tmp_path):
    config = T5Config(vocab_size=320, d_model=64, d_kv=16, d_ff=96, num_layers=2, num_heads=4)
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    T5ForConditionalGeneration(config).save_pretrained(base)
    network = T5ForConditionalGeneration.from_pretrained(base)
    get_peft_model(network, LoraConfig(target_modules=["q"], r=4)).save_pretrained(adapter)
    if beside:
        put_beside(base, adapter)
    with merging(), pytest.raises(ModelError, match=f"The model in {base} is a T5ForConditionalGeneration, which has"):
        open_model(str(base if beside else adapter))
    assert not (tmp_path / "cache" / "models").exists()
