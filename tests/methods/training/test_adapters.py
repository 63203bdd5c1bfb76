"""Adapters change nothing until they learn, and end in the matrices of the network's own modules."""

from __future__ import annotations

import copy
import sys

import pytest
import torch

from mediant.errors import UsageError
from mediant.methods.training._descent import Course
from mediant.methods.training.adapters import Adapters
from mediant.methods.training.distillation import Distillation, Distiller

WINDOWS = torch.randint(320, (60, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _needs_peft():
    pytest.importorskip("peft")


def spoilt(network):
    """Every matrix is off by one of rank 1."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("proj.weight"):
                left, right = (torch.randn(n, 1, generator=generator) for n in parameter.shape)
                parameter.add_(0.05 * left @ right.T)
    return network


def logits(network):
    with torch.no_grad():
        return network(input_ids=WINDOWS[:2]).logits


@pytest.mark.parametrize("name", ["llama_tied", "gpt2"])
def test_folding_keeps_the_function_and_the_modules(tiny_network, name):
    network, plain = tiny_network(name), tiny_network(name)
    adapters = Adapters(network, 3, seed=0)
    # One factor is 0 at first.
    torch.testing.assert_close(logits(network), logits(plain), rtol=0, atol=0)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in adapters.parameters.values():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    beside = logits(network)
    assert float((beside - logits(plain)).abs().max()) > 1e-2
    adapters.fold()
    torch.testing.assert_close(logits(network), beside, rtol=1e-3, atol=1e-4)
    assert [*network.state_dict()] == [*plain.state_dict()]
    assert {type(m) for m in network.modules()} == {type(m) for m in plain.modules()}
    head = network.get_output_embeddings().weight
    assert torch.equal(head, plain.get_output_embeddings().weight)


def test_a_change_of_a_matrix_has_the_rank(tiny_network):
    teacher, student = tiny_network("llama"), spoilt(tiny_network("llama"))
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    distiller = Distiller(student, teacher, Distillation(rate=5e-3, lora_rank=3))
    first = distiller.divergence(WINDOWS[:4])
    distiller.run(WINDOWS[4:], Course(28))
    assert distiller.divergence(WINDOWS[:4]) < 0.9 * first
    for name, values in distiller.values().items():
        change = (values - before[name]).double()
        if name.endswith("proj.weight"):
            sizes = torch.linalg.svdvals(change)
            # Sums in float32 leave a little in the other directions.
            assert float(sizes[2]) > 1e-3 * float(sizes[0]) > 1e2 * float(sizes[3])
        else:
            assert not change.any()


def test_a_stopped_run_ends_with_the_same_bits(tiny_network):
    states, ends = [], []
    for state in (None, lambda: states[0]):
        teacher, student = tiny_network("llama"), spoilt(tiny_network("llama"))
        distiller = Distiller(student, teacher, Distillation(lora_rank=2))
        course = Course(9, seed=5, keep_every=4)
        distiller.run(WINDOWS[:12], course, state=state and state(), keep=lambda s: states.append(copy.deepcopy(s)))
        ends.append((distiller.values(), distiller.losses))
    assert ends[0][1] == ends[1][1]
    assert all(torch.equal(values, ends[0][0][name]) for name, values in ends[1][0].items())


def test_without_the_package_it_is_one_sentence(tiny_network, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError, match=r"pip install 'mediant\[lora\]'"):
        Adapters(tiny_network("llama"), 2, seed=0)
