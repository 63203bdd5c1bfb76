"""Statistics and Hessians of a model that is run block by block, for models larger than memory.

The sums are those of `mediant.statistics.sensitivity`, of the same windows in the same order. All windows go through
one block before the next block is loaded. Windows that also run backwards walk the blocks in reverse: each block is run
again from its inputs, which were kept on disk, now with gradients, and hands the gradient of its inputs on. The
Hessians of a block leave memory when all windows are through it.

Sums of the forward pass have the bits of a whole pass. Gradients differ from it by rounding: a whole pass beside
Hessians keeps activations as bfloat16 until they are needed, this one computes them again.

Cost: the operations of a whole pass, and one more forward pass for each window that runs backwards; memory of one
block and its Hessians; on disk, hidden states of the windows that run backwards at every depth.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mediant.models.block_stream import BlockCall, BlockStream, States
from mediant.progress import SILENT, Progress
from mediant.statistics import expert_inputs
from mediant.statistics.calibration_text import CalibrationText
from mediant.statistics.hessian import Accumulator, Hessians
from mediant.statistics.sensitivity import BACKWARD_PARTS, Recorder, Sums, layer_statistics
from mediant.values import Model, Statistics
from mediant.workers import compute_alone, ordered, return_memory

# What only a pass with gradients tells; `backward` counts the tokens of experts.
OF_GRADIENTS = (*BACKWARD_PARTS, "backward")


def collect_streamed(
    model: Model, text: CalibrationText, folder: Path, hessian: bool, progress: Progress = SILENT
) -> tuple[Statistics, Hessians]:
    """Returns statistics of every linear layer, embedding and head, and Hessians of their inputs if `hessian`.

    The result does not depend on the number of threads.

    Args:
        model: run block by block.
        text: the calibration windows.
        folder: where Hessians are written, and hidden states while this runs.
        hessian: whether Hessians are wanted; without them every window runs backwards, as in a whole pass.
        progress: is told of every pass through a block.

    Raises:
        ModelError: the model does not run its blocks one after another, or its weights are damaged.
    """
    with tempfile.TemporaryDirectory(prefix="hidden-states-", dir=folder) as scratch:
        passes = _Passes(model, text, folder, Path(scratch), hessian)
        passes.run(progress)
    windows, length = text.windows.shape
    tokens, backward = windows * length, len(passes.backward) * length
    layers = {t.name: s for t in model.tensors if (s := layer_statistics(t, passes.totals, tokens, backward))}
    if (few := expert_inputs.warning(layers)) is not None:
        progress.say(few)
    statistics = Statistics(layers, model.fingerprint, text.fingerprint, tokens, text.source)
    return statistics, Hessians(folder, passes.inputs)


class _Passes:
    """Passes of all windows through one part of the network after another, and the sums that they leave."""

    def __init__(self, model: Model, text: CalibrationText, folder: Path, scratch: Path, hessian: bool):
        self.totals: Sums = {}
        self.inputs: dict[str, str] = {}
        self._stream, self._windows = BlockStream(model), list(text.windows)
        pieces = self._stream.head_in_pieces(text.windows.shape[1]) if model.causal else None
        self._recorder = Recorder(self._stream.network, model, Accumulator() if hessian else None, pieces)
        self.backward = range(0, len(self._windows), self._recorder.stride)
        self._hessian, self._folder, self._tokens = hessian, folder, text.tokens
        count = len(self._stream.blocks)
        self._now = States(scratch / "now", 1, len(self._windows))
        self._kept = States(scratch / "kept", count + 1, len(self.backward))
        self._gradients = States(scratch / "gradients", 1, len(self.backward))
        self._calls: list[Sequence[BlockCall]] = [()] * len(self._windows)

    def run(self, progress: Progress) -> None:
        """Runs all windows forward and some of them backward."""
        stream, everything = self._stream, range(len(self._windows))
        blocks = range(len(stream.blocks))
        total = 2 * len(blocks) + 3
        steps = progress.track(range(total), "Measuring sensitivity, block by block", total)
        next(steps)
        with stream.surroundings():
            self._pass(self._first, everything)
        for block in blocks:
            next(steps)
            with stream.loaded(block):
                self._pass(partial(self._through, block), everything)
        next(steps)
        with stream.surroundings():
            self._pass(self._last, everything)
        for block in reversed(blocks):
            next(steps)
            with stream.loaded(block):
                self._backward_pass(partial(self._back_through, block))
        next(steps)
        with stream.surroundings():
            self._backward_pass(self._back_to_embedding)
        next(steps, None)

    def _pass(self, work: Callable[[int], None], windows: Iterable[int]) -> None:
        """Adds up what windows leave, and writes the Hessians of the modules that they went through."""
        accumulator = self._recorder.hessians = Accumulator() if self._hessian else None
        self._add(work, windows)
        if accumulator is not None:
            self.inputs |= accumulator.store(self._folder, self._tokens).inputs
        self._recorder.hessians = None
        return_memory()

    def _backward_pass(self, work: Callable[[int], None]) -> None:
        """Adds up what gradients tell; the rest was told by the forward pass."""
        self._add(work, self.backward, OF_GRADIENTS)
        return_memory()

    def _add(self, work: Callable[[int], None], windows: Iterable[int], parts: Sequence[str] | None = None) -> None:
        def sums(window: int) -> Sums:
            with self._recorder.recording(window) as found:
                work(window)
            return {key: value for key, value in found.items() if parts is None or key[1] in parts}

        for of_window in ordered(sums, windows, compute_alone):
            for key, value in of_window.items():
                self.totals[key] = self.totals[key] + value if key in self.totals else value

    @torch.no_grad()
    def _first(self, window: int) -> None:
        hidden, calls = self._stream.first_part(self._windows[window])
        self._calls[window] = self._calls[0] if window and calls == self._calls[0] else calls
        self._keep(0, window, hidden)

    @torch.no_grad()
    def _through(self, block: int, window: int) -> None:
        hidden = self._stream.run(block, self._now.read(0, window), self._calls[window][block])
        self._keep(block + 1, window, hidden)

    def _keep(self, depth: int, window: int, hidden: torch.Tensor) -> None:
        self._now.write(0, window, hidden)
        if window in self.backward:
            self._kept.write(depth, self.backward.index(window), hidden)

    def _last(self, window: int) -> None:
        backward = window in self.backward
        hidden = self._now.read(0, window).requires_grad_(backward)
        # What comes before the blocks has told its sums in the first part.
        begins = self._recorder.local.sums.clear
        with torch.set_grad_enabled(backward), self._stream.ending(hidden, begins):
            self._recorder.through(self._windows[window], backward, torch.Generator().manual_seed(window))
        if backward:
            self._hand_on(window, hidden)

    def _back_through(self, block: int, window: int) -> None:
        at = self.backward.index(window)
        hidden = self._kept.read(block, at).requires_grad_()
        self._stream.run(block, hidden, self._calls[window][block]).backward(self._gradients.read(0, at))
        self._hand_on(window, hidden)

    def _back_to_embedding(self, window: int) -> None:
        hidden, _ = self._stream.first_part(self._windows[window])
        hidden.backward(self._gradients.read(0, self.backward.index(window)))

    def _hand_on(self, window: int, hidden: Any) -> None:
        self._gradients.write(0, self.backward.index(window), hidden.grad)
