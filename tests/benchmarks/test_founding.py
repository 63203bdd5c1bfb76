from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import founding
import founding_methods
import founding_models
import founding_page
import numpy as np
import pytest
import torch
import transformers
from founding_methods import GROUP, BoundedDenominator, BoundedError, Coded, Lloyd, Method, Step, Table, Totals
from hypothesis import given
from hypothesis import strategies as st

from mediant.discovery import make
from mediant.kernels.bfloat16 import from_float32, to_float32
from mediant.numbers import farey


def gaussian(rows: int = 4, columns: int = 2 * GROUP) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((rows, columns)).astype(np.float32)


def coded(values: list[tuple[int, int]], index: list[int]) -> tuple[np.ndarray, Coded]:
    """A row without error."""
    p, q = np.array(values).T
    row = (p / q)[np.array([index])].astype(np.float32)
    return row, Coded(np.array([index]), p, q, row)


def totals(values: list[tuple[int, int]], index: list[int], own_table: bool = False) -> Totals:
    sums = Totals()
    sums.add(*coded(values, index), own_table)
    return sums


def relative_error(method: Method, matrix: np.ndarray) -> float:
    return float(10 ** (-founding_methods.measure(method, [matrix], matrix.size, 4.0)["decibels"] / 10))


# Honest bits.


def test_fixed_length_counts_whole_bits_scales_and_tables() -> None:
    row = gaussian()
    for levels, bits in ((2, 1), (4, 2), (5, 3), (16, 4), (17, 5)):
        found = founding_methods.measure(Table(tuple(np.arange(levels) - levels / 2 + 0.25)), [row], row.size, 4.0)
        assert found["fixed_bits"] == bits + 16 / 64
    assert founding_methods.measure(Lloyd(3), [row, row], 1024, 4.0)["fixed_bits"] == 3 + 16 / 64 + 2 * 8 * 8 / 1024
    found = founding_methods.measure(BoundedError(0.3, False), [row], row.size, 4.0)
    assert found["fixed_bits"] == math.ceil(math.log2(found["values"])) + 32 * found["values"] / row.size


def test_entropy_of_equal_shares_is_their_logarithm_and_of_one_value_nothing() -> None:
    assert totals([(0, 1), (1, 3), (1, 2), (1, 1)], [0, 1, 2, 3] * 8).entropy() == 2
    assert totals([(5, 7), (6, 7)], [1] * 32).entropy() == 0


@given(st.lists(st.integers(0, 6), min_size=2, max_size=200))
def test_the_count_by_entropy_is_that_of_an_adaptive_code(index: list[int]) -> None:
    """Krichevsky and Trofimov's code needs at least n H bits, and at most our count and log2 K."""
    row, _ = coded([(k, 7) for k in range(7)], index)
    found = founding_methods.figures(Step(1 / 7), totals([(k, 7) for k in range(7)], index), row.size, 1.0)
    ours = (found["entropy_bits"] - 32 / row.size) * row.size
    counts = np.unique(index, return_counts=True)[1]
    n, k = len(index), len(counts)
    log_probability = math.lgamma(k / 2) - math.lgamma(n + k / 2)
    log_probability += sum(math.lgamma(c + 0.5) - math.lgamma(0.5) for c in counts)
    code = -log_probability / math.log(2)
    rounding = 1e-12 * n * math.log2(n)
    assert totals([(k, 7) for k in range(7)], index).entropy() * n <= code + rounding
    assert code <= ours + math.log2(k) + rounding


def test_values_of_different_matrices_are_one_alphabet_unless_each_has_its_own_table() -> None:
    for own, entropy in ((False, 2.0), (True, 1.0)):
        sums = Totals()
        for values in ([(1, 2), (1, 3)], [(1, 5), (1, 7)]):
            sums.add(*coded(values, [0, 1] * 4), own)
        assert sums.entropy() == entropy


@pytest.mark.parametrize("order", range(1, 7))
@pytest.mark.parametrize("peak", [0.3, 1.0, 1.45, 2.75])
def test_possible_fractions_are_what_numbers_up_to_the_peak_are_rounded_to(order: int, peak: float) -> None:
    """No two fractions of order 6 are nearer than 1/30, so a step of 1/64 reaches all of them."""
    numbers = [Fraction(k, 64) for k in range(int(peak * 64) + 1)] + [Fraction(peak)]
    reached = {sign * x.limit_denominator(order) for x in numbers for sign in (1, -1)}
    assert BoundedDenominator(order, False).possible(peak) == len(reached)


