"""A form that nobody here knows: one new folder, no edit, and everything works with it."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import mediant
from mediant import forms
from mediant.checkpoint.reader import open_checkpoint
from mediant.cli import app
from mediant.errors import CheckpointError
from mediant.kernels import native
from mediant.models.opening import open_model
from mediant.planning.plan import Plan

FORM = '''
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mediant.forms import Form, Words
from mediant.forms.parts import matrix_shape


@dataclass(frozen=True)
class Bytes(Form):
    """Whole numbers of eight bits, with a scale for every row."""

    method: ClassVar[str] = "bytes"

    most: int = 127

    def parts(self, info, side=None):
        rows, columns = matrix_shape(info)
        return {"numbers": ("uint8", (rows, columns)), "steps": ("float32", (rows,))}

    def matrix(self, info, arrays, side, planes=None):
        return arrays["steps"][:, None] * (arrays["numbers"].astype(np.float32) - 128)

    def words(self):
        return Words(f"whole numbers to {self.most}", "whole numbers", "8")


FORM = Bytes
'''
ENCODE = """
import numpy as np

from mediant.forms.encoding import Encoded
from mediant.values import Certificate


def encode(layer, plan, info, hint=None):
    steps = (np.abs(layer.matrix).max(axis=1) / plan.most).astype(np.float32)
    numbers = np.rint(layer.matrix / steps[:, None])
    arrays = {"numbers": (numbers + 128).astype(np.uint8), "steps": steps}
    matrix = (steps[:, None] * numbers.astype(np.float32))
    return Encoded(arrays, matrix, layer.certified(Certificate(0, 0, 0.5, 0), matrix))
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The name of a form in a folder of its own, which the package finds while the test runs."""
    folder = tmp_path / "more_forms" / "bytes"
    folder.mkdir(parents=True)
    for name, text in (("__init__", ""), ("form", FORM), ("encode", ENCODE)):
        (folder / f"{name}.py").write_text(text)
    monkeypatch.setattr(forms, "__path__", [*forms.__path__, str(folder.parent)])
    yield "bytes"
    for name in [name for name in sys.modules if name.startswith("mediant.forms.bytes")]:
        del sys.modules[name]


def test_a_form_is_one_folder(toy, tiny_folder, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog " * 60)
    model = open_model(str(tiny_folder("llama")))
    chosen = {
        info.name: forms.from_dict({"method": toy, "most": 100}) if info.role == "linear" else forms.kept("float16")
        for info in model.tensors
    }
    file = tmp_path / "plan.json"
    file.write_text(Plan(model.fingerprint, "by hand", 0, chosen).to_json())
    out = tmp_path / "out"
    made = mediant.compress(mediant.CompressRequest(str(tiny_folder("llama")), out, plan=file, calibration=text))
    assert made.plan.tensors == chosen

    shown = CliRunner().invoke(app, ["inspect", str(out), "--tensors", "--verify", "--json", str(tmp_path / "f.json")])
    assert shown.exit_code == 0
    assert "whole numbers to 100" in shown.output
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["coverage"]["quantized"] == sum(t.size for t in model.tensors if t.role == "linear")

    checkpoint = open_checkpoint(out)
    weights = dict(checkpoint.state())
    network = mediant.load(out)
    for name, parameter in network.state_dict().items():
        if name in weights:
            np.testing.assert_array_equal(parameter.numpy(), weights[name])
    certificate = checkpoint.tensors["model.layers.0.mlp.up_proj.weight"].certificate
    assert certificate is not None
    assert 0 < certificate.relative_error < 1e-3
    assert network.generate(torch.tensor([[3, 5, 8]]), max_new_tokens=4, do_sample=False).shape == (1, 7)
    if native is not None:
        written = CliRunner().invoke(app, ["generate", str(out), "the quick", "--max-tokens", "4"])
        assert written.exit_code == 0, written.output

    payload = out / "mediant.safetensors"
    payload.write_bytes(payload.read_bytes()[:-1] + b"\xff")
    with pytest.raises(CheckpointError):
        list(open_checkpoint(out).state())


def test_a_file_of_an_unknown_form_is_refused_by_its_name(tmp_path):
    with pytest.raises(ValueError, match="there is no method 'bytes'; the methods are: cast, "):
        forms.from_dict({"method": "bytes"})


def test_nobody_asks_for_the_name_of_a_form():
    """Outside forms/ no text that is a form's name is compared with anything."""
    found = []
    for file in Path(mediant.__file__).parent.rglob("*.py"):
        if "forms" in file.parts:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and any(_is_method(side) for side in (node.left, *node.comparators)):
                named = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and n.value in forms.names()]
                found += [(file.name, name) for name in named]
    # Recipes have a field `method` of their own, which chooses how bytes are spent.
    assert {file for file, _ in found} <= {"recipe.py", "compress.py", "refusals.py"}, found


def _is_method(node: ast.expr) -> bool:
    return (isinstance(node, ast.Attribute) and node.attr == "method") or (
        isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and node.slice.value == "method"
    )
