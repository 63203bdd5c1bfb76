"""What can be refused without opening a model."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from mediant.errors import PlanError, StorageError, UsageError
from mediant.pipeline.compress import compress
from mediant.pipeline.request import CompressRequest


@pytest.mark.parametrize(
    "limits", [{}, {"size": "1MB", "max_kl": 1.0}, {"size": "1MB", "plan": "p"}, {"max_kl": 1.0, "plan": "p"}]
)
def test_exactly_one_limit(limits, tmp_path):
    with pytest.raises(UsageError, match="exactly one of --size, --max-kl and --plan"):
        CompressRequest("demo", tmp_path / "out", **limits).check()


@pytest.mark.parametrize("limit", [0.0, -1.0, math.inf, math.nan])
def test_a_loss_is_a_positive_number(limit, tmp_path):
    with pytest.raises(UsageError, match="takes a positive number of nats per token, such as"):
        CompressRequest("demo", tmp_path / "out", max_kl=limit).check()


def test_a_seed_is_not_negative(tmp_path):
    with pytest.raises(UsageError, match="--seed is -1"):
        CompressRequest("demo", tmp_path / "out", size="1MB", seed=-1).check()


def test_what_is_in_the_way_is_named(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(StorageError, match="not a Mediant checkpoint"):
        CompressRequest("demo", tmp_path / "out", size="1MB").check()
    CompressRequest("demo", tmp_path / "new", size="1MB").check()


def test_a_plan_file_that_is_none(tmp_path):
    binary = tmp_path / "plan.json"
    binary.write_bytes(b"\xff\xfe{")
    for file, words in ((tmp_path / "none.json", "There is no plan"), (tmp_path, "cannot be read"), (binary, "cannot")):
        with pytest.raises(PlanError, match=words):
            CompressRequest("demo", tmp_path / "out", plan=file).given_plan()
    assert CompressRequest("demo", tmp_path / "out", size="1MB").given_plan() is None


def test_a_disk_that_is_too_full_is_refused_before_any_work(tiny_folder, text, feasible, tmp_path, monkeypatch):
    _, target = feasible("llama")
    monkeypatch.setattr("mediant.pipeline.calibrate.collect", None)
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=2 * target - 1))
    with pytest.raises(StorageError, match="too little space"):
        compress(CompressRequest(str(tiny_folder("llama")), tmp_path / "out", size=str(target), calibration=text))
    assert list(tmp_path.iterdir()) == []
