"""Spoilt inputs end every command with one sentence; `mutate.py` beside this says how they are spoilt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


def findings(*arguments: str, **environment: str) -> list[dict[str, object]]:
    """What `mutate.py` finds wrong with these arguments."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile.mutate", *arguments], stdout=subprocess.PIPE, text=True, cwd=PROJECT,
        env={**os.environ, **environment},
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines, "the script ended without a word"
    assert "mutations" in lines[-1]
    return lines[:-1]


def test_a_sample_of_mutations_through_one_command_each() -> None:
    assert findings("4", "0", MUTATE_ONE="1") == []


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_all_mutations_through_every_command() -> None:
    assert findings("all", "0") == []
