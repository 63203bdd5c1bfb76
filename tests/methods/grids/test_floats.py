"""Small floating-point formats, against PyTorch's and against the other definition in mediant.numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mediant.methods.grids.floats import LAYOUTS, Floats
from mediant.numbers.floating_point import decode

TORCH = {"fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
NUMBERS = {"fp8_e4m3": "float8_e4m3", "fp8_e5m2": "float8_e5m2"}


@pytest.mark.parametrize("format", TORCH)
def test_all_finite_values_as_torch_decodes_them(format):
    values = torch.arange(256, dtype=torch.uint8).view(TORCH[format]).double().numpy()
    assert Floats(format).levels(8).tolist() == np.unique(values[np.isfinite(values)] + 0.0).tolist()


@pytest.mark.parametrize("format", NUMBERS)
def test_all_finite_values_as_numbers_decodes_them(format):
    values = [float(decode(pattern, NUMBERS[format])) for pattern in range(256)]
    assert Floats(format).levels(8).tolist() == sorted({v + 0.0 for v in values if np.isfinite(v)})


def test_four_bits():
    positive = [0.5, 1, 1.5, 2, 3, 4, 6]
    assert Floats("fp4_e2m1").levels(4).tolist() == [-x for x in positive[::-1]] + [0, *positive]


@pytest.mark.parametrize("format", LAYOUTS)
def test_the_bit_width_is_that_of_the_format(format):
    own = int(format[2])
    for bits in set(range(1, 9)) - {own}:
        with pytest.raises(ValueError, match=f"{format} has {own} bits, not {bits}"):
            Floats(format).levels(bits)


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match="'fp6' is not one of"):
        Floats("fp6")
