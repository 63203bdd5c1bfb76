"""Tiny random models of many kinds and their tokenizer, the same in every run; nothing of Mediant is imported."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers import decoders as token_decoders
from transformers import PreTrainedModel, PreTrainedTokenizerFast

VOCABULARY = 320
TEXT = "the quick brown fox jumps over the lazy dog and runs away from 12 angry bees . "

DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}

TINY = {
    "llama": ("LlamaForCausalLM", DECODER),
    "llama_tied": ("LlamaForCausalLM", DECODER | {"tie_word_embeddings": True}),
    "mistral": ("MistralForCausalLM", DECODER | {"sliding_window": 16}),
    "qwen2": ("Qwen2ForCausalLM", DECODER),
    "qwen3": ("Qwen3ForCausalLM", DECODER | {"tie_word_embeddings": True}),
    "gemma2": ("Gemma2ForCausalLM", DECODER | {"tie_word_embeddings": True, "query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3ForCausalLM", DECODER | {"tie_word_embeddings": True, "query_pre_attn_scalar": 8}),
    "phi": ("PhiForCausalLM", {k: v for k, v in DECODER.items() if k != "head_dim"}),
    "opt": (
        "OPTForCausalLM",
        {
            "vocab_size": VOCABULARY, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 128, "word_embed_proj_dim": 32,
            "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
        },
    ),
    "gpt2": (
        "GPT2LMHeadModel",
        {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128,
         "bos_token_id": 0, "eos_token_id": 1},
    ),
    "mixtral": ("MixtralForCausalLM", DECODER | {"num_local_experts": 4}),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        DECODER | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    ),
    "gpt_oss": (
        "GptOssForCausalLM",
        DECODER
        | {"num_local_experts": 4, "num_experts_per_tok": 2, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "bert": (
        "BertModel",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "max_position_embeddings": 128, "pad_token_id": 1},
    ),
}  # fmt: skip


def save(name: str, folder: Path) -> None:
    """Writes the folder of a tiny model as it comes from the hub: float32 safetensors, config, tokenizer."""
    random_network(name).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)


def random_network(name: str) -> PreTrainedModel:
    """The network of a tiny model with weights that depend on nothing but the name's place in TINY.

    Every parameter is random, norms and biases too: a tensor that is all ones or zeros hides a mix-up.
    """
    class_name, settings = TINY[name]
    network_class = getattr(transformers, class_name)
    network: PreTrainedModel = network_class(network_class.config_class(**settings))
    generator = torch.Generator().manual_seed(list(TINY).index(name))
    for parameter in network.parameters():
        center = float(parameter.ndim == 1)
        parameter.data = center + 0.1 * torch.randn(parameter.shape, generator=generator)
    network.tie_weights()
    return network.eval()


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 320 tokens, 0 = <s> and 1 = </s>."""
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = token_decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bare.train_from_iterator([TEXT] * 50, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bare, bos_token="<s>", eos_token="</s>", pad_token="</s>")
