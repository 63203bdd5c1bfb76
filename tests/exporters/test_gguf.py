"""A GGUF file comes back as the same model, through the reader of transformers and through llama.cpp."""

from __future__ import annotations

import json
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
import transformers
from gguf import GGUFReader
from transformers import AutoModelForCausalLM

from mediant.errors import ExportError, ModelError, StorageError, UsageError
from mediant.exporters.gguf import export
from mediant.exporters.gguf.architectures import ARCHITECTURES
from mediant.exporters.gguf.parameters import CHECKED, ONLY, SAYS_NOTHING, SHOWN_BY_TENSORS, WRITTEN, check_parameters
from mediant.exporters.gguf.reading import GgufModel
from mediant.models.opening import open_model
from mediant.models.reference import load_reference


def logits(network, tokens):
    with torch.inference_mode():
        return network(input_ids=torch.tensor(tokens)[None]).logits[0].numpy()


@pytest.mark.parametrize("name", ["llama", "llama_tied", "qwen2"])
def test_transformers_and_our_reader_read_the_same_model_back(name, tiny_folder, tmp_path):
    export(str(tiny_folder(name)), tmp_path / "model.gguf", "f32")
    original = AutoModelForCausalLM.from_pretrained(tiny_folder(name)).state_dict()
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf").state_dict()
    ours = load_reference(open_model(str(tmp_path / "model.gguf"))).state_dict()
    for tensor in original:
        assert torch.equal(original[tensor], theirs[tensor]), tensor
        assert torch.equal(original[tensor], ours[tensor]), tensor


def test_qwen3_is_stored_as_it_is(tiny_folder, tmp_path):
    """transformers does not read the size of a head from Qwen 3 files, so they are read tensor by tensor."""
    export(str(tiny_folder("qwen3")), tmp_path / "model.gguf", "f32")
    reader = GGUFReader(tmp_path / "model.gguf")
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    original = AutoModelForCausalLM.from_pretrained(tiny_folder("qwen3")).state_dict()
    for theirs, ours in (
        ("blk.1.attn_q", "layers.1.self_attn.q_proj"),
        ("blk.0.attn_k_norm", "layers.0.self_attn.k_norm"),
    ):
        assert np.array_equal(found[f"{theirs}.weight"], original[f"model.{ours}.weight"].numpy())
    assert reader.fields["qwen3.attention.key_length"].contents() == 8


def test_a_disk_that_is_too_full_is_refused_before_anything_is_written(tiny_folder, tmp_path, monkeypatch):
    source, out = str(tiny_folder("llama")), tmp_path / "model.gguf"
    export(source, out, "q8_0", check=False)
    data = sum(tensor.n_bytes for tensor in GGUFReader(out).tensors)
    out.unlink()
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=data - 1))
    with monkeypatch.context() as patch:
        patch.setattr("gguf.GGUFWriter", None)
        with pytest.raises(StorageError, match="too little space"):
            export(source, out, "q8_0", check=False)
    assert not any(tmp_path.iterdir())
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=data))
    export(source, out, "q8_0", check=False)
    assert out.is_file()


def test_rows_that_do_not_divide_into_blocks_stay_float16(tiny_folder, tmp_path):
    export(str(tiny_folder("llama")), tmp_path / "model.gguf", "q8_0")
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "model.gguf").tensors}
    # Neurons are 48, which is no multiple of 32.
    assert types["blk.0.ffn_down.weight"] == "F16"
    assert types["blk.0.ffn_up.weight"] == "Q8_0"
    assert types["output_norm.weight"] == "F32"


def test_what_gguf_cannot_say_is_one_sentence(tiny_folder, tmp_path):
    with pytest.raises(ModelError, match="OPTForCausalLM"):
        export(str(tiny_folder("opt")), tmp_path / "model.gguf")
    with pytest.raises(ModelError, match="sliding"):
        export(str(tiny_folder("mistral")), tmp_path / "model.gguf")
    with pytest.raises(UsageError, match="q4_0"):
        export(str(tiny_folder("llama")), tmp_path / "model.gguf", "q5_k")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_llama_cpp_gives_the_same_logits(kind, tmp_path):
    llama_cpp = pytest.importorskip("llama_cpp")
    model = open_model("demo")
    export("demo", tmp_path / "model.gguf", kind)
    tokens = json.loads("[504, 2365, 6354, 16438, 27003, 690, 260, 23790, 2767, 30]")
    network = AutoModelForCausalLM.from_pretrained(model.path)
    theirs = llama_cpp.Llama(str(tmp_path / "model.gguf"), n_ctx=64, logits_all=True, verbose=False)
    theirs.eval(tokens)
    found = np.asarray(theirs.scores[: len(tokens)])
    expected = logits(network, tokens)
    # llama.cpp multiplies in half precision (2^-11) along 30 blocks and rounds f16 weights once more.
    assert np.abs(found - expected).max() <= 30 * 2**-11 * np.abs(expected).max()
    assert np.array_equal(found.argmax(1), expected.argmax(1))
    assert theirs.tokenize(b"The quick brown fox 1234") == [504, 2365, 6354, 16438, 216, 33, 34, 35, 36]