# Shift-and-add form.


def test_farey_sets_up_to_order_6_are_integers_of_a_signed_byte_and_7_is_not() -> None:
    for order in range(1, 8):
        p, q = farey.sequence(order)
        adders, divided = founding_methods.shift_add(Coded(np.zeros((1, 1), int), p, q, np.zeros((1, 1), np.float32)))
        lcm = math.lcm(*range(1, order + 1))
        assert divided.any() == (order == 7)
        if order < 7:
            assert adders.tolist() == [fewest_additions(int(n)) for n in p * (lcm // q)]


def fewest_additions(number: int) -> int:
    """By trying all sums and differences of powers of two, fewest first."""
    powers = [s << k for k in range(9) for s in (1, -1)]
    sums, count = {0}, 0
    while number not in sums:
        sums, count = {a + b for a in sums for b in powers}, count + 1
    return max(0, count - 1)


def test_powers_of_two_need_no_addition_and_thirds_a_division() -> None:
    shifts = totals([(1, 1 << 14), (-1, 2), (4, 1)], [0, 1, 2])
    assert (shifts.adders, shifts.divisions) == (0, 0)
    thirds = totals([(1, 3), (1, 128), (5, 1)], [0, 1, 2, 2])
    assert (thirds.adders, thirds.divisions) == (2, 1)


# The methods.


METHODS = founding.grids() | founding.fractions()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_decodes_to_its_values_times_its_scale(name: str) -> None:
    matrix = gaussian()
    found = METHODS[name].encode(matrix)
    values = (found.numerators / found.denominators)[found.index]
    assert np.all(np.gcd(found.numerators, found.denominators) == 1)
    if isinstance(METHODS[name], Step):
        expected = values * METHODS[name].step
    elif METHODS[name].scaled:
        groups, of = values.reshape(-1, GROUP), found.decoded.reshape(-1, GROUP).astype(np.float64)
        scale = of[np.arange(len(of)), np.abs(of).argmax(1)] / groups[np.arange(len(of)), np.abs(of).argmax(1)]
        # Stored as bfloat16, so the quotient of two float32 is within 2^-22 of one.
        stored = to_float32(from_float32(scale.astype(np.float32)))
        assert np.all(np.abs(stored - scale) <= 2.0**-22 * np.abs(scale))
        expected = (groups * stored[:, None]).reshape(matrix.shape)
    else:
        expected = values
    assert np.all(np.abs(found.decoded - expected) <= 2.0**-22 * np.abs(expected))


@pytest.mark.parametrize("name", METHODS)
def test_no_method_has_more_values_than_it_counts_or_less_error_than_its_bits_allow(name: str) -> None:
    """Shannon: Gaussian weights at R bits keep an error of at least 2^-2R; short rows only add to it."""
    matrix = gaussian(64)
    peak = float(np.abs(matrix).max())
    found = founding_methods.measure(METHODS[name], [matrix], matrix.size, peak)
    sums = Totals()
    sums.add(matrix, METHODS[name].encode(matrix), METHODS[name].own_table)
    assert len(sums.counts) <= found["values"]
    assert found["decibels"] <= 20 * math.log10(2) * found["entropy_bits"]


@pytest.mark.parametrize("bound", [2, 5, 8])
def test_a_bounded_denominator_is_that_of_the_standard_library(bound: int) -> None:
    matrix = gaussian()
    found = BoundedDenominator(bound, False).encode(matrix)
    best = [Fraction(float(w)).limit_denominator(bound) for w in matrix.ravel()]
    assert [(f.numerator, f.denominator) for f in best] == list(
        zip(found.numerators[found.index].ravel(), found.denominators[found.index].ravel(), strict=True)
    )


@pytest.mark.parametrize("eps", [0.2, 0.03])
def test_a_bounded_error_is_kept_with_the_smallest_denominator(eps: float) -> None:
    matrix = gaussian(1)
    found = BoundedError(eps, False).encode(matrix)
    q = found.denominators[found.index].ravel()
    for w, denominator in zip(matrix.ravel().tolist(), q.tolist(), strict=True):
        fits = [n for n in range(1, denominator + 1) if abs(Fraction(w) - Fraction(round(w * n), n)) <= Fraction(eps)]
        assert fits == [denominator]


def test_table_codes_are_the_nearest_levels_of_their_group() -> None:
    matrix = gaussian()
    table = Table(tuple(make("grids", {"name": "farey", "order": 4}).levels(4)))
    found = table.encode(matrix)
    scale = np.abs(found.decoded.reshape(-1, GROUP)).max(1) / max(table.levels)
    levels = np.outer(scale, table.levels)
    best = np.abs(matrix.reshape(-1, GROUP, 1) - levels[:, None]).min(2)
    assert np.allclose(np.abs(matrix - found.decoded).reshape(-1, GROUP), best, rtol=0, atol=2.0**-20)


def test_continued_fractions_over_the_largest_magnitude_are_the_farey_grid() -> None:
    matrix = gaussian(16)
    for order in (2, 4, 6):
        fractions = BoundedDenominator(order, True).encode(matrix)
        table = Table(tuple(np.array(make("grids", {"name": "rationals", "max_denominator": order}).levels(8))))
        grid = Table(table.levels, {"name": "absmax"}).encode(matrix)
        # Ties may go either way, so the errors are compared.
        errors = [np.abs(matrix - x.decoded.astype(np.float64)) for x in (fractions, grid)]
        assert np.allclose(*errors, rtol=0, atol=2.0**-20)


def test_half_is_the_only_farey_set_that_ties_with_equal_steps() -> None:
    matrix = gaussian(64)
    lost = {}
    for order in (2, 3, 4, 5, 8):
        equal = relative_error(founding.odd_uniform(2 * farey.length(order) - 1), matrix)
        lost[order] = relative_error(METHODS[f"Farey {order}"], matrix) / equal
    assert lost.pop(2) == 1
    assert min(lost.values()) > 1.2


def test_fractions_gain_nine_decibels_where_equal_steps_gain_twelve() -> None:
    """The mean of gap^3/12 falls as N^-3, by ζ(2)/(6 ζ(3)), and the number of values grows as N^2."""
    limit = math.pi**2 / 6 / (6 * 1.2020569031595942)
    scaled = []
    for order in (100, 400, 1600):
        p, q = farey.sequence(order)
        scaled.append(float(np.sum(np.diff(p / q) ** 3)) / 12 * order**3)
    distances = [abs(x / limit - 1) for x in scaled]
    assert all(later < earlier / 2 for earlier, later in pairwise(distances))


# Models, tables, the whole run.


def test_weights_moved_off_the_grid_round_back_to_where_they_were() -> None:
    generator = np.random.default_rng(3)
    codes = generator.integers(0, 16, (6, 64))
    codes.reshape(-1, 32)[:, :2] = 0, 15
    matrix = (codes * 0.25 - 1.5).astype(np.float32)
    moved = founding_models.moved(matrix, generator)
    assert not np.array_equal(moved, matrix)
    assert np.array_equal(np.rint((moved + 1.5) / 0.25), codes)


def test_matched_methods_stay_within_the_bits_and_use_them() -> None:
    matrix = gaussian(64)
    step = founding_models.matched(Step, [matrix], matrix.size, 4.0, 3.0)
    finer = Step(step.step / 1.01)
    bits = [founding_methods.measure(m, [matrix], matrix.size, 4.0)["entropy_bits"] for m in (step, finer)]
    assert bits[0] <= 3 < bits[1]


def test_tables_go_between_their_markers_and_nowhere_else() -> None:
    text = "a\n<!-- table: one -->\nold\n<!-- end -->\nb\n<!-- table: two -->\n<!-- end -->\n"
    assert founding_page.inserted(text, "one", "new") == text.replace("old\n", "\nnew\n\n", 1)
    with pytest.raises(ValueError, match="three"):
        founding_page.inserted(text, "three", "new")


def test_bits_lost_by_raw_fractions_are_read_off_between_the_steps() -> None:
    rows = [{"model": "m", "method": f"one step {n}", "entropy_bits": float(n), "decibels": 6.0 * n} for n in (1, 2, 3)]
    rows.append({"model": "m", "method": "continued fractions, raw 8", "entropy_bits": 3.25, "decibels": 15.0})
    assert founding_page.raw_loss(rows, "m", 8) == 0.75
    with pytest.raises(ValueError, match="both sides of 5"):
        founding_page.bits_lost(rows, "m", {"entropy_bits": 1.0, "decibels": 5.0})


def test_the_page_shows_the_published_results() -> None:
    text = founding.PAGE.read_text(encoding="utf-8")
    for name, table in founding_page.tables(json.loads(founding.RESULTS.read_text())).items():
        assert founding_page.inserted(text, name, table) == text
        assert founding_page.inserted(text, name, table.replace("1", "2")) != text


@pytest.fixture
def small_subjects(
    tmp_path: Path, tokenizer: transformers.PreTrainedTokenizerFast
) -> tuple[founding_models.Subject, ...]:
    """Models with rows of whole groups: a decoder, the same off the grid, an encoder."""
    shape = {"hidden_size": GROUP, "intermediate_size": 2 * GROUP, "num_hidden_layers": 1, "num_attention_heads": 4}
    shape |= {"vocab_size": 320, "max_position_embeddings": 128, "pad_token_id": 1}
    torch.manual_seed(0)
    networks = {
        "decoder": transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, tie_word_embeddings=True)),
        "encoder": transformers.BertModel(transformers.BertConfig(**shape)),
    }
    for name, network in networks.items():
        network.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    decoder, encoder = (str(tmp_path / name) for name in networks)
    return (
        founding_models.Subject(founding_page.LANGUAGE, decoder),
        founding_models.Subject(founding_page.CONTROL, decoder, True),
        founding_models.Subject(founding_page.ENCODER, encoder),
    )


