"""Signs: the levels -1 and 1.

Minimises nothing by itself. With the scale of least squared error, s = Σ h |w| / Σ h, a group keeps 64 % of the energy
of Gaussian weights. It is `uniform` of kind `half` at 1 bit in other units, and has no level at 0. Use it only with
training afterwards.

Levels are in units of the scale s.

Source: Rastegari et al. 2016 (arXiv 1603.05279), section 3.1.

Cost: O(1).

>>> Binary().levels(1).tolist()
[-1.0, 1.0]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

REFERENCES = ("Rastegari et al. 2016, XNOR-Net, arXiv:1603.05279",)
NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class Binary:
    """The levels -1 and 1."""

    @property
    def zero_point(self) -> bool:
        """No group stores a zero."""
        return False

    def levels(
        self, bits: int, sample: NDArray[Any] | None = None, weights: NDArray[Any] | None = None
    ) -> NDArray[np.float64]:
        """Returns the two signs; `sample` and `weights` are not looked at.

        Raises:
            ValueError: bits other than 1.
        """
        if bits != 1:
            raise ValueError(f"a binary grid has 1 bit, not {bits}")
        return np.array([-1.0, 1.0])


METHOD = Binary
