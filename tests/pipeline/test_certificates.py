"""What a checkpoint certifies of its errors holds: on tiny models, and on a real one (slow)."""

from __future__ import annotations

import pytest

from mediant.pipeline.compress import compress
from mediant.pipeline.request import CompressRequest


def certificates(checkpoint):
    found = {name: e.certificate for name, e in checkpoint.tensors.items() if e.certificate is not None}
    return {name: c for name, c in found.items() if c.worst_error is not None}


@pytest.mark.parametrize("name", ["llama_tied", "gpt2", "mixtral"])
def test_no_layer_of_a_tiny_model_exceeds_its_bound(name, tiny_folder, text, feasible, tmp_path):
    size = str(feasible(name)[1])
    checkpoint = compress(CompressRequest(str(tiny_folder(name)), tmp_path / "out", size=size, calibration=text))
    unclipped = {n: c for n, c in certificates(checkpoint).items() if c.clipped == 0}
    assert unclipped
    for certificate in unclipped.values():
        assert 0 < certificate.weighted_error <= certificate.worst_error


def test_where_weights_clip_the_bound_is_not_claimed(compressed):
    found = certificates(compressed("llama_tied"))
    assert any(c.clipped > 0 for c in found.values())


@pytest.mark.slow
def test_no_layer_of_smollm2_exceeds_its_bound(tmp_path):
    checkpoint = compress(CompressRequest("demo", tmp_path / "out", size="75MB"))
    found = certificates(checkpoint)
    assert len(found) == 211
    for certificate in found.values():
        # A few weights in ten thousand are outside at these bit widths, and still the sums keep far below the bound.
        assert certificate.clipped < 0.05
        assert certificate.weighted_error <= certificate.worst_error
