"""Both runtimes read a configuration alike: every entry of every family removed, changed and added, one at a time."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from tests.runtime.test_decoder import tolerance
from tests.tiny_models import TINY, random_network

from mediant.errors import CheckpointError, ModelError
from mediant.forms import Views
from mediant.kernels import native
from mediant.models import architecture
from mediant.models import configuration as configurations
from mediant.models.configuration import resolve, sealed
from mediant.runtime.decoder import Decoder
from mediant.runtime.description import UnsupportedModel
from mediant.runtime.families import describe
from mediant.runtime.tensor_source import dense

pytestmark = pytest.mark.skipif(native is None, reason="needs the native kernels")

TOKENS = np.random.default_rng(7).integers(2, 320, 40)
LINEAR = {"rope_type": "linear", "factor": 8.0}
LLAMA3 = {
    "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
ROPES: tuple[Any, ...] = (
    LINEAR, LLAMA3, YARN, YARN | {"rope_theta": 5e5}, YARN | {"truncate": False}, YARN | {"attention_factor": 1.25},
    YARN | {"mscale": 0.7, "mscale_all_dim": 0.4}, YARN | {"beta_fast": 16, "beta_slow": 2}, YARN | {"factor": None},
    YARN | {"beta_fast": 0}, {"rope_type": "dynamic", "factor": 2.0}, {"type": "linear", "factor": 2.0},
    {"rope_type": "default", "rope_theta": 77.0}, {"rope_theta": 77}, {"rope_type": "default", "unknown": 3},
    {"rope_type": "default", "partial_rotary_factor": 0.5}, LINEAR | {"partial_rotary_factor": 0.5},
    {"rope_type": "proportional", "partial_rotary_factor": 0.5}, {"rope_type": "new"}, {"rope_type": "linear"},
    {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
     "original_max_position_embeddings": 64, "factor": 2.0},
    LINEAR | {"factor": 0}, LINEAR | {"factor": "2"}, LLAMA3 | {"high_freq_factor": 1.0}, [], {}, None,
    {"full_attention": LINEAR | {"rope_theta": 99.0}, "sliding_attention": {"rope_type": "default"}},
    {"full_attention": YARN | {"truncate": False}, "sliding_attention": None}, {"full_attention": LINEAR},
)  # fmt: skip
# What a configuration may have that its class does not: of other classes, of old forms, of nobody.
ADDED: dict[str, tuple[Any, ...]] = {
    "rope_scaling": ROPES, "rope_parameters": ROPES, "rope_theta": (50.0, None), "rope_local_base_freq": (50.0,),
    "partial_rotary_factor": (0.5,), "is_causal": (False,), "is_decoder": (True,), "sliding_window": (8, None),
    "sliding_window_pattern": (2,), "_sliding_window_pattern": (2,), "attention_chunk_size": (8,), "head_dim": (8, 4),
    "layer_types": (["full_attention"] * 2, ["sliding_attention"] * 2, ["chunked_attention"] * 2),
    "use_sliding_window": (True,), "max_window_layers": (1,), "use_bidirectional_attention": (True,),
    "attn_logit_softcapping": (5.0, None), "final_logit_softcapping": (5.0, None), "query_pre_attn_scalar": (16,),
    "attention_bias": (True,), "mlp_bias": (True,), "num_key_value_heads": (4, None), "hidden_act": ("relu",),
    "hidden_activation": ("relu",), "activation_function": ("silu",), "rms_norm_eps": (0.1,), "norm_eps": (0.1,),
    "layer_norm_eps": (0.1,), "original_max_position_embeddings": (64,), "per_layer_config": ({"0": {"head_dim": 4}},),
    "embedding_multiplier": (2.0,), "logits_scaling": (2.0,), "logit_scale": (2.0,), "residual_multiplier": (2.0,),
    "attention_multiplier": (2.0,), "no_rope_layers": ([0, 1],), "use_qk_norm": (True,), "is_llama_config": (True,),
    "rope_interleaved": (True,), "my_note": ("x",), "torch_dtype": ("float16",), "attn_implementation": ("eager",),
    "mediant_attention_layers": ([None, {"pattern": "sinks"}],), "temperature": (0.5,), "max_length": (20,),
    "is_encoder_decoder": (False,), "add_cross_attention": (False, True), "tie_encoder_decoder": (True,),
    "gradient_checkpointing": (True,), "prefix": ("</s>",), "tokenizer_class": ("GPT2Tokenizer",),
    "torchscript": (True,), "pruned_heads": ({},), "activation_dropout": (0.5,), "cache_implementation": ("hybrid",),
    "tie_last_hidden_states": (False,), "quantization_config": ({"quant_method": "mediant"},),
}  # fmt: skip
# Entries whose change both runtimes must have followed, not refused.
FOLLOWED = {
    "llama": {"rms_norm_eps", "rope_parameters", "rope_scaling", "rope_theta", "hidden_act"},
    "mistral": {"rms_norm_eps", "rope_parameters", "sliding_window", "hidden_act"},
    "qwen2": {"rms_norm_eps", "rope_parameters", "hidden_act"},
    "qwen3": {"rms_norm_eps", "rope_parameters", "hidden_act"},
    "gemma2": {"rms_norm_eps", "rope_parameters", "sliding_window", "layer_types", "attn_logit_softcapping",
               "final_logit_softcapping", "query_pre_attn_scalar", "hidden_activation"},
    "gemma3": {"rms_norm_eps", "rope_parameters", "sliding_window", "rope_scaling", "rope_theta", "hidden_activation",
               "rope_local_base_freq", "query_pre_attn_scalar", "final_logit_softcapping"},
    "opt": {"activation_function"},
}  # fmt: skip
WINDOWS: dict[str, Any] = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
CHANGED: dict[str, dict[str, Any]] = {
    "gemma2": WINDOWS, "gemma3": WINDOWS, "qwen2": WINDOWS | {"use_sliding_window": True},
}  # fmt: skip


class Shared:
    """The tensors of one network, for any configuration of it."""

    def __init__(self, name: str):
        network = random_network(name)
        self.state = {key: tensor.detach() for key, tensor in network.state_dict().items()}
        tied = network.get_output_embeddings().weight is network.get_input_embeddings().weight
        embedding = next(key for key in self.state if "embed_tokens" in key)
        self._names = {key: embedding if tied and key == "lm_head.weight" else key for key in self.state}
        self.config = json.loads(network.config.to_json_string()) | CHANGED.get(name, {})
        self.config["architectures"] = [type(network).__name__]

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def name(self, name: str) -> str | None:
        return self._names.get(name)

    def vector(self, name: str) -> NDArray[np.float32]:
        return np.asarray(self.state[name].numpy(), np.float32)

    def matrix(self, name: str) -> Views:
        return dense(self.vector(name))

    def by_transformers(self, config: dict[str, Any]) -> NDArray[np.float32] | None:
        """The logits behind each token; None where transformers refuses the configuration or these tensors for it."""
        try:
            built = architecture.build_config(config, "the model")
            with torch.inference_mode():
                network = architecture.network_class(built)(built)
                network.load_state_dict(self.state, strict=True, assign=True)
                found = network.eval().float()(input_ids=torch.tensor(TOKENS)[None], use_cache=False)
            return np.asarray(found.logits[0].numpy())
        except (ModelError, *architecture.BUILDING):
            return None

    def by_decoder(self, config: dict[str, Any]) -> tuple[NDArray[np.float32], float]:
        """The same of the native decoder, and how far they may be off."""
        decoder = Decoder(describe(resolve(config)), self, threads=1, kv_bits=32)
        found = decoder.logits(decoder.sequence(), TOKENS)
        return found, tolerance(found, decoder)


@cache
def shared(name: str) -> Shared:
    return Shared(name)


def changes(config: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """What is changed, the entry, and the configuration with it."""
    full = dict(resolve(config).entries)
    for name in full:
        yield f"without {name}", name, {key: value for key, value in full.items() if key != name}
        for value in others(full[name]):
            yield f"{name} = {value!r}", name, config | {name: value}
    for name, values in ADDED.items():
        for value in values:
            yield f"with {name} = {value!r}", name, config | {name: value}
            if name.startswith("rope") and "rope_parameters" in config:
                old = {key: given for key, given in config.items() if key != "rope_parameters"}
                yield f"without rope_parameters, with {name} = {value!r}", name, old | {name: value}


def others(value: Any) -> Iterator[Any]:
    """Values of the same type, and one of another."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value - 1, 2 * value, -1, 0)
    elif isinstance(value, float):
        yield from (value * 3, value + 0.1, 0.0)
    elif isinstance(value, str):
        yield from ("relu", "gelu", "nothing")
    elif isinstance(value, list):
        yield from ([], value[::-1])
    elif value is None:
        yield from (True, 1, "text")
    yield None if value is not None else []


