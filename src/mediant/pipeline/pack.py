"""A plan carried out: tensors encoded, what follows rounding, and the folder written."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from functools import partial
from pathlib import Path

from mediant.checkpoint.manifest import Calibration
from mediant.checkpoint.reader import Checkpoint, open_checkpoint
from mediant.checkpoint.writer import write
from mediant.forms import Encoding
from mediant.pipeline.encode import encodings
from mediant.pipeline.run import Run
from mediant.pipeline.sizes import sidecar_files, sides
from mediant.pipeline.stages import stages_of
from mediant.planning.plan import Plan


def pack(run: Run, plan: Plan, out: Path | None = None) -> Checkpoint:
    """Encodes every tensor by the plan, trains and tunes if the plan says so, and writes the folder.

    Raises:
        MediantError: what cannot be done; what was in the folder before is untouched.
    """
    folder, s = out or run.request.out, run.statistics
    calibration = Calibration(s.source, s.tokens, s.text_fingerprint) if run.calibrated else None
    final, told = finished(run, plan), sides(run, plan)
    # Closed also when writing fails, so that no thread goes on with a workspace that is about to go.
    with contextlib.closing(final):
        write(folder, run.model, plan, calibration, final, sidecar_files(run, plan), told)
    return open_checkpoint(folder)


def finished(run: Run, plan: Plan) -> Generator[Encoding, None, None]:
    """Encodes all tensors and applies the stages after rounding that the plan asks for, in their order."""
    current = partial(encodings, run, plan)
    for stage in stages_of(plan):
        current = partial(stage.apply, run, plan, current)
    return current()