ROTARY = {
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 5000.0, "original_max_position_embeddings": 32},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "rope_theta": 500.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}  # fmt: skip


@pytest.fixture
def changed(tiny_network, tokenizer, tmp_path):
    """The folder of a tiny model with other settings."""

    def folder(name, **settings):
        network = tiny_network(name)
        config = type(network.config)(**{**network.config.to_diff_dict(), **settings})
        other = type(network)(config)
        other.load_state_dict(network.state_dict(), strict=False)
        for key, parameter in other.named_parameters():
            if key.endswith(".bias"):
                parameter.data = 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        other.save_pretrained(tmp_path / "changed")
        tokenizer.save_pretrained(tmp_path / "changed")
        return tmp_path / "changed"

    return folder


@pytest.mark.parametrize("kind", ROTARY)
def test_rotary_scaling_is_written(kind, changed, tmp_path):
    """The check's own reader takes the scaling from the file; logits would differ without it."""
    folder = changed("llama", rope_parameters=ROTARY[kind])
    export(str(folder), tmp_path / "model.gguf", "f32")
    network = GgufModel(tmp_path / "model.gguf").network()
    expected = logits(AutoModelForCausalLM.from_pretrained(folder), range(40))
    plain = logits(AutoModelForCausalLM.from_pretrained(changed("llama")), range(40))
    assert np.abs(logits(network, range(40)) - expected).max() < 1e-3 * np.abs(plain - expected).max()


def test_biases_are_written_where_llama_cpp_reads_them(changed, tmp_path):
    folder = changed("llama", attention_bias=True, mlp_bias=True)
    export(str(folder), tmp_path / "model.gguf", "f32")
    found = logits(GgufModel(tmp_path / "model.gguf").network(), range(10))
    assert np.allclose(found, logits(AutoModelForCausalLM.from_pretrained(folder), range(10)), atol=1e-5)
    with pytest.raises(ModelError, match=r"o_proj\.bias.*qwen3"):
        export(str(changed("qwen3", attention_bias=True)), tmp_path / "other.gguf")


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("llama", {"hidden_act": "gelu"}, "hidden_act"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "dynamic"),
        ("qwen2", {"rope_parameters": ROTARY["llama3"]}, "llama3"),
        ("llama", {"rope_parameters": ROTARY["yarn"] | {"attention_factor": 1.5}}, "attention_factor"),
        (
            "qwen3",
            {"use_sliding_window": True, "sliding_window": 16, "layer_types": ["full_attention", "sliding_attention"]},
            "sliding_window of 16",
        ),
    ],
)
def test_settings_that_llama_cpp_lacks_are_refused_by_name(name, settings, said, changed, tmp_path):
    with pytest.raises(ModelError, match=said):
        export(str(changed(name, **settings)), tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_a_window_that_is_never_left_is_none(changed, tmp_path):
    export(str(changed("mistral", sliding_window=128)), tmp_path / "model.gguf")


def test_keys_of_every_class_are_in_the_ledger():
    """A key that transformers adds must be looked at."""
    known = WRITTEN | SHOWN_BY_TENSORS | CHECKED | SAYS_NOTHING.keys() | ONLY.keys()
    for name in ARCHITECTURES:
        config = getattr(transformers, name).config_class()
        assert set(config.to_dict()) <= known, name
    base = transformers.LlamaConfig().to_dict()
    with pytest.raises(ModelError, match="new_gate = 2"):
        check_parameters(base | {"new_gate": 2}, base | {"new_gate": 1}, ARCHITECTURES["LlamaForCausalLM"])


@pytest.mark.parametrize("fault", ["order", "parameter"])
def test_a_wrong_file_is_removed(fault, tiny_folder, tmp_path, monkeypatch):
    if fault == "order":
        monkeypatch.setattr("mediant.exporters.gguf.tensors.interleaved", lambda values, heads: values)
    else:
        monkeypatch.setattr(gguf.GGUFWriter, "add_layer_norm_rms_eps", lambda self, value: self.add_float32(
            "llama.attention.layer_norm_rms_epsilon", 0.1))  # fmt: skip
    with pytest.raises(ExportError, match="q_proj" if fault == "order" else "outputs are off"):
        export(str(tiny_folder("llama")), tmp_path / "model.gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_large_model_is_sampled(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("mediant.exporters._checking.fits_memory", lambda weights: False)
    monkeypatch.setattr("mediant.exporters.gguf.tensors.interleaved", lambda values, heads: values)
    with pytest.raises(ExportError, match="proj"):
        export(str(tiny_folder("llama")), tmp_path / "model.gguf")
