from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediant.checkpoint.manifest import NUMBER_WIDTH, Manifest, fixed_width, is_sidecar, planned_manifest
from mediant.checkpoint.manifest_parsing import parse_manifest
from mediant.values import Certificate

Sample = Any


def planned(sample: Sample) -> Manifest:
    return planned_manifest(sample.model, sample.plan, sample.calibration, ("b.json", "a.json"), sample.sides)


@given(st.none() | st.floats(0, 9.999999e99))
def test_numbers_have_one_width_and_seven_digits(number: float | None) -> None:
    text = fixed_width(number)
    assert len(text) == NUMBER_WIDTH
    if number is None:
        assert json.loads(text) is None
    elif number < 1e-99:
        assert json.loads(text) == 0
    else:
        # Half a unit in the seventh digit, and the rounding of the double that is read back.
        assert math.isclose(json.loads(text), number, rel_tol=0.5e-6 + 2**-52)


@pytest.mark.parametrize("number", [-1e-9, -1.0, math.nan, math.inf, -math.inf, 1e100, 9.9999999e99])
def test_numbers_that_do_not_fit_are_refused(number: float) -> None:
    with pytest.raises(ValueError, match=r"numbers from 0 to 9\.999999e99"):
        fixed_width(number)


def test_minus_zero_is_zero() -> None:
    assert fixed_width(-0.0) == fixed_width(0.0)


def test_what_is_written_is_read_back(sample_checkpoint: Sample) -> None:
    manifest = planned(sample_checkpoint)
    assert parse_manifest(manifest.to_json().encode(), "it") == manifest


def test_tensors_stay_in_the_order_of_the_model(sample_checkpoint: Sample) -> None:
    names = [tensor.name for tensor in sample_checkpoint.model.tensors]
    text = planned(sample_checkpoint).to_json()
    assert list(json.loads(text)["tensors"]) == names
    assert list(parse_manifest(text.encode(), "it").tensors) == names


@given(st.floats(0, 1e99), st.text("0123456789abcdef", min_size=64, max_size=64))
def test_the_length_follows_from_the_plan_alone(sample_checkpoint: Sample, number: float, sha256: str) -> None:
    before = planned(sample_checkpoint)
    certificate = Certificate(number, number / 2, 0.5, 0.0)
    entries = {
        name: dataclasses.replace(
            entry,
            certificate=certificate,
            parts={part: dataclasses.replace(stored, sha256=sha256) for part, stored in entry.parts.items()},
        )
        for name, entry in before.tensors.items()
    }
    after = dataclasses.replace(before, tensors=entries, predicted_loss=number)
    assert len(after.to_json()) == len(before.to_json())


def test_there_is_nothing_of_the_moment_in_it(sample_checkpoint: Sample) -> None:
    assert planned(sample_checkpoint).to_json() == planned(sample_checkpoint).to_json()


def test_a_model_that_was_not_calibrated_and_has_no_target(sample_checkpoint: Sample) -> None:
    plan = dataclasses.replace(sample_checkpoint.plan, target_bytes=None, predicted_loss=None)
    manifest = planned_manifest(sample_checkpoint.model, plan, None, (), sample_checkpoint.sides)
    assert parse_manifest(manifest.to_json().encode(), "it") == manifest


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "/etc/passwd",
        "a/../b",
        "a//b",
        "a/",
        "..\\b",
        "c:/b",
        "a\n",
        "mediant.json",
        "mediant.safetensors",
    ],
)
def test_only_plain_names_are_sidecar_files(name: str) -> None:
    assert is_sidecar("chat_template.jinja")
    assert is_sidecar("1_Pooling/config.json")
    assert not is_sidecar(name)
