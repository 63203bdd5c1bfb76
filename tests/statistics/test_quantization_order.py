"""Targets: the loss by its formula and by real rounding; the order by size, sensitivity and reach."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediant.statistics.quantization_order import (
    ONE_BIT,
    STORED_BITS,
    Target,
    human_count,
    human_factor,
    human_share,
    nominal_loss,
    order,
    sensitivity,
)
from mediant.values import LayerStatistics, TensorInfo

EPS = float(np.finfo(np.float64).eps)


def info(name: str = "w", shape: tuple[int, ...] = (8, 100), role="linear", layout="out_in", **more) -> TensorInfo:
    return TensorInfo(name, shape, "float32", role, layout, **more)


def layer(m: int, n: int, seed: int = 0, head: bool = False) -> LayerStatistics:
    rng = np.random.default_rng(seed)
    more = {"head_square": rng.random(n), "head_fisher": rng.random(m)} if head else {}
    return LayerStatistics(rng.random(n), rng.standard_normal(n), rng.random(m), 100, **more)


def weights(m: int, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((m, n)).astype(np.float32)


def by_definition(w: np.ndarray, g: np.ndarray, h: np.ndarray) -> float:
    """One weight after another: its sensitivity, times the square of its group's step over 12."""
    total = []
    for i, j in itertools.product(*map(range, w.shape)):
        start = j // 64 * 64
        step = 2 * max(abs(float(v)) for v in w[i, start : start + 64]) / 15
        total.append(g[i] * h[j] * step**2 / 12)
    return math.fsum(total)


@pytest.mark.parametrize("shape", [(1, 1), (5, 64), (3, 65), (7, 130), (4, 63)])
def test_loss_follows_its_formula(shape: tuple[int, int]) -> None:
    w, s = weights(*shape), layer(*shape, head=True)
    limit = 8 * w.size * EPS
    plain = by_definition(w, np.ones(shape[0]), np.ones(shape[1]))
    assert nominal_loss(w, info(shape=shape)) == pytest.approx(plain, rel=limit)
    embedding, tied = (info(shape=shape, role="embedding", aliases=a) for a in ((), ("lm_head.weight",)))
    assert nominal_loss(w, embedding) == pytest.approx(plain / shape[0], rel=limit)
    assert nominal_loss(w, tied) == pytest.approx(plain, rel=limit)
    uses = [(s.output_fisher, s.input_square), (s.head_fisher, s.head_square)]
    expected = sum(0.5 * by_definition(w, g, h) for g, h in uses)
    assert nominal_loss(w, info(shape=shape), s) == pytest.approx(expected, rel=limit)


def test_loss_is_the_error_of_rounding() -> None:
    """Uniform weights given their group's largest err evenly within a cell: exactly Δ²/12, the largest itself not."""
    groups = 4000
    w = np.random.default_rng(0).uniform(-1, 1, (groups, 64))
    step = 2 * np.abs(w).max(axis=1, keepdims=True) / 15
    levels = np.clip(np.round(w / step - 0.5) + 0.5, -7.5, 7.5) * step
    squares = (w - levels) ** 2 / (step**2 / 12)
    expected = 63 / 64
    error = squares.sum(axis=1).std() / 64 / math.sqrt(groups)
    assert abs(squares.mean() - expected) < 5 * error
    total, predicted = float(((w - levels) ** 2).sum()), nominal_loss(w, info(shape=w.shape))
    assert abs(total / predicted - expected) < 5 * error
    assert abs(2 * total / predicted - expected) > 5 * error


@given(st.integers(0, 50), st.sampled_from([0.25, 2.0, 16.0]))
def test_loss_scales_with_sensitivity_and_with_the_square_of_the_weights(seed: int, factor: float) -> None:
    w, s = weights(6, 70, seed), layer(6, 70, seed)
    loss = nominal_loss(w, info(shape=w.shape), s)
    more = LayerStatistics(s.input_square, s.input_mean, factor * s.output_fisher, s.tokens)
    assert nominal_loss(w, info(shape=w.shape), more) == factor * loss  # powers of two round nothing
    assert nominal_loss(np.float32(factor) * w, info(shape=w.shape), s) == factor**2 * loss
    assert nominal_loss(-w, info(shape=w.shape), s) == loss


def names(targets: tuple[Target, ...]) -> list[str]:
    return [t.name for t in targets]


def ranked(**losses_and_rows: tuple[float | None, int]) -> tuple[Target, ...]:
    tensors = [info(name, (rows, 100)) for name, (_, rows) in losses_and_rows.items()]
    losses = {name: loss for name, (loss, _) in losses_and_rows.items()}
    return order(tensors, losses, sum(t.size for t in tensors), calibrated=True)


def test_larger_tensors_go_first_at_the_same_loss() -> None:
    assert names(ranked(small=(1.0, 10), large=(1.0, 40), middle=(1.0, 20))) == ["large", "middle", "small"]


def test_less_sensitive_tensors_go_first_at_the_same_size() -> None:
    assert names(ranked(high=(9.0, 10), low=(1.0, 10), middle=(3.0, 10))) == ["low", "middle", "high"]


def test_the_larger_goes_first_at_the_same_rate() -> None:
    assert names(ranked(small=(1.0, 10), large=(4.0, 40))) == ["large", "small"]


rates = st.lists(st.tuples(st.floats(2.0**-40, 2.0**40), st.integers(1, 50)), min_size=1, max_size=12)


