"""Round trips of streams and tables, their lengths against the entropy, and damage of every kind."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediant.kernels import entropy_codes
from mediant.kernels.entropy_codes import MOST_MAGNITUDE, TOTAL, count, decode, encode, fit_table, fit_tables

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
    tables = fit_tables(numbers, classes)
    again = entropy_codes.tables_from_bytes(entropy_codes.tables_to_bytes(tables))
    assert len(again) == len(tables)
    for one, other in zip(tables, again, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(decode(encode(numbers, classes, again), classes, again), numbers)


def test_the_shape_comes_back():
    numbers, classes = (a.reshape(50, 100) for a in sample())
    tables = fit_tables(numbers, classes)
    np.testing.assert_array_equal(decode(encode(numbers, classes, tables), classes, tables), numbers)


def test_the_stream_is_as_long_as_its_tables_say_and_hardly_longer_than_the_entropy():
    numbers, classes = sample()
    tables = fit_tables(numbers, classes)
    stream = encode(numbers, classes, tables)
    shares = np.array([tables[c][abs(int(k))] for k, c in zip(numbers, classes, strict=True)])
    said = float(np.log2(TOTAL / shares).sum())
    assert said / 8 - 4 <= stream.size <= said / 8 + 8
    entropy = 0.0
    for counted in count(numbers, classes):
        seen = counted[counted > 0]
        entropy += float((seen * np.log2(counted.sum() / seen)).sum() + counted[1:].sum()) if seen.size else 0
    assert said <= 1.01 * entropy


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=3000))
def test_a_table_shares_out_everything_to_all_that_occurs(counts):
    table, counted = fit_table(np.array(counts)), np.array(counts)
    if not counted.sum():
        assert table.size == 0
        return
    assert table[0] + 2 * table[1:].sum() == TOTAL
    assert table[0] >= 2
    assert ((table[1:] > 0) == (counted[1 : len(table)] > 0)).all()
    assert not counted[len(table) :].any()


def test_a_table_has_room_for_every_magnitude():
    counts = np.ones(MOST_MAGNITUDE + 1, np.int64)
    counts[5] = 10**9
    table = fit_table(counts)
    assert table[0] == 2
    assert (table[1:] == 1).all()


def test_zeros_alone_take_no_stream():
    zeros = np.zeros(1000, np.int16)
    assert encode(zeros, zeros.astype(np.uint8), fit_tables(zeros, zeros.astype(np.uint8))).size == 0


def test_a_stream_that_is_not_one_is_refused():
    numbers, classes = sample()
    tables = fit_tables(numbers, classes)
    stream = encode(numbers, classes, tables)
    longer = np.concatenate([stream, np.uint8([1, 0, 0, 0])])
    zero_at_the_end = np.concatenate([stream, np.zeros(4, np.uint8)])
    for wrong in (stream[:-1], stream[:-4], stream[4:], longer, zero_at_the_end):
        with pytest.raises(ValueError, match="stream"):
            decode(wrong, classes, tables)
    with pytest.raises(ValueError, match="without a table"):
        decode(stream, classes + np.uint8(1), tables)
    with pytest.raises(ValueError, match="without a table"):
        decode(stream, classes, tables[:-1])


@pytest.mark.parametrize(
    "wrong",
    [
        [128],  # cut off in a number
        [2],  # cut off in a table
        [3, 5],  # the same
        [2, 0],  # ends in nothing
        [2, 128, 128, 2],  # no share is left for 0
        [128, 128, 128, 1],  # a number of four bytes
        [129, 128, 2],  # 32769 magnitudes
    ],
)
def test_tables_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match="table"):
        entropy_codes.tables_from_bytes(np.uint8(wrong))


def test_every_flipped_bit_is_seen_or_changes_a_number():
    numbers, classes = sample(60)
    tables = fit_tables(numbers, classes)
    stream = encode(numbers, classes, tables)
    for bit in range(8 * stream.size):
        damaged = stream.copy()
        damaged[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(ValueError):
            assert not np.array_equal(decode(damaged, classes, tables), numbers)
