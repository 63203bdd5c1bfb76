"""Quantization-aware training: codes and step sizes of quantized matrices are learned, by straight-through gradients.

A *latent* matrix v stands behind every quantized one. Forwards, with a gain g for each row,

    w = g s (l(p) - z),    p = the code whose level is nearest to v / (g s) + z;

backwards, rounding is taken for the identity where the latent lies within the grid's ends, and for a constant beyond:

    dL/dv = dL/dw within,    dL/dg = sum over the row of dL/dw (w - v within) / g.

Block by block (`block_loss`) the mean over tokens of |block^(x^) - block(x)|^2 / |block(x)|^2 falls, x being the input
of the block in the original and x^ in the network as it is rounded so far; end to end, KL to the original.

Against scale tuning (scale_tuning.py), which keeps all codes, it changes them: worth most at 2 and 3 bits, at the price
of gradients of all weights, four float32 copies of what learns.

Shapes: latents and codes [rows, columns], scales and zeros [rows, groups], gains [rows], levels [count] of one bit
width.

Source: Bengio et al. 2013 (arXiv 1308.3432), section 4, for the estimator; Esser et al. 2020 (LSQ, arXiv 1902.08153),
equation 3, for the step size; Chen et al. 2024 (EfficientQAT, arXiv 2407.11062), sections 3.2 and 3.3. Deviations:
1. One gain a row, not a step a group, so that scales keep their codes. 2. The loss of a block is relative by token, as
a window's first token is often a thousand times longer. 3. Latents start in the cells of the codes that are there, so
training starts from the network that Babai or any other rounding found; `MARGIN` says why not at the original weight.
4. A latent beyond the ends still moves inwards, or it would never come back. 5. End to end, codes are learned too.

>>> v, g = torch.tensor([[0.4, 0.6, 9.0]], requires_grad=True), torch.ones(1, requires_grad=True)
>>> w = straight_through(v, g, torch.ones(1, 3), 0.0, torch.tensor([-1.0, 0.0, 1.0]))
>>> (-w).sum().backward(); w.tolist(), (0 + v.grad).tolist()
([[0.0, 1.0, 1.0]], [[-1.0, -1.0, 0.0]])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from mediant.kernels.rotation import rotate, rotate_back

REFERENCES = (
    "Bengio, Leonard, Courville 2013, Estimating or Propagating Gradients Through Stochastic Neurons, arXiv:1308.3432",
    "Esser et al. 2020, Learned Step Size Quantization, arXiv:1902.08153",
    "Chen et al. 2024, EfficientQAT: Efficient Quantization-Aware Training for Large Language Models, arXiv:2407.11062",
)
NEEDS: tuple[str, ...] = ()

# Of a cell: how far within its edges a latent starts at least. Feedback puts up to half of all weights into another
# cell than their own; started at the edge, all of these would go back at the first step, and the feedback with them.
MARGIN = 0.25
TINY = 1e-12


@dataclass(frozen=True)
class QuantizationAware:
    """`rate` of Adam relative to the size of each latent matrix, and to 1 for gains.

    For tens of steps: it has to take a latent through a quarter of a cell. EfficientQAT, with thousands, has a fifth.
    """

    rate: float = 5e-3


METHOD = QuantizationAware


class _StraightThrough(torch.autograd.Function):
    """Rounding forwards; backwards the identity within the grid's ends, and for what moves a latent towards them."""

    @staticmethod
    def forward(
        ctx: Any, latent: torch.Tensor, gain: torch.Tensor, scale: torch.Tensor, zero: Any, levels: torch.Tensor
    ) -> torch.Tensor:
        step = gain[:, None] * scale
        position = latent / torch.where(step == 0, torch.inf, step) + zero
        rounded: torch.Tensor = (levels[nearest(position, levels)] - zero) * step
        side = (position > levels[-1]).to(torch.int8) - (position < levels[0]).to(torch.int8)
        # Where a scale is 0, nothing learns.
        side = torch.where(step == 0, 2, side * torch.sign(step).to(torch.int8))
        ctx.save_for_backward(latent, gain, rounded, side)
        return rounded

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        latent, gain, rounded, side = ctx.saved_tensors
        (above,) = gradients
        through = torch.where(side == 0, latent, 0.0)
        return (
            above * ((side == 0) | ((side != 2) & (side * above > 0))),
            (above * (rounded - through)).sum(1) / gain,
            None,
            None,
            None,
        )


def straight_through(
    latent: torch.Tensor, gain: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | float, levels: torch.Tensor
) -> torch.Tensor:
    """Rounded weights of latents; scales, and zeros unless these are all 0, are given for every weight."""
    found: torch.Tensor = _StraightThrough.apply(latent, gain, scale, zero, levels)  # type: ignore[no-untyped-call]
    return found


