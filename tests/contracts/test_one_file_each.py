"""A new method of any kind is one new file, and no existing file is edited: each toy here is used end to end."""

from __future__ import annotations

import importlib
import json
import random
import sys

import numpy as np
import pytest
import torch
import transformers

from mediant import cli, discovery
from mediant.errors import SizeError
from mediant.pipeline.compress import begun
from mediant.pipeline.request import CompressRequest
from mediant.runtime import families
from mediant.runtime.decoder import Decoder

GRID = '''
"""Levels that stand closer together around 0: i |i|."""
from dataclasses import dataclass
import numpy as np
NEEDS = ()

@dataclass(frozen=True)
class Squares:
    zero_point = False

    def levels(self, bits, sample=None, weights=None):
        steps = np.arange(2.0**bits) - (2**bits - 1) / 2
        return steps * np.abs(steps)

METHOD = Squares
'''

SCALE = '''
"""The scale with which the largest magnitude is `share` of the largest level."""
from dataclasses import dataclass
import numpy as np
from mediant.methods.scales import Fit
NEEDS = ()

@dataclass(frozen=True)
class Share:
    share: float = 1.0

    def fit(self, groups, weights, levels, zero_point):
        scale = np.abs(groups).max(axis=1) / np.float32(self.share * np.abs(levels).max())
        return Fit(scale.astype(np.float32), np.zeros(len(groups), np.float32))

METHOD = Share
'''

ROUNDING = '''
"""Rounds by the input's second moments, here in name only: to the nearest level."""
from dataclasses import dataclass
from mediant.methods.rounding.nearest import Nearest
NEEDS = ("hessian",)

@dataclass(frozen=True)
class Watched:
    def round(self, layer, levels, setting):
        assert layer.metric is not None
        return Nearest().round(layer, levels, setting)

METHOD = Watched
'''

STRATEGY = '''
"""All matrices at `bits`: one size, take it or leave it."""
from dataclasses import dataclass
from mediant.allocation.layers import quantizable
from mediant.allocation.operations import rounding_all
from mediant.allocation.whole_plan import whole_plan
from mediant.planning.size import check_range
from mediant.values import RowSpan

@dataclass(frozen=True)
class Fixed:
    bits: int = 4

    def check_recipe(self, recipe):
        if self.bits not in range(1, 9):
            raise ValueError("the bits are not 1 to 8")

    def needs(self, recipe):
        return recipe.needs

    def outline(self, job):
        return self._plan(job, 10**9)

    def check(self, job, target):
        check_range(target, *self.range(job))

    def range(self, job):
        size = job.folder_bytes(self._plan(job, 10**9))
        return size, size

    def plan(self, job, target):
        self.check(job, target)
        return self._plan(job, target)

    def operations(self, job):
        return rounding_all(job.model, job.recipe)

    def _plan(self, job, target):
        spans = {info: (RowSpan(info.matrix_shape[0], self.bits),) for info in quantizable(job.model)}
        chosen = {info.name: job.recipe.tensor_plan(span, info.role) for info, span in spans.items()}
        return whole_plan(job.model, job.recipe, chosen, job.seed, target)

METHOD = Fixed
'''

STAGE = '''
"""Multiplies norms by `share`."""
from dataclasses import dataclass, field
from mediant.allocation.operations import Operations
from mediant.forms.encoding import Original, encode

@dataclass(frozen=True)
class Shrink:
    share: float = 0.5
    place: int = field(default=30, init=False)

    def asked(self, plan):
        return "shrink" in plan.after

    def check(self, run, plan):
        pass

    def apply(self, run, plan, encodings):
        for e in encodings():
            yield encode(Original(e.info, e.decode() * self.share), e.plan) if e.info.role == "norm" else e

    def operations(self, run, plan):
        return Operations()

METHOD = Shrink
'''

COMMAND = '''
"""A command."""
def command(name: str) -> None:
    """Greet somebody."""
    print(f"hello {name}")
'''

FAMILY = '''
"""Llama by another name."""
from mediant.runtime.families._llama_shaped import llama_shaped
MODEL_TYPES = ("cousin_of_llama",)
ARCHITECTURE = "LlamaForCausalLM"

def describe(config):
    return llama_shaped(config, "cousin_of_llama")
'''


