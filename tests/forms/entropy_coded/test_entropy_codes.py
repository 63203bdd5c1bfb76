"""Round trips of streams and curves, their lengths against the entropy, and damage of every kind."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediant.forms.entropy_coded.entropy_codes import (
    MAGNITUDES_MARKED,
    MOST_MAGNITUDE,
    TOTAL,
    count,
    curves_from_bytes,
    curves_to_bytes,
    decode,
    encode,
    fit_curve,
    fit_curves,
    table_of,
)

NUMBERS = st.lists(st.tuples(st.integers(-MOST_MAGNITUDE, MOST_MAGNITUDE), st.integers(0, 30)), max_size=40)


def sample(size=5000, seed=0):
    """Numbers of three classes of very different spread, one of which never comes up."""
    generator = np.random.default_rng(seed)
    classes = generator.choice(np.uint8([0, 2, 3]), size)
    spread = np.array([0.02, 0, 1.5, 40])[classes]
    return np.rint(spread * generator.standard_normal(size)).astype(np.int16), classes


@given(NUMBERS)
def test_any_numbers_come_back(pairs):
    numbers, classes = np.array([k for k, _ in pairs], np.int16), np.array([c for _, c in pairs], np.uint8)
    curves = fit_curves(numbers, classes)
    again = curves_from_bytes(curves_to_bytes(curves))
    assert len(again) == len(curves)
    for one, other in zip(curves, again, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(decode(encode(numbers, classes, again), classes, again), numbers)


def test_the_shape_comes_back():
    numbers, classes = (a.reshape(50, 100) for a in sample())
    curves = fit_curves(numbers, classes)
    np.testing.assert_array_equal(decode(encode(numbers, classes, curves), classes, curves), numbers)


def test_the_stream_is_as_long_as_its_tables_say_and_hardly_longer_than_the_entropy():
    numbers, classes = sample()
    curves = fit_curves(numbers, classes)
    stream = encode(numbers, classes, curves)
    shares = np.array([table_of(curves[c])[abs(int(k))] for k, c in zip(numbers, classes, strict=True)])
    said = float(np.log2(TOTAL / shares).sum())
    assert said / 8 - 4 <= stream.size <= said / 8 + 8
    entropy = 0.0
    for counted in count(numbers, classes):
        seen = counted[counted > 0]
        entropy += float((seen * np.log2(counted.sum() / seen)).sum() + counted[1:].sum()) if seen.size else 0
    assert said <= 1.01 * entropy


@pytest.mark.parametrize("spread", [0.3, 1.0, 4.0, 30.0, 1000.0])
@pytest.mark.parametrize("kind", ["standard_normal", "standard_t"])
def test_a_curve_codes_alike_numbers_as_well_as_their_frequencies(kind, spread):
    """Fewer magnitudes than there are, and rounded marks, cost at most 0.01 bit a number not seen."""
    generator = np.random.default_rng(7)
    drawn = getattr(generator, kind)(*([3] if kind == "standard_t" else []), 400_000) * spread
    magnitudes = np.minimum(np.abs(np.rint(drawn)), MOST_MAGNITUDE).astype(np.int64)
    here, there = magnitudes[::2], magnitudes[1::2]
    table = table_of(fit_curve(np.bincount(here)))
    seen = there[there < len(table)]
    truth = np.bincount(magnitudes) / len(magnitudes)
    truth[1:] /= 2
    bits = np.log2(TOTAL / table[seen]).mean() - np.log2(1 / truth[seen]).mean()
    # Frequencies of 400 000 numbers know these numbers themselves: a magnitude's parameter each.
    assert bits < 0.01 + len(truth) / len(there) / np.log(2)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=3000))
def test_a_table_shares_out_everything_and_leaves_nothing_that_occurs_without(counts):
    counted = np.array(counts)
    table = table_of(fit_curve(counted))
    if not counted.sum():
        assert table.size == 0
        return
    assert table[0] + 2 * table[1:].sum() == TOTAL
    assert table.min() >= 1
    assert not counted[len(table) :].any()


@given(st.lists(st.integers(0, 255), min_size=1, max_size=len(MAGNITUDES_MARKED)))
def test_any_marks_make_a_table(marks):
    table = table_of(np.array(marks, np.uint8))
    assert table[0] + 2 * table[1:].sum() == TOTAL
    assert table.min() >= 1
    assert len(table) == min(MAGNITUDES_MARKED[len(marks) - 1], MOST_MAGNITUDE) + 1


def test_a_weight_is_linear_between_marks():
    """Weights 8 * 2^10 at 0 to 7 and at 8, and twice that at 10: one and a half times at 9."""
    table = table_of(np.uint8([*[80] * 9, 88]))
    assert len(table) == 11
    np.testing.assert_allclose(table[1:] / table[1], [1] * 8 + [1.5, 2], rtol=1e-5)


def test_a_rounding_mantissa_carries_into_the_exponent():
    """Weights just below a power of two are marked with it."""
    curve = fit_curve(np.array([2**20, 2 * (2**20 - 1), 2 * 2**19 - 1]))
    assert int(curve[0]) == int(curve[1]) == int(curve[2]) + 8


def test_zeros_alone_take_no_stream():
    zeros = np.zeros(1000, np.int16)
    assert encode(zeros, zeros.astype(np.uint8), fit_curves(zeros, zeros.astype(np.uint8))).size == 0


def test_a_stream_that_is_not_one_is_refused():
    numbers, classes = sample()
    curves = fit_curves(numbers, classes)
    stream = encode(numbers, classes, curves)
    longer = np.concatenate([stream, np.uint8([1, 0, 0, 0])])
    zero_at_the_end = np.concatenate([stream, np.zeros(4, np.uint8)])
    for wrong in (stream[:-1], stream[:-4], stream[4:], longer, zero_at_the_end):
        with pytest.raises(ValueError, match="stream"):
            decode(wrong, classes, curves)
    with pytest.raises(ValueError, match="without a curve"):
        decode(stream, classes + np.uint8(1), curves)
    with pytest.raises(ValueError, match="without a curve"):
        decode(stream, classes, curves[:-1])


@pytest.mark.parametrize("wrong", [[1], [3, 5, 6], [58, *[0] * 58]])
def test_curves_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match="curve"):
        curves_from_bytes(np.uint8(wrong))


def test_every_flipped_bit_is_seen_or_changes_a_number():
    numbers, classes = sample(60)
    curves = fit_curves(numbers, classes)
    stream = encode(numbers, classes, curves)
    for bit in range(8 * stream.size):
        damaged = stream.copy()
        damaged[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(ValueError):
            assert not np.array_equal(decode(damaged, classes, curves), numbers)
