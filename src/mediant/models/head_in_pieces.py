"""Logits of a causal network for some positions of a window at a time.

Logits are the largest array of a model with a large vocabulary: 512 positions of 262,144 tokens take 537 MB in
float32, and a loss holds several of that size. Here a network runs up to its head, and head and loss follow for a few
positions at a time, so that memory does not grow with window times vocabulary.

What a network does after its head (soft caps, scales) is left to its own `forward`: that is run again for some
positions, while its trunk, the module whose output the head reads, gives back states that are known already.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

# Logits that are computed at once: up to so many, all positions of a window, with the bits of a plain forward pass;
# of a larger vocabulary, pieces of the second size.
WHOLE, PIECE = 1 << 26, 1 << 24


class HeadInPieces:
    """A causal network that can stop before its head, and go on from there for some positions.

    Its trunk is found by a trial. `works` is False where there is none, as in networks that add states up between trunk
    and head. Threads may use it at once.

    Args:
        network: a causal network of transformers. Its trunk and head get hooks that do nothing for other callers.
    """

    def __init__(self, network: Any) -> None:
        self.network, self.head = network, network.get_output_embeddings()
        self._local = threading.local()
        self._kind: type = torch.Tensor
        self._trunk = None if self.head is None else self._found()
        if self._trunk is not None:
            self._guard(self._trunk)
        self.works = self._trunk is not None and self._agrees()

    @property
    def vocabulary(self) -> int:
        """Logits of a position."""
        return int(self.head.weight.shape[0])

    def pieces(self, positions: int) -> Iterator[slice]:
        """Consecutive slices of positions whose logits fit into memory together."""
        size = max(1, PIECE // self.vocabulary)
        for begin in range(0, positions, size):
            yield slice(begin, min(begin + size, positions))

    def outputs(self, ids: torch.Tensor, **options: Any) -> Any:
        """Runs the trunk on token ids [1, window]: `last_hidden_state` [1, window, width] and its other outputs.

        `options` go to the network's `forward`.
        """
        self._local.stop = True
        try:
            self.network(input_ids=ids, use_cache=False, **options)
        except _Reached as reached:
            return reached.output
        finally:
            self._local.stop = False
        raise RuntimeError("the trunk of the network was not called")

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Logits [positions, vocabulary] of last hidden states [1, positions, width], with their gradient."""
        self._local.states = states
        try:
            ids = torch.zeros(states.shape[:2], dtype=torch.int64)
            found: torch.Tensor = self.network(input_ids=ids, use_cache=False).logits
            return found[0]
        finally:
            self._local.states = None

    def _found(self) -> nn.Module | None:
        """Returns the outermost module below the network that gives what the head reads; None where there is none."""
        given: list[tuple[nn.Module, int]] = []
        read: list[int] = []

        def note(module: nn.Module, _: Any, output: Any) -> None:
            if (states := _states(output)) is not None:
                given.append((module, _place(states)))

        inside = [module for _, module in self.network.named_modules() if module not in (self.network, self.head)]
        hooks = [module.register_forward_hook(note) for module in inside]
        hooks.append(self.head.register_forward_pre_hook(lambda _, inputs: read.append(_place(inputs[0]))))
        try:
            with torch.no_grad():
                self._whole(2)
        finally:
            for hook in hooks:
                hook.remove()
        return next((module for module, place in reversed(given) if read and place == read[0]), None)

    def _guard(self, trunk: nn.Module) -> None:
        """Lets the trunk stop a network or give states of another pass, in a thread that asks for it."""
        plain, local = trunk.forward, self._local

        def forward(*arguments: Any, **options: Any) -> Any:
            if (states := getattr(local, "states", None)) is not None:
                return _like(self._kind, states)
            output = plain(*arguments, **options)
            self._kind = type(output)
            if getattr(local, "stop", False):
                raise _Reached(output)
            return output

        trunk.forward = forward

    def _agrees(self) -> bool:
        """Returns True if a trial gives the logits of a plain pass."""
        with torch.no_grad():
            expected = self._whole(2)
            try:
                states = _states(self.outputs(torch.zeros(1, 2, dtype=torch.int64)))
                found = torch.cat([self.logits(states[:, i : i + 1]) for i in range(2)])
            except (RuntimeError, TypeError, AttributeError, IndexError):
                return False
        # Other shapes of the same product differ in its rounding.
        return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-3, atol=1e-4, equal_nan=True)

    def _whole(self, positions: int) -> torch.Tensor:
        ids = torch.zeros(1, positions, dtype=torch.int64)
        found: torch.Tensor = self.network(input_ids=ids, use_cache=False).logits[0]
        return found


class SomeLogits:
    """Logits of a window, computed when positions are asked for; to be read like a tensor [positions, vocabulary]."""

    def __init__(self, head: HeadInPieces, states: torch.Tensor) -> None:
        self._head, self._states = head, states
        self.shape = (states.shape[1], head.vocabulary)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, positions: slice) -> torch.Tensor:
        return self._head.logits(self._states[:, positions])


def logits_of(network: Any) -> Callable[[torch.Tensor], torch.Tensor | list[SomeLogits]]:
    """Returns a function from token ids [1, window] to the logits [1, window, vocabulary] of a causal network."""

    def logits(ids: torch.Tensor) -> torch.Tensor | list[SomeLogits]:
        if (head := pieces_for(network, ids.shape[1])) is not None:
            return [SomeLogits(head, head.outputs(ids).last_hidden_state)]
        found: torch.Tensor = network(input_ids=ids, use_cache=False).logits
        return found

    return logits


def needs_pieces(network: Any, positions: int) -> bool:
    """Returns True if logits of so many positions are too many to be computed at once."""
    weight = getattr(network.get_output_embeddings(), "weight", None)
    return weight is not None and positions * int(weight.shape[0]) > WHOLE


def pieces_for(network: Any, positions: int) -> HeadInPieces | None:
    """Returns the head in pieces of a network, if windows of so many positions need it and it can be had; made once.

    Threads may ask at once, before they run the network.
    """
    if not needs_pieces(network, positions):
        return None
    with _MAKING:
        if not hasattr(network, _KEPT):
            setattr(network, _KEPT, HeadInPieces(network))
    head: HeadInPieces = getattr(network, _KEPT)
    return head if head.works else None


_MAKING, _KEPT = threading.Lock(), "_mediant_head_in_pieces"


class _Reached(Exception):  # noqa: N818
    """Ends a forward pass at the end of the trunk."""

    def __init__(self, output: Any) -> None:
        self.output = output


def _states(output: Any) -> Any:
    """Returns the last hidden states in what a module gives; None where it gives something else."""
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, tuple) and output and isinstance(output[0], torch.Tensor):
        return output[0]
    return getattr(output, "last_hidden_state", None)


def _like(kind: type, states: torch.Tensor) -> Any:
    """States in the form in which a trunk gives them."""
    if kind is torch.Tensor:
        return states
    return (states,) if kind is tuple else kind(last_hidden_state=states)


def _place(x: torch.Tensor) -> int:
    """Returns the address of a tensor's storage, which all its views share."""
    return x.untyped_storage().data_ptr()