@pytest.fixture
def add(tmp_path, monkeypatch):
    """Puts one file beside those of a package, for one test."""
    added = []

    def file(package, name, source):
        folder = tmp_path / package
        folder.mkdir()
        (folder / f"{name}.py").write_text(source)
        module = importlib.import_module(package)
        monkeypatch.setattr(module, "__path__", [*module.__path__, str(folder)])
        added.append(f"{package}.{name}")
        discovery.names.cache_clear()

    yield file
    for module in added:
        sys.modules.pop(module, None)
    monkeypatch.undo()
    discovery.names.cache_clear()


@pytest.fixture
def compress(tiny_folder, tmp_path):
    """The checkpoint of a tiny model by a recipe that is written out here."""
    text = tmp_path / "text.txt"
    text.write_text(" ".join(random.Random(0).choices(["quick", "brown", "fox", "and", "bees"], k=150)))

    def to(size, recipe):
        (tmp_path / "toy.yaml").write_text(f"description: a toy\n{recipe}\n")
        request = CompressRequest(
            str(tiny_folder("llama")), tmp_path / "out", size=size, recipe=str(tmp_path / "toy.yaml"), calibration=text
        )
        with begun(request) as run:
            return run.pack(run.plan())

    return to


def test_a_grid_a_scale_and_a_rounding(add, compress):
    add("mediant.methods.grids", "squares", GRID)
    add("mediant.methods.scales", "share", SCALE)
    add("mediant.methods.rounding", "watched", ROUNDING)
    checkpoint = compress(
        "60kB",
        "grid: {name: squares}\nscale: {name: share, share: 0.9}\nrounding: {name: watched}\nbit_widths: [3, 4, 5, 6]",
    )
    plan = checkpoint.plan.tensors["model.layers.0.mlp.up_proj.weight"]
    assert (plan.grid["name"], plan.scale["share"], plan.rounding["name"]) == ("squares", 0.9, "watched")
    assert np.isfinite(checkpoint.weight("model.layers.0.mlp.up_proj.weight")).all()


def test_a_strategy(add, compress):
    add("mediant.allocation.strategies", "fixed", STRATEGY)
    recipe = "allocation: {name: fixed, bits: 5}\n" + "\n".join(
        f"{kind}: {{name: {name}}}"
        for kind, name in (("grid", "uniform"), ("scale", "absmax"), ("rounding", "nearest"))
    )
    with pytest.raises(SizeError) as refusal:
        compress("1", recipe)
    checkpoint = compress(str(refusal.value).split("(")[-1].split(" bytes")[0], recipe)
    assert {run.bits for tensor in checkpoint.plan.tensors.values() for run in tensor.runs} == {5}


def test_a_stage(add, compress):
    add("mediant.pipeline.stages", "shrink", STAGE)
    stages = "stages:\n- quantize: {recipe: nearest}\n"
    norm = "model.norm.weight"
    plain = compress("60kB", stages).weight(norm)
    shrunk = compress("60kB", stages + "- shrink: {share: 0.25}")
    assert shrunk.plan.after == {"shrink": {"share": 0.25}}
    assert type(shrunk.plan).from_json(shrunk.plan.to_json()) == shrunk.plan
    np.testing.assert_allclose(shrunk.weight(norm), 0.25 * plain, rtol=2**-10)


def test_a_command(add, capsys, monkeypatch):
    add("mediant.cli", "greet", COMMAND)
    monkeypatch.setattr("sys.argv", ["mediant", "greet", "Ada"])
    assert cli._console.run(cli.application()) == 0
    assert capsys.readouterr().out == "hello Ada\n"


def test_a_family(add, tiny_folder, tiny_network, tmp_path):
    add("mediant.runtime.families", "cousin", FAMILY)
    families.known.cache_clear()
    kind = type("Cousin", (transformers.LlamaConfig,), {"model_type": "cousin_of_llama"})
    transformers.AutoConfig.register("cousin_of_llama", kind)
    folder = tmp_path / "cousin"
    folder.mkdir()
    for file in tiny_folder("llama").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "cousin_of_llama"}
    (folder / "config.json").write_text(json.dumps(config))
    decoder = Decoder.open(folder)
    families.known.cache_clear()
    found = decoder.logits(decoder.sequence(), [5, 9, 200])
    with torch.inference_mode():
        wanted = tiny_network("llama")(input_ids=torch.tensor([[5, 9, 200]])).logits[0].numpy()
    np.testing.assert_allclose(found, wanted, atol=0.01)