def nearest(position: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Returns the code of the level nearest to each position, int64; of two as near the lower. Levels ascend."""
    return torch.bucketize(position, (levels[1:] + levels[:-1]) / 2)


def started(position: torch.Tensor, codes: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Returns positions within the cells of these codes, a margin from their edges, as near to the given ones as they
    can be.

    >>> levels = torch.tensor([0.0, 1.0, 2.0])
    >>> started(torch.tensor([1.1, 1.9, -5.0]), torch.tensor([1, 1, 0]), levels)
    tensor([1.1000, 1.2500, 0.0000])
    """
    edges = (levels[1:] + levels[:-1]) / 2
    inner = torch.diff(levels) * MARGIN
    low = torch.cat([levels[:1], edges + inner])[codes]
    high = torch.cat([edges - inner, levels[-1:]])[codes]
    return torch.minimum(torch.maximum(position, low), high)


class Rows(NamedTuple):
    """Consecutive rows of one bit width: which, their levels, and their codes as they are stored."""

    where: slice
    levels: torch.Tensor
    codes: torch.Tensor


class Latent(nn.Module):
    """What stands behind one quantized matrix; its parameters learn.

    Args:
        original: [rows, columns], in the basis in which it is quantized.
        scale, zero: [rows, groups], as decoded; no zero where they are all 0.
        runs: the rows of each bit width, in order.
        group: columns that share a scale.
        seed: of the rotation of the columns, or None.
    """

    def __init__(
        self,
        original: torch.Tensor,
        scale: torch.Tensor,
        zero: torch.Tensor | None,
        runs: Sequence[Rows],
        group: int,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.scale, self.zero, self.runs, self.group, self.seed = scale, zero, runs, group, seed
        self.columns = original.shape[1]
        starts = []
        for rows in runs:
            step, zeros = self._wide(scale, rows.where), self._zeros(rows.where)
            position = original[rows.where] / torch.where(step == 0, torch.inf, step) + zeros
            starts.append((started(position, rows.codes, rows.levels) - zeros) * step)
        self.latent = nn.Parameter(torch.cat(starts))
        self.gain = nn.Parameter(torch.ones(len(scale)))

    def _wide(self, values: torch.Tensor, where: slice) -> torch.Tensor:
        """Repeats values of groups [rows, groups] for every weight of some rows."""
        return values[where].repeat_interleave(self.group, 1)[:, : self.columns]

    def _zeros(self, where: slice) -> torch.Tensor | float:
        return 0.0 if self.zero is None else self._wide(self.zero, where)

    def weight(self) -> torch.Tensor:
        """Returns the rounded matrix [rows, columns]."""
        pieces = []
        for rows in self.runs:
            here = rows.where
            scale, zero = self._wide(self.scale, here), self._zeros(here)
            pieces.append(straight_through(self.latent[here], self.gain[here], scale, zero, rows.levels))
        return torch.cat(pieces)

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Outputs [..., rows] of inputs [..., columns]; gradients reach inputs, latents and gains."""
        turned: torch.Tensor = x if self.seed is None else _Rotation.apply(x, self.seed)  # type: ignore[no-untyped-call]
        return nn.functional.linear(turned, self.weight(), bias)

    def codes(self, scale: torch.Tensor) -> list[torch.Tensor]:
        """Returns the codes of each run, uint8, for scales [rows, groups] as they are stored, gains included.

        Where a scale is 0, the code stays.
        """
        found = []
        for rows in self.runs:
            step, zeros = self._wide(scale, rows.where), self._zeros(rows.where)
            position = self.latent.detach()[rows.where] / torch.where(step == 0, torch.inf, step) + zeros
            found.append(torch.where(step == 0, rows.codes, nearest(position, rows.levels)).to(torch.uint8))
        return found


class _Rotation(torch.autograd.Function):
    """Vectors [..., columns] in the basis of a rotated matrix."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, seed: int) -> torch.Tensor:
        ctx.seed = seed
        return torch.from_numpy(rotate(x.detach().reshape(-1, x.shape[-1]).numpy(), seed)).reshape(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (above,) = gradients
        flat = above.reshape(-1, above.shape[-1]).numpy()
        return torch.from_numpy(rotate_back(flat, ctx.seed)).reshape(above.shape), None


def block_loss(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Returns the mean over tokens of the squared error relative to the token, of block outputs [..., width]."""
    return ((found - wanted).square().sum(-1) / wanted.square().sum(-1).clamp(min=TINY)).mean()
