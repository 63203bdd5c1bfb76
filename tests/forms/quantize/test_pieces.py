"""A matrix encoded in pieces has the bytes of the whole one, and its certificate to rounding."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mediant.forms.encoding import Original, encode
from mediant.forms.quantize import pieces
from mediant.planning.recipe import load_recipe
from mediant.values import LayerStatistics, RowSpan, TensorInfo

ROWS, COLUMNS = 700, 96
RUNS = (RowSpan(323, 2), RowSpan(200, 3), RowSpan(177, 4))


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    from mediant.forms.quantize import encode as module

    monkeypatch.setattr(pieces, "LARGE", 1)
    monkeypatch.setattr(pieces, "PIECE", 96 * 64)
    for place in (pieces, module):
        monkeypatch.setattr(place, "CHUNK", 96 * 12)


def _statistics(generator, head):
    square = generator.random(COLUMNS) + 0.1
    fisher = generator.random(ROWS)
    two = {"head_square": generator.random(COLUMNS) + 0.1, "head_fisher": generator.random(ROWS)} if head else {}
    return LayerStatistics(square, np.zeros(COLUMNS), fisher, 100, **two)


@pytest.mark.parametrize(
    ("recipe", "changes", "known"),
    [
        ("quick", {}, "nothing"),
        ("quick", {"rotate": False}, "diagonal"),
        ("quick", {"grid": {"name": "lloyd"}}, "nothing"),
        ("default", {}, "diagonal"),
        ("default", {}, "hessian"),
        ("default", {}, "head"),
        ("nested", {}, "hessian"),
    ],
)
def test_pieces_have_the_bytes_of_the_whole(recipe, changes, known):
    generator = np.random.default_rng(0)
    info = TensorInfo("model.embed_tokens.weight", (ROWS, COLUMNS), "float32", "embedding", "out_in")
    plan = dataclasses.replace(load_recipe(recipe), **changes).tensor_plan(RUNS, "embedding")
    matrix = generator.standard_normal((ROWS, COLUMNS)).astype(np.float32)
    x = generator.standard_normal((4 * COLUMNS, COLUMNS))
    hessian = x.T @ x / len(x) if known in ("hessian", "head") else None
    statistics = None if known == "nothing" else _statistics(generator, known == "head")
    assert pieces.suits(plan, info)
    whole = encode(Original(info, matrix, statistics, hessian), plan)
    seen = []

    def read(begin, end):
        seen.append((begin, end))
        return matrix[begin:end].copy()

    found = pieces.encode_in_pieces(info, plan, read, statistics, hessian)
    assert max(end - begin for begin, end in seen) < ROWS / 2
    assert found.parts.keys() == whole.parts.keys()
    for name, part in whole.parts.items():
        np.testing.assert_array_equal(found.parts[name], part, err_msg=name)
    for name, value in dataclasses.asdict(whole.certificate).items():
        # Sums of at most 700 * 96 positive terms in float64, in another order.
        assert getattr(found.certificate, name) == pytest.approx(value, rel=1e5 * np.finfo(np.float64).eps)


def test_what_is_taken_whole():
    embedding = TensorInfo("e", (ROWS, COLUMNS), "float32", "embedding", "out_in")
    assert not pieces.suits(load_recipe("rtn").tensor_plan(RUNS), embedding)
    assert not pieces.suits(load_recipe("awq").tensor_plan(RUNS), embedding)
    assert not pieces.suits(load_recipe("quick").tensor_plan(RUNS), dataclasses.replace(embedding, layout="in_out"))
