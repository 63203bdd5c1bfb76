"""calibrate: sensitivities and Hessians over the calibration text, measured once and kept for other runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import psutil

from mediant.models.weights import WeightReader
from mediant.pipeline import calibration_cache
from mediant.pipeline.workspace import Workspace
from mediant.progress import SILENT, Progress
from mediant.statistics import storage
from mediant.statistics.calibration_coverage import amounts, sentence
from mediant.statistics.calibration_text import CalibrationText
from mediant.statistics.hessian import Accumulator, Hessians, file_name
from mediant.statistics.sensitivity import collect
from mediant.statistics.streamed import collect_streamed
from mediant.values import Model, Statistics

# Of the free memory, for the weights and Hessians of a whole pass; activations take the rest.
MEMORY_SHARE = 0.7


@dataclass(frozen=True)
class Calibrator:
    """Measures when asked. `described` are the text's source and fingerprint, known before the text is written."""

    model: Model
    text: Callable[[], CalibrationText]
    described: tuple[str, str]
    needs_hessian: bool
    workspace: Workspace
    progress: Progress

    @property
    def done(self) -> bool:
        """True if this run or another one has measured already."""
        return self.workspace.has("statistics") or calibration_cache.has(self._key)

    @cached_property
    def statistics(self) -> Statistics:
        """Sensitivities over the calibration text, measured by this run or left by another one."""
        if not self.workspace.has("statistics") and not calibration_cache.take(self._key, self.workspace.folder):
            calibration_cache.offer(self._key, self.workspace.folder, self._measure())
        return storage.from_bytes(self.workspace.read("statistics"))

    @cached_property
    def hessians(self) -> Hessians:
        """Hessians of all inputs, where they are needed."""
        tokens = self.statistics.tokens
        found = Hessians(self.workspace.folder, json.loads(self.workspace.read("hessians.json")))
        self.progress.say(sentence(amounts(self.model, tokens, found)))
        return found

    def amounts(self) -> list[dict[str, Any]]:
        """Returns tokens for each input of every width of layer; none where nothing was calibrated, or without
        Hessians.
        """
        if not self.workspace.has("statistics"):
            return []
        return [dataclasses.asdict(a) for a in amounts(self.model, self.statistics.tokens, self.hessians)]

    @property
    def _key(self) -> dict[str, Any]:
        return {"model": self.model.fingerprint, "text": list(self.described), "hessian": self.needs_hessian}

    def _measure(self) -> list[str]:
        """Measures statistics and Hessians, and returns the files that hold them; the last one is there if all are."""
        check_weights(self.model, self.progress)
        text, folder = self.text(), self.workspace.folder
        if whole_pass_bytes(self.model, self.needs_hessian) > MEMORY_SHARE * psutil.virtual_memory().available:
            self.progress.say("The model is larger than the free memory, so it is run block by block.")
            found, hessians = collect_streamed(self.model, text, folder, self.needs_hessian, self.progress)
        else:
            accumulator = Accumulator() if self.needs_hessian else None
            found = collect(self.model, text, self.progress, accumulator)
            hessians = Hessians(folder) if accumulator is None else accumulator.store(folder, found.tokens)
        self.workspace.write("hessians.json", json.dumps(dict(hessians.inputs)).encode())
        self.workspace.write("statistics", storage.to_bytes(found))
        return [*map(file_name, sorted(set(hessians.inputs.values()))), "hessians.json", "statistics"]


def whole_pass_bytes(model: Model, hessian: bool) -> int:
    """Returns the bytes of memory that calibration takes with the whole model at once, as an estimate from above.

    All weights as float32, and with `hessian` the upper triangle of a float64 Hessian for every matrix that is
    multiplied, as if no two matrices read the same input.
    """
    multiplied = [t for t in model.tensors if t.role in ("linear", "head", "expert")]
    grams = sum(4 * t.matrix_shape[1] ** 2 * (t.shape[0] if t.role == "expert" else 1) for t in multiplied)
    return 4 * model.weights + (grams if hessian else 0)


def check_weights(model: Model, progress: Progress = SILENT) -> None:
    """Reads all weights once: a model with NaN in them would fail in the midst of the work, and far less clearly.

    Raises:
        ModelError: naming the first tensor that holds a value that is not finite.
    """
    with WeightReader(model) as weights:
        for info in progress.track(model.tensors, "Checking the weights"):
            weights.read(info.name)
