"""The same depth for every unit, as far as the budget allows: the plain baseline.

The greatest depth that fits is taken everywhere; what is left raises units by one depth in the order of the model
until the budget is used, so that any size can be hit. No loss is looked at.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mediant.planning.rate_distortion import Allocation, Unit, allocate, predicted_loss


def allocate_same(units: Sequence[Unit], budget: int, fixed: int = 0) -> Allocation:
    """Depths of all units within `budget` bytes; see `rate_distortion.allocate` for arguments and errors.

    It is the allocation whose loss falls by the number of weights with every bit, less with every further one, and
    a little less with every later unit.
    """
    order = {id(u): i for i, u in enumerate(units)}
    plain = [
        dataclasses.replace(
            u,
            losses={b: u.rows * u.columns * 4.0**-b * (1 + 1e-6 * (len(units) - order[id(u)])) for b in u.sizes},
        )
        for u in units
    ]
    allocation = allocate(plain, budget, fixed)
    return dataclasses.replace(allocation, loss=predicted_loss(units, allocation.runs))
