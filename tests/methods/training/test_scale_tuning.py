"""Gains against scaled weights, known factors found again, and the same bits after a stop and on any threads."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from mediant.allocation.layers import quantizable
from mediant.methods.training.scale_tuning import Tuner
from mediant.models.opening import open_model
from mediant.models.reference import load_reference, parameters_to_modules


def tuner_of(model, network=None):
    reference = load_reference(model)
    return Tuner(network or load_reference(model), reference, {t.name for t in quantizable(model)}, model.tensors)


def windows_of(model, count=6, length=24):
    return torch.randint(model.config["vocab_size"], (count, length), generator=torch.Generator().manual_seed(1))


def spoilt(model, spread=0.1):
    """The network with every quantized matrix's rows off by random factors, and the factors."""
    network, factors = load_reference(model), {}
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for info in quantizable(model):
            weight = network.get_parameter(info.name)
            rows = info.matrix_shape[0]
            factor = torch.exp(spread * torch.randn(rows, generator=generator))
            if weight.ndim == 2:
                weight.mul_(factor[None] if info.layout == "in_out" else factor[:, None])
                factors[info.name] = factor
    return network, factors


def test_untuned_is_unchanged(architecture, tiny_folder):
    model = open_model(str(tiny_folder(architecture)))
    if not model.causal:
        pytest.skip("tuning is for models that predict tokens")
    tuner = tuner_of(model)
    assert tuner.divergence(windows_of(model, 2)) == pytest.approx(0, abs=1e-6)
    assert set(tuner.gains) <= {t.name for t in quantizable(model)}
    assert all((gain == 1).all() for gain in tuner.tuned().gains.values())


def test_gains_are_scaled_rows(architecture, tiny_folder):
    model = open_model(str(tiny_folder(architecture)))
    if not model.causal:
        pytest.skip("tuning is for models that predict tokens")
    tuner, window = tuner_of(model), windows_of(model, 1)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for gain in tuner.gains.values():
            gain.copy_(0.2 * torch.randn(gain.shape, generator=generator))
        hooked = tuner.network(input_ids=window).logits
        scaled = load_reference(model)
        infos = {t.name: t for t in model.tensors}
        for name, gain in tuner.tuned().gains.items():
            factor = torch.from_numpy(gain)
            weight = scaled.get_parameter(name)
            weight.mul_(factor[None] if infos[name].layout == "in_out" else factor[:, None])
        folded = scaled(input_ids=window).logits
    # The product is rounded before or after the sum; a float32 sum of some hundred terms, a few layers deep.
    torch.testing.assert_close(hooked, folded, rtol=1e-4, atol=1e-4 * float(folded.abs().max()))


@pytest.mark.parametrize("name", ["llama_tied", "gpt2"])
def test_factors_that_spoil_are_learned_away(name, tiny_folder):
    model = open_model(str(tiny_folder(name)))
    network, _ = spoilt(model)
    tuner, windows = tuner_of(model, network), windows_of(model, 16)
    before = tuner.divergence(windows[:4])
    tuner.run(windows[4:], 80, seed=0)
    assert tuner.divergence(windows[:4]) < 0.5 * before


def test_a_stopped_run_ends_with_the_same_bits_on_any_threads(tiny_folder, monkeypatch):
    model = open_model(str(tiny_folder("llama")))
    windows, states, ends = windows_of(model), [], []
    for count, state in (("1", None), ("2", None), ("2", lambda: states[0])):
        monkeypatch.setenv("MEDIANT_THREADS", count)
        tuner = tuner_of(model, spoilt(model)[0])
        tuner.run(windows, 25, 0, state=state and state(), keep=lambda s: states.append(copy.deepcopy(s)))
        ends.append(tuner.tuned())
    assert int(states[0]["done"]) == 10
    for other in ends[1:]:
        for field in dataclasses.fields(other):
            one, two = getattr(ends[0], field.name), getattr(other, field.name)
            assert one.keys() == two.keys()
            assert all((one[key] == two[key]).all() for key in one)


def test_another_seed_is_another_order(tiny_folder):
    model = open_model(str(tiny_folder("llama")))
    ends = []
    for seed in (0, 1):
        tuner = tuner_of(model, spoilt(model)[0])
        tuner.run(windows_of(model), 4, seed)
        ends.append(tuner.tuned().gains)
    assert any((ends[0][name] != ends[1][name]).any() for name in ends[0])


def test_experts_are_left_alone(tiny_folder):
    model = open_model(str(tiny_folder("mixtral")))
    tuner = tuner_of(model)
    experts = {t.name for t in model.tensors if t.role == "expert"}
    assert experts
    assert not experts & set(tuner.descent.parameters)
    assert "lm_head.weight" in tuner.gains
    assert parameters_to_modules(tuner.network)


@pytest.mark.parametrize(("divergence", "factor"), [(3.0, 1.0), (0.2, 1.0), (0.05, 0.5), (0.0, 0.0), (-1e-7, 0.0)])
def test_little_to_gain_makes_for_small_steps(tiny_folder, divergence, factor):
    tuner = tuner_of(open_model(str(tiny_folder("llama"))))
    rates = [group["rate"] for group in tuner.descent.optimizer.param_groups]
    tuner.fit_rate(divergence)
    slower = [group["rate"] for group in tuner.descent.optimizer.param_groups]
    assert slower == pytest.approx([factor * rate for rate in rates])
