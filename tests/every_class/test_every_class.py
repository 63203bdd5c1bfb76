"""Every class of transformers that reads text works or is refused in one sentence, as docs/models.md says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from tests.every_class import trial
from tests.every_class.maker import classes, tiny_config
from tests.every_class.page import PAGE, page, row
from tests.every_class.trial import COMMANDS, WORKS, Outcome

# One of each kind: native, by transformers, an encoder, a masked model, one that is refused.
SAMPLE = ("Qwen3ForCausalLM", "MambaForCausalLM", "T5EncoderModel", "RobertaForMaskedLM", "XLNetLMHeadModel")


def outcomes(*names: str) -> list[Outcome]:
    """Tries classes in a process of its own, as it forks."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.every_class", *names], stdout=subprocess.PIPE, text=True, cwd=PAGE.parents[1],
        env={**os.environ, "PYTHONPATH": str(PAGE.parents[1])},
    )  # fmt: skip
    return [Outcome(**json.loads(line)) for line in done.stdout.splitlines()]


def test_the_page_has_every_class_once():
    text = PAGE.read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| (\w+) \| [\w-]+ \| ", text, re.MULTILINE)) == sorted(classes())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sample_is_as_the_page_says():
    found = outcomes(*SAMPLE)
    assert [outcome.name for outcome in found] == list(SAMPLE)
    assert not [outcome for outcome in found if outcome.faults]
    assert {row(outcome) for outcome in found} <= set(PAGE.read_text(encoding="utf-8").splitlines())


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_all_are_as_the_page_says():
    found = outcomes(*classes())
    assert not [(outcome.name, outcome.faults) for outcome in found if outcome.faults]
    assert page(found) == PAGE.read_text(encoding="utf-8")


def test_a_row_says_what_works_and_what_does_not():
    good = dict.fromkeys(COMMANDS, WORKS)
    bad = dict.fromkeys(COMMANDS, "The model in X is a Y, which needs Z beside token ids; Mediant takes others.")
    assert row(Outcome("A", "a", (), "encoder", "no", good | {"gguf": "no"}, ())) == (
        "| A | a | encoder | transformers | no |"
    )
    assert row(Outcome("A", "a", (), "language model", WORKS, good, ())) == "| A | a | language model | native | yes |"
    assert row(Outcome("A", "a", (), "none", "no", bad, ())) == "| A | a | needs Z beside token ids |"


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPT2LMHeadModel", "DeepseekV3ForCausalLM", "BertForMaskedLM"])
def test_tiny_models_are_tiny(name):
    config = tiny_config(name)
    assert config.hidden_size <= 64
    assert config.num_hidden_layers <= 4
    assert config.vocab_size <= 320


def test_a_language_model_that_does_not_write_is_not_said_to_work():
    silent = dict.fromkeys(COMMANDS, WORKS) | {"generate": "It cannot write."}
    assert row(Outcome("A", "a", (), "language model", "no", silent, ())) == "| A | a | It cannot write. |"
    assert row(Outcome("A", "a", (), "encoder", "no", silent, ())).endswith("| encoder | transformers | yes |")


@pytest.mark.parametrize(
    ("code", "said", "left", "problem"),
    [
        (4, "mediant: The model in X is a Y.", None, ""),
        (4, "mediant: The model in X is a Y.", "small", "leaves small"),
        (7, "mediant: The plan is wrong.", None, "not at the door"),
        (99, "Traceback (most recent call last):", None, "ends with 99"),
        (-9, "", None, "ends with -9"),
        (4, "KeyError: 'x'", None, "ends with 4"),
    ],
)
def test_what_a_refusal_should_not_be(tmp_path, code, said, left, problem):
    if left:
        (tmp_path / left).mkdir()
    found = trial._fault(code, said, tmp_path, "compress")
    assert (problem in found) if problem else not found


@pytest.mark.parametrize(
    ("score", "near"),
    [
        ({"kl": 0.01}, True), ({"kl": 1.2}, False), ({"kl": float("nan")}, False), ({"kl": -0.1}, False),
        ({"cosine": 0.999}, True), ({"cosine": 0.5}, False), ({"cosine": float("nan")}, False),
    ],
)  # fmt: skip
def test_a_model_that_came_out_wrong_is_found(tmp_path, score, near):
    (tmp_path / "scores.json").write_text(json.dumps(score))
    assert (trial._too_far(tmp_path / "scores.json") == "") is near
