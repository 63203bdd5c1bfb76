from __future__ import annotations

import dataclasses
import errno
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mediant import files
from mediant.checkpoint.reader import open_checkpoint
from mediant.checkpoint.writer import check_replaceable, overhead_bytes, write
from mediant.errors import CheckpointError, PlanError, StorageError
from mediant.forms import Encoding
from mediant.values import RowSpan

Sample = Any
Contents = dict[str, bytes]


def written(sample: Sample, folder: Path, **changes: Any) -> Contents:
    arguments = {
        "model": sample.model,
        "plan": sample.plan,
        "calibration": sample.calibration,
        "encodings": sample.encodings,
        "sidecar_files": sample.sidecar_files,
        "sides": sample.sides,
    }
    write(folder, **(arguments | changes))
    return contents(folder)


def contents(folder: Path) -> Contents:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def older(sample_checkpoint: Sample, tmp_path: Path) -> Path:
    """A folder with an older checkpoint that has one more sidecar file."""
    sidecar_files = sample_checkpoint.sidecar_files | {"older.txt": b"older"}
    written(sample_checkpoint, tmp_path / "older", sidecar_files=sidecar_files)
    return tmp_path / "older"


def test_the_folder_has_the_predicted_bytes_exactly(sample_checkpoint: Sample) -> None:
    s = sample_checkpoint
    overhead = overhead_bytes(s.model, s.plan, s.calibration, s.sidecar_files, s.sides)
    payload = sum(s.plan.tensors[t.name].nbytes(t, s.sides.get(t.name)) for t in s.model.tensors)
    beside = sum(len(content) for content in s.sidecar_files.values())
    assert files.folder_bytes(s.folder) == overhead + payload + beside
    assert payload == sum(encoding.nbytes for encoding in s.encodings)


def test_sidecar_files_are_copied_as_they_are(sample_checkpoint: Sample, out: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"\x00\xff")
    found = written(
        sample_checkpoint, out, sidecar_files={"tokenizer.model": tmp_path / "elsewhere", "README.md": b"r"}
    )
    assert (found["tokenizer.model"], found["README.md"]) == (b"\x00\xff", b"r")
    assert found.keys() == {"tokenizer.model", "README.md", "mediant.json", "mediant.safetensors"}


def test_the_same_input_gives_the_same_bytes_in_any_order(sample_checkpoint: Sample, out: Path, tmp_path: Path) -> None:
    s = sample_checkpoint
    backwards = dict(reversed(s.sidecar_files.items()))
    again = written(s, out, encodings=reversed(s.encodings), sidecar_files=backwards)
    assert again == contents(s.folder)
    apart = [dataclasses.replace(e, parts={k: np.array(p, order="F") for k, p in e.parts.items()}) for e in s.encodings]
    assert written(s, tmp_path / "other", encodings=apart) == again


def test_other_input_gives_other_bytes(sample_checkpoint: Sample, out: Path) -> None:
    plan = dataclasses.replace(sample_checkpoint.plan, seed=4)
    assert written(sample_checkpoint, out, plan=plan) != contents(sample_checkpoint.folder)


def test_folders_above_are_made(sample_checkpoint: Sample, out: Path) -> None:
    assert written(sample_checkpoint, out / "a" / "b") == contents(sample_checkpoint.folder)


def test_an_older_checkpoint_is_replaced_whole(sample_checkpoint: Sample, older: Path) -> None:
    assert written(sample_checkpoint, older) == contents(sample_checkpoint.folder)
    assert [entry.name for entry in older.parent.iterdir()] == ["older"]


