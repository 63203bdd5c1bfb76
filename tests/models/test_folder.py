import json
import shutil

import pytest

from mediant.errors import ModelError
from mediant.models import folder, source
from mediant.models.sidecar_files import travelling
from mediant.models.stored import stored_tensors


@pytest.fixture
def copy(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder("llama"), tmp_path / "copy")


def write_json(path, data):
    path.write_text(json.dumps(data))


def test_a_plain_folder(tiny_folder):
    folder.check(tiny_folder("llama"))
    assert [f.name for f in folder.weight_files(tiny_folder("llama"))] == ["model.safetensors"]


def test_what_the_headers_say(tiny_folder, tiny_network):
    stored = stored_tensors(tiny_folder("llama"))
    state = tiny_network("llama").state_dict()
    assert {n: (t.shape, t.dtype) for n, t in stored.items()} == {
        n: (tuple(t.shape), "float32") for n, t in state.items()
    }


def test_no_config(copy):
    (copy / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json, so it is not a Hugging Face model\.$"):
        folder.check(copy)
    (copy / "small.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"for the GGUF file in it give .*small\.gguf"):
        folder.check(copy)


@pytest.mark.parametrize("text", ["", "{", "[1]", '"llama"'])
def test_a_config_that_is_no_object(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json of .* (cannot be read|is not a JSON object)"):
        folder.read_config(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "generation_config.json", "model.safetensors"])
@pytest.mark.parametrize("itself", [False, True])
def test_a_link_to_nowhere(copy, name, itself):
    """Nothing else would notice a lost tokenizer before the weights are read."""
    (copy / name).unlink(missing_ok=True)
    (copy / name).symlink_to(name if itself else "nowhere")
    with pytest.raises(ModelError, match=f"{name} is a link to a file that is not there"):
        folder.check(copy)


def test_a_file_of_the_users_says_nothing_of_the_weights(copy, tmp_path):
    """A `source.json` may be anybody's; it belongs to the model and travels."""
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGUF")
    write_json(copy / "source.json", {"name": "other", "file": str(other), "weights": str(other)})
    assert source.model_name(copy) == "copy"
    assert "source.json" in travelling(copy)
    (copy / "model.safetensors").unlink()
    assert folder.behind(copy) is None
    with pytest.raises(ModelError, match="has no weights: neither"):
        folder.check(copy)


def test_no_weights(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no weights: neither model\.safetensors nor"):
        folder.check(copy)


def test_only_pickles(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickles \(pytorch_model\.bin\).* convert them to safetensors"):
        folder.check(copy)


def test_a_checkpoint_of_ours(copy):
    write_json(copy / "mediant.json", {})
    with pytest.raises(ModelError, match="is a Mediant checkpoint; give the model it was made from"):
        folder.check(copy)


@pytest.mark.parametrize("method", ["gptq", "mediant"])
def test_quantized_already(copy, method):
    config = json.loads((copy / "config.json").read_text())
    write_json(copy / "config.json", config | {"quantization_config": {"quant_method": method}})
    with pytest.raises(ModelError, match=f"already quantized by '{method}'"):
        source.resolve(str(copy))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}, "names 2 weight files, .* two.safetensors"),
        ({"weight_map": {"a": "../one.safetensors"}}, "does not hold ../one.safetensors"),
        ({"weight_map": {}}, "names 0 weight files"),
        ({"weight_map": ["a"]}, "cannot be read"),
        ({"weight_map": {"a": 1}}, "cannot be read"),
        ({}, "cannot be read"),
    ],
)
def test_an_index_that_does_not_fit(copy, index, message):
    (copy / "model.safetensors").rename(copy / "one.safetensors")
    write_json(copy / "model.safetensors.index.json", index)
    with pytest.raises(ModelError, match=message):
        folder.check(copy)


@pytest.mark.parametrize("at", [8, 9, 40])
def test_a_header_of_wrong_bytes(copy, at):
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[at] = 0xFF
    (copy / "model.safetensors").write_bytes(data)
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        stored_tensors(copy)
