"""What is said about the amount of calibration text."""

from __future__ import annotations

import torch

from mediant.statistics.calibration_coverage import Amount, amounts, sentence
from mediant.statistics.hessian import Accumulator
from mediant.values import Model, TensorInfo


def model(**widths):
    tensors = tuple(TensorInfo(name, (4, columns), "float32", "linear", "out_in") for name, columns in widths.items())
    return Model(None, "m", "M", {}, tensors, "f")


def test_every_width_has_its_amount(tmp_path):
    found = Accumulator()
    for number in range(2):
        for name, columns in (("a", 4), ("b", 8), ("c", 4)):
            x = torch.randn(16, columns, generator=torch.Generator().manual_seed(number))
            found.add(name, number, x, x)
        found.finish(number)
    hessians = found.store(tmp_path, 32)
    narrow, wide = amounts(model(a=4, b=8, c=4), 32, hessians)
    assert (narrow.inputs, narrow.layers, narrow.tokens_per_input) == (4, 2, 8.0)
    assert (wide.inputs, wide.layers, wide.tokens_per_input) == (8, 1, 4.0)
    assert narrow.most_shrunk == max(hessians.shrinkage("a"), hessians.shrinkage("c"))


def test_more_text_is_only_advised_where_it_would_help():
    few, enough = Amount(100, 1, 9.6, 50, 0.25), Amount(20, 3, 48.0, 50, 0.125)
    assert sentence([enough, few]) == (
        "Calibrated on 10 to 48 tokens for each input of a layer; 50 are wanted. Hessians are shrunk by up to 25.0 %. "
        "More text (--calibration) would help."
    )
    assert "48 tokens" in sentence([enough])
    assert "More text" not in sentence([enough])
    assert sentence([]) == "Calibrated without Hessians."
