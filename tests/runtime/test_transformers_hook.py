import os
import shutil
import subprocess
import sys

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from mediant.cli._opening import opened
from mediant.errors import ModelError
from mediant.progress import SILENT
from mediant.runtime import transformers_hook
from mediant.runtime.loading import load

IDS = torch.tensor([[5, 9, 200, 17, 3]])


def outputs(network):
    with torch.inference_mode():
        return network(IDS)[0]


@pytest.fixture
def _hook():
    """The hook, in this process, for one test."""
    untouched = PreTrainedModel.__dict__["from_pretrained"]
    transformers_hook.install()
    yield
    PreTrainedModel.from_pretrained = untouched


@pytest.fixture
def python(tmp_path):
    """Runs a script in a new process and returns its last line, or raises with what it printed."""

    def run(script, *arguments):
        done = subprocess.run(
            [sys.executable, "-c", script, *map(str, arguments)],
            env=os.environ | {"TRANSFORMERS_VERBOSITY": "error"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        return done.stdout.strip() if done.returncode == 0 else done.stderr.strip().splitlines()[-1]

    return run


def test_transformers_alone_refuses_a_checkpoint(tiny_checkpoint, python):
    script = "import sys, transformers\ntransformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])"
    answer = python(script, tiny_checkpoint("llama"))
    assert answer.startswith("OSError: ")
    assert "no file named model.safetensors" in answer


NEW_PROCESS = """
import sys
from mediant.runtime import transformers_hook as hook
hook.install(), hook.install()
assert not {"torch", "transformers"} & set(sys.modules), "installing must stay quick"
from transformers import AutoModelForCausalLM, modeling_utils
import inspect, torch
assert not any(isinstance(finder, hook._WhenImported) for finder in sys.meta_path)
assert modeling_utils.__spec__.loader is modeling_utils.__loader__
assert "class PreTrainedModel" in inspect.getsource(modeling_utils)
print(AutoModelForCausalLM.from_pretrained(sys.argv[1])(torch.tensor([[5, 9, 200, 17, 3]])).logits.sum().item())
"""


def test_the_hook_waits_until_transformers_is_imported(tiny_checkpoint, python):
    answer = python(NEW_PROCESS, tiny_checkpoint("llama"))
    assert float(answer) == outputs(load(tiny_checkpoint("llama"))).sum().item()


@pytest.mark.usefixtures("_hook")
def test_it_is_installed_once():
    installed = PreTrainedModel.from_pretrained.__func__
    transformers_hook.install()
    assert PreTrainedModel.from_pretrained.__func__ is installed


@pytest.mark.usefixtures("_hook")
def test_it_computes_what_our_own_loader_gives(architecture, tiny_checkpoint):
    folder = tiny_checkpoint(architecture, "float16")
    auto = AutoModel if architecture == "bert" else AutoModelForCausalLM
    found, own = auto.from_pretrained(folder), load(folder)
    assert type(found) is type(own)
    assert not found.training
    assert torch.equal(outputs(found), outputs(own))
    assert found.name_or_path == str(folder)


@pytest.mark.usefixtures("_hook")
def test_the_bare_model_of_a_causal_one(tiny_checkpoint):
    folder = tiny_checkpoint("llama_tied")
    assert torch.equal(outputs(AutoModel.from_pretrained(folder)), outputs(load(folder).model))


@pytest.mark.usefixtures("_hook")
def test_a_head_for_another_task_is_new_as_always(tiny_checkpoint):
    network, report = AutoModelForSequenceClassification.from_pretrained(
        tiny_checkpoint("llama"), num_labels=3, output_loading_info=True
    )
    assert report["missing_keys"] == {"score.weight"}
    assert network.score.weight.shape[0] == 3
    assert torch.equal(outputs(network.model), outputs(load(tiny_checkpoint("llama")).model))


@pytest.mark.usefixtures("_hook")
@pytest.mark.parametrize("loader", [AutoModelForCausalLM, LlamaForCausalLM])
def test_keyword_arguments_are_respected(loader, tiny_checkpoint):
    folder = str(tiny_checkpoint("llama"))
    network = loader.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="eager", use_cache=False)
    assert network.dtype == torch.bfloat16
    assert network.config._attn_implementation == "eager"
    assert network.config.use_cache is False
    for automatic in ({}, {"dtype": "auto"}, {"dtype": None}, {"torch_dtype": "auto"}, {"dtype": "float32"}):
        assert loader.from_pretrained(folder, **automatic).dtype == torch.float32
    assert loader.from_pretrained(folder, torch_dtype=torch.float16).dtype == torch.float16
    own = GenerationConfig(max_new_tokens=3)
    assert loader.from_pretrained(folder, generation_config=own).generation_config.max_new_tokens == 3


@pytest.mark.usefixtures("_hook")
@pytest.mark.parametrize("loader", [AutoModelForCausalLM, LlamaForCausalLM])
def test_a_config_of_ones_own(loader, tiny_checkpoint):
    folder = tiny_checkpoint("llama")
    config = LlamaConfig.from_pretrained(folder, rope_parameters={"rope_theta": 77.0, "rope_type": "default"})
    network = loader.from_pretrained(folder, config=config)
    assert network.config.rope_parameters["rope_theta"] == 77.0
    assert not torch.equal(outputs(network), outputs(load(folder)))
    assert config.quantization_config is not None


@pytest.mark.usefixtures("_hook")
def test_a_folder_in_a_folder(tiny_checkpoint):
    folder = tiny_checkpoint("llama")
    found = AutoModelForCausalLM.from_pretrained(folder.parent, subfolder=folder.name)
    assert torch.equal(outputs(found), outputs(load(folder)))


@pytest.mark.usefixtures("_hook")
def test_other_folders_load_as_before(tiny_folder, tiny_network, tiny_checkpoint, tmp_path):
    found = AutoModelForCausalLM.from_pretrained(tiny_folder("gpt2"))
    assert torch.equal(outputs(found), outputs(tiny_network("gpt2")))
    folder = shutil.copytree(tiny_checkpoint("llama"), tmp_path / "copy")
    (folder / "mediant.json").unlink()
    with pytest.raises(OSError, match=r"model\.safetensors"):
        AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.usefixtures("_hook")
def test_a_pipeline(tiny_checkpoint):
    pipe = transformers.pipeline("text-generation", model=str(tiny_checkpoint("llama")), device="cpu")
    (answer,) = pipe("the quick", max_new_tokens=2, do_sample=False)
    assert answer["generated_text"].startswith("the quick")


@pytest.fixture
def tuned(tiny_checkpoint, tmp_path, _hook):
    """A copy of a compressed model, the folder of an adapter made over it, and what both together give."""
    copy, adapter = tmp_path / "small", tmp_path / "adapter"
    shutil.copytree(tiny_checkpoint("llama"), copy)
    settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    network = get_peft_model(AutoModelForCausalLM.from_pretrained(copy), settings)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    network.eval().save_pretrained(adapter)
    return copy, adapter, outputs(network)


def test_an_adapter_loads_over_a_compressed_model(tuned):
    """By the adapter's folder, and from beside the checkpoint; without it the model is another."""
    copy, adapter, expected = tuned
    assert not torch.equal(outputs(AutoModelForCausalLM.from_pretrained(copy).eval()), expected)
    torch.testing.assert_close(outputs(AutoModelForCausalLM.from_pretrained(adapter).eval()), expected)
    for file in adapter.glob("adapter_*"):
        shutil.copy(file, copy)
    for kind in (AutoModelForCausalLM, LlamaForCausalLM):
        torch.testing.assert_close(outputs(kind.from_pretrained(copy).eval()), expected)


def test_what_does_not_load_an_adapter_refuses_it(tuned):
    copy, adapter, _ = tuned
    for file in adapter.glob("adapter_*"):
        shutil.copy(file, copy)
    with pytest.raises(ModelError, match="beside a compressed model"):
        load(copy)
    with pytest.raises(ModelError, match="beside a compressed model"):
        opened(str(copy), SILENT)
