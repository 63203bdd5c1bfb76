"""No export writes an infinity or a row of zeros for a number that a wider type holds."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
import transformers

from mediant.errors import ModelError
from mediant.exporters import huggingface
from mediant.exporters._ranges import check_ranges, misfit
from mediant.exporters.gguf import export as export_gguf
from mediant.exporters.gguf.tensors import IDS, holds
from mediant.models.lazy import LazyTensor


class Heard:
    """Progress that keeps what was said."""

    def __init__(self):
        self.lines = []

    def track(self, items, what, total=None):
        return iter(items)

    def say(self, text):
        self.lines.append(text)


@pytest.fixture
def large(tiny_folder, tokenizer, tmp_path):
    """A bfloat16 model with single rows that float16 does not hold, made good by the matrix that follows."""

    def folder(value):
        network = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder("llama"), dtype=torch.bfloat16)
        attention = network.model.layers[1].self_attn
        attention.v_proj.weight.data[5] *= value
        attention.o_proj.weight.data[:, 5] /= value
        network.save_pretrained(tmp_path / "large")
        tokenizer.save_pretrained(tmp_path / "large")
        return str(tmp_path / "large")

    return folder


def test_floats_are_refused_before_work(large, tmp_path):
    folder = large(3e6)
    with pytest.raises(ModelError, match=r"v_proj.*65504.*bfloat16 or float32"):
        huggingface.export(folder, tmp_path / "out", "float16")
    assert not (tmp_path / "out").exists()
    huggingface.export(folder, tmp_path / "out", "bfloat16")


@pytest.mark.parametrize(
    ("value", "kind", "wider"), [(3e6, "f16", "f32"), (3e7, "q4_0", "q8_0"), (1e10, "q8_0", "f32")]
)
def test_gguf_takes_a_wider_type_and_says_so(value, kind, wider, large, tmp_path):
    heard = Heard()
    export_gguf(large(value), tmp_path / "model.gguf", kind, heard)
    tensors = {t.name: t for t in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert tensors["blk.1.attn_v.weight"].tensor_type.name == wider.upper()
    assert tensors["blk.0.attn_v.weight"].tensor_type.name == kind.upper()
    assert all(np.isfinite(gguf.dequantize(t.data, t.tensor_type)).all() for t in tensors.values())
    assert len(heard.lines) == 1
    assert f"v_proj.weight is stored as {wider}" in heard.lines[0]


@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_0"])
def test_holds_agrees_with_the_library(kind):
    """A block is held exactly when what gguf makes of it is finite and not all zero."""
    for exponent in range(-60, 90):
        values = np.full((2, 32), 2.0**exponent * 1.37, np.float32)
        values[1] = 1
        with np.errstate(all="ignore"):
            again = gguf.dequantize(gguf.quantize(values, IDS[kind]), IDS[kind])
        right = bool(np.isfinite(again).all() and again.any(axis=1).all())
        assert holds(kind, values) == right, exponent


def test_misfits():
    half = torch.float16
    assert misfit(torch.tensor([65519.0]), half) is None
    assert misfit(torch.tensor([-65520.0]), half).largest == 65520
    assert misfit(torch.tensor([[0.0, 0.0], [1e-8, -1e-9]]), half).row == 1
    assert misfit(torch.tensor([float("inf")]), half) is None, "what was infinite before stays so"
    assert misfit(torch.tensor([3.4e38]), torch.bfloat16).largest == pytest.approx(3.4e38)
    assert misfit(torch.zeros(0, 4), half) is None
    assert misfit(torch.arange(3), half) is None


def test_tensors_that_surely_fit_are_not_read():
    def fails():
        raise AssertionError

    check_ranges({"w": LazyTensor((2,), torch.bfloat16, fails)}, "float32", ("float32",))
    with pytest.raises(AssertionError):
        check_ranges({"w": LazyTensor((2,), torch.float32, fails)}, "bfloat16", ("float32",))
