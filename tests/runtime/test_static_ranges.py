"""Fixed ranges of activations: found on a text, used by the native decoder, refused where they do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.runtime.conftest import write_encoded
from tests.runtime.test_opening import cast, tiled

from mediant.errors import UsageError
from mediant.kernels import native
from mediant.kernels.packed_matrix import COARSE, FINE
from mediant.runtime import static_ranges
from mediant.runtime.decoder import Decoder
from mediant.runtime.static_ranges import FIRSTS

pytestmark = pytest.mark.skipif(native is None, reason="needs the native kernels")
TOKENS = [3, 14, 15, 9, 2, 6, 5, 35]


@pytest.fixture(scope="module")
def folder(tiny_folder, tmp_path_factory):
    made = tmp_path_factory.mktemp("ranges") / "tiled"
    write_encoded(tiny_folder("llama"), made, tiled)
    return made


def logits(decoder):
    return decoder.logits(decoder.sequence(), TOKENS)


@pytest.mark.parametrize("bits", [8, 15])
def test_ranges_of_the_text_itself_change_little(folder, bits):
    decoder = Decoder.open(folder, threads=1, activation_bits=bits)
    dynamic = logits(decoder)
    ranges = static_ranges.measure(folder, torch.tensor([TOKENS]), {"name": "min_max"})
    assert set(ranges) == {m.name for m in decoder.multiplied}
    decoder.set_ranges(ranges)
    static = logits(decoder)
    assert not np.array_equal(static, dynamic)
    spread = float(dynamic.std())
    # Steps of 15 bits are a 128th of those of 8; a factor of 2 is for what only clipping tells apart.
    assert np.abs(static - dynamic).max() < 0.1 * (1 if bits == 8 else 2 * COARSE / FINE) * spread
    decoder.set_ranges({name: found / 8 for name, found in ranges.items()})
    assert np.abs(logits(decoder) - dynamic).max() > 0.1 * spread
    decoder.set_ranges(None)
    assert np.array_equal(logits(decoder), dynamic)


def test_the_first_tokens_of_a_sequence_keep_their_own_ranges(folder):
    """With ranges that clip everything only first tokens come through: alone, ahead of others, and in a batch."""
    decoder = Decoder.open(folder, threads=1)
    alone = decoder.logits(decoder.sequence(), TOKENS[:FIRSTS])
    dynamic = logits(decoder)
    ranges = static_ranges.measure(folder, torch.tensor([TOKENS]), {"name": "min_max"})
    decoder.set_ranges({name: np.zeros_like(found) for name, found in ranges.items()})
    np.testing.assert_array_equal(decoder.logits(decoder.sequence(), TOKENS[:FIRSTS]), alone)
    found = logits(decoder)
    np.testing.assert_array_equal(found[:FIRSTS], dynamic[:FIRSTS])
    assert (found[FIRSTS:] == 0).all()
    two = [decoder.sequence(), decoder.sequence()]
    decoder.prefill(two[1], TOKENS[:FIRSTS])
    np.testing.assert_array_equal(decoder.batch(two, [TOKENS[:1], TOKENS[:1]]), [alone[0], np.zeros_like(alone[0])])


def test_ranges_are_those_of_the_tokens_behind_the_first(folder):
    """A text in which only the first tokens are others has the same ranges of the embedded tokens' queries."""
    name = next(
        m.name for m in Decoder.open(folder, threads=1).multiplied if "layers.0" in m.name and "q_proj" in m.name
    )
    found = [
        static_ranges.measure(folder, torch.tensor([[first] * FIRSTS + TOKENS]), {"name": "min_max"})[name]
        for first in (7, 11)
    ]
    np.testing.assert_array_equal(*found)


def test_a_file_of_ranges_is_read_as_written(folder, tmp_path):
    ranges = static_ranges.measure(folder, torch.tensor([TOKENS]), {"name": "percentile", "percent": 90})
    static_ranges.write(tmp_path / "ranges", ranges)
    again = static_ranges.read(tmp_path / "ranges")
    assert again.keys() == ranges.keys()
    assert all(np.array_equal(again[name], ranges[name]) for name in ranges)


def test_what_is_not_of_this_model_is_refused(folder, tiny_folder, tmp_path):
    decoder = Decoder.open(folder, threads=1)
    ranges = {m.name: np.ones(-(-m.linears[0].columns // 32), np.float32) for m in decoder.multiplied}
    name = decoder.multiplied[0].name
    with pytest.raises(UsageError, match="another model"):
        decoder.set_ranges({n: r for n, r in ranges.items() if n != name})
    with pytest.raises(UsageError, match=name):
        decoder.set_ranges(ranges | {name: np.ones(99, np.float32)})
    with pytest.raises(UsageError, match="no file of ranges"):
        static_ranges.read(tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(UsageError, match="not a file of ranges"):
        static_ranges.read(tmp_path / "text")
    with pytest.raises(UsageError, match="first 4 tokens"):
        static_ranges.measure(folder, torch.tensor([TOKENS[:FIRSTS]]), {"name": "min_max"})
    write_encoded(tiny_folder("llama"), tmp_path / "cast", cast)
    with pytest.raises(UsageError, match="no matrices"):
        static_ranges.measure(tmp_path / "cast", torch.tensor([TOKENS]), {"name": "min_max"})
