"""The native decoder against the same model in NumPy and float64, and against itself in pieces."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mediant.errors import CheckpointError, UsageError
from mediant.forms import Views
from mediant.kernels import native
from mediant.models.configuration import Configuration, resolve
from mediant.runtime import reference_decoder
from mediant.runtime.decoder import Decoder
from mediant.runtime.description import Description, UnsupportedModel
from mediant.runtime.families import describe
from mediant.runtime.tensor_source import dense

pytestmark = pytest.mark.skipif(native is None, reason="needs the native kernels")

VOCABULARY = 320
TOKENS = np.random.default_rng(5).integers(2, VOCABULARY, 70)
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 32}
LINEAR = {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}
KINDS = ["sliding_attention", "full_attention"]
LLAMA = {
    "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128,
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False,
}  # fmt: skip
GEMMA = LLAMA | {
    "model_type": "gemma2", "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 8, "sliding_window": 20,
    "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "layer_types": KINDS, "tie_word_embeddings": True,
}  # fmt: skip
TWO_ROPES = {"sliding_attention": LLAMA["rope_parameters"], "full_attention": LINEAR}
OPT = {
    "model_type": "opt", "vocab_size": VOCABULARY, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 128, "word_embed_proj_dim": 32, "activation_function": "relu",
    "do_layer_norm_before": True, "tie_word_embeddings": True, "enable_bias": True,
    "layer_norm_elementwise_affine": True, "_remove_final_layer_norm": False,
}  # fmt: skip
CAPS = {"attn_logit_softcapping": None, "final_logit_softcapping": None}

# Everything that a family can have, in one model or another.
MODELS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "llama_tied_biases_linear": LLAMA
    | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "rope_parameters": LINEAR},
    "llama3": LLAMA | {"rope_parameters": LLAMA3, "head_dim": 24, "num_key_value_heads": 4},
    "mistral": LLAMA | {"model_type": "mistral", "sliding_window": 16},
    "qwen2_windows_yarn": LLAMA
    | {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1,
       "rope_parameters": YARN, "layer_types": KINDS[::-1]},
    "qwen3": LLAMA | {"model_type": "qwen3"},
    "gemma2": GEMMA | {"head_dim": 40},
    "gemma3": GEMMA | CAPS | {"model_type": "gemma3_text", "rope_parameters": TWO_ROPES},
    "opt": OPT,
    "opt_behind": OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 16, "activation_function": "gelu"},
}  # fmt: skip


class Tensors:
    """Random tensors for a description, each where a tensor of it would be; norms and biases are random too."""

    def __init__(self, description: Description, config: dict[str, Any], seed: int = 0):
        self._random, self.found = np.random.default_rng(seed), {}
        d, self._config = description, config
        for layer in range(len(d.layers)):
            for role, module in {**d.matrices, **d.norms}.items():
                self._add(role, module.format(layer), self._shapes(d)[role])
        for role, module in d.single.items():
            if role != "head" or not config["tie_word_embeddings"]:
                self._add(role, module, self._shapes(d)[role])

    def _add(self, role: str, module: str, shape: tuple[int, ...]) -> None:
        center = float(len(shape) == 1)
        self.found[f"{module}.weight"] = np.float32(center + 0.1 * self._random.standard_normal(shape))
        if self._biased(role, len(shape)):
            self.found[f"{module}.bias"] = np.float32(0.1 * self._random.standard_normal(shape[0]))

    def _biased(self, role: str, axes: int) -> bool:
        kind = self._config["model_type"]
        if kind == "opt":
            return role not in ("embedding", "positions", "project_in", "project_out")
        if role in ("query", "key", "value"):
            return kind == "qwen2" or self._config["attention_bias"]
        if role == "out":
            return bool(self._config["attention_bias"])
        return role in ("gate", "up", "down") and bool(self._config["mlp_bias"])

    @staticmethod
    def _shapes(d: Description) -> dict[str, tuple[int, ...]]:
        q, k = d.heads * d.head_dim, d.kv_heads * d.head_dim
        norms = ("attention_norm", "attention_post_norm", "mlp_norm", "mlp_post_norm", "final_norm")
        return {
            "query": (q, d.hidden), "key": (k, d.hidden), "value": (k, d.hidden), "out": (d.hidden, q),
            "gate": (d.inner, d.hidden), "up": (d.inner, d.hidden), "down": (d.hidden, d.inner),
            "query_norm": (d.head_dim,), "key_norm": (d.head_dim,), **dict.fromkeys(norms, (d.hidden,)),
            "embedding": (d.vocabulary, d.embedding), "head": (d.vocabulary, d.embedding),
            "positions": (d.positions + d.position_offset, d.hidden),
            "project_in": (d.hidden, d.embedding), "project_out": (d.embedding, d.hidden),
        }  # fmt: skip

    def __contains__(self, name: str) -> bool:
        return name in self.found

    def name(self, name: str) -> str | None:
        return name if name in self.found else None

    def vector(self, name: str) -> NDArray[np.float32]:
        return self.found[name]

    def matrix(self, name: str) -> Views:
        return dense(self.found[name])


def made(name: str, threads: int = 1, kv_bits: int = 32, chunk: int = 512, **changes: Any) -> Decoder:
    description = describe(resolve(MODELS[name]))
    source = Tensors(description, MODELS[name])
    return Decoder(dataclasses.replace(description, **changes), source, threads, kv_bits, chunk)


def exact(name: str) -> NDArray[np.float64]:
    description = describe(resolve(MODELS[name]))
    return reference_decoder.logits(description, Tensors(description, MODELS[name]), TOKENS)


def tolerance(expected: NDArray[Any], decoder: Decoder, unit: float = 2.0**-24) -> float:
    """What rounding can do: sums of n products of random sign err by some sqrt(n) units; each layer has a handful of
    them, its norms bring what comes in to size 1, so errors of layers add up; 8 times that for the tail and for exp."""
    d = decoder.description
    steps = len(d.layers) * (4 * np.sqrt(d.hidden) + np.sqrt(d.inner) + 2 * np.sqrt(d.head_dim)) + np.sqrt(d.hidden)
    angles = d.positions / 8  # positions times frequency are rounded to float32 before the cosine, here and there alike
    return float(8 * unit * (steps + angles) * np.abs(expected).max())


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_float64(name: str) -> None:
    expected = exact(name)
    decoder = made(name, threads=2)
    found = decoder.logits(decoder.sequence(), TOKENS)
    assert np.abs(found - expected).max() <= tolerance(expected, decoder)
    # float16 keys and values are off by 2^-12 of their size
    half = made(name, kv_bits=16)
    assert np.abs(half.logits(half.sequence(), TOKENS) - expected).max() <= tolerance(expected, half, 2.0**-12)


@pytest.mark.parametrize("name", MODELS)
def test_the_reference_is_the_model_of_transformers(name: str, tmp_path: Path) -> None:
    import torch
    import transformers

    config = MODELS[name]
    network = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**config), attn_implementation="eager"
    )
    tensors = Tensors(describe(resolve(config)), config).found
    report = network.load_state_dict({key: torch.from_numpy(value) for key, value in tensors.items()}, strict=False)
    assert not report.unexpected_keys
    assert set(report.missing_keys) <= {"lm_head.weight"}
    network.tie_weights()
    with torch.inference_mode():
        theirs = network.double().eval()(torch.tensor(TOKENS)[None]).logits[0].numpy()
    # transformers computes norms, softmax and rotations in float32 even then
    assert np.abs(exact(name) - theirs).max() <= tolerance(theirs, made(name))


@pytest.mark.parametrize("change", ["window", "rope", "attention_scale", "norm_offset", "activation"])
def test_the_comparison_sees_a_wrong_description(change: str) -> None:
    expected, right = exact("gemma3"), describe(resolve(MODELS["gemma3"]))
    wrong = {
        "window": {"layers": (dataclasses.replace(right.layers[0], window=21), right.layers[1])},
        "rope": {"layers": tuple(dataclasses.replace(layer, rope=1 - layer.rope) for layer in right.layers)},
        "attention_scale": {"attention_scale": right.attention_scale * 1.01},
        "norm_offset": {"norm_offset": 1.001},
        "activation": {"activation": "gelu"},
    }
    decoder = made("gemma3", **wrong[change])
    found = decoder.logits(decoder.sequence(), TOKENS)
    assert np.abs(found - expected).max() > tolerance(expected, decoder)


@pytest.mark.parametrize("kv_bits", [32, 16, 8, 4])
@pytest.mark.parametrize("name", ["llama", "gemma2", "opt_behind"])
def test_pieces_batches_and_threads_give_the_same_bits(name: str, kv_bits: int) -> None:
    whole = made(name, threads=1, kv_bits=kv_bits)
    expected = whole.logits(whole.sequence(), TOKENS)
    pieces = made(name, threads=2, kv_bits=kv_bits, chunk=7)
    np.testing.assert_array_equal(pieces.logits(pieces.sequence(), TOKENS), expected)
    sequence, other = pieces.sequence(), pieces.sequence()
    for step, token in enumerate(TOKENS):
        np.testing.assert_array_equal(pieces.step(sequence, token), expected[step])
    pieces.prefill(other, TOKENS[:40])
    sequence.truncate(64)
    together = pieces.batch([sequence, other], [TOKENS[64:66], TOKENS[40:46]])
    np.testing.assert_array_equal(together, expected[[65, 45]])


def test_a_window_forgets_and_costs_no_more_memory() -> None:
    decoder = made("mistral", threads=1, kv_bits=32, chunk=8)
    sequence = decoder.sequence()
    decoder.prefill(sequence, TOKENS[:48])
    size = sequence.bytes
    decoder.prefill(sequence, TOKENS[48:])
    assert sequence.bytes == size
    with pytest.raises(UsageError, match="forgotten"):
        sequence.truncate(40)
    assert sequence.length == 70
    sequence.truncate(66)
    found = decoder.prefill(sequence, TOKENS[66:])
    expected = exact("mistral")
    assert np.abs(found - expected[-1]).max() <= tolerance(expected, decoder)


@pytest.mark.parametrize(("bits", "top"), [(8, 255), (4, 15)])
def test_quantized_keys_and_values_are_close(bits: int, top: int) -> None:
    decoder = made("llama", threads=1, kv_bits=bits)
    exact_decoder = made("llama", threads=1, kv_bits=32)
    expected = exact_decoder.logits(exact_decoder.sequence(), TOKENS)
    error = np.abs(decoder.logits(decoder.sequence(), TOKENS) - expected).max()
    # a number of a group whose spread is r is off by at most r / top / 2: a unit of about 1 / top of its size
    assert 0 < error <= tolerance(expected, decoder, 0.5 / top)
    assert decoder.sequence().bytes == 0


def test_mistakes_are_refused() -> None:
    decoder = made("llama", threads=1)
    sequence = decoder.sequence()
    for tokens, why in (([], "at least one"), ([VOCABULARY], "not among"), ([1] * 129, "at most 128")):
        with pytest.raises(UsageError, match=why):
            decoder.prefill(sequence, tokens)
    assert sequence.length == 0
    with pytest.raises(UsageError, match="bits, not 5"):
        made("llama", kv_bits=5)
    with pytest.raises(ValueError, match="once"):
        decoder.batch([sequence, sequence], [[3], [4]])
    with pytest.raises(CheckpointError, match="another shape"):
        made("llama", inner=47)


def test_what_is_not_known_is_said() -> None:
    for change, why in (
        ({"model_type": "gpt2"}, "'gpt2' is not among"),
        ({"hidden_act": "tanh"}, "'tanh'"),
        ({"hidden_size": None}, "hidden_size as None"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "'longrope'"),
        ({"rope_parameters": {"rope_type": "linear"}}, "lacks the entry 'factor'"),
        ({"mediant_attention_layers": [None, {"name": "local"}]}, "an attention pattern"),
    ):
        with pytest.raises(UnsupportedModel, match=why):
            describe(Configuration(LLAMA | change, frozenset()))
