"""How much calibration text there was, against what each layer needs.

A Hessian of n inputs has n (n + 1) / 2 numbers, which take many times n tokens to know; 50 for each input are enough.
Where there are fewer, Hessians are shrunk (statistics/hessian.py) as far as they are uncertain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mediant.statistics.hessian import Hessians
from mediant.values import Model

# Tokens for each input of a layer: what is wanted, and below what more text is advised.
WANTED, FEW = 50, 16


@dataclass(frozen=True)
class Amount:
    """Of all layers with so many inputs: how many layers, tokens for each input, and the largest share of shrinkage."""

    inputs: int
    layers: int
    tokens_per_input: float
    wanted: int
    most_shrunk: float


def amounts(model: Model, tokens: int, hessians: Hessians) -> list[Amount]:
    """Returns the amount for every width of input that has a Hessian, ascending."""
    shares: dict[int, list[float]] = {}
    # What follows # is the number of an expert, of which `collect` speaks.
    for name in (name for name in hessians.inputs if "#" not in name):
        shares.setdefault(model.tensor(name).matrix_shape[1], []).append(hessians.shrinkage(name) or 0.0)
    return [Amount(n, len(s), tokens / n, WANTED, max(s)) for n, s in sorted(shares.items())]


def sentence(found: Sequence[Amount]) -> str:
    """Puts the calibration coverage in words, in one line."""
    if not found:
        return "Calibrated without Hessians."
    least, most = found[-1].tokens_per_input, found[0].tokens_per_input
    span = f"{least:.0f}" if round(least) == round(most) else f"{least:.0f} to {most:.0f}"
    shrunk = max(amount.most_shrunk for amount in found)
    advice = " More text (--calibration) would help." if least < FEW else ""
    return (
        f"Calibrated on {span} tokens for each input of a layer; {WANTED} are wanted. Hessians are shrunk by up to "
        f"{100 * shrunk:.1f} %.{advice}"
    )
