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


def test_a_file_of_ranges_is_read_as_written(folder, tmp_path):
    ranges = static_ranges.measure(folder, torch.tensor([TOKENS]), {"name": "percentile", "percent": 90})
    static_ranges.write(tmp_path / "ranges", ranges)
    again = static_ranges.read(tmp_path / "ranges")
    assert again.keys() == ranges.keys()
    assert all(np.array_equal(again[name], ranges[name]) for name in ranges)


def test_what_is_not_of_this_model_is_refused(folder, tiny_folder, tmp_path):
    decoder = Decoder.open(folder, threads=1)
    ranges = {m.name: np.ones(-(-m.views[0].columns // 32), np.float32) for m in decoder.multiplied}
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
    write_encoded(tiny_folder("llama"), tmp_path / "cast", cast)
    with pytest.raises(UsageError, match="no matrices"):
        static_ranges.measure(tmp_path / "cast", torch.tensor([TOKENS]), {"name": "min_max"})
