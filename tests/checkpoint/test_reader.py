from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mediant.checkpoint.reader import open_checkpoint, read_manifest
from mediant.checkpoint.writer import write
from mediant.errors import CheckpointError
from mediant.forms.quantize.form import Quantize
from mediant.forms.quantize.grid_info import GridInfo
from mediant.planning.plan import Plan

Sample = Any


def test_every_encoding_comes_back_as_it_was_written(sample_checkpoint: Sample) -> None:
    checkpoint = open_checkpoint(sample_checkpoint.folder)
    assert list(checkpoint.tensors) == [e.info.name for e in sample_checkpoint.encodings]
    for written in sample_checkpoint.encodings:
        read = checkpoint.encoding(written.info.name)
        assert (read.info, read.plan, read.certificate) == (written.info, written.plan, written.certificate)
        assert read.parts.keys() == written.parts.keys()
        for part, array in written.parts.items():
            assert (read.parts[part].dtype, read.parts[part].shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(read.parts[part], array)


def test_the_file_is_mapped_aligned_and_cannot_be_changed(sample_checkpoint: Sample) -> None:
    checkpoint = open_checkpoint(sample_checkpoint.folder)
    for name in checkpoint.tensors:
        for part in checkpoint.encoding(name).parts.values():
            assert part.flags.aligned
            assert not part.flags.owndata
            assert not part.flags.writeable


def test_weights_are_those_of_the_encodings(sample_checkpoint: Sample) -> None:
    checkpoint = open_checkpoint(sample_checkpoint.folder)
    state = dict(checkpoint.state())
    assert list(state) == list(checkpoint.tensors)
    for written in sample_checkpoint.encodings:
        np.testing.assert_array_equal(state[written.info.name], written.decode())
        np.testing.assert_array_equal(checkpoint.weight(written.info.name), written.decode())


def test_aliases_follow_their_tensor(sample_checkpoint: Sample) -> None:
    names = [name for name, _ in open_checkpoint(sample_checkpoint.folder).state(aliases=True)]
    assert names[:3] == ["embed.weight", "head.weight", "layers.0.in.weight"]
    assert len(set(names)) == len(names) == len(sample_checkpoint.encodings) + 1


def test_the_plan_the_model_and_the_rest_come_back(sample_checkpoint: Sample) -> None:
    checkpoint = open_checkpoint(sample_checkpoint.folder)
    assert checkpoint.plan == sample_checkpoint.plan
    assert Plan.from_json(checkpoint.plan.to_json()) == sample_checkpoint.plan
    assert checkpoint.model.name == sample_checkpoint.model.name
    assert checkpoint.model.weights == sample_checkpoint.model.weights
    assert checkpoint.manifest.calibration == sample_checkpoint.calibration
    assert checkpoint.manifest.files == tuple(sorted(sample_checkpoint.sidecar_files))
    assert read_manifest(sample_checkpoint.folder) == checkpoint.manifest


def test_what_was_read_can_be_written_again_to_the_same_bytes(sample_checkpoint: Sample, tmp_path: Path) -> None:
    s = sample_checkpoint
    checkpoint = open_checkpoint(s.folder)
    again = [checkpoint.encoding(name) for name in checkpoint.tensors]
    write(
        tmp_path / "again", s.model, checkpoint.plan, checkpoint.manifest.calibration, again, s.sidecar_files, s.sides
    )
    for file in s.folder.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_an_unknown_tensor_is_a_key_error(sample_checkpoint: Sample) -> None:
    with pytest.raises(KeyError):
        open_checkpoint(sample_checkpoint.folder).encoding("head.weight")


def test_a_model_without_tensors(sample_checkpoint: Sample, tmp_path: Path) -> None:
    s = sample_checkpoint
    model, plan = dataclasses.replace(s.model, tensors=()), dataclasses.replace(s.plan, tensors={})
    write(tmp_path / "out", model, plan, None, [], {})
    assert dict(open_checkpoint(tmp_path / "out").state()) == {}


@pytest.mark.parametrize("missing", ["mediant.json", "mediant.safetensors"])
def test_what_is_no_checkpoint_is_refused(sample_checkpoint: Sample, tmp_path: Path, missing: str) -> None:
    for name in {"mediant.json", "mediant.safetensors"} - {missing}:
        (tmp_path / name).write_bytes((sample_checkpoint.folder / name).read_bytes())
    with pytest.raises(CheckpointError, match=f"There is no file .*/{missing}"):
        open_checkpoint(tmp_path)
    (tmp_path / missing).mkdir()
    with pytest.raises(CheckpointError, match=f"There is no file .*/{missing}"):
        open_checkpoint(tmp_path)


def test_a_grid_this_mediant_knows_otherwise_is_refused(
    sample_checkpoint: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr(Quantize, "side", lambda plan, info: GridInfo(first={run.bits: 7.0 for run in plan.runs}))
    with pytest.raises(CheckpointError, match="is not what this Mediant finds"):
        open_checkpoint(sample_checkpoint.folder)
