"""The straight-through estimator by its formulas, a start that keeps every code, and blocks that come closer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mediant.kernels.rotation import rotate_back
from mediant.methods.training._descent import Course, Descent
from mediant.methods.training.quantization_aware import (
    MARGIN,
    Latent,
    Rows,
    block_loss,
    nearest,
    started,
    straight_through,
)

LEVELS = torch.tensor([-1.5, -0.5, 0.5, 1.5])
ROWS, COLUMNS, GROUP = 12, 24, 8


def case(seed=0):
    """Latents of which some are beyond the ends, gains, and scales of every weight, some 0 or negative."""
    generator = torch.Generator().manual_seed(seed)
    latent = 2 * torch.randn(ROWS, COLUMNS, generator=generator, dtype=torch.float64)
    scale = (0.5 + torch.rand(ROWS, 3, generator=generator, dtype=torch.float64)).repeat_interleave(GROUP, 1)
    scale[0, :GROUP], scale[1] = 0, -scale[1]
    gain = 0.8 + 0.4 * torch.rand(ROWS, generator=generator, dtype=torch.float64)
    return latent.requires_grad_(True), gain.requires_grad_(True), scale


@pytest.mark.parametrize("zero", [0.0, 0.25])
def test_it_rounds_to_the_nearest_level(zero):
    latent, gain, scale = case()
    found = straight_through(latent, gain, scale, zero, LEVELS.double())
    reach = ((LEVELS - zero) * (gain[:, None] * scale)[..., None] - latent[..., None]).abs().amin(-1)
    torch.testing.assert_close((found - latent).abs(), reach)


@pytest.mark.parametrize("zero", [0.0, 0.25])
def test_gradients_are_those_of_rounding_as_the_identity(zero):
    """Against autograd through w = g s (clamp(u) - z) + a constant, u = v / (g s) + z, by which w keeps its value."""
    latent, gain, scale = case(1)
    above = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = torch.autograd.grad(straight_through(latent, gain, scale, zero, LEVELS.double()), (latent, gain), above)
    step = gain[:, None] * scale
    u = (latent / step.where(step != 0, torch.inf) + zero).detach()
    position = latent / step.where(step != 0, torch.inf) + zero
    clamped = position.clamp(LEVELS[0], LEVELS[-1])
    rounded = clamped + (LEVELS.double()[nearest(u, LEVELS.double())] - clamped).detach()
    wanted = torch.autograd.grad(step * (rounded - zero), (latent, gain), above)
    torch.testing.assert_close(found[1], wanted[1])
    beyond = (u > LEVELS[-1]).long() - (u < LEVELS[0]).long()
    within = (beyond == 0) & (step != 0)
    torch.testing.assert_close(found[0][within], wanted[0][within])
    # Beyond the ends: only what moves a latent inwards, since descent goes against the gradient.
    inwards = beyond * torch.sign(step) * above > 0
    assert torch.equal(found[0][~within], torch.where(inwards, above, 0.0)[~within])
    assert 10 < int(inwards[~within].sum()) < int((~within).sum()) - 10


def test_the_start_has_the_codes_that_were_given():
    generator = torch.Generator().manual_seed(3)
    position, codes = 2 * torch.randn(400, generator=generator), torch.randint(4, (400,), generator=generator)
    start = started(position, codes, LEVELS)
    assert torch.equal(nearest(start, LEVELS), codes)
    own = (nearest(position, LEVELS) == codes) & (position.abs() <= 1.5)
    assert float((start - position)[own].abs().max()) <= MARGIN
    # Not on an edge, from which the first step would take it back.
    assert float((start[:, None] - torch.tensor([-1.0, 0.0, 1.0])).abs().min()) >= MARGIN - 1e-6


def latent_of(weight, group=4, seed=None):
    """A latent behind a matrix on 2 bits by absmax scales."""
    scale = weight.reshape(len(weight), -1, group).abs().amax(-1) / 1.5
    codes = nearest(weight / scale.repeat_interleave(group, 1), LEVELS)
    half = len(weight) // 2
    runs = [Rows(slice(0, half), LEVELS, codes[:half]), Rows(slice(half, len(weight)), LEVELS, codes[half:])]
    return Latent(weight, scale, None, runs, group, seed)


def test_a_rotated_latent_computes_with_the_matrix_in_the_models_basis():
    generator = torch.Generator().manual_seed(4)
    weight, x = (torch.randn(n, COLUMNS, generator=generator) for n in (ROWS, 7))
    latent, seed = latent_of(weight, seed=5), 5
    x.requires_grad_(True)
    plain = torch.from_numpy(rotate_back(latent.weight().detach().numpy(), seed)).requires_grad_(True)
    above = torch.randn(7, ROWS, generator=generator)
    wanted = torch.autograd.grad(nn.functional.linear(x, plain), x, above)[0]
    torch.testing.assert_close(latent(x), nn.functional.linear(x, plain))
    torch.testing.assert_close(torch.autograd.grad(latent(x), x, above)[0], wanted)


class Block(nn.Module):
    """Two matrices with a nonlinearity between them."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.first = nn.Parameter(torch.randn(2 * COLUMNS, COLUMNS, generator=generator) / COLUMNS**0.5)
        self.second = nn.Parameter(torch.randn(COLUMNS, 2 * COLUMNS, generator=generator) / COLUMNS**0.5)
        self.latents = nn.ModuleList([latent_of(self.first.detach()), latent_of(self.second.detach())])

    def original(self, x):
        return nn.functional.silu(x @ self.first.T) @ self.second.T

    def forward(self, x):
        return self.latents[1](nn.functional.silu(self.latents[0](x)))


def learn(state=None, keep=lambda state: None, steps=60):
    block, generator = Block(), torch.Generator().manual_seed(6)
    inputs = torch.randn(40, 64, COLUMNS, generator=generator)

    def loss(i):
        return block_loss(block(inputs[i]), block.original(inputs[i]).detach())

    def held():
        with torch.no_grad():
            return sum(float(loss(i)) for i in range(8)) / 8

    parameters = dict(block.latents.named_parameters())
    descent = Descent(parameters, 2e-3)

    def gradient(i):
        found = loss(int(i))
        return float(found.detach()), torch.autograd.grad(found, list(parameters.values()))

    before = held()
    descent.run(gradient, torch.arange(8, 40), Course(steps, keep_every=20), state=state, keep=keep)
    return before, held(), block, descent.losses


def test_a_block_comes_closer_by_other_codes():
    before, after, block, _ = learn(steps=200)
    assert after < 0.8 * before
    for latent, start in zip(block.latents, Block().latents, strict=True):
        scale = latent.scale * latent.gain.detach()[:, None]
        codes = torch.cat(latent.codes(scale))
        assert (codes != torch.cat([rows.codes for rows in start.runs])).any()
        torch.testing.assert_close(latent.weight().detach(), LEVELS[codes.long()] * scale.repeat_interleave(4, 1))


def test_a_stopped_run_ends_with_the_same_bits_on_any_threads(monkeypatch):
    states, ends = [], []
    for threads, state in (("1", None), ("2", None), ("2", lambda: states[0])):
        monkeypatch.setenv("MEDIANT_THREADS", threads)
        *_, block, losses = learn(state and state(), lambda s: states.append(copy.deepcopy(s)))
        ends.append((losses, [p.detach() for p in block.latents.parameters()]))
    for losses, values in ends[1:]:
        assert losses == ends[0][0]
        assert all(torch.equal(a, b) for a, b in zip(values, ends[0][1], strict=True))
