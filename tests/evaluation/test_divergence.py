import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from mediant.errors import ModelError
from mediant.evaluation.divergence import Comparison, compare, standard_error, token_standard_error

Forward = Callable[[torch.Tensor], torch.Tensor]
VOCABULARY, WINDOW, WINDOWS = 11, 8, 5
# Sums of V float64 terms of size at most `peak` are right to V eps peak; a few such sums are taken in a row.
ROUNDING = 8 * VOCABULARY * np.finfo(np.float64).eps


def table_model(seed: int, spread: float = 2.0, vocabulary: int = VOCABULARY) -> Forward:
    """Logits that depend on the token and its position, so that a shift or a mixed-up window shows."""
    table = torch.randn(VOCABULARY, WINDOW, vocabulary, generator=torch.Generator().manual_seed(seed)) * spread
    return lambda ids: table[ids, torch.arange(ids.shape[1])]


def token_windows(seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCABULARY, (WINDOWS, WINDOW), generator=torch.Generator().manual_seed(seed))


def softmax(logits: list[float]) -> list[float]:
    powers = [math.exp(x - max(logits)) for x in logits]
    return [power / math.fsum(powers) for power in powers]


def by_hand(reference: Forward, candidate: Forward, windows: torch.Tensor) -> Comparison:
    """The definition, one number at a time, in Python floats."""
    rows: list[list[list[float]]] = [[], [], [], []]
    for ids in windows.tolist():
        found: list[list[float]] = [[], [], [], []]
        for target in range(len(ids) // 2, len(ids)):
            both = [model(torch.tensor([ids]))[0, target - 1].tolist() for model in (reference, candidate)]
            p, q = (softmax(logits) for logits in both)
            found[0].append(math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True)))
            found[1].append(-math.log(q[ids[target]]))
            found[2].append(-math.log(p[ids[target]]))
            found[3].append(float(p.index(max(p)) == q.index(max(q))))
        for row, values in zip(rows, found, strict=True):
            row.append(values)
    return Comparison(*(np.array(row) for row in rows))


def same(a: Comparison, b: Comparison) -> bool:
    figures = ("token_kl", "token_nll", "token_reference_nll", "token_agreement")
    peak = max(float(np.abs(getattr(b, f)).max()) for f in figures)
    return all(
        getattr(a, f).shape == getattr(b, f).shape
        and bool(np.all(np.abs(getattr(a, f) - getattr(b, f)) <= ROUNDING * max(1.0, peak)))
        for f in figures
    )


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_definition(seed: int) -> None:
    reference, candidate, windows = table_model(seed), table_model(seed + 100), token_windows(seed)
    expected = by_hand(reference, candidate, windows)
    found = compare(reference, candidate, windows)
    assert same(found, expected)
    assert math.isclose(found.perplexity, math.exp(expected.token_nll.mean()), rel_tol=100 * ROUNDING)
    assert math.isclose(
        found.reference_perplexity, math.exp(expected.token_reference_nll.mean()), rel_tol=100 * ROUNDING
    )


BUMP = torch.eye(VOCABULARY)[None, :1]
WRONG: dict[str, Callable[[Forward], Forward]] = {
    "scaled logits": lambda f: lambda ids: f(ids) * 1.01,
    "wrong sign": lambda f: lambda ids: -f(ids),
    "shifted positions": lambda f: lambda ids: f(ids).roll(1, dims=1),
    "permuted vocabulary": lambda f: lambda ids: f(ids).roll(1, dims=-1),
    "one bad element": lambda f: lambda ids: f(ids).index_add(1, torch.tensor([5]), BUMP),
}


@pytest.mark.parametrize("name", WRONG)
def test_every_wrong_model_has_a_divergence(name: str) -> None:
    reference, windows = table_model(1), token_windows(1)
    wrong = compare(reference, WRONG[name](reference), windows)
    right = compare(reference, lambda ids: reference(ids).clone(), windows)
    assert right.token_kl.max() == right.token_kl.min() == 0
    assert right.token_agreement.min() == 1
    assert wrong.kl > wrong.kl_se / 1000 > 0
    assert not same(wrong, right)


def test_a_constant_added_to_all_logits_changes_nothing() -> None:
    reference, windows = table_model(2), token_windows(2)
    shifted = compare(lambda ids: reference(ids).double(), lambda ids: reference(ids).double() + 4, windows)
    assert np.abs(shifted.token_kl).max() <= 20 * ROUNDING  # logits stay below 20
    assert shifted.token_agreement.min() == 1


@pytest.mark.parametrize("itself", [True, False])
def test_a_model_is_exactly_itself_and_runs_once(itself: bool) -> None:
    calls = []
    model = table_model(3)

    def counted(ids: torch.Tensor) -> torch.Tensor:
        calls.append(ids)
        return model(ids)

    found = compare(counted, counted if itself else None, token_windows(3))
    assert found.token_kl.tolist() == np.zeros((WINDOWS, WINDOW // 2)).tolist()
    assert found.token_agreement.min() == 1
    assert found.perplexity == found.reference_perplexity
    assert len(calls) == WINDOWS


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), spread=st.floats(0, 30))
def test_divergence_is_never_negative(seed: int, spread: float) -> None:
    found = compare(table_model(seed, spread), table_model(seed + 1, spread), token_windows(seed))
    assert found.token_kl.min() >= -ROUNDING * max(1.0, 10 * spread)


