import json

import pytest
import torch
from transformers import BertConfig, GPT2Config, LlamaConfig, Mamba2Config, T5Config, ViTConfig

from mediant.errors import ModelError
from mediant.models import architecture as arch


def named(config, name):
    config.architectures = [name] if name else None
    return config


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (named(LlamaConfig(), None), "LlamaForCausalLM"),
        (named(LlamaConfig(), "LlamaForCausalLM"), "LlamaForCausalLM"),
        (named(LlamaConfig(), "LlamaModel"), "LlamaModel"),
        (named(LlamaConfig(), "LlamaForSequenceClassification"), "LlamaForSequenceClassification"),
        (named(LlamaConfig(), "GPT2LMHeadModel"), "LlamaForCausalLM"),
        (named(LlamaConfig(), "AutoModel"), "LlamaForCausalLM"),
        (named(LlamaConfig(), "MyOwnModel"), "LlamaForCausalLM"),
        (named(GPT2Config(), "GPT2LMHeadModel"), "GPT2LMHeadModel"),
        (named(BertConfig(), "BertModel"), "BertModel"),
        (named(BertConfig(), "BertForMaskedLM"), "BertForMaskedLM"),
        (named(T5Config(), "T5ForConditionalGeneration"), "T5ForConditionalGeneration"),
        (named(ViTConfig(), None), "ViTModel"),
    ],
)
def test_the_class_of_a_configuration(config, expected):
    assert arch.network_class(config).__name__ == expected


def test_an_empty_network_takes_no_memory(tiny_folder):
    network = arch.empty_network(arch.load_config(tiny_folder("llama")))
    assert {p.device for p in network.parameters()} == {torch.device("meta")}


@pytest.mark.parametrize("model_type", [None, 7, "nonsense"])
def test_a_config_of_an_unknown_type(model_type, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(ModelError, match="has the model_type"):
        arch.load_config(tmp_path)


def test_a_config_with_an_impossible_value(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": "wide"}))
    with pytest.raises(ModelError, match="refused by transformers"):
        arch.load_config(tmp_path)


def test_a_config_that_describes_no_network():
    config = LlamaConfig(hidden_size=32, num_hidden_layers=1)
    config.hidden_act = "sigmoidal"
    with pytest.raises(ModelError, match="cannot build a 'llama' model"):
        arch.empty_network(config)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3_moe"])
def test_a_count_that_would_be_built_forever(name, tiny_folder):
    entries = json.loads((tiny_folder(name) / "config.json").read_text())
    counts = [key for key in entries if arch.COUNTS.match(key)]
    assert "num_hidden_layers" in counts
    assert name != "qwen3_moe" or "num_local_experts" in counts
    for key in counts:
        for value in (10**30, 5000, 1e308):
            for spoilt in ({**entries, key: value}, {**entries, "text_config": {key: value}}):
                with pytest.raises(ModelError, match=f"{key} = .* no network has more than 4096"):
                    arch.build_config(spoilt, "a test")
    assert not arch.COUNTS.match("num_attention_heads_per_layer")


def test_numbers_that_json_lacks(tmp_path):
    """The writer of configurations spells infinity as an object; both readings give the number."""
    Mamba2Config().save_pretrained(tmp_path)
    entries = json.loads((tmp_path / "config.json").read_text())
    assert entries["time_step_limit"][1] == {"__float__": "Infinity"}
    for found in (arch.build_config(entries, "here"), arch.load_config(tmp_path)):
        assert found.time_step_limit[1] == float("inf")
    assert entries["time_step_limit"][1] == {"__float__": "Infinity"}
