import json
import struct

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from mediant import files
from mediant.errors import ModelError, StorageError
from mediant.models import dense_folder, gguf_conversion, stored
from mediant.models.folder import weight_files
from mediant.models.gguf import tokenizer as gguf_tokenizer
from mediant.models.gguf_conversion import converted
from mediant.models.opening import open_model
from mediant.models.reference import load_reference, load_tokenizer
from mediant.models.weights import WeightReader

HIDDEN, INNER, HEADS, KV_HEADS, LAYERS = 64, 96, 4, 2, 2
Q4, Q8, F32 = gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.F32

BLOCK = {
    "attn_norm": ((HIDDEN,), F32, "input_layernorm"),
    "attn_q": ((HIDDEN, HIDDEN), Q4, "self_attn.q_proj"),
    "attn_k": ((HIDDEN // 2, HIDDEN), Q8, "self_attn.k_proj"),
    "attn_v": ((HIDDEN // 2, HIDDEN), Q4, "self_attn.v_proj"),
    "attn_output": ((HIDDEN, HIDDEN), F32, "self_attn.o_proj"),
    "ffn_norm": ((HIDDEN,), F32, "post_attention_layernorm"),
    "ffn_gate": ((INNER, HIDDEN), Q4, "mlp.gate_proj"),
    "ffn_up": ((INNER, HIDDEN), Q8, "mlp.up_proj"),
    "ffn_down": ((HIDDEN, INNER), Q4, "mlp.down_proj"),
}


def rotary_order(weight, heads):
    """Hugging Face's rows as llama.cpp orders them: the two halves of each head interleaved."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def tensors(vocabulary):
    """(name in the file, type, values as written, name in the network, values expected there)."""
    rng = np.random.default_rng(0)
    wanted = [("token_embd.weight", (vocabulary, HIDDEN), Q8, "model.embed_tokens.weight")]
    wanted += [("output_norm.weight", (HIDDEN,), F32, "model.norm.weight")]
    for n in range(LAYERS):
        wanted += [(f"blk.{n}.{g}.weight", s, t, f"model.layers.{n}.{h}.weight") for g, (s, t, h) in BLOCK.items()]
    for name, shape, kind, there in wanted:
        blocks = gguf.quantize(rng.standard_normal(shape).astype(np.float32), kind)
        values = gguf.dequantize(blocks, kind)
        heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(name.split(".")[2] if "blk" in name else "")
        if heads:
            yield name, kind, gguf.quantize(rotary_order(values, heads), kind), there, values
        else:
            yield name, kind, blocks, there, values


@pytest.fixture
def write(tmp_path, tokenizer):
    """Writes a tiny llama as a GGUF file and returns its path; `change` may alter the writer before it is closed."""

    def make(name="Tiny.Q4_0.gguf", change=lambda _: None, skip=(), architecture="llama"):
        writer = gguf.GGUFWriter(tmp_path / name, architecture)
        writer.add_name("Tiny llama")
        writer.add_block_count(LAYERS)
        writer.add_context_length(128)
        writer.add_embedding_length(HIDDEN)
        writer.add_feed_forward_length(INNER)
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(KV_HEADS)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_freq_base(10000.0)
        writer.add_rope_dimension_count(HIDDEN // HEADS)
        vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_list(sorted(vocabulary["vocab"], key=vocabulary["vocab"].get))
        writer.add_token_types([3, 3] + [1] * (len(vocabulary["vocab"]) - 2))
        writer.add_token_merges([" ".join(pair) for pair in vocabulary["merges"]])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
        writer.add_chat_template("{{ messages[0]['content'] }}")
        for there, kind, data, *_ in tensors(len(vocabulary["vocab"])):
            if there not in skip:
                writer.add_tensor(there, data, raw_dtype=kind)
        change(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return tmp_path / name

    return make


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDIANT_CACHE", str(tmp_path / "cache"))


def values_of(folder):
    (file,) = weight_files(folder)
    with stored.opened(file) as tensors:
        return {name: tensors.get_tensor(name) for name in stored.stored_tensors(folder)}


def test_every_value_is_the_dequantized_one(write, tokenizer):
    folder = converted(write())
    found = values_of(folder)
    expected = {there: values for *_, there, values in tensors(len(tokenizer))}
    assert sorted(found) == sorted(expected)
    for name, values in expected.items():
        assert found[name].dtype == torch.float32
        np.testing.assert_array_equal(found[name].numpy(), values)


def test_it_is_a_plain_model(write):
    file = write()
    model = open_model(str(file))
    assert model.name == "Tiny llama"
    assert model.architecture == "LlamaForCausalLM"
    assert model.tensor("lm_head.weight").name == "model.embed_tokens.weight"
    assert "quantization_config" not in model.config
    origin = json.loads((model.path / "mediant-source.json").read_text())
    assert origin["sha256"] == files.file_sha256(file)
    assert origin["file"] == str(file.resolve())
    assert not list(model.path.parent.glob(".*"))


def test_a_head_of_its_own(write, tokenizer):
    head = np.random.default_rng(1).standard_normal((len(tokenizer), HIDDEN)).astype(np.float32)
    folder = converted(write(change=lambda w: w.add_tensor("output.weight", head)))
    assert open_model(str(folder)).tensor("lm_head.weight").role == "head"
    np.testing.assert_array_equal(values_of(folder)["lm_head.weight"].numpy(), head)


def test_the_tokenizer_is_complete_and_compact(write, tokenizer):
    folder = converted(write())
    text = (folder / "tokenizer.json").read_text()
    assert text == json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False)
    found = load_tokenizer(folder)
    sentence = "the lazy dog <s>"
    assert found(sentence).input_ids == tokenizer(sentence).input_ids
    assert found.eos_token_id == 1
    assert found.apply_chat_template([{"role": "user", "content": "bees"}], tokenize=False) == "bees"


def test_digits_are_split_where_the_file_says_so(write):
    digits = [load_tokenizer(converted(write())).backend_tokenizer.pre_tokenizer.pre_tokenize_str("  12")]
    other = write("other.gguf", lambda w: w.add_string("tokenizer.ggml.pre", "gpt-2"))
    digits.append(load_tokenizer(converted(other)).backend_tokenizer.pre_tokenizer.pre_tokenize_str("  12"))
    assert [[piece for piece, _ in pieces] for pieces in digits] == [["ĠĠ", "1", "2"], ["Ġ", "Ġ12"]]


def test_it_is_converted_once(write, monkeypatch):
    file = write()
    folder = converted(file)
    monkeypatch.setattr(gguf_conversion, "network", lambda *_: pytest.fail("converted again"))
    assert converted(file) == folder
    assert converted(file.rename(file.parent / "cache" / file.name)) == folder


def test_the_cache_has_no_weights_and_follows_the_file(write):
    file = write()
    folder = converted(file)
    assert sum(f.stat().st_size for f in folder.rglob("*")) < file.stat().st_size
    moved = file.rename(file.parent / "elsewhere.gguf")
    with pytest.raises(ModelError, match=r"gguf, which has the weights .* is not there any more"):
        open_model(str(folder))
    assert moved.rename(file) == file
    assert converted(file) == folder
    assert weight_files(folder) == (file.resolve(),)


def test_rows_are_those_of_the_whole_matrix(write):
    model = open_model(str(write()))
    with WeightReader(model) as weights:
        for info in model.tensors:
            if info.layout == "out_in":
                whole = weights.read(info.name)
                np.testing.assert_array_equal(weights.rows(info.name, 3, 21), whole[3:21])
                assert not np.shares_memory(weights.read(info.name), whole)


def test_the_network_has_these_values(write):
    model = open_model(str(write()))
    network = load_reference(model)
    with WeightReader(model) as weights:
        for info in model.tensors:
            np.testing.assert_array_equal(network.get_parameter(info.name).detach().numpy(), weights.read(info.name))
    assert network.lm_head.weight is network.model.embed_tokens.weight
    assert network.generation_config.eos_token_id == 1


def test_another_file_of_the_same_name_is_another_model(write):
    one = converted(write())
    two = converted(write(change=lambda w: w.add_description("other")))
    assert one != two


def test_compact_keeps_pairs_that_cannot_be_joined():
    spaced = Tokenizer(models.BPE({"a": 0, " ": 1, "a ": 2}, [("a", " ")]))
    spaced.pre_tokenizer = pre_tokenizers.ByteLevel()
    short = gguf_tokenizer.compact(spaced.to_str(pretty=True))
    assert Tokenizer.from_str(short).to_str() == spaced.to_str()
    assert '["a"," "]' in short


def test_the_tokenizer_is_that_of_the_file_whatever_lies_beside_it(write, tmp_path):
    file = write()
    alone = load_tokenizer(converted(file))
    for name, content in (("tokenizer.json", other_tokenizer()), ("chat_template.jinja", "of another model")):
        (tmp_path / name).write_text(content)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "z", "tokenizer_class": "GPT2Tokenizer"}')
    beside = load_tokenizer(converted(write(change=lambda w: w.add_description("other bytes"))))
    assert beside.backend_tokenizer.to_str() == alone.backend_tokenizer.to_str()
    assert (beside.eos_token, beside.chat_template) == (alone.eos_token, alone.chat_template)


def other_tokenizer():
    letters = Tokenizer(models.BPE({letter: n for n, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}, []))
    return letters.to_str()


def test_a_missing_tensor_is_not_invented(write):
    file = write(skip=("blk.1.ffn_up.weight",))
    with pytest.raises(ModelError, match=r"lack tensors .* 1 in all, such as model\.layers\.1\.mlp\.up_proj\.weight"):
        converted(file)


def test_an_architecture_that_is_not_known(write):
    with pytest.raises(ModelError, match=r"architecture 'plamo', and Mediant reads .*llama.*qwen2"):
        converted(write(architecture="plamo"))


def test_ends_of_a_turn_are_ends_of_a_text(write):
    folder = converted(write(change=lambda w: w.add_eot_token_id(7)))
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [1, 7]
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] == 1


def test_templates_with_names(write):
    folder = converted(write(change=lambda w: w.add_chat_template([{"name": "tools", "template": "with tools"}])))
    assert load_tokenizer(folder).get_chat_template("tools") == "with tools"


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.add_string("tokenizer.ggml.pre", "of-tomorrow"),
        lambda w: w.add_bool("tokenizer.ggml.normalizer.lowercase", True),
        lambda w: w.add_array("tokenizer.ggml.precompiled_charsmap", [1, 2]),
    ],
)
def test_a_tokenizer_that_would_be_read_wrongly(write, change):
    with pytest.raises(ModelError, match=r"of-tomorrow|lowercase|precompiled_charsmap"):
        converted(write(change=change))


def test_one_part_of_a_split_file(write):
    with pytest.raises(ModelError, match="one of 3 parts of a model"):
        converted(write(change=lambda w: w.add_uint16("split.count", 3)))


def test_a_file_that_is_no_model(write):
    with pytest.raises(ModelError, match="is not a model but 'adapter'"):
        converted(write(change=lambda w: w.add_type("adapter")))


@pytest.mark.parametrize("data", [b"", b"GGU", b"PK\3\4", b"gguf" + bytes(20)])
def test_not_a_gguf_file(tmp_path, data):
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(ModelError, match=r"does not begin with the letters GGUF|is empty|is a zip archive"):
        converted(tmp_path / "x.gguf")


@pytest.mark.parametrize("keep", [4, 8, 24, 100, 2000, -1, -20000])
def test_a_truncated_file(write, keep):
    file = write()
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"cut short .*download it again|has \d+ of its \d+ bytes; download it again"):
        converted(file)


@pytest.mark.parametrize("offset", [4, 8, 16, 24, 30])
def test_a_wrong_length_in_the_header(write, offset):
    file = write()
    data = bytearray(file.read_bytes())
    data[offset : offset + 4] = struct.pack("<I", 0x7FFFFFFF)
    file.write_bytes(data)
    with pytest.raises(ModelError):
        converted(file)


def test_a_cache_that_cannot_be_written(write, tmp_path, monkeypatch):
    file = write()
    (tmp_path / "blocked").write_text("a file")
    monkeypatch.setenv("MEDIANT_CACHE", str(tmp_path / "blocked"))
    with pytest.raises(StorageError, match="part of the path is a file"):
        converted(file)


def test_nothing_is_left_when_writing_fails(write, tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    file = write()
    monkeypatch.setattr(dense_folder, "_write", full)
    with pytest.raises(StorageError, match="no space left"):
        converted(file)
    assert not list((tmp_path / "cache").glob("models/*"))