def test_uniform_logits_have_the_vocabulary_as_perplexity() -> None:
    def uniform(ids: torch.Tensor) -> torch.Tensor:
        return torch.full((*ids.shape, VOCABULARY), 3.0)

    found = compare(table_model(4), uniform, token_windows(4))
    assert math.isclose(found.perplexity, VOCABULARY, rel_tol=ROUNDING)
    # and KL to uniform is log V minus the entropy of the reference
    entropy = [
        -(p * p.log()).sum(-1)
        for p in (table_model(4)(ids[None])[0, 3:7].double().softmax(-1) for ids in token_windows(4))
    ]
    assert np.allclose(found.token_kl, math.log(VOCABULARY) - torch.stack(entropy).numpy(), rtol=0, atol=4 * ROUNDING)


def test_half_precision_logits_are_taken_as_they_are() -> None:
    reference, windows = table_model(5), token_windows(5)
    half = compare(lambda ids: reference(ids).bfloat16(), None, windows)
    full = compare(lambda ids: reference(ids).bfloat16().double(), None, windows)
    assert np.array_equal(half.token_nll, full.token_nll)


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 100])
def test_the_chunk_does_not_change_the_result(chunk: int) -> None:
    models = table_model(6), table_model(7)
    assert same(compare(*models, token_windows(6), chunk=chunk), compare(*models, token_windows(6)))


class Largest(TorchDispatchMode):
    """Remembers the largest float64 tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64:
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_memory_is_bounded_by_the_chunk(chunk: int) -> None:
    models = table_model(8, vocabulary=1000), table_model(9, vocabulary=1000)
    with Largest() as seen:
        compare(*models, token_windows(8), chunk=chunk)
    assert seen.elements == chunk * 1000


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_name_the_model_and_the_window(value: float) -> None:
    reference, windows = table_model(10), token_windows(10)
    calls = []

    def broken(ids: torch.Tensor) -> torch.Tensor:
        calls.append(ids)
        logits = reference(ids).clone()
        if len(calls) == 3:
            logits[0, 4, 7] = value
        return logits

    with pytest.raises(ModelError, match="candidate's logits in window 2 "):
        compare(reference, broken, windows)
    calls.clear()
    with pytest.raises(ModelError, match="reference's logits in window 2 "):
        compare(broken, reference, windows)


def test_vocabularies_of_different_size_are_refused() -> None:
    with pytest.raises(ModelError, match="vocabulary of 11 tokens and the candidate one of 12"):
        compare(table_model(0), table_model(0, vocabulary=12), token_windows())


def test_a_perplexity_beyond_floats_is_an_error_and_not_infinity() -> None:
    found = Comparison(*(np.full((2, 3), 800.0) for _ in range(4)))
    with pytest.raises(ModelError, match="800 nats"):
        _ = found.perplexity


def test_means_and_errors_are_those_of_the_tokens() -> None:
    found = compare(table_model(11), table_model(12), token_windows(11))
    assert found.kl == found.token_kl.mean()
    assert found.top1 == found.token_agreement.mean()
    assert found.kl_se == standard_error(found.token_kl) != found.kl_se_tokens
    assert found.kl_se_tokens == token_standard_error(found.token_kl)
    assert found.top1_se == standard_error(found.token_agreement)
    rows = found.per_window()
    assert [r["kl"] for r in rows] == found.token_kl.mean(axis=1).tolist()
    assert [r["nll"] for r in rows] == found.token_nll.mean(axis=1).tolist()
    assert [r["reference_nll"] for r in rows] == found.token_reference_nll.mean(axis=1).tolist()
    assert [r["top1"] for r in rows] == found.token_agreement.mean(axis=1).tolist()


figures = st.integers(1, 5).flatmap(
    lambda width: st.lists(st.lists(st.integers(-99, 99), min_size=width, max_size=width), min_size=2, max_size=6)
)


@given(figures)
def test_standard_error_is_the_textbook_formula_on_window_means(rows: list[list[int]]) -> None:
    means = [Fraction(sum(row), len(row)) for row in rows]
    centre = sum(means) / len(means)
    square = sum((m - centre) ** 2 for m in means) / (len(means) - 1) / len(means)
    found = standard_error(np.array(rows, dtype=float))
    assert math.isclose(found, math.sqrt(square), rel_tol=1e-12, abs_tol=64 * 99 * np.finfo(float).eps)


def test_windows_that_repeat_their_tokens_show_why_tokens_are_not_independent() -> None:
    window_means = np.random.default_rng(0).normal(size=(20, 1))
    repeated = np.repeat(window_means, 64, axis=1)
    assert math.isclose(standard_error(repeated), standard_error(window_means), rel_tol=1e-12)
    assert token_standard_error(repeated) < standard_error(repeated) / 7.9  # sqrt(64) = 8


def test_one_window_falls_back_on_its_tokens() -> None:
    row = np.array([[1.0, 2.0, 4.0]])
    assert standard_error(row) == token_standard_error(row) > 0
    assert standard_error(np.array([[1.0]])) == 0