@given(rates, st.integers(-20, 20))
def test_the_order_rises_and_has_no_unit(pairs: list[tuple[float, int]], power: int) -> None:
    plain = {f"t{i}": pair for i, pair in enumerate(pairs)}
    targets = [t for t in ranked(**plain) if t.relative_loss is not None]
    assert [t.relative_loss for t in targets] == sorted(t.relative_loss for t in targets)
    scaled = ranked(**{name: (loss * 2.0**power, rows) for name, (loss, rows) in plain.items()})
    assert [(t.name, t.verdict, t.relative_loss) for t in scaled] == [
        (t.name, t.verdict, t.relative_loss) for t in ranked(**plain)
    ]


@given(st.permutations(range(6)))
def test_the_order_does_not_depend_on_the_order_given(places: list[int]) -> None:
    pairs = {f"t{i}": (2.0**i, 10) for i in places}
    assert names(ranked(**pairs)) == [f"t{i}" for i in range(6)]


def test_a_factor_of_four_is_one_bit_and_changes_the_verdict() -> None:
    found = ranked(a=(1 / ONE_BIT, 10), b=(1.01 / ONE_BIT, 10), c=(1.0, 10), d=(0.99 * ONE_BIT, 10), e=(ONE_BIT, 10))
    assert [t.verdict for t in found] == ["first", "next", "next", "next", "last"]
    assert 0.5 * math.log2(ONE_BIT) == 1


def test_what_costs_nothing_goes_first() -> None:
    found = ranked(used=(1.0, 10), unused=(0.0, 10), rarely=(0.5, 10))
    assert (found[0].name, found[0].verdict, found[0].relative_loss) == ("unused", "first", 0)
    lonely = ranked(used=(1.0, 10), unused=(0.0, 10), empty=(0.0, 20))
    assert [(t.name, t.verdict) for t in lonely] == [("empty", "first"), ("unused", "first"), ("used", "last")]


def test_what_is_small_or_no_matrix_is_kept_and_what_calibration_missed_is_said() -> None:
    tensors = [
        info("norm", (576,), "norm", "none"),
        info("tiny", (2, 3)),
        info("kernel", (10, 10, 10), "other", "none"),
        info("missed", (100, 100)),
        info("linear", (1000, 100)),
    ]
    found = order(tensors, {"tiny": 1.0, "missed": None, "linear": 1.0}, 111_582, calibrated=True)
    assert [(t.name, t.verdict) for t in found] == [
        ("linear", "next"),
        ("missed", "unknown"),
        ("kernel", "keep"),
        ("norm", "keep"),
        ("tiny", "keep"),
    ]
    assert found[0].reason == "100 k weights (90 %), average sensitivity (1.0 ×): quantize next"
    assert found[1].reason == "10 k weights (9 %), not reached by calibration: judge by hand"
    assert found[2].reason == "other, 1 k weights, no matrix form: keep"
    assert found[4].reason == "linear, 6 weights, not worth it: keep"
    assert found[0].saved_bytes == 100_000 * (STORED_BITS - 4) // 8
    assert math.fsum(t.share for t in found) == pytest.approx(1, abs=4 * EPS)


def test_without_calibration_the_reason_speaks_of_noise() -> None:
    (found,) = order([info()], {"w": 1.0}, 800, calibrated=False)
    assert found.reason == "800 weights (100 %), average noise (1.0 ×): quantize next"


def test_no_tensor_gives_no_target() -> None:
    assert order([], {}, 1, calibrated=False) == ()


def test_sensitivity_is_the_mean_of_the_products() -> None:
    s = layer(5, 7, head=True)
    found = sensitivity(s)
    each = np.outer(s.output_fisher, s.input_square) + np.outer(s.head_fisher, s.head_square)
    assert found.fisher == pytest.approx(each.mean(), rel=100 * EPS)
    assert found.gradient == s.output_fisher.mean()
    assert found.hessian == s.input_square.mean()
    assert found.peak == s.input_square.max() / s.input_square.mean()
    dead = LayerStatistics(np.zeros(3), np.zeros(3), np.ones(2), 10)
    assert (sensitivity(dead).fisher, sensitivity(dead).peak) == (0, 0)


@given(st.floats(0, 1e15))
def test_human_counts_keep_three_digits(number: float) -> None:
    digits, _, unit = human_count(number).partition(" ")
    value = float(digits) * 1000 ** ("", "k", "M", "G", "T").index(unit)
    assert abs(value - number) <= 0.005 * number * (1 + 8 * EPS)
    assert number > 999.5e12 or float(digits) < 1000


@given(st.floats(0.001, 1))
def test_human_shares_keep_two_digits(share: float) -> None:
    assert abs(float(human_share(share).removesuffix(" %")) - 100 * share) <= 5 * share * (1 + 8 * EPS)


@given(st.floats(1e-9, 1e3))
def test_human_factors_keep_the_factor(factor: float) -> None:
    text = human_factor(factor)
    if text.startswith("1/"):
        digits, _, unit = text[2:].partition(" ")
        value = 1 / (float(digits) * 1000 ** ("", "k", "M", "G").index(unit))
    else:
        value = float(text.removesuffix(" ×"))
    # a whole divisor of at least 2 is off by at most 1/2, and has three digits
    assert value == pytest.approx(factor, rel=0.5 / 2 + 0.005)