def test_a_link_to_a_folder_stays_one(sample_checkpoint: Sample, older: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(older, target_is_directory=True)
    written(sample_checkpoint, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert contents(older) == contents(sample_checkpoint.folder)


def test_an_open_checkpoint_outlives_its_replacement(sample_checkpoint: Sample, older: Path) -> None:
    checkpoint = open_checkpoint(older)
    changed = dataclasses.replace(sample_checkpoint.plan, seed=4)
    written(sample_checkpoint, older, plan=changed)
    for encoding in sample_checkpoint.encodings:
        for part, array in encoding.parts.items():
            np.testing.assert_array_equal(checkpoint.encoding(encoding.info.name).parts[part], array)


def test_an_empty_folder_is_taken(sample_checkpoint: Sample, out: Path) -> None:
    out.mkdir()
    assert written(sample_checkpoint, out) == contents(sample_checkpoint.folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda old: (old / "thesis.tex").write_text("x"), "holds 'thesis.tex', which is not part"),
        (lambda old: (old / "thesis").mkdir(), "holds 'thesis', which is not part"),
        (lambda old: (old / "mediant.json").unlink(), "not a Mediant checkpoint"),
        (lambda old: (old / "mediant.json").write_text("{}"), "is damaged, so it is not replaced"),
        (lambda old: (shutil.rmtree(old), old.write_text("x")), "is a file"),
    ],
)
def test_nothing_else_is_overwritten(
    sample_checkpoint: Sample, older: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(older)
    before = contents(older)
    with pytest.raises(StorageError, match=message):
        check_replaceable(older)
    with pytest.raises(StorageError, match=message):
        written(sample_checkpoint, older)
    assert contents(older) == before


@pytest.mark.parametrize("name", ["../x", "a//b", "mediant.json", "mediant.safetensors", "", ".."])
def test_sidecar_files_stay_in_the_folder(sample_checkpoint: Sample, out: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a file"):
        written(sample_checkpoint, out, sidecar_files={name: b""})
    with pytest.raises(ValueError, match="not the name of a file"):
        overhead_bytes(sample_checkpoint.model, sample_checkpoint.plan, None, [name])


def changed_first(encodings: tuple[Encoding, ...], **changes: Any) -> tuple[Encoding, ...]:
    return (dataclasses.replace(encodings[0], **changes), *encodings[1:])


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (lambda e: e[1:], ValueError, "no encoding of 'embed.weight'"),
        (lambda e: (*e, e[0]), ValueError, "'embed.weight' is not the one that the plan asks for"),
        (
            lambda e: changed_first(e, info=dataclasses.replace(e[0].info, name="x")),
            ValueError,
            "'x' is not the one that the plan asks for",
        ),
        (
            lambda e: changed_first(e, plan=dataclasses.replace(e[0].plan, group=8)),
            ValueError,
            "'embed.weight' is not the one that the plan asks for",
        ),
        (lambda e: changed_first(e, parts={}), CheckpointError, "parts of 'embed.weight' are not those of its plan"),
        (
            lambda e: changed_first(e, certificate=dataclasses.replace(e[0].certificate, bound=float("nan"))),
            ValueError,
            "not nan",
        ),
    ],
)
def test_wrong_encodings_leave_nothing(
    sample_checkpoint: Sample, older: Path, spoil: Callable[..., Any], kind: type[Exception], message: str
) -> None:
    before = contents(older.parent)
    with pytest.raises(kind, match=message):
        written(sample_checkpoint, older, encodings=spoil(sample_checkpoint.encodings))
    assert contents(older.parent) == before
    assert [entry.name for entry in older.parent.iterdir()] == ["older"]


def test_a_plan_that_does_not_fit_is_refused_before_the_work(sample_checkpoint: Sample, out: Path) -> None:
    s = sample_checkpoint
    wrong = dataclasses.replace(s.plan.tensors["embed.weight"], runs=(RowSpan(1, 4),))
    plan = dataclasses.replace(s.plan, tensors={**s.plan.tensors, "embed.weight": wrong})
    with pytest.raises(PlanError, match="do not add up"):
        written(s, out, plan=plan, encodings=never())
    with pytest.raises(CheckpointError, match="'source' holds characters that cannot be printed"):
        written(s, out, calibration=dataclasses.replace(s.calibration, source="a\nb"), encodings=never())


def never() -> Iterator[Encoding]:
    pytest.fail("the work had begun")
    yield


@pytest.mark.parametrize("problem", [RuntimeError, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("after", [0, 3, 8])
def test_a_failure_in_the_work_leaves_nothing_and_stays_what_it_is(
    sample_checkpoint: Sample, older: Path, problem: type[BaseException], after: int
) -> None:
    def encodings() -> Iterator[Encoding]:
        yield from sample_checkpoint.encodings[:after]
        raise problem("in the work")

    before = contents(older.parent)
    with pytest.raises(problem, match="in the work"):
        written(sample_checkpoint, older, encodings=encodings())
    assert contents(older.parent) == before


CALLS = ["mkdir", "pwrite", "fsync", "posix_fallocate", "rename"]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("problem", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_failure_of_any_call_leaves_the_older_checkpoint(
    sample_checkpoint: Sample,
    older: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    problem: BaseException,
) -> None:
    """The n-th call of one kind fails, for every n until the write succeeds."""
    before = contents(older.parent)
    for n in range(1, 100):
        calls = 0
        real = getattr(os, name)

        def failing(*arguments: Any, real: Any = real, n: int = n, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == n:
                raise problem
            return real(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, name, failing)
            try:
                written(sample_checkpoint, older)
            except (StorageError, KeyboardInterrupt):
                assert contents(older.parent) == before
            else:
                assert n > 1
                break
    assert [entry.name for entry in older.parent.iterdir()] == ["older"]


def test_a_short_write_is_continued(sample_checkpoint: Sample, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, position: real(descriptor, data[:7], position))
    assert written(sample_checkpoint, out) == contents(sample_checkpoint.folder)


def test_a_full_disk_is_known_before_the_work(sample_checkpoint: Sample, older: Path) -> None:
    before = contents(older.parent)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"Cannot write .*/older: "):
            written(sample_checkpoint, older, encodings=never())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert contents(older.parent) == before
