"""A GGUF file comes back as the same model, through the reader of transformers and through llama.cpp."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM

from mediant.errors import ModelError, UsageError
from mediant.exporters.gguf import export
from mediant.exporters.gguf_tokenizer import pre_tokenizer
from mediant.models.opening import open_model


def logits(network, tokens):
    with torch.inference_mode():
        return network(input_ids=torch.tensor(tokens)[None]).logits[0].numpy()


@pytest.mark.parametrize("name", ["llama", "llama_tied", "qwen2"])
def test_transformers_reads_the_same_model_back(name, tiny_folder, tmp_path):
    export(str(tiny_folder(name)), tmp_path / "model.gguf", "f32")
    original = AutoModelForCausalLM.from_pretrained(tiny_folder(name)).state_dict()
    model = open_model(str(tmp_path / "model.gguf"))
    again = AutoModelForCausalLM.from_pretrained(model.path).state_dict()
    for tensor in original:
        assert torch.equal(original[tensor], again[tensor]), tensor


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


def test_splittings_have_names():
    regex = {"type": "Split", "pattern": {"Regex": r"(?i:'s)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?"}}
    digits = {"type": "Digits", "individual_digits": True}
    byte_level = {"type": "ByteLevel"}
    for steps, name in (([byte_level], "gpt-2"), ([digits, byte_level], "smollm"), ([regex, byte_level], "qwen2")):
        assert pre_tokenizer({"pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}) == name
    with pytest.raises(ModelError, match="Whitespace"):
        pre_tokenizer({"pre_tokenizer": {"type": "Whitespace"}})


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
