"""The nouns that travel between the verbs: frozen, and every one that outlives a run can be written and read back.

Conventions: a *matrix* has rows = outputs and columns = inputs, whatever way round the model stores it
(`TensorInfo.layout`). Bytes are whole files. Bits per weight count every stored bit over every weight of the model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mediant.errors import PlanError

Role = Literal["linear", "embedding", "head", "norm", "bias", "expert", "other"]

Layout = Literal["out_in", "in_out", "experts_out_in", "experts_in_out", "none"]

Array = NDArray[Any]

# Of any training that a plan counts.
MOST_STEPS = 999_999


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a model.

    `name` is its name in the transformers model; `aliases` are other names of the same storage (a tied head).
    `layout` says how it becomes a matrix: `out_in` as it is; `in_out` transposed (GPT-2's Conv1D);
    `experts_*` a stack of such matrices, [experts, ...]; `none` it has no matrix form.
    `module` is the path of the module that owns it, `layer` the index of its transformer block or -1.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role
    layout: Layout = "none"
    module: str = ""
    layer: int = -1
    aliases: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Number of weights."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix form; the matrices of a stack of experts lie under one another."""
        if self.layout == "out_in":
            return self.shape[0], self.shape[1]
        if self.layout == "in_out":
            return self.shape[1], self.shape[0]
        if self.layout == "experts_out_in":
            return self.shape[0] * self.shape[1], self.shape[2]
        if self.layout == "experts_in_out":
            return self.shape[0] * self.shape[2], self.shape[1]
        raise PlanError(f"The tensor {self.name!r} of shape {self.shape} has no matrix form.")


@dataclass(frozen=True)
class Model:
    """A model as it lies on disk: a Hugging Face folder, and what is in it. Weights stay there until they are read.

    `causal` says that it predicts tokens from those before; `position_offset` is how many positions are never used.
    Where structural edits made it, `edits` are these (`Plan.structure`) and `original` is the model before all of them.
    """

    path: Path
    name: str
    architecture: str
    config: Mapping[str, Any]
    tensors: tuple[TensorInfo, ...]
    fingerprint: str
    causal: bool = True
    position_offset: int = 0
    original: Model | None = None
    edits: tuple[Mapping[str, Any], ...] = ()

    @property
    def unedited(self) -> Model:
        """The model before all structural edits."""
        return self.original or self

    @property
    def weights(self) -> int:
        """Number of weights, tied ones counted once."""
        return sum(t.size for t in self.tensors)

    def tensor(self, name: str) -> TensorInfo:
        """Returns the tensor of that name or alias; KeyError if there is none."""
        for t in self.tensors:
            if name == t.name or name in t.aliases:
                return t
        raise KeyError(name)


@dataclass(frozen=True)
class RowSpan:
    """Consecutive rows of a matrix whose codes share one bit width."""

    rows: int
    bits: int


@dataclass(frozen=True)
class Truncation:
    """A cut of a tensor's codes to so many leading bits, and its place among the cuts of the whole model."""

    bits: int
    place: int


@dataclass(frozen=True)
class LayerStatistics:
    """Diagonal second-order statistics of one matrix over the calibration tokens, float64.

    For a linear layer, `input_square[j]` = E[x_j^2] and `input_mean[j]` = E[x_j] over n inputs, and
    `output_fisher[i]` = E[(dl/dy_i)^2] over m outputs, where l is the log-likelihood of a label sampled from the
    model (Fisher, not the empirical gradient). Weight ij then has the sensitivity output_fisher[i] * input_square[j].
    For an embedding, rows are tokens: `output_fisher[i]` is the frequency of token i and `input_square[j]` the Fisher
    of component j of its output; a tied head adds a second term, in `head_square` and `head_fisher`.
    For a stack of experts, inputs are by expert, [experts, n], over the tokens that it saw, and rows, of all experts
    under one another, count how often the expert is used; `expert_tokens` [experts] are the tokens that each saw.
    """

    input_square: Array
    input_mean: Array
    output_fisher: Array
    tokens: int
    head_square: Array | None = None
    head_fisher: Array | None = None
    expert_tokens: Array | None = None

    def expert(self, number: int) -> LayerStatistics:
        """Of a stack of experts, the statistics of one expert's matrix."""
        size = len(self.output_fisher) // len(self.input_square)
        return dataclasses.replace(
            self,
            input_square=self.input_square[number],
            input_mean=self.input_mean[number],
            output_fisher=self.output_fisher[number * size : (number + 1) * size],
            tokens=self.tokens if self.expert_tokens is None else int(self.expert_tokens[number]),
            expert_tokens=None,
        )


@dataclass(frozen=True)
class Statistics:
    """What calibration learned, by tensor name, and from what."""

    layers: Mapping[str, LayerStatistics]
    model_fingerprint: str
    text_fingerprint: str
    tokens: int
    source: str


@dataclass(frozen=True)
class Certificate:
    """What is known about the error of one encoded matrix W^ against W.

    `relative_error` = ||W - W^||^2 / ||W||^2. `weighted_error` is the same in the metric of the calibrated
    sensitivities (equal to `relative_error` where there were none). `bound` is the largest |w - w^| that can occur
    when nothing clips, in units of the scale (half the widest gap of the grid); `clipped` the share of weights
    outside the grid's range, and, where errors were carried on, of those that were outside when their turn came.
    `worst_error` is what `weighted_error` can be at most where nothing clips, and `expected_error` what it should be
    where errors spread evenly between levels (methods/error_bounds.py); None where no such bound is known, as after
    tuning.
    """

    relative_error: float
    weighted_error: float
    bound: float
    clipped: float
    worst_error: float | None = None
    expected_error: float | None = None


@dataclass(frozen=True)
class Scorecard:
    """The cost of a compression on one text, by the protocol of docs/notation.md."""

    kl: float
    kl_se: float
    perplexity: float
    reference_perplexity: float
    top1: float
    bytes: int
    bits_per_weight: float
    windows: int
    window: int
    tokens: int
    text: str
