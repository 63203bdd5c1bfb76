"""Steps are kept whole, found again, and dropped when the options change."""

from __future__ import annotations

import pytest

from mediant.pipeline.workspace import Workspace


def never():
    raise AssertionError("computed again")


def test_a_finished_step_is_not_computed_again(tmp_path):
    out = tmp_path / "out"
    first = Workspace.open(out, {"size": "1MB"}, resume=True)
    assert first.step("a", lambda: b"one") == b"one"
    again = Workspace.open(out, {"size": "1MB"}, resume=True)
    assert again.step("a", never) == b"one"


@pytest.mark.parametrize(("key", "resume"), [({"size": "2MB"}, True), ({"size": "1MB"}, False)])
def test_other_options_or_no_resume_start_anew(tmp_path, key, resume):
    out = tmp_path / "out"
    Workspace.open(out, {"size": "1MB"}, resume=True).step("a", lambda: b"one")
    assert not Workspace.open(out, key, resume).has("a")


def test_a_step_that_fails_leaves_nothing(tmp_path):
    space = Workspace.open(tmp_path / "out", {}, resume=True)
    with pytest.raises(AssertionError):
        space.step("a", never)
    assert not space.has("a")
    assert {f.name for f in space.folder.iterdir()} == {"run"}


def test_branches_do_not_meet(tmp_path):
    space = Workspace.open(tmp_path / "out", {}, resume=True)
    space.branch("one").write("a", b"1")
    assert not space.branch("two").has("a")
    assert space.branch("one").read("a") == b"1"


def test_closing_removes_all(tmp_path):
    space = Workspace.open(tmp_path / "out", {}, resume=True)
    space.branch("one").write("a", b"1")
    space.close()
    assert list(tmp_path.iterdir()) == []
