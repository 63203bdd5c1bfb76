"""calibrate: sensitivities and Hessians over the calibration text, measured once and kept for other runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mediant.models.weights import WeightReader
from mediant.pipeline import shared_statistics
from mediant.pipeline.workspace import Workspace
from mediant.progress import SILENT, Progress
from mediant.statistics import storage
from mediant.statistics.amount import amounts, sentence
from mediant.statistics.calibration import CalibrationText
from mediant.statistics.hessian import Accumulator, Hessians, file_name
from mediant.statistics.sensitivity import collect
from mediant.values import Model, Statistics


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
        """Whether this run or another one has measured already."""
        return self.workspace.has("statistics") or shared_statistics.has(self._key)

    @cached_property
    def statistics(self) -> Statistics:
        """Sensitivities over the calibration text, measured by this run or left by another one."""
        if not self.workspace.has("statistics") and not shared_statistics.take(self._key, self.workspace.folder):
            shared_statistics.offer(self._key, self.workspace.folder, self._measure())
        return storage.from_bytes(self.workspace.read("statistics"))

    @cached_property
    def hessians(self) -> Hessians:
        """Hessians of all inputs, where they are needed."""
        tokens = self.statistics.tokens
        found = Hessians(self.workspace.folder, json.loads(self.workspace.read("hessians.json")))
        self.progress.say(sentence(amounts(self.model, tokens, found)))
        return found

    def amounts(self) -> list[dict[str, Any]]:
        """Tokens for each input of every width of layer; none where nothing was calibrated, or without Hessians."""
        if not self.workspace.has("statistics"):
            return []
        return [dataclasses.asdict(a) for a in amounts(self.model, self.statistics.tokens, self.hessians)]

    @property
    def _key(self) -> dict[str, Any]:
        return {"model": self.model.fingerprint, "text": list(self.described), "hessian": self.needs_hessian}

    def _measure(self) -> list[str]:
        """Measures statistics and Hessians, and returns the files that hold them; the last one is there if all are."""
        check_weights(self.model, self.progress)
        accumulator = Accumulator() if self.needs_hessian else None
        found = collect(self.model, self.text(), self.progress, accumulator)
        inputs = {} if accumulator is None else accumulator.store(self.workspace.folder, found.tokens).inputs
        self.workspace.write("hessians.json", json.dumps(inputs).encode())
        self.workspace.write("statistics", storage.to_bytes(found))
        return [*map(file_name, sorted(set(inputs.values()))), "hessians.json", "statistics"]


def check_weights(model: Model, progress: Progress = SILENT) -> None:
    """Reads all weights once: a model with NaN in them would fail in the midst of the work, and far less clearly.

    Raises:
        ModelError: naming the first tensor that holds a value that is not finite.
    """
    with WeightReader(model) as weights:
        for info in progress.track(model.tensors, "Checking the weights"):
            weights.read(info.name)
