"""Makes every dense MLP a mixture of experts over the same neurons; the model becomes an ordinary `qwen2_moe`.

Which neuron goes where stands in the parameters (`mediant.methods.experts.neuron_clusters` chooses). That architecture
weighs a routed expert by its softmax score and the shared one by a sigmoid. At logits near 0 these are 1 / experts and
1/2, so the output matrices are multiplied by `experts` and 2, and every neuron in use counts as in the dense model.
Routers are 0 here, which means nothing but that all experts are alike; `tune_experts` fits them. Where every expert is
active the model computes what the dense one did, its sums in another order.

Takes models with attention as in Llama, Mistral and Qwen2, without biases but those of queries, keys and values, and
without a sliding window. A sister of `keep_neurons`: that one drops neurons for all tokens, this one for some, so no
byte is saved, but time is. Multiplying by a number of experts that is no power of two rounds once in the weights' type.

Source: Pei et al. 2025 (arXiv 2502.04416); deviations are listed in `mediant.methods.experts.neuron_clusters`. Cost: a
copy.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from mediant.errors import PlanError
from mediant.kernels.bit_planes import pack, packed_bytes, unpack
from mediant.methods.structure import Config, Tensors
from mediant.models.lazy import LazyTensor

REFERENCES = (
    "Pei et al. 2025, CMoE: Converting Mixture-of-Experts from Dense to Accelerate LLM Inference, arXiv:2502.04416",
)
NEEDS: tuple[str, ...] = ()

ARCHITECTURE, MODEL_TYPE = "Qwen2MoeForCausalLM", "qwen2_moe"
TAKEN = ("llama", "mistral", "qwen2")
# What such a configuration means in both.
CARRIED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps",
    "use_cache", "tie_word_embeddings", "rope_parameters", "attention_dropout", "pad_token_id", "bos_token_id",
    "eos_token_id", "dtype",
)  # fmt: skip
SHARED = 0

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class SplitFfn:
    """`experts` routed experts, of which a token uses `active`.

    `neurons` has a text for each layer: the expert of each neuron, 0 for the shared one, as `encoded` writes it.
    """

    experts: int = 0
    active: int = 0
    neurons: Sequence[str] = ()

    def edited(self, config: Config, tensors: Tensors) -> tuple[Config, Tensors]:
        """Returns the mixture."""
        self._check(config)
        width = int(config["intermediate_size"])
        labels = [decoded(text, width, self.experts) for text in self.neurons]
        shared, size = _sizes(labels, self.experts)
        rest = {name: tensor for name, tensor in tensors.items() if ".mlp." not in name}
        for layer, places in enumerate(labels):
            rest |= _layer(f"model.layers.{layer}.mlp", tensors, places, self.experts)
        mixture = {
            "architectures": [ARCHITECTURE],
            "model_type": MODEL_TYPE,
            "num_experts": self.experts,
            "num_experts_per_tok": self.active,
            "moe_intermediate_size": size,
            "shared_expert_intermediate_size": shared,
            "norm_topk_prob": False,
            "qkv_bias": any(name.endswith("q_proj.bias") for name in tensors),
            "use_sliding_window": False,
        }
        return {name: config[name] for name in CARRIED if config.get(name) is not None} | mixture, rest

    def _check(self, config: Config) -> None:
        kind, layers = config.get("model_type"), config.get("num_hidden_layers")
        biased = config.get("mlp_bias") or (kind == "llama" and config.get("attention_bias"))
        window = config.get("use_sliding_window") if kind == "qwen2" else config.get("sliding_window")
        if kind not in TAKEN or biased or window:
            trait = " with biases" if biased else " with a sliding window" if window else ""
            raise PlanError(
                f"A model of the type {kind!r}{trait} cannot become a mixture that transformers knows; "
                f"these can, without either: {', '.join(TAKEN)}."
            )
        if len(self.neurons) != layers or not 1 <= self.active <= self.experts <= 254:
            raise PlanError(
                f"split_ffn names the neurons of {len(self.neurons)} layers and uses {self.active} of {self.experts} "
                f"experts; the model has {layers} layers, and a token uses from 1 to all of at most 254 experts."
            )


METHOD = SplitFfn


def encoded(labels: Labels, experts: int) -> str:
    """Returns the expert of each neuron, as a text: bit planes in base64."""
    return base64.b64encode(pack(labels.astype(np.uint8), experts.bit_length()).tobytes()).decode()


def decoded(text: str, width: int, experts: int) -> Labels:
    """Returns the inverse of `encoded` for `width` neurons.

    Raises:
        PlanError: it is not such a text.
    """
    bits = experts.bit_length()
    try:
        data = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    except ValueError:
        data = np.empty(0, np.uint8)
    if len(data) != packed_bytes(width, bits):
        raise PlanError(f"split_ffn's text for the neurons of a layer is not that of {width} neurons.")
    return unpack(data, width, bits).astype(np.int64)


def _sizes(labels: Sequence[Labels], experts: int) -> tuple[int, int]:
    """Neurons of the shared expert and of each other one, the same in all layers."""
    counts = {tuple(np.bincount(places, minlength=experts + 1).tolist()) for places in labels}
    if len(counts) != 1 or len(set(next(iter(counts))[1:])) != 1 or 0 in next(iter(counts)):
        raise PlanError(
            "split_ffn gives experts, or layers, neurons of different number, or none; transformers wants one size for "
            "all routed experts and one for all shared ones."
        )
    shared, *sizes = next(iter(counts))
    return shared, sizes[0]


def _layer(path: str, tensors: Tensors, labels: Labels, experts: int) -> Tensors:
    gate, up, down = (tensors[f"{path}.{name}_proj.weight"] for name in ("gate", "up", "down"))
    own = [np.flatnonzero(labels == e).tolist() for e in range(experts + 1)]
    routed = own[1:]
    hidden = gate.shape[1]
    return {
        f"{path}.gate.weight": _zeros(experts, hidden, gate.dtype),
        f"{path}.experts.gate_up_proj": _stacked(
            [partial(_joined, gate.take(0, e), up.take(0, e)) for e in routed],
            (experts, 2 * len(routed[0]), hidden),
            gate.dtype,
        ),
        f"{path}.experts.down_proj": _stacked(
            [down.map(lambda w: w * experts).take(1, e).read for e in routed],
            (experts, hidden, len(routed[0])),
            down.dtype,
        ),
        f"{path}.shared_expert.gate_proj.weight": gate.take(0, own[SHARED]),
        f"{path}.shared_expert.up_proj.weight": up.take(0, own[SHARED]),
        f"{path}.shared_expert.down_proj.weight": down.take(1, own[SHARED]).map(lambda w: 2 * w),
        f"{path}.shared_expert_gate.weight": _zeros(1, hidden, gate.dtype),
    }


def _zeros(rows: int, columns: int, dtype: torch.dtype) -> LazyTensor:
    return LazyTensor((rows, columns), dtype, lambda: torch.zeros(rows, columns, dtype=dtype))


def _joined(gate: LazyTensor, up: LazyTensor) -> torch.Tensor:
    return torch.cat([gate.read(), up.read()])


def _stacked(parts: Sequence[Callable[[], torch.Tensor]], shape: tuple[int, ...], dtype: torch.dtype) -> LazyTensor:
    return LazyTensor(shape, dtype, lambda: torch.stack([read() for read in parts]))
