import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mediant.errors import ModelError, TextError
from mediant.evaluation.embeddings import cosines, lines, random_sentences

Embed = Callable[[torch.Tensor], torch.Tensor]
VOCABULARY, WIDTH = 13, 6


def table_encoder(seed: int, width: int = WIDTH) -> Embed:
    table = torch.randn(VOCABULARY, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return lambda ids: table[ids]


SENTENCES = [torch.tensor([1, 2, 3]), torch.tensor([4]), torch.tensor([5, 5, 6, 7])]


def test_equals_the_definition() -> None:
    found = cosines(table_encoder(0), table_encoder(1), SENTENCES)
    for cosine, ids in zip(found, SENTENCES, strict=True):
        p, q = (np.mean([table_encoder(s)(i[None])[0].tolist() for i in ids], axis=0) for s in (0, 1))
        expected = math.fsum(p * q) / math.sqrt(math.fsum(p * p) * math.fsum(q * q))
        assert math.isclose(cosine, expected, abs_tol=16 * WIDTH * np.finfo(float).eps)


def test_only_the_same_direction_gives_one() -> None:
    reference = table_encoder(0)
    eps = 16 * WIDTH * np.finfo(float).eps
    assert np.all(cosines(reference, lambda ids: reference(ids) * 3, SENTENCES) >= 1 - eps)
    assert np.all(cosines(reference, lambda ids: -reference(ids), SENTENCES) <= -1 + eps)
    assert np.all(cosines(reference, lambda ids: reference(ids).roll(1, -1), SENTENCES) < 1 - eps)
    assert np.all(cosines(reference, lambda ids: reference(ids) + 0.1, SENTENCES) < 1 - eps)


def test_not_finite_or_of_another_width_is_refused() -> None:
    with pytest.raises(ModelError, match="not finite"):
        cosines(table_encoder(0), lambda ids: table_encoder(0)(ids) / 0, SENTENCES)
    with pytest.raises(ModelError, match="6 components and the candidate's 7"):
        cosines(table_encoder(0), table_encoder(0, 7), SENTENCES)


def test_sentences_are_the_lines_that_are_not_blank(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("One.\n\n  Two. \n")
    assert lines(tmp_path / "text") == ["One.", "Two."]


@pytest.mark.parametrize("content", [b"", b" \n\n", b"\xff\xfe\x00bad"])
def test_a_text_without_sentences_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(TextError):
        lines(tmp_path / "text")
    with pytest.raises(TextError):
        lines(tmp_path / "missing")
    with pytest.raises(TextError):
        lines(tmp_path)


def test_random_sentences_follow_their_seed() -> None:
    a, b = random_sentences(VOCABULARY, 4, 9, 1), random_sentences(VOCABULARY, 4, 9, 1)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert any(not torch.equal(x, y) for x, y in zip(a, random_sentences(VOCABULARY, 4, 9, 2), strict=True))
    assert len(a) == 4
    assert all(x.shape == (9,) and set(x.tolist()) <= set(range(VOCABULARY)) for x in a)
