"""Reads a GGUF file of these architectures back into a network of transformers, as llama.cpp understands it.

Written apart from the exporter, with names, order of rows and meaning of the header's numbers said once more, so that a
mistake would have to be made twice: names from llama.cpp's `llama-arch.cpp`, rotation from `ggml_rope` (neighbours in
the architecture `llama`, halves in the others).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import PreTrainedModel

WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
OF_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
NETWORKS = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


class GgufModel:
    """An open file: its header and its tensors under the names of transformers."""

    def __init__(self, file: Path):
        self._reader = gguf.GGUFReader(file)
        self._fields = {name: field.contents() for name, field in self._reader.fields.items() if "tokens" not in name}
        self.architecture = str(self._fields["general.architecture"])
        self._tensors = {transformers_name(t.name): t for t in self._reader.tensors}

    def number(self, key: str, default: Any = None) -> Any:
        """Returns a number of the header under the architecture's prefix."""
        return self._fields.get(f"{self.architecture}.{key}", default)

    def tensor(self, name: str) -> NDArray[np.float32]:
        """Returns a tensor in float32, rows in the order of transformers."""
        found = self._tensors[name]
        values = gguf.quants.dequantize(found.data, found.tensor_type).astype(np.float32)
        values = values.reshape([int(n) for n in reversed(found.shape)])
        if self.architecture != "llama" or not re.search(r"self_attn\.[qk]_proj", name):
            return np.ascontiguousarray(values)
        heads = self.number("attention.head_count" if "q_proj" in name else "attention.head_count_kv")
        pairs = values.reshape(heads, -1, 2, *values.shape[1:])
        return np.ascontiguousarray(np.moveaxis(pairs, 2, 1)).reshape(values.shape)

    def network(self) -> PreTrainedModel:
        """Returns the network that the file describes, in float32."""
        network_class = getattr(transformers, NETWORKS[self.architecture])
        network: PreTrainedModel = network_class(self._config(network_class.config_class))
        state = {name: torch.from_numpy(self.tensor(name)) for name in self._tensors if name != "rope_freqs"}
        for name, parameter in network.named_parameters():
            if name.endswith(".bias"):  # llama.cpp adds those that are there
                state.setdefault(name, torch.zeros_like(parameter))
        state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
        network.load_state_dict(state)
        if "rope_freqs" in self._tensors:
            network.model.rotary_emb.inv_freq /= torch.from_numpy(self.tensor("rope_freqs"))
        return network.eval()

    def _config(self, config_class: Any) -> Any:
        biased = {name.split(".")[-2] for name in self._tensors if name.endswith(".bias")}
        return config_class(
            hidden_size=self.number("embedding_length"),
            intermediate_size=self.number("feed_forward_length"),
            num_hidden_layers=self.number("block_count"),
            num_attention_heads=self.number("attention.head_count"),
            num_key_value_heads=self.number("attention.head_count_kv"),
            head_dim=self.number("attention.key_length"),
            rms_norm_eps=self.number("attention.layer_norm_rms_epsilon"),
            max_position_embeddings=self.number("context_length"),
            vocab_size=self.number("vocab_size"),
            tie_word_embeddings="lm_head.weight" not in self._tensors,
            attention_bias="q_proj" in biased,
            mlp_bias="down_proj" in biased,
            rope_parameters=self._rotary(),
        )

    def _rotary(self) -> Mapping[str, Any]:
        base = {"rope_theta": self.number("rope.freq_base", 10000.0)}
        scaling = self.number("rope.scaling.type", "linear")
        factor = self.number("rope.scaling.factor", 0.0)
        if scaling == "yarn":
            return base | {
                "rope_type": "yarn",
                "factor": factor,
                "original_max_position_embeddings": self.number("rope.scaling.original_context_length"),
                "beta_fast": self.number("rope.scaling.yarn_beta_fast", 32.0),
                "beta_slow": self.number("rope.scaling.yarn_beta_slow", 1.0),
            }
        if scaling == "linear" and factor:
            return base | {"rope_type": "linear", "factor": factor}
        return base | {"rope_type": "default"}


def transformers_name(name: str) -> str:
    """Returns the name that transformers gives a tensor of a file.

    >>> transformers_name("blk.3.ffn_down.weight")
    'model.layers.3.mlp.down_proj.weight'
    """
    if name == "rope_freqs.weight":
        return "rope_freqs"
    if found := re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name):
        return f"model.layers.{found[1]}.{OF_LAYER[found[2]]}.{found[3]}"
    stem, _, leaf = name.rpartition(".")
    return f"{WHOLE[stem]}.{leaf}"
