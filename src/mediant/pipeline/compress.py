"""compress: calibrate, choose a plan, encode and pack in one, resumable at every step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from mediant.checkpoint.reader import Checkpoint
from mediant.claims import claimed
from mediant.models.opening import open_model
from mediant.models.sidecar_files import parting_words
from mediant.pipeline import estimate, preflight, sizes
from mediant.pipeline.choose_plan import choose_plan
from mediant.pipeline.encode import check_original
from mediant.pipeline.pack import pack
from mediant.pipeline.request import CompressRequest
from mediant.pipeline.run import Run
from mediant.planning.plan import Plan
from mediant.planning.recipe import load_recipe
from mediant.progress import SILENT, Progress


class Compression(Run):
    """A run with what is done in it, one after another."""

    def plan(self) -> Plan:
        """Returns the plan that was given, or finds the one that meets the asked size or loss."""
        return choose_plan(self)

    def folder_bytes(self, plan: Plan) -> int:
        """Counts the bytes of the folder that a plan leads to, exactly."""
        return sizes.folder_bytes(self, plan)

    def pack(self, plan: Plan) -> Checkpoint:
        """Carries a plan out and writes the folder."""
        return pack(self, plan)


def compress(request: CompressRequest, progress: Progress = SILENT) -> Checkpoint:
    """Compresses a model into the folder `request.out` and returns the checkpoint there.

    Raises:
        MediantError: one sentence about what cannot be done; what was in `out` before is untouched.
    """
    with begun(request, progress) as run:
        return run.pack(run.plan())


@contextlib.contextmanager
def begun(request: CompressRequest, progress: Progress = SILENT, kept: Path | None = None) -> Iterator[Compression]:
    """A run whose stages are computed when they are asked for; whatever can be refused before is refused here.

    The work folder beside the output goes at the end, after an error too. It stays when the run is stopped or killed:
    then the same command goes on from there. Runs of one model and text may share a work folder, beside `kept`, which
    always stays.

    Raises:
        MediantError: as for `compress`.
    """
    request.check()
    with claimed(request.out, progress, request.wait):
        request.check()
        with _begun(request, progress, kept) as run:
            yield run


@contextlib.contextmanager
def _begun(request: CompressRequest, progress: Progress, kept: Path | None) -> Iterator[Compression]:
    recipe, given = load_recipe(request.recipe_name), request.given_plan()
    preflight.check_methods(recipe)
    original = open_model(request.model, progress)
    if (left := parting_words(original.path)) is not None:
        progress.say(left)
    if given is not None:
        check_original(given, original)
    run = Compression(request, original, recipe, given, progress, kept)
    with _cleared(run, run.changes_structure):
        preflight.check(run)
    workspace = run.workspace
    if (expected := estimate.of(run)) is not None:
        progress.say(expected)
    with _cleared(run, kept is None):
        yield run
    if kept is None:
        workspace.close()


@contextlib.contextmanager
def _cleared(run: Compression, wanted: bool) -> Iterator[None]:
    """Removes the work folder after an error, if that is wanted; not when the run is stopped."""
    try:
        yield
    except Exception:
        if wanted:
            run.workspace.close()
        raise
