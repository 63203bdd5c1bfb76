"""Code that comes with a model is run where it is trusted, and travels; where it is not, nothing runs it."""

import importlib
import json
import shutil
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, dynamic_module_utils
from typer.testing import CliRunner

import mediant
from mediant.cli import application
from mediant.errors import ModelError, StorageError
from mediant.models.opening import open_model
from mediant.models.reference import load_reference, load_tokenizer
from mediant.models.remote_code import trusting
from mediant.pipeline.compress import compress
from mediant.pipeline.request import CompressRequest
from mediant.runtime.choosing import choose

CONFIGURATION = """
import os, pathlib
from transformers import LlamaConfig
pathlib.Path(os.environ["RAN"]).touch()
class OwnConfig(LlamaConfig):
    model_type = "own"
    def __init__(self, factor=0.5, **rest):
        self.factor = factor
        super().__init__(**rest)
"""
NETWORK = """
from transformers import LlamaForCausalLM
from .configuration_own import OwnConfig
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
    def forward(self, input_ids=None, **rest):
        out = super().forward(input_ids=input_ids, **rest)
        out.logits = out.logits * self.config.factor
        return out
"""
TOKENIZER = """
import os, pathlib
from transformers import PreTrainedTokenizerFast
pathlib.Path(os.environ["RAN"]).touch()
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""
MAP = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
IDS = torch.arange(3, 40).reshape(1, -1)


@pytest.fixture(autouse=True)
def ran(tmp_path, monkeypatch):
    """A file that the code makes when it runs; where transformers copies code to is a folder of the test's own."""
    monkeypatch.setenv("RAN", str(tmp_path / "ran"))
    monkeypatch.setenv("MEDIANT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path / "ran"
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]
    importlib.invalidate_caches()


def edit(file, **entries):
    file.write_text(json.dumps({k: v for k, v in (json.loads(file.read_text()) | entries).items() if v is not None}))


@pytest.fixture
def own(tiny_folder, tmp_path):
    """A Llama whose logits its own code halves, of a type that transformers does not know."""
    folder = shutil.copytree(tiny_folder("llama"), tmp_path / "own")
    (folder / "configuration_own.py").write_text(CONFIGURATION)
    (folder / "modeling_own.py").write_text(NETWORK)
    edit(folder / "config.json", model_type="own", architectures=["OwnForCausalLM"], auto_map=MAP)
    return folder


def logits(network):
    with torch.inference_mode():
        return network(input_ids=IDS).logits


def test_without_trust_it_is_refused_and_nothing_runs(own, ran):
    with pytest.raises(ModelError, match=r"model in .*own needs Python code that .* give --trust-remote-code to run"):
        open_model(str(own))
    with pytest.raises(ModelError, match="--trust-remote-code"):
        choose(own)
    assert not ran.exists()


def test_trusted_it_computes_what_its_code_says(own, tiny_network, ran):
    with trusting():
        model = open_model(str(own))
        network = load_reference(model)
        assert not choose(own).native
    assert ran.exists()
    assert (model.architecture, model.causal) == ("OwnForCausalLM", True)
    assert logits(network).equal(0.5 * logits(tiny_network("llama").eval()))


def test_other_code_is_another_model(own):
    with trusting():
        before = open_model(str(own)).fingerprint
        (own / "modeling_own.py").write_text(NETWORK + "\n# other\n")
        assert open_model(str(own)).fingerprint != before


def test_trust_ends_with_its_block(own):
    with trusting():
        open_model(str(own))
    with pytest.raises(ModelError, match="--trust-remote-code"):
        open_model(str(own))


@pytest.mark.parametrize("trust", [False, True])
def test_what_transformers_has_itself_needs_no_trust(trust, own, tiny_network, ran):
    """As with transformers, its own class is the network unless the other is asked for."""
    edit(own / "config.json", model_type="llama", architectures=["LlamaForCausalLM"])
    with trusting(trust):
        model = open_model(str(own))
        factor = 0.5 if trust else 1.0
        assert logits(load_reference(model)).equal(factor * logits(tiny_network("llama").eval()))
        assert choose(own).native != trust
    assert ran.exists() == trust


@pytest.mark.parametrize("architectures", [["OwnForCausalLM"], None])
def test_a_known_type_with_a_class_of_its_own_needs_trust(architectures, own, ran):
    edit(own / "config.json", model_type="llama", architectures=architectures)
    with pytest.raises(ModelError, match="--trust-remote-code"):
        open_model(str(own))
    assert not ran.exists()


