"""Experts through the whole path: bit widths of their own, statistics that pay at equal bytes, and both shown."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from tests.pipeline.conftest import sizes_on_offer
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from mediant.allocation.layers import quantizable
from mediant.cli import app
from mediant.forms.quantize.encode import quantize
from mediant.methods.layer import neutral
from mediant.methods.stack import Stack, prepare_any
from mediant.models.matrix_form import to_matrix
from mediant.models.opening import open_model
from mediant.models.weights import WeightReader
from mediant.pipeline.compress import begun, compress
from mediant.pipeline.request import CompressRequest
from mediant.planning.recipe import load_recipe
from mediant.values import RowSpan


@pytest.fixture(scope="module")
def lopsided(tiny_folder, tmp_path_factory):
    """A tiny Mixtral whose routers, norms and inputs make its experts differ: some are hardly used."""
    folder = tmp_path_factory.mktemp("lopsided") / "model"
    shutil.copytree(tiny_folder("mixtral"), folder)
    network = AutoModelForCausalLM.from_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("gate.weight"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
            elif name.endswith("post_attention_layernorm.weight"):
                parameter.mul_(torch.exp(torch.randn(parameter.shape, generator=generator)))
            elif ".experts." in name:
                parameter.mul_(3)
    network.save_pretrained(folder)
    return folder


def test_statistics_by_expert_pay_at_equal_bytes(lopsided, text, tmp_path):
    """The same bit width, hence the same bytes: less loss with each expert's own Hessian than with none, as before."""
    model = open_model(str(lopsided))
    plan = load_recipe("default").tensor_plan(())
    before = after = 0.0
    middle = sum(sizes_on_offer(CompressRequest(str(lopsided), tmp_path / "none", size="1", calibration=text))) // 2
    request = CompressRequest(str(lopsided), tmp_path / "out", size=str(middle), calibration=text)
    with begun(request) as run, WeightReader(model) as w:
        statistics, hessians = run.statistics, run.hessians
        for info in (t for t in quantizable(model) if t.role == "expert"):
            matrix = to_matrix(w.read(info.name), info)
            chosen = load_recipe("default").tensor_plan((RowSpan(len(matrix), 3),))
            own = prepare_any(matrix, plan.rotation, statistics.layers[info.name], hessians.of(info.name))
            assert isinstance(own, Stack)
            assert len(hessians.of(info.name)) == info.shape[0]
            after += own.loss(quantize(own, chosen).matrix)
            before += own.loss(quantize(prepare_any(matrix, plan.rotation, neutral(matrix)), chosen).matrix)
    assert after < 0.8 * before


def test_experts_get_bit_widths_of_their_own_and_are_shown(lopsided, text, tmp_path):
    low, high = sizes_on_offer(CompressRequest(str(lopsided), tmp_path / "none", size="1", calibration=text))
    out = tmp_path / "out"
    compress(CompressRequest(str(lopsided), out, size=str((2 * low + high) // 3), calibration=text))
    answer = CliRunner().invoke(app, ["inspect", str(out), "--json", "-"])
    assert answer.exit_code == 0
    stacks = [t for t in json.loads(answer.stdout)["tensors"] if t["role"] == "expert"]
    assert all(len(t["expert_bits"]) == 4 for t in stacks)
    assert len({bits for t in stacks for bits in t["expert_bits"]}) > 1
    shown = CliRunner().invoke(app, ["inspect", str(out)]).stdout
    assert "experts of each bit width" in shown


def test_analyze_shows_who_is_used(lopsided, text, tmp_path):
    answer = CliRunner().invoke(
        app, ["analyze", str(lopsided), "--calibration", str(text), "--no-spectrum", "--json", str(tmp_path / "a.json")]
    )
    assert answer.exit_code == 0
    figures = json.loads((tmp_path / "a.json").read_text())
    stacks = [t for t in figures["tensors"] if t["role"] == "expert"]
    counts = np.array([t["expert_tokens"] for t in stacks])
    # Two choices for every token.
    assert (counts.sum(axis=1) == 2 * figures["calibration"]["tokens"]).all()
    assert all(t["loss"] is not None and t["sensitivity"] for t in stacks)
    assert "most used" in answer.stdout
