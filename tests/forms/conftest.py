"""The sample checkpoint of tests/checkpoint is what gets attacked here."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_spec = spec_from_file_location("checkpoint_samples", Path(__file__).parents[1] / "checkpoint" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_samples = module_from_spec(_spec)
_spec.loader.exec_module(_samples)

sample_checkpoint = _samples.sample_checkpoint
