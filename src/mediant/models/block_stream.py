"""Runs a model block by block, with the weights of one block in memory at a time.

A network of transformers is built without weights. Its own forward pass is then run in three parts: from the tokens to
the input of the first block, each block alone, and from the output of the last block to the end. So whatever a family
does around its blocks (masks, rotations, scaled embeddings, capped logits) is done by its own code. What a family hands
to each of its blocks beside the hidden states is noted in the first part and handed over again later.

Hidden states between two parts are float32 on disk (`States`), so the result has the bits of a whole pass.

Cost: memory of one block, of the embedding or of the head, whichever is largest; every weight is read once for each
pass over the text.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import init_empty_weights
from torch import nn

from mediant.errors import ModelError
from mediant.models import architecture
from mediant.models.head_in_pieces import HeadInPieces, needs_pieces, pieces_for
from mediant.models.running import hidden_states
from mediant.models.weights import WeightReader
from mediant.values import Model


@dataclass(frozen=True, eq=False)
class BlockCall:
    """Arguments of one block beside its hidden states."""

    positional: tuple[Any, ...]
    keywords: Mapping[str, Any]

    def __eq__(self, other: object) -> bool:
        """Returns True if a block computes the same from both; windows of one length share their masks and
        rotations.
        """
        return isinstance(other, BlockCall) and _alike(
            (self.positional, dict(self.keywords)), (other.positional, dict(other.keywords))
        )

    __hash__ = None  # type: ignore[assignment]


class _EndOfFirstPart(Exception):  # noqa: N818 (no error: it leaves the network's forward pass early)
    """Raised by the last block of a pass that needs nothing behind it."""


class BlockStream:
    """A network whose blocks are loaded when they are needed.

    Attributes:
        network: all modules, with weights only where `loaded` or `surroundings` has put them.
        blocks: the blocks, in order.
    """

    def __init__(self, model: Model):
        config = architecture.load_config(model.path)
        # Buffers that are no weights, such as rotary frequencies, are computed by the constructor, so they are real.
        with init_empty_weights(include_buffers=False):
            self.network = architecture.network_class(config)(config).eval()
        self.network.requires_grad_(False)
        self.network.config.use_cache = False
        self.model = model
        path = _blocks_path(self.network)
        self.blocks: Sequence[nn.Module] = tuple(self.network.get_submodule(path))
        self._prefixes = tuple(f"{path}.{index}." for index in range(len(self.blocks)))
        self._returns_tuple = False
        self._instead = threading.local()
        for block in self.blocks:
            block.forward = self._forward(block.forward)

    @contextlib.contextmanager
    def loaded(self, index: int) -> Iterator[nn.Module]:
        """Block `index` with its weights, which go again at the end.

        Raises:
            ModelError: a weight is not finite, or its file is damaged.
        """
        with self._weights(lambda name: name.startswith(self._prefixes[index])):
            yield self.blocks[index]

    @contextlib.contextmanager
    def surroundings(self) -> Iterator[None]:
        """Everything outside the blocks with its weights: embedding, last norm, head."""
        with self._weights(lambda name: not name.startswith(self._prefixes)):
            yield

    @contextlib.contextmanager
    def _weights(self, wanted: Callable[[str], bool]) -> Iterator[None]:
        """The network with its tensors of these names; opened anew each time, so that no file stays mapped."""
        filled: list[tuple[dict[str, Any], str, Any]] = []
        try:
            with WeightReader(self.model) as weights:
                for info in self.model.tensors:
                    if names := [name for name in (info.name, *info.aliases) if wanted(name)]:
                        values = torch.from_numpy(weights.read(info.name))
                        filled += [_put(self.network, name, values) for name in names]
            yield
        finally:
            for place, leaf, empty in filled:
                place[leaf] = empty

    def first_part(self, window: torch.Tensor) -> tuple[torch.Tensor, list[BlockCall]]:
        """Hidden states [1, tokens, width] that the first block reads, and what every block is called with.

        Needs `surroundings`.
        """
        states: list[torch.Tensor] = []
        calls: list[BlockCall] = []

        def note(hidden: torch.Tensor, call: BlockCall) -> torch.Tensor:
            states.append(hidden)
            calls.append(call)
            if len(calls) == len(self.blocks):
                raise _EndOfFirstPart
            return hidden

        with self._replaced(note), contextlib.suppress(_EndOfFirstPart):
            self._all(window)
        if len(calls) != len(self.blocks):
            raise ModelError(f"{type(self.network).__name__} does not run its blocks one after another.")
        return states[0], calls

    def run(self, index: int, hidden: torch.Tensor, call: BlockCall) -> torch.Tensor:
        """Hidden states [1, tokens, width] behind block `index`, which must be `loaded`."""
        out = self.blocks[index](hidden, *call.positional, **call.keywords)
        self._returns_tuple = isinstance(out, tuple)
        behind: torch.Tensor = out[0] if self._returns_tuple else out
        return behind

    @contextlib.contextmanager
    def ending(self, hidden: torch.Tensor, begins: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Has the network go on as if its last block gave `hidden`, in this thread alone. Needs `surroundings`.

        Modules before the blocks run too, but what they compute goes nowhere; `begins` is called behind them.
        """

        def instead(_: torch.Tensor, __: BlockCall) -> torch.Tensor:
            begins()
            return hidden

        with self._replaced(instead):
            yield

    @torch.no_grad()
    def head_in_pieces(self, positions: int) -> HeadInPieces | None:
        """Returns the head in pieces, if windows of so many positions need it and it can be had.

        To be asked before others put hooks into the network: it is found by a trial with the first block alone.
        """
        if not needs_pieces(self.network, positions):
            return None
        with self.surroundings():
            hidden, calls = self.first_part(torch.zeros(2, dtype=torch.int64))
        with self.loaded(0):
            self.run(0, hidden, calls[0])
        with self.surroundings(), self._replaced(lambda given, _: given):
            return pieces_for(self.network, positions)

    def _all(self, window: torch.Tensor) -> Any:
        """Returns the output of a language model, or the hidden states of anything else, whatever its head."""
        ids = window[None]
        return self.network(input_ids=ids) if self.model.causal else hidden_states(self.network, ids)

    @contextlib.contextmanager
    def _replaced(self, instead: Callable[[torch.Tensor, BlockCall], torch.Tensor]) -> Iterator[None]:
        """Has all blocks call `instead` with their hidden states and other arguments, in this thread alone."""
        self._instead.of_block = instead
        try:
            yield
        finally:
            self._instead.of_block = None

    def _forward(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a block's forward pass: its own, or what this thread has in its place."""

        def forward(*positional: Any, **keywords: Any) -> Any:
            instead = getattr(self._instead, "of_block", None)
            if instead is None:
                return own(*positional, **keywords)
            hidden, rest = (positional[0], positional[1:]) if positional else (keywords.pop("hidden_states"), ())
            out = instead(hidden, BlockCall(rest, keywords))
            return (out, None) if self._returns_tuple else out

        return forward


class States:
    """Hidden states [1, tokens, width] of windows at several depths, in one file of float32.

    All have the shape of the first that is written. Threads may write and read different windows.
    """

    def __init__(self, file: Path, depths: int, windows: int):
        self._depths, self._windows = depths, windows
        self._shape: tuple[int, ...] = ()
        self._first = threading.Lock()
        self._file = file
        file.touch()

    def write(self, depth: int, window: int, hidden: torch.Tensor) -> None:
        """Keeps the states of a window at a depth."""
        values = hidden.detach().float().contiguous().numpy()
        with self._first:
            self._shape = self._shape or values.shape
        with self._file.open("r+b") as file:
            file.seek(self._place(depth, window))
            file.write(values.tobytes())

    def read(self, depth: int, window: int) -> torch.Tensor:
        """States that were written."""
        with self._file.open("rb") as file:
            file.seek(self._place(depth, window))
            values = np.frombuffer(bytearray(file.read(self._bytes)), np.float32)
        return torch.from_numpy(values.reshape(self._shape))

    @property
    def _bytes(self) -> int:
        return int(np.prod(self._shape)) * np.dtype(np.float32).itemsize

    def _place(self, depth: int, window: int) -> int:
        if not (0 <= depth < self._depths and 0 <= window < self._windows):
            raise IndexError(f"depth {depth} of {self._depths}, window {window} of {self._windows}")
        return (depth * self._windows + window) * self._bytes


def _blocks_path(network: nn.Module) -> str:
    """Returns the path of the list of blocks: the longest list of modules of one class outside of other lists.

    Raises:
        ModelError: there is none.
    """
    lists = {
        path: module
        for path, module in network.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(m) for m in module}) == 1 and ".0." not in f".{path}."
    }
    if not lists:
        raise ModelError(f"{type(network).__name__} has no list of blocks, so it cannot be run block by block.")
    longest: str = max(lists, key=lambda path: len(lists[path]))
    return longest


def _alike(one: Any, other: Any) -> bool:
    """Equality of nested arguments, tensors by their numbers."""
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(_alike, one, other))
    return bool(one == other)


def _put(network: nn.Module, name: str, values: torch.Tensor) -> tuple[dict[str, Any], str, Any]:
    """Puts values where a tensor of the network is; returns the place, its key, and what was there."""
    path, _, leaf = name.rpartition(".")
    module = network.get_submodule(path)
    place: dict[str, Any] = module._parameters if leaf in module._parameters else module._buffers
    empty = place[leaf]
    place[leaf] = nn.Parameter(values, requires_grad=False) if place is module._parameters else values.to(empty.dtype)
    return place, leaf, empty
