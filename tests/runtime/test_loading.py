import contextlib
import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from mediant.errors import CheckpointError, ModelError
from mediant.models.reference import load_network
from mediant.runtime.loading import load

IDS = torch.tensor([[5, 9, 200, 17, 3]])


def outputs(network):
    with torch.inference_mode():
        return network(IDS)[0]


@pytest.fixture
def copy(tiny_checkpoint, tmp_path):
    """A copy of a checkpoint whose config.json may be changed."""

    def make(name, **changes):
        folder = shutil.copytree(tiny_checkpoint(name), tmp_path / name)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))
        return folder

    return make


def test_an_exact_checkpoint_computes_what_the_original_does(architecture, tiny_checkpoint, tiny_network):
    loaded, original = load(tiny_checkpoint(architecture)), tiny_network(architecture)
    assert type(loaded) is type(original)
    assert not loaded.training
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.equal(outputs(loaded), outputs(original))


def test_the_decoded_weights_are_those_in_the_network(architecture, tiny_checkpoint, half_network):
    loaded, rounded = (
        load(tiny_checkpoint(architecture, "float16")).state_dict(),
        half_network(architecture).state_dict(),
    )
    assert list(loaded) == list(rounded)
    assert all(torch.equal(loaded[name], rounded[name]) for name in rounded)


def test_what_is_not_a_weight_is_restored_too(tiny_checkpoint, tiny_network):
    folder = tiny_checkpoint("llama_tied")
    loaded, original = load(str(folder)), tiny_network("llama_tied")
    assert loaded.name_or_path == loaded.config.name_or_path == str(folder)
    assert not hasattr(loaded.config, "quantization_config")
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    buffers = dict(original.named_non_persistent_buffers())
    assert buffers
    for name, buffer in loaded.named_non_persistent_buffers():
        assert torch.equal(buffer, buffers[name])


def test_the_way_to_generate_is_restored(copy):
    folder = copy("llama")
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.25, "do_sample": True}))
    assert load(folder).generation_config.temperature == 0.25
    (folder / "generation_config.json").unlink()
    assert load(folder).generation_config.eos_token_id == 1


def test_the_original_type_does_not_round_the_weights(copy):
    assert load(copy("llama", dtype="bfloat16")).dtype == torch.float32


def test_saved_again_it_is_a_plain_model(tiny_checkpoint, tmp_path):
    loaded = load(tiny_checkpoint("mixtral"))
    loaded.save_pretrained(tmp_path / "dense")
    assert not (tmp_path / "dense" / "mediant.json").exists()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "dense")
    assert torch.equal(outputs(again), outputs(loaded))


@pytest.mark.parametrize(
    ("changes", "tensor"),
    [
        ({"num_hidden_layers": 3}, r"model\.layers\.2\.input_layernorm\.weight"),
        ({"num_hidden_layers": 1}, r"model\.layers\.1\.input_layernorm\.weight"),
        ({"vocab_size": 300}, r"lm_head\.weight"),
    ],
)
def test_tensors_that_are_not_those_of_the_network(changes, tensor, copy):
    with pytest.raises(
        CheckpointError, match=f"not those of LlamaForCausalLM .* '{tensor}' is missing, superfluous or"
    ):
        load(copy("llama", **changes))


def test_a_config_of_an_unknown_type(copy):
    with pytest.raises(ModelError, match="has the model_type 'perceptron9000'"):
        load(copy("llama", model_type="perceptron9000"))


def test_no_checkpoint(tiny_folder):
    with pytest.raises(CheckpointError, match=r"mediant\.json"):
        load(tiny_folder("llama"))


@pytest.mark.parametrize("said", ["null", "1", "[]", "", "[" * 100_000, '"x"'])
def test_settings_for_generation_that_are_none(said, tiny_folder, tiny_checkpoint, tmp_path):
    for number, (folder, opened) in enumerate([(tiny_folder("llama"), load_network), (tiny_checkpoint("llama"), load)]):
        own = shutil.copytree(folder, tmp_path / str(number))
        (own / "generation_config.json").write_text(said)
        with contextlib.suppress(ModelError):
            opened(own)