@pytest.fixture
def run(
    tmp_path: Path, small_subjects: tuple[founding_models.Subject, ...], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., dict]]:
    """The experiment on the small models with a few methods; results."""
    monkeypatch.setattr(founding, "subjects", lambda: small_subjects)
    monkeypatch.setattr(founding, "SAMPLE", 1 << 14)
    monkeypatch.setattr(founding, "STEPS", (10.0, 0.1, 0.03, 0.01, 0.003))
    monkeypatch.setattr(founding, "DENOMINATORS", (2, 8))
    monkeypatch.setattr(founding, "TOLERANCES", (0.05,))
    monkeypatch.setenv("MEDIANT_CACHE", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in ("RESULTS", "PAGE", "FIGURE"):
        monkeypatch.setattr(founding, name, tmp_path / name.lower())
    (tmp_path / "page").write_text(
        "".join(f"<!-- table: {name} -->\n<!-- end -->\n" for name in ("equal-bits", "denominators"))
    )

    def experiment(*arguments: str) -> dict:
        monkeypatch.setattr(sys, "argv", ["founding.py", "--windows", "2", "--window", "16", *arguments])
        founding.main()
        results: dict = json.loads((tmp_path / "results").read_text())
        return results

    yield experiment
    torch.set_num_threads(threads)


def test_the_experiment_runs_without_any_text(run: Callable[..., dict], tmp_path: Path) -> None:
    judged = {row["method"]: row for row in run()["quality"] if row["model"] == founding_page.LANGUAGE}
    assert judged["Lloyd 4"]["decibels"] > judged["continued fractions, absmax 4"]["decibels"]
    assert judged["uniform 4"]["kl"] > 0
    assert "| Lloyd 4 |" in (tmp_path / "page").read_text()
    assert (tmp_path / "figure").read_bytes().startswith(b"<?xml")


def test_new_results_replace_those_of_their_text_and_keep_the_others() -> None:
    old = {"errors": [1], "quality": [{"text": "a", "kl": 1}, {"text": "b", "kl": 2}]}
    new = {"errors": [2], "quality": [{"text": "b", "kl": 3}]}
    assert founding.merged(old, new, "b") == {
        "errors": [2],
        "quality": [{"text": "b", "kl": 3}, {"text": "a", "kl": 1}],
    }


def test_a_stopped_run_goes_on_where_it_was(
    run: Callable[..., dict], small_subjects: tuple[founding_models.Subject, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(founding, "subjects", lambda: small_subjects[:1])
    monkeypatch.setattr(founding, "write_tables", lambda *_: None)
    monkeypatch.setattr(founding, "write_figure", lambda *_: None)
    judge, judged, most = founding_models.Judge.judge, [], [3]

    def stops(self: founding_models.Judge, method: Method) -> dict:
        if len(judged) == most[0]:
            raise KeyboardInterrupt
        judged.append(method)
        return judge(self, method)

    monkeypatch.setattr(founding_models.Judge, "judge", stops)
    with pytest.raises(KeyboardInterrupt):
        run()
    most[0] = 100
    results = run()
    assert len(judged) == len(results["quality"]) == len({repr(method) for method in judged})