def judge(name: str, config: dict[str, Any]) -> str:
    """What both runtimes make of a configuration; WRONG where they differ."""
    expected = shared(name).by_transformers(copy.deepcopy(config))
    try:
        found, allowed = shared(name).by_decoder(copy.deepcopy(config))
    except UnsupportedModel:
        return "unsupported"
    except (ModelError, CheckpointError) as problem:
        return "refused" if expected is None else f"WRONG, transformers runs it: {problem}"
    if expected is None:
        return "refused by transformers"
    if not np.isfinite(expected).all():
        return "not finite" if not np.isfinite(found).all() else "WRONG, finite"
    if not (off := float(np.abs(found - expected).max())) <= allowed:
        return f"WRONG by {off:.2g}, {off / allowed:.2g} times too far"
    return "same" if np.abs(expected - base(name)).max() <= allowed else "followed"


@cache
def base(name: str) -> NDArray[np.float32]:
    found = shared(name).by_transformers(shared(name).config)
    assert found is not None
    return found


def check(name: str, every: int) -> None:
    """Judges one in so many changes of a family's configuration, and those that must be followed."""
    assert judge(name, shared(name).config) == "same"
    seen: dict[str, set[str]] = {}
    wrong = []
    for number, (what, entry, config) in enumerate(changes(shared(name).config)):
        if number % every and (entry not in FOLLOWED[name] or "followed" in seen.get(entry, ())):
            continue
        verdict = judge(name, config)
        seen.setdefault(entry, set()).add(verdict)
        wrong += [f"{what}: {verdict}"] if verdict.startswith("WRONG") else []
    assert not wrong
    assert not {entry for entry in FOLLOWED[name] if "followed" not in seen[entry]}


