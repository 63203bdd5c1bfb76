"""A compressed model by its id on the hub is taken wherever a model is, as one in a folder is."""

import os
import shutil
import subprocess
import sys

import pytest

from mediant.errors import ModelError
from mediant.models import folder
from mediant.pipeline.compress import compress
from mediant.pipeline.request import CompressRequest

COMMANDS = """
import sys
from pathlib import Path
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from typer.testing import CliRunner
import mediant
from mediant.cli import app
original, work = sys.argv[1:]
name = "some/small"
Path(work, "t").write_text("the quick brown fox jumps over the lazy dog . " * 20)
for line in (
    [name, "generate", "the quick", "--max-tokens", "2"], [name, "inspect"],
    [name, "evaluate", "--reference", original, "--windows", "1", "--window", "16"],
    [original, "evaluate", "--reference", name, "--windows", "1", "--window", "16"],
    [name, "analyze", "--no-spectrum"], [name, "export", "--out", work + "/plain"],
    [name, "report", "--out", work + "/r"],
    [name, "bench", "--rounds", "1", "--prompt-tokens", "16", "--tokens", "1", "--threads", "1"],
    [name, "ranges", "--calibration", work + "/t", "--windows", "1", "--window", "16", "--out", work + "/ranges"],
):
    found = CliRunner().invoke(app, [line[1], line[0], *line[2:]])
    print(line[1], found.exit_code, repr(found.exception))
for load in (AutoModelForCausalLM.from_pretrained, LlamaForCausalLM.from_pretrained, mediant.load):
    print("load", 0, type(load(name)).__name__)
refused = CliRunner().invoke(app, ["compress", name, "--size", "50%", "--out", work + "/again"])
print(refused.exception)
"""


@pytest.fixture(scope="module")
def small(tiny_folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("hub")
    text = place / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog . " * 100)
    out = place / "small"
    compress(CompressRequest(str(tiny_folder("llama")), out, size="45%", recipe="quick", calibration=text))
    return out


def test_every_command_takes_its_id(small, tiny_folder, tmp_path):
    cached = tmp_path / "home" / "hub" / "models--some--small"
    shutil.copytree(small, cached / "snapshots" / ("a" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("a" * 40)
    shown = subprocess.run(
        [sys.executable, "-c", COMMANDS, str(tiny_folder("llama")), str(tmp_path)],
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    *lines, refusal = shown.stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["0"] * 12, shown.stdout + shown.stderr
    assert {line.split()[2] for line in lines if line.startswith("load")} == {"LlamaForCausalLM"}
    assert refusal.endswith("is a Mediant checkpoint; give the model it was made from, llama.")


def test_compressing_it_again_names_the_original(small):
    with pytest.raises(ModelError, match="give the model it was made from, llama"):
        folder.check(small)
