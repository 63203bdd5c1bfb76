"""In which order a nested model gives up bits while it runs: what loses least per byte goes first.

Minimises, for every number of bytes, the predicted loss sum_t D_t(b_t) over the bit widths b_t to which the codes of
each tensor are read, as far as an order of single steps can: with D_t convex in bytes, the order by ascending slope is
best after every step (Shoham and Gersho 1988, IEEE Transactions on Acoustics, Speech and Signal Processing 36(9)).
Where a tensor's second step costs less a byte than its first, both count at their common slope.

The losses are those that planning measured, of codes made for each bit width alone. Leading bits of longer codes lose
more, in the layers looked at by 1.2 to 1.8 times (docs/log.md, nested codes); a factor common to all would not matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mediant.allocation.knapsack import Unit, predicted_loss
from mediant.values import RowSpan, Truncation

Runs = Mapping[str, Sequence[RowSpan]]


def plane_order(units: Sequence[Unit], runs: Runs) -> dict[str, tuple[Truncation, ...]]:
    """Of every tensor the bit widths to which it can be cut, deepest first, and the place of each cut in the whole
    order.

    Args:
        units: with losses at each bit width on offer, in the order of their rows.
        runs: the bit widths that the tensors have.

    >>> units = [Unit(name, 8, 32, {2: 64, 3: 96}, {2: loss, 3: 0.1}) for name, loss in (("a", 0.9), ("b", 0.3))]
    >>> plane_order(units, {"a": [RowSpan(8, 3)], "b": [RowSpan(8, 3)]})
    {'a': (Truncation(bits=2, place=1),), 'b': (Truncation(bits=2, place=0),)}
    """
    of_tensor: dict[str, list[Unit]] = {}
    for unit in units:
        of_tensor.setdefault(unit.tensor, []).append(unit)
    cuts = [
        (slope, number, -bits, name)
        for number, (name, given) in enumerate(runs.items())
        for bits, slope in _slopes(of_tensor[name], given)
    ]
    order: dict[str, list[Truncation]] = {name: [] for name in runs}
    for place, (_, _, bits, name) in enumerate(sorted(cuts)):
        order[name].append(Truncation(-bits, place))
    return {name: tuple(truncations) for name, truncations in order.items()}


def _slopes(units: Sequence[Unit], runs: Sequence[RowSpan]) -> list[tuple[int, float]]:
    """Bit widths below a tensor's deepest, descending, each with the loss a bit of getting there, which never falls."""
    bit_widths = [bits for bits in sorted(units[0].losses, reverse=True) if bits < max(run.bits for run in runs)]
    cut = [tuple(runs), *(tuple(RowSpan(run.rows, min(run.bits, bits)) for run in runs) for bits in bit_widths)]
    losses = [predicted_loss(units, {units[0].tensor: given}) for given in cut]
    sizes = [sum(run.rows * run.bits for run in given) * units[0].columns for given in cut]
    pools: list[tuple[float, int, int]] = []  # loss, bits, and how many steps share them
    for step in range(len(bit_widths)):
        pools.append((losses[step + 1] - losses[step], sizes[step] - sizes[step + 1], 1))
        # the very quotients that are sorted by: products of the same numbers may round the other way
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] > pools[-1][0] / pools[-1][1]:
            loss, size, count = pools.pop()
            pools[-1] = (pools[-1][0] + loss, pools[-1][1] + size, pools[-1][2] + count)
    slopes = [loss / size for loss, size, count in pools for _ in range(count)]
    return list(zip(bit_widths, slopes, strict=True))
