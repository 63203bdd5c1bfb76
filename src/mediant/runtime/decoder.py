"""The native decoder: a model of a known family, run by our own kernels.

    decoder = Decoder.open("smol-60")
    sequence = decoder.sequence()
    logits = decoder.prefill(sequence, tokens)     # of the last token
    logits = decoder.step(sequence, token)

The same token in the same place gives the same bits whether it is read alone, in a chunk or in a batch, and for any
number of threads. Arithmetic beside the matrices is float32; keys and values are kept with `kv_bits` bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mediant import workers
from mediant.checkpoint.reader import Checkpoint, open_checkpoint
from mediant.errors import CheckpointError, UsageError
from mediant.forms import Views
from mediant.kernels import native
from mediant.models.configuration import configuration
from mediant.models.folder import CHECKPOINT
from mediant.progress import SILENT, Progress
from mediant.runtime.activation_bits import USUAL, is_precise
from mediant.runtime.description import Description, UnsupportedModel
from mediant.runtime.expansion import expanded
from mediant.runtime.families import describe
from mediant.runtime.kv_cache import KV_BITS, Sequence
from mediant.runtime.tensor_source import CheckpointSource, Source
from mediant.runtime.truncation_schedule import TruncationSchedule

Floats = NDArray[np.float32]

CHUNK = 512
LAYER_ROLES = ("query", "key", "value", "out", "gate", "up", "down")
SINGLE_ROLES = ("project_in", "project_out", "embedding", "head", "positions", "final_norm")


@dataclass
class Drafts:
    """What became of the drafts of self-speculation."""

    drafted: int = 0
    accepted: int = 0
    rounds: int = 0

    def add(self, drafted: int, accepted: int, rounds: int) -> None:
        """Counts more of them."""
        self.drafted, self.accepted, self.rounds = (
            self.drafted + drafted,
            self.accepted + accepted,
            self.rounds + rounds,
        )


class Decoder:
    """A whole model in memory, or mapped into it. Several sequences may use it, one call at a time."""

    def __init__(
        self,
        description: Description,
        source: Source,
        threads: int | None = None,
        kv_bits: int = 16,
        chunk: int = CHUNK,
        activation_bits: int = USUAL,
    ):
        """Connects the tensors of `source` as `description` says.

        Args:
            description: of the model.
            source: of its tensors.
            threads: that compute; by default as `workers.threads`.
            kv_bits: 32, 16, 8 or 4 for each key and value.
            chunk: tokens that are read at once.
            activation_bits: to which inputs of packed matrices are rounded, 15 or 8; 8 is faster.

        Raises:
            UnsupportedModel: the native kernels were not built.
            CheckpointError: a tensor is missing or of another shape.
        """
        if native is None:
            raise UnsupportedModel("the native kernels were not built, or are switched off by MEDIANT_KERNELS")
        if kv_bits not in KV_BITS:
            raise UsageError(f"Keys and values take {', '.join(map(str, KV_BITS))} bits, not {kv_bits}.")
        self.description, self.threads, self.kv_bits, self.chunk = (
            description,
            threads or workers.threads(),
            kv_bits,
            chunk,
        )
        self.matrices: list[Views] = []
        # Packed ones that activations meet: not an embedding beside a head of its own.
        self.multiplied: list[Views] = []
        self.drafts = Drafts()
        layers = [(layer.window, layer.rope) for layer in description.layers]
        ropes = [(np.ascontiguousarray(rope.frequencies, np.float32), rope.scale) for rope in description.ropes]
        self.native = native.Decoder(description.shape(), layers, ropes, self.threads)
        self.native.set_position_offset(description.position_offset)
        self.set_activation_bits(activation_bits)
        try:
            self._connect(source)
            self.native.check()
        except ValueError as problem:
            raise CheckpointError(f"The tensors are not those of a {description.family} decoder: {problem}.") from None
        self._views = [0] * len(self.matrices)
        self._dial = TruncationSchedule(self.matrices)

    @classmethod
    def open(
        cls,
        folder: str | Path | Checkpoint,
        threads: int | None = None,
        kv_bits: int = 16,
        chunk: int = CHUNK,
        activation_bits: int = USUAL,
        progress: Progress = SILENT,
    ) -> Self:
        """Returns the decoder of a compressed or plain model in a folder, or of a checkpoint that is open already.

        An entropy-coded one is expanded at its first start.

        Raises:
            UnsupportedModel: the native decoder does not run such a model.
            CheckpointError: it is damaged.
            ModelError: there is no model.
        """
        checkpoint, path = (folder, folder.folder) if isinstance(folder, Checkpoint) else (None, Path(folder))
        description, settings = describe(configuration(path)), (threads, kv_bits, chunk, activation_bits)
        if checkpoint is None and (path / CHECKPOINT).is_file():
            checkpoint = open_checkpoint(path)
        if checkpoint is not None:
            return cls(description, CheckpointSource(expanded(checkpoint, progress)), *settings)
        from mediant.models.opening import open_model
        from mediant.models.weights import WeightReader
        from mediant.runtime.tensor_source import ModelSource

        with WeightReader(open_model(str(path))) as reader:
            return cls(description, ModelSource(reader), *settings)

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return self.description.vocabulary

    @property
    def bytes_per_token(self) -> int:
        """Bytes of weights that one token reads at the present precision."""
        return int(self.native.weight_bytes)

    def bytes_at(self, precision: float | None) -> int:
        """Returns the bytes of weights that one token would read at another precision."""
        present = self._views
        self.native.set_views(self.views(precision))
        found = self.bytes_per_token
        self.native.set_views(present)
        return found

    @property
    def precisions(self) -> tuple[float, ...]:
        """The precisions there are, in bits, ascending; a single one where the model is not stored nested."""
        return self._dial.precisions

    def set_precision(self, precision: float | None) -> None:
        """From the next token on, only some first bits of the codes are read, as `dial` says; None: all.

        Raises:
            UsageError: the model is not stored so that fewer bits can be read.
        """
        self._views = self.views(precision)
        self.native.set_views(self._views)

    def views(self, precision: float | None) -> list[int]:
        """Returns the view of each matrix that a precision takes; errors as for `set_precision`."""
        return self._dial.views(precision)

    def set_threads(self, threads: int) -> None:
        """Sets the number of threads from the next call on."""
        self.threads = threads
        self.native.set_threads(threads)

    def set_activation_bits(self, bits: int) -> None:
        """From the next call on, inputs of packed matrices are rounded to 15 bits or to 8, which is faster.

        Raises:
            UsageError: another number of bits.
        """
        self.native.set_precise(is_precise(bits))
        self.activation_bits = bits

    def set_ranges(self, ranges: Mapping[str, Floats] | None) -> None:
        """From the next call on, inputs of packed matrices are rounded within fixed ranges (static), by tensor name.

        The first four tokens of a sequence have their own all the same. With None every token has its own (dynamic).

        Raises:
            UsageError: ranges are missing, or are not those of a matrix of that shape.
        """
        for matrix in self.multiplied:
            if ranges is not None and matrix.name not in ranges:
                raise UsageError(f"The ranges say nothing of {matrix.name!r}; they were found for another model.")
            try:
                for packed in matrix.packed:
                    packed.set_ranges(None if ranges is None else ranges[matrix.name])
            except ValueError as problem:
                self.set_ranges(None)
                raise UsageError(f"The ranges of {matrix.name!r} do not fit it: {problem}.") from None

    def sequence(self) -> Sequence:
        """Returns a new, empty sequence."""
        return Sequence(self.native.cache(self.kv_bits, self.chunk))

    def prefill(self, sequence: Sequence, tokens: Items[int] | NDArray[Any], logits: bool = True) -> Floats:
        """Reads tokens, in chunks, and gives the logits [vocabulary] behind the last; an empty array if not wanted.

        Raises:
            UsageError: no tokens, or more than the model has positions for.
        """
        ids = self._checked(sequence, tokens)
        starts = range(0, len(ids), self.chunk)
        found = np.empty((0, self.vocabulary), np.float32)
        for start in starts:
            if logits and start == starts[-1]:
                found = np.empty((1, self.vocabulary), np.float32)
            self.native.forward([sequence.cache], [ids[start : start + self.chunk]], False, found)
        return found.reshape(-1)

    def step(self, sequence: Sequence, token: int) -> Floats:
        """Returns the logits [vocabulary] behind one more token."""
        return self.prefill(sequence, [token])

    def logits(self, sequence: Sequence, tokens: Items[int] | NDArray[Any]) -> Floats:
        """Returns the logits [tokens, vocabulary] behind each of the tokens, which are added to the sequence."""
        ids = self._checked(sequence, tokens)
        found = np.empty((len(ids), self.vocabulary), np.float32)
        for start in range(0, len(ids), self.chunk):
            here = slice(start, start + self.chunk)
            self.native.forward([sequence.cache], [ids[here]], True, found[here])
        return found

    def batch(self, sequences: Items[Sequence], tokens: Items[Items[int]]) -> Floats:
        """Adds to each sequence its own tokens, at most a chunk; the logits [sequences, vocabulary] behind the last."""
        ids = [self._checked(s, t) for s, t in zip(sequences, tokens, strict=True)]
        found = np.empty((len(ids), self.vocabulary), np.float32)
        self.native.forward([s.cache for s in sequences], ids, False, found)
        return found

    def _checked(self, sequence: Sequence, tokens: Items[int] | NDArray[Any]) -> NDArray[np.int32]:
        ids = np.ascontiguousarray(tokens, np.int32).reshape(-1)
        limit = self.description.positions
        if ids.size == 0:
            raise UsageError("There are no tokens to read; give at least one.")
        if sequence.length + ids.size > limit:
            raise UsageError(f"The text has {sequence.length + ids.size} tokens; the model takes at most {limit}.")
        if int(ids.min()) < 0 or int(ids.max()) >= self.vocabulary:
            raise UsageError(f"The token {int(ids.max())} is not among the {self.vocabulary} of the model.")
        return ids

    def _connect(self, source: Source) -> None:
        """Sets all tensors; the matrices in the order of the native `slots`: layer by layer, then the single ones."""
        d = self.description
        for index in range(len(d.layers)):
            for role in LAYER_ROLES:
                if role in d.matrices:
                    self._matrix(source, role, index, d.matrices[role].format(index))
            for role, name in d.norms.items():
                self._norm(source, role, index, name.format(index))
        # Tied to the embedding, the head is left out: its matrix and the embedding's are one.
        tied = "head" not in d.single or _tied(source, d.single["embedding"], d.single["head"])
        for role in SINGLE_ROLES:
            module = d.single.get(role)
            if role == "final_norm" and module is not None:
                self._norm(source, role, -1, module)
            elif module is not None and not (role == "head" and tied):
                self._matrix(source, role, -1, module, multiplied=role != "embedding" or tied)

    def _matrix(self, source: Source, role: str, layer: int, module: str, multiplied: bool = True) -> None:
        matrix = source.matrix(_known(source, f"{module}.weight"))
        bias = _bias(source, module, role in self.description.biased)
        self.native.set_linear(role, layer, list(matrix.linears), bias)
        if role != "positions":
            self.matrices.append(matrix)
            self.multiplied += [matrix] if matrix.packed and multiplied else []

    def _norm(self, source: Source, role: str, layer: int, module: str) -> None:
        if not self.description.norm_weights:
            ones = np.ones(self.description.hidden, np.float32)
            self.native.set_norm(role, layer, ones, None)
            return
        weight = source.vector(_known(source, f"{module}.weight")) + np.float32(self.description.norm_offset)
        bias = _bias(source, module, self.description.layer_norm)
        self.native.set_norm(role, layer, np.ascontiguousarray(weight), bias)


def _bias(source: Source, module: str, expected: bool) -> Floats | None:
    """Returns the bias beside a weight, there exactly where the configuration says so."""
    if not expected and f"{module}.bias" in source:
        raise ValueError(f"the configuration has no place for the tensor '{module}.bias'")
    return source.vector(_known(source, f"{module}.bias")) if expected else None


def _known(source: Source, name: str) -> str:
    if name not in source:
        raise ValueError(f"the tensor {name!r} is missing")
    return name


def _tied(source: Source, embedding: str, head: str) -> bool:
    """Returns True if the head is the embedding: it has no tensor of its own."""
    return source.name(f"{head}.weight") in (None, source.name(f"{embedding}.weight"))