@pytest.mark.parametrize("name", FOLLOWED)
def test_the_runtimes_agree_after_some_single_changes(name: str) -> None:
    check(name, every=20)


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLLOWED)
def test_the_runtimes_agree_after_any_single_change(name: str) -> None:
    check(name, every=1)


@pytest.mark.parametrize("name", TINY)
def test_a_sealed_configuration_is_the_one_that_transformers_builds(name: str, tmp_path: Path) -> None:
    network = getattr(transformers, TINY[name][0])
    config = network.config_class(**TINY[name][1])
    raw = json.loads(config.to_json_string()) | {"rope_interleaved": False, "transformers.js_config": {"dtype": "q4"}}
    if name.startswith("gemma3"):
        raw |= {"use_bidirectional_attention": True, "sliding_window": 64}
    written = sealed(raw, name)
    (tmp_path / "config.json").write_text(json.dumps(written))
    again = transformers.AutoConfig.from_pretrained(tmp_path)
    del again.quantization_config
    expected = architecture.build_config(raw, name)
    again.name_or_path = expected.name_or_path = ""
    assert again == expected
    assert written["quantization_config"]["resolved"]["sha256"]


def test_a_seal_needs_no_transformers_and_a_broken_one_is_not_believed(
    tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = json.loads((tiny_folder("gemma3") / "config.json").read_text())
    del raw["rope_parameters"]
    written, file = sealed(raw, "gemma3"), tmp_path / "config.json"
    file.write_text(json.dumps(written))
    monkeypatch.setenv("MEDIANT_CACHE", str(tmp_path / "cache"))
    asked = []
    monkeypatch.setattr(configurations, "resolve", lambda *given: asked.append(given) or resolve(*given))
    found = configurations.configuration(tmp_path)
    assert found == resolve(raw)
    assert found.entries["rope_parameters"]["full_attention"]["rope_theta"] == 1e6
    assert not asked
    file.write_text(json.dumps(written | {"sliding_window": 7}))
    assert configurations.configuration(tmp_path).entries["sliding_window"] == 7
    assert len(asked) == 1
    assert configurations.configuration(tmp_path).entries["sliding_window"] == 7
    assert len(asked) == 1


def test_entries_that_no_code_reads_do_not_tell() -> None:
    harmless = {"is_llama_config": True, "rope_interleaved": False, "transformers.js_config": {}, "a note": 1}
    plain = resolve({**shared("llama").config})
    assert resolve(shared("llama").config | harmless).telling == plain.telling
    assert "is_causal" in resolve(shared("llama").config | {"is_causal": False}).telling
    with pytest.raises(UnsupportedModel, match="sets attention_chunk_size to 8"):
        describe(resolve(shared("llama").config | {"attention_chunk_size": 8}))