def test_a_configuration_of_transformers_with_a_network_of_its_own(own, tiny_network):
    changes = {"self.config.factor": "0.5", "OwnConfig": "LlamaConfig", ".configuration_own": "transformers"}
    code = NETWORK
    for old, new in changes.items():
        code = code.replace(old, new)
    (own / "modeling_own.py").write_text(code)
    kind = {"AutoModelForCausalLM": MAP["AutoModelForCausalLM"]}
    edit(own / "config.json", model_type="llama", auto_map=kind)
    with trusting():
        assert logits(load_reference(open_model(str(own)))).equal(0.5 * logits(tiny_network("llama").eval()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modeling_own.py": "raise SyntaxError('no')"}, "code of modeling_own.OwnForCausalLM that .* fails"),
        ({"modeling_own.py": "import nowhere_at_all"}, "modeling_own.OwnForCausalLM .* fails: .*nowhere_at_all"),
        ({"modeling_own.py": "class OwnForCausalLM: pass"}, "OwnForCausalLM, which .*, is not a PreTrainedModel"),
        ({"configuration_own.py": CONFIGURATION.replace("self.factor = factor", "factor.no")}, "refused by the code"),
        ({"configuration_own.py": None}, "The code of configuration_own.OwnConfig that comes with .* fails"),
    ],
)  # fmt: skip
def test_code_that_fails(change, message, own):
    for name, text in change.items():
        (own / name).unlink() if text is None else (own / name).write_text(text)
    with trusting(), pytest.raises(ModelError, match=message):
        open_model(str(own))


def test_where_code_is_copied_to_cannot_be_written(own, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "file" / "modules"))
    with trusting(), pytest.raises(StorageError, match=r"to .*/file/modules: .*; set HF_MODULES_CACHE"):
        open_model(str(own))


def test_a_tokenizer_of_its_own(own, ran):
    edit(own / "config.json", auto_map=None)  # of no type whose tokenizer transformers knows
    (own / "tokenization_own.py").write_text(TOKENIZER)
    own_map = {"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]}
    edit(own / "tokenizer_config.json", auto_map=own_map, tokenizer_class="OwnTokenizer")
    with pytest.raises(ModelError, match=r"The tokenizer in .* needs Python code .* --trust-remote-code"):
        load_tokenizer(own)
    assert not ran.exists()
    with trusting():
        assert type(load_tokenizer(own)).__name__ == "OwnTokenizer"
    assert ran.exists()


def test_compressed_exported_and_pruned_it_loads_again(own, tmp_path, ran):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog . " * 100)
    small, plain, pruned = tmp_path / "small", tmp_path / "plain", tmp_path / "pruned"

    def run(*arguments, code=0):
        found = CliRunner().invoke(application(), [*map(str, arguments)])
        assert isinstance(found.exception, ModelError) == bool(code), (arguments, found.exception, found.output)
        return found

    compress = ("compress", own, "--size", "45000", "--recipe", "rtn", "--calibration", text, "--out", small)
    run(*compress, code=4)
    assert not ran.exists()
    trust = "--trust-remote-code"
    run(*compress, trust)
    run("analyze", small, "--no-spectrum", trust)
    run("generate", small, "the quick", "--max-tokens", 2, code=4)
    run("export", small, "--out", plain, trust)
    gguf = ("export", small, "--format", "gguf", "--out", tmp_path / "small.gguf", trust)
    assert "runs by code of its own, OwnForCausalLM" in str(run(*gguf, code=4).exception)
    assert "trust_remote_code=True" in (small / "README.md").read_text()
    run("prune", own, "--neurons", "25%", "--calibration", text, "--out", pruned, trust)
    windows = ("--text", text, "--windows", 1, "--window", 16)
    run("evaluate", small, "--reference", own, *windows, trust)
    for folder in (small, plain, pruned):
        assert {"configuration_own.py", "modeling_own.py"} <= {file.name for file in folder.iterdir()}
        run("generate", folder, "the quick", "--max-tokens", 2, trust)
        network = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
        assert type(network).__name__ == "OwnForCausalLM"
        AutoTokenizer.from_pretrained(folder)
    one, other = (
        mediant.load(small, trust_remote_code=True),
        AutoModelForCausalLM.from_pretrained(small, trust_remote_code=True),
    )
    assert logits(one).equal(logits(other))
    with pytest.raises(ModelError, match="--trust-remote-code"):
        mediant.load(small)


def test_what_was_made_by_its_own_code_is_not_run_by_other(own, tmp_path):
    """Its type alone would be taken for one that transformers has."""
    edit(own / "config.json", model_type="llama", architectures=["LlamaForCausalLM"])
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog . " * 100)
    with trusting():
        compress(CompressRequest(str(own), tmp_path / "small", size="45000", recipe="rtn", calibration=text))
    with pytest.raises(ModelError, match="--trust-remote-code"):
        mediant.load(tmp_path / "small")
