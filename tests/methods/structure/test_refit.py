"""What leads out of thinned parts: exact where the rest can be told from them, else the ridge regression."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from mediant.errors import PlanError
from mediant.methods.structure.distill import held_out
from mediant.methods.structure.refit import Refit
from mediant.methods.training.distillation import Distillation, Distiller
from mediant.models.blocks import Blocks, neuron_count
from mediant.progress import SILENT

WINDOWS = torch.randint(320, (60, 12), generator=torch.Generator().manual_seed(3))
# Errors of float32 sums, and of a damping of 1e-6, relative to what they are compared with.
CLOSE = 0.01


def halves(network, part):
    """The axes of a part with the length of their first half."""
    blocks = Blocks.of(network.state_dict())
    axes = blocks.neurons() if part == "neurons" else [*blocks.queries(), *blocks.groups()]
    state = network.state_dict()
    return [(axis, state[axis.tensor].shape[axis.axis] // 2) for axis in axes]


def leads_out(network, axis, part):
    scheme = Blocks.of(network.state_dict()).scheme
    return f".{scheme.out_of if part == 'neurons' else scheme.output}." in axis.tensor


def twice(network, part):
    """The network with the second half of a part a copy of the first, but for what leads out."""
    state = network.state_dict()
    for axis, half in halves(network, part):
        if not leads_out(network, axis, part):
            state[axis.tensor].narrow(axis.axis, half, half).copy_(state[axis.tensor].narrow(axis.axis, 0, half))
    return network


def thinned(network, part):
    """A network of the first half of a part."""
    config, state = copy.deepcopy(network.config), dict(network.state_dict())
    names = [neuron_count(config.to_dict())] if part == "neurons" else ["num_attention_heads", "num_key_value_heads"]
    for name in names:
        setattr(config, name, (getattr(config, name) or 4 * config.hidden_size) // 2)
    for axis, half in halves(network, part):
        state[axis.tensor] = state[axis.tensor].narrow(axis.axis, 0, half).clone()
    student = type(network)(config).eval()
    student.load_state_dict(state)
    return student


def refitted(student, teacher, **fields):
    return Refit(**fields).train(copy.deepcopy(student), teacher, WINDOWS, SILENT, None, lambda state: None)


CASES = [(name, "neurons") for name in ("llama_tied", "qwen3", "gemma2", "phi", "gpt2")]
CASES += [(name, "heads") for name in ("llama", "qwen3")]


@pytest.mark.parametrize(("name", "part"), CASES)
def test_what_copies_did_is_made_up_for(tiny_network, name, part):
    teacher = twice(tiny_network(name), part)
    student = thinned(teacher, part)

    def divergence():
        return Distiller(student, teacher, Distillation()).divergence(WINDOWS[:4])

    before, found = divergence(), refitted(student, teacher, parts=(part,), damping=1e-6)
    assert found.keys() == {axis.tensor for axis, _ in halves(teacher, part) if leads_out(teacher, axis, part)}
    student.load_state_dict(found, strict=False)
    assert before > 1e-6
    assert divergence() < CLOSE**2 * before


def test_it_is_the_ridge_regression(tiny_network):
    """By rows that stand for the damping, and inputs recomputed from the original's by hand."""
    teacher, damping = tiny_network("llama"), 0.1
    student = thinned(teacher, "neurons")
    found = refitted(student, teacher, damping=damping)
    mlp, small, seen = teacher.model.layers[1].mlp, student.model.layers[1].mlp, []
    mlp.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].reshape(-1, inputs[0].shape[-1])))
    with torch.inference_mode():
        for window in WINDOWS[~held_out(len(WINDOWS))]:
            teacher(input_ids=window[None])
        x = torch.cat(seen)
        a = (small.act_fn(small.gate_proj(x)) * small.up_proj(x)).double().numpy()
        y = mlp(x).double().numpy()
    start = small.down_proj.weight.detach().double().numpy()
    root = np.sqrt(damping * np.square(a).sum(0).mean()) * np.eye(a.shape[1])
    solved = np.linalg.lstsq(np.vstack([a, root]), np.vstack([y - a @ start.T, np.zeros((len(root), len(start)))]))[0]
    by_hand = start + solved.T
    ours = found["model.layers.1.mlp.down_proj.weight"].numpy()
    assert np.linalg.norm(ours - by_hand) < CLOSE * np.linalg.norm(by_hand - start)
    assert np.linalg.norm(start - by_hand) > 100 * np.linalg.norm(ours - by_hand)


def test_blocks_may_have_gone(tiny_network):
    teacher = tiny_network("llama")
    student = thinned(teacher, "neurons")
    whole = refitted(student, teacher)
    student.model.layers = student.model.layers[1:]
    student.config.num_hidden_layers = 1
    left = refitted(student, teacher, layers=(1,))
    assert torch.equal(left["model.layers.0.mlp.down_proj.weight"], whole["model.layers.1.mlp.down_proj.weight"])


def test_threads_change_nothing(tiny_network, monkeypatch):
    teacher = tiny_network("llama")
    found = []
    for count in ("1", "3"):
        monkeypatch.setenv("MEDIANT_THREADS", count)
        found.append(refitted(thinned(teacher, "neurons"), teacher))
    assert found[0]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_network_that_lost_nothing_stays(tiny_network):
    teacher = tiny_network("llama")
    assert refitted(teacher, teacher) == {}


def test_a_failure_in_a_window_stops_all(tiny_network):
    teacher = tiny_network("llama")
    student = thinned(teacher, "neurons")
    student.model.layers[1].mlp.gate_proj.weight.data = torch.zeros(24, 5)
    with pytest.raises(RuntimeError):
        refitted(student, teacher)


@pytest.mark.parametrize(
    ("name", "fields", "what"),
    [
        ("llama", {"layers": (0,)}, "2 blocks, 1 blocks of an original with 2"),
        ("llama", {"layers": (0, 2)}, "of an original with 2"),
        ("opt", {}, "neurons cannot be refitted"),
        ("gpt2", {"parts": ("heads",)}, "heads cannot be refitted"),
    ],
)
def test_what_does_not_fit_is_refused(tiny_network, name, fields, what):
    network = tiny_network(name)
    with pytest.raises(PlanError, match=what):
        refitted(network, network, **fields)


def test_bad_parameters_are_refused(tiny_network):
    for fields in ({"parts": ()}, {"parts": ("layers",)}, {"windows": 0}, {"damping": 0.0}):
        with pytest.raises(ValueError, match=r"parts are|windows are"):
            Refit(**fields)
    network = tiny_network("llama")
    with pytest.raises(PlanError, match="two windows"):
        Refit().train(network, network, WINDOWS[:1], SILENT, None, lambda state: None)
