"""Sizes as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mediant.errors import SizeError, UsageError
from mediant.planning.size import check_range, human, parse_size, stored_bytes
from mediant.values import Model, TensorInfo

MODEL = Model(
    path=Path("somewhere"),
    name="tiny",
    architecture="Tiny",
    config={},
    tensors=(
        TensorInfo("a", (100, 10), "float32", "linear", "out_in"),
        TensorInfo("b", (1000,), "bfloat16", "norm"),
    ),
    fingerprint="0",
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("60MB", 60_000_000),
        ("60 mb", 60_000_000),
        ("57MiB", 57 * 2**20),
        ("1.5GB", 1_500_000_000),
        ("12345", 12345),
        ("12345B", 12345),
        ("4bpw", 1000),
        ("3.5bpw", 875),
        ("25%", 1500),
    ],
)
def test_reads(text, expected):
    assert parse_size(text, MODEL) == expected


@pytest.mark.parametrize("text", ["", "MB", "-3MB", "0", "0MB", "3 parsecs", "1e6", "60MBit", "inf"])
def test_refuses_with_an_example(text):
    with pytest.raises(UsageError, match="60MB"):
        parse_size(text, MODEL)


def test_stored_bytes_follow_the_types():
    assert stored_bytes(MODEL) == 100 * 10 * 4 + 1000 * 2


def test_human():
    assert [human(x) for x in (5, 1500, 60_000_000, 2 * 10**9)] == [
        "5 bytes",
        "1.50 kB",
        "60.00 MB",
        "2.00 GB",
    ]


@pytest.mark.parametrize(
    ("asked", "smallest", "largest"),
    [((99, 100, 200), 100, 200), ((99, 100, 99), 100, None), ((400, 100, 200), 100, 200), ((400, 0, 200), None, 200)],
)
def test_a_refusal_says_what_can_be_met_in_bytes(asked, smallest, largest):
    with pytest.raises(SizeError) as refusal:
        check_range(*asked)
    assert (refusal.value.smallest, refusal.value.largest) == (smallest, largest)
    named = largest if asked[0] > asked[1] else smallest
    assert f"({named} bytes)" in str(refusal.value)
