"""Statistics by expert against sums over a plain network's own calls, and what experts that saw little fall back to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mediant.models.opening import open_model
from mediant.models.reference import load_reference
from mediant.statistics import expert_inputs, sensitivity, storage
from mediant.statistics.calibration_text import CalibrationText
from mediant.statistics.hessian import Accumulator
from mediant.statistics.sensitivity import collect, sampled

MIXTURES = ("mixtral", "qwen3_moe", "gpt_oss")
EPS = np.finfo(np.float32).eps


def text_of(windows=3, length=40, seed=0):
    tokens = torch.randint(0, 320, (windows, length), generator=torch.Generator().manual_seed(seed))
    return CalibrationText(tokens, "random")


@pytest.fixture
def _nothing_borrowed(monkeypatch):
    monkeypatch.setattr(expert_inputs, "BORROWED", 1e-12)
    monkeypatch.setattr(expert_inputs, "EVEN_SHARE", 0.0)
    monkeypatch.setattr("mediant.statistics.hessian.BORROWED", 1e-12)
    monkeypatch.setattr(sensitivity, "MOST_ENERGY", 1e30)


def seen_by_experts(model, windows):
    """Inputs of the first matrices [tokens, columns], by stack and expert, from the arguments of plain calls."""
    network, seen = load_reference(model), {}

    def hook(path):
        def note(module, inputs):
            x, chosen = inputs[0], inputs[1]
            for e in range(len(module.down_proj)):
                seen.setdefault((f"{path}.gate_up_proj", e), []).append(x[(chosen == e).any(1)])

        return note

    for path, module in network.named_modules():
        if hasattr(module, "is_transposed"):
            module.register_forward_pre_hook(hook(path))
    with torch.no_grad():
        for window in windows:
            network(input_ids=window[None])
    return {key: torch.cat(parts).double().numpy() for key, parts in seen.items()}


@pytest.mark.parametrize("name", MIXTURES)
def test_the_network_computes_what_it_did(name, tiny_folder):
    model, tokens = open_model(str(tiny_folder(name))), text_of().windows
    plain, watched = load_reference(model), load_reference(model)
    expert_inputs.watch(watched, model, lambda x: x, lambda *_: None, lambda *_: None)
    with torch.no_grad():
        a, b = plain(input_ids=tokens).logits, watched(input_ids=tokens).logits
    # Sums of at most hidden + intermediate + experts terms in each layer, in another order.
    terms = 2 * (32 + 48 + 4)
    assert float((a - b).norm()) <= 2 * terms * EPS * float(a.norm())


@pytest.mark.usefixtures("_nothing_borrowed")
@pytest.mark.parametrize("name", MIXTURES)
def test_inputs_by_expert(name, tiny_folder, tmp_path):
    model, text, accumulator = open_model(str(tiny_folder(name))), text_of(), Accumulator()
    layers = collect(model, text, hessians=accumulator).layers
    hessians = accumulator.store(tmp_path, text.tokens)
    expected = seen_by_experts(model, text.windows)
    stacks = {stack for stack, _ in expected}
    assert {t.name for t in model.tensors if t.role == "expert" and "gate_up" in t.name} == stacks
    for (stack, e), x in expected.items():
        found = layers[stack]
        assert found.expert_tokens[e] == len(x)
        # Sums of so many squares in float32.
        tolerance = 2 * text.tokens * EPS * float(np.square(x).sum())
        assert np.abs(found.input_square[e] * len(x) - np.square(x).sum(0)).max() <= tolerance
        if len(x):
            assert np.abs(hessians.of(stack)[e] * len(x) - x.T @ x).max() <= tolerance
            assert not np.allclose(found.input_square[e], np.square(x).mean(0) * 1.01)


@pytest.mark.usefixtures("_nothing_borrowed")
@pytest.mark.parametrize("name", MIXTURES)
def test_fisher_is_that_of_the_weights_gradient(name, tiny_folder, monkeypatch):
    """Tr over rows: sum_i g_i^2 of a token, from the gradient of a stack's weight where each expert saw one token."""
    model = open_model(str(tiny_folder(name)))
    text = text_of(1, 1)
    found = collect(model, text).layers
    network = load_reference(model)
    logits = network(input_ids=text.windows).logits[0]
    label = sampled(logits.detach().softmax(-1), torch.Generator().manual_seed(0))
    logits.log_softmax(-1).gather(1, label).sum().backward()
    for info in (t for t in model.tensors if t.role == "expert"):
        gradient = network.get_parameter(info.name).grad.double()
        if info.layout == "experts_in_out":
            gradient = gradient.transpose(1, 2)
        layer = found[info.name]
        # For one token the gradient is g x^T, so its rows' squares are g_i^2 |x|^2.
        squares = gradient.square().sum(2).numpy()
        fisher = layer.output_fisher.reshape(squares.shape)
        energy = layer.input_square.sum(1, keepdims=True)
        used = layer.expert_tokens > 0
        assert used.sum() == model.config.get("num_experts_per_tok", 2)
        error = np.abs(fisher * energy - squares)[used]
        assert error.max() <= 1e3 * EPS * squares.max()
        assert (fisher[~used] == 0).all() or fisher[~used].max() <= 1e-9


def test_statistics_survive_storage(tiny_folder):
    found = collect(open_model(str(tiny_folder("mixtral"))), text_of())
    again = storage.from_bytes(storage.to_bytes(found))
    name = next(n for n, s in found.layers.items() if s.expert_tokens is not None)
    assert (again.layers[name].expert_tokens == found.layers[name].expert_tokens).all()
    assert (again.layers[name].expert(1).input_square == found.layers[name].input_square[1]).all()


def test_an_expert_without_tokens_borrows_and_is_named():
    part = {
        "count": np.array([90, 0]), "backward": np.array([30, 0]), "mean": np.zeros((2, 3)),
        "square": np.array([[90.0, 180.0, 270.0], [0.0, 0.0, 0.0]]), "fisher": np.array([[60.0] * 4, [0.0] * 4]),
    }  # fmt: skip
    found = expert_inputs.by_expert(part, True, 100)
    assert found.input_square[1].tolist() == [1.0, 2.0, 3.0]
    assert expert_inputs.by_expert(part, False, 100).input_square[1].tolist() == [2.0, 2.0, 2.0]
    # A tenth of 0.9 uses a token, spread over two experts, at the mean Fisher of 2.
    assert found.output_fisher[4:] == pytest.approx([0.045 * 2.0] * 4, rel=4 * np.finfo(float).eps)
    text = expert_inputs.warning({"stack": found})
    assert text.startswith("1 of 2 matrices of experts saw fewer tokens")
    assert expert_inputs.warning({}) is None


def test_any_number_of_threads_gives_the_same_bits(tiny_folder, tmp_path, monkeypatch):
    model, text = open_model(str(tiny_folder("mixtral"))), text_of(4, 20)
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv("MEDIANT_THREADS", threads)
        accumulator = Accumulator()
        statistics = collect(model, text, hessians=accumulator)
        hessians = accumulator.store(tmp_path / threads, text.tokens)
        stack = next(t.name for t in model.tensors if t.role == "expert")
        found.append((storage.to_bytes(statistics), [hessians.of(stack)[e].tobytes() for e in range(4)]))
    assert found[0] == found[1]
