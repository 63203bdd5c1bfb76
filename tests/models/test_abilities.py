"""One function says what can be done with a model, before any work."""

import pytest
import torch
import transformers

from mediant.models.abilities import abilities, position_offset
from mediant.models.running import Steps, hidden_states

BERT = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
        "max_position_embeddings": 32, "pad_token_id": 1}  # fmt: skip
T5 = {"vocab_size": 64, "d_model": 16, "d_ff": 24, "d_kv": 8, "num_layers": 1, "num_heads": 2}
LLAMA = {**BERT, "num_key_value_heads": 2}
VIT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32}
MUSICGEN = {"vocab_size": 64, "hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
MAMBA = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1}


def network(name, settings):
    made = getattr(transformers, name)
    return made(made.config_class(**settings)).eval()


@pytest.mark.parametrize(
    ("name", "settings", "kind", "reason"),
    [
        ("LlamaForCausalLM", LLAMA, "language model", ""),
        ("MambaForCausalLM", MAMBA, "language model", ""),
        ("GPTNeoXForCausalLM", BERT, "language model", ""),
        ("LlamaModel", LLAMA, "encoder", ""),
        ("LlamaForSequenceClassification", LLAMA, "encoder", ""),
        ("BertForMaskedLM", BERT, "encoder", ""),
        ("BertForSequenceClassification", BERT, "encoder", ""),
        ("T5EncoderModel", T5, "encoder", ""),
        ("BertLMHeadModel", BERT | {"is_decoder": True}, "language model", ""),
        ("BertLMHeadModel", BERT, "none", "both directions"),
        ("T5ForConditionalGeneration", T5, "none", "has an encoder and a decoder"),
        ("MusicgenForCausalLM", MUSICGEN, "none", "codes of sounds"),
        ("MllamaForCausalLM", LLAMA, "language model", ""),
        ("ViTModel", VIT, "none", "reads pixel_values, not token ids"),
    ],
)
def test_what_a_class_is_taken_for(name, settings, kind, reason):
    found = abilities(network(name, settings))
    assert found.kind == kind
    assert reason in found.reason
    assert bool(found.reason) is (kind == "none")


@pytest.mark.parametrize(("name", "offset"), [("BertModel", 0), ("XLMRobertaModel", 2), ("MPNetModel", 2)])
def test_as_many_positions_as_the_network_reads(name, offset):
    made = network(name, BERT)
    assert position_offset(made) == offset
    made(input_ids=torch.full((1, 32 - offset), 7))
    with pytest.raises((IndexError, RuntimeError)):
        made(input_ids=torch.full((1, 33 - offset), 7))


@pytest.mark.parametrize(
    ("name", "settings"), [("BertForMaskedLM", BERT), ("T5EncoderModel", T5), ("LlamaForSequenceClassification", LLAMA)]
)
def test_hidden_states_below_any_head(name, settings):
    assert hidden_states(network(name, settings), torch.arange(2, 9)[None]).shape == (1, 7, 16)


@pytest.mark.parametrize(("name", "settings"), [("LlamaForCausalLM", LLAMA), ("MambaForCausalLM", MAMBA)])
@torch.inference_mode()
def test_steps_predict_as_one_reading_does(name, settings):
    made, ids = network(name, settings), torch.arange(2, 9)[None]
    step = Steps(made)
    found = [step(ids[:, :3]), *(step(ids[:, at : at + 1]) for at in range(3, 7))]
    expected = made(input_ids=ids).logits[:, 2:]
    torch.testing.assert_close(torch.stack(found, dim=1), expected)
