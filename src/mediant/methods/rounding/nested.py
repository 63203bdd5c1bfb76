"""Babai rounding for codes that are read at several precisions: one file, good at 4, 3 and 2 bits.

Minimises sum_r a_r (w^_r - w) M (w^_r - w)^T for every row over codes and group scales, w^_r what the r leading bits of
the codes stand for (mediant.kernels.nested_babai). It goes with the grid `nested`, whose tables it takes.

Each precision wants other codes, since each carries on its own errors: coarse codes make up for errors that are as
large as the cells of the fine ones. So none is as good as codes made for it alone, by 1.2 to 1.8 times the loss on
SmolLM2 (docs/log.md), and a file that is only ever read whole is better off with `babai`.

Source: as for `babai`; several precisions at once after Nair et al. 2025 (arXiv 2502.06786). Deviations: (1) weights
are rounded, not trained; (2) each precision carries on its own errors; (3) a_r is the inverse of the error that codes
of r bits have alone, so that each precision loses about the same share.

Cost: that of `babai` times the precisions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mediant.kernels.babai import MetricFactors, Rounded
from mediant.kernels.nested_babai import nested_babai
from mediant.kernels.scale_codes import ScaleForm
from mediant.methods.error_bounds import outside
from mediant.methods.grids.nested import readings
from mediant.methods.rounding.babai import Babai, in_place

REFERENCES = (
    "Frantar et al. 2022, GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers, "
    "arXiv:2210.17323",
    "Nair et al. 2025, Matryoshka Quantization, arXiv:2502.06786",
)
NEEDS = ("hessian",)


@dataclass(frozen=True)
class Nested(Babai):
    """Parameters as for `babai`."""

    def on_factors(
        self,
        matrix: NDArray[np.float32],
        factored: MetricFactors,
        levels: NDArray[np.float64],
        group: int,
        form: ScaleForm,
    ) -> Rounded:
        """Returns codes and scales of a matrix [rows, columns]; the levels must be those of the grid `nested`.

        Raises:
            ValueError: `form` has 16 bits, or the levels are others.
        """
        bits = max(len(levels) - 1, 1).bit_length()
        table, weights = (values.astype(np.float32) for values in readings(bits))
        if not np.array_equal(table[0], levels.astype(np.float32)):
            raise ValueError("nested rounding goes with the grid nested")
        w = matrix if factored.order is None else matrix[:, factored.order]
        found = nested_babai(w, factored, table, weights, group, form, self.sweeps)
        scales = found.scales(form)
        error = w - np.repeat(scales, group, axis=1)[:, : w.shape[1]] * table[0][found.codes]
        beyond = outside(error, factored, scales, table[0], group)
        return in_place(Rounded(found.codes, found.row_scales, found.scale_codes, beyond), factored.order, group)


METHOD = Nested
