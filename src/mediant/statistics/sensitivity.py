"""Diagonal sensitivities: what an error in each weight costs, to second order.

With y = W x and l the log-likelihood of a label sampled from the model itself, the expected rise of KL(model ||
compressed) per token is 1/2 sum_ij g_i^2 h_j (w_ij - w^_ij)^2 with g_i^2 = E[(dl/dy_i)^2] and h_j = E[x_j^2]: the
Kronecker diagonal of the Fisher information (Martens & Grosse 2015, arXiv 1503.05671, section 3; sampled labels,
not the training labels, as Kunstner et al. 2019, arXiv 1905.12558, insist).

Deviations: 1. the first position of every window does not count, since its massive activations would own h.
2. An encoder has no labels: l is a random Gaussian projection of the last hidden state, so g^2 measures squared
output error. Cost: one forward and one backward pass through activations; memory of one window a thread.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mediant.models.reference import load_reference
from mediant.progress import SILENT, Progress
from mediant.statistics.calibration import CalibrationText
from mediant.values import Array, LayerStatistics, Model, Statistics, TensorInfo
from mediant.workers import ordered

# An embedding row's frequency is half what calibration saw, half what the model expects, with a tenth spread
# evenly so that a token that never came up is not starved.
EVEN_SHARE = 0.1

Sums = dict[tuple[str, str], Array]


def collect(model: Model, text: CalibrationText, progress: Progress = SILENT) -> Statistics:
    """Statistics of every linear layer, embedding and head of `model` over the calibration windows.

    The result does not depend on the number of threads: every window is computed by one thread, and windows are
    added in order.
    """
    network = load_reference(model)
    network.requires_grad_(False)
    recorder = _Recorder(network, model)
    windows = list(enumerate(text.windows))
    totals: Sums = {}
    for sums in progress.track(ordered(recorder.run, windows, _alone), "Measuring sensitivity", len(windows)):
        for key, value in sums.items():
            totals[key] = totals[key] + value if key in totals else value
    tokens = text.windows.shape[0] * (text.windows.shape[1] - 1)
    layers = {t.name: s for t in model.tensors if (s := _layer(t, totals, tokens)) is not None}
    return Statistics(layers, model.fingerprint, text.fingerprint, tokens, text.source)


def _alone() -> None:
    torch.set_num_threads(1)


class _Recorder:
    """Hooks that add up, per thread, what passes through each module of interest."""

    def __init__(self, network: Any, model: Model) -> None:
        self.network, self.causal = network, model.causal
        self.local = threading.local()
        modules = dict(network.named_modules())
        for info in model.tensors:
            for name in (info.name, *info.aliases):
                module = modules.get(name.rpartition(".")[0])
                if isinstance(module, torch.nn.Embedding):
                    module.register_forward_hook(self._embedding_hook(info.name))
                elif module is not None and info.role in ("linear", "head", "embedding") and name.endswith(".weight"):
                    module.register_forward_hook(self._linear_hook(info.name))

    def run(self, job: tuple[int, torch.Tensor]) -> Sums:
        """Sums over one window."""
        index, window = job
        self.local.sums = defaultdict(float)
        generator = torch.Generator().manual_seed(index)
        with torch.enable_grad():
            out = self.network(input_ids=window[None])
            self._objective(out, generator).backward()
        sums: Sums = dict(self.local.sums)
        return sums

    def _objective(self, out: Any, generator: torch.Generator) -> torch.Tensor:
        if not self.causal:
            hidden = out.last_hidden_state
            projected: torch.Tensor = (hidden * torch.randn(hidden.shape, generator=generator)).sum()
            return projected
        logits = out.logits[0].float()
        labels = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)
        likelihood: torch.Tensor = logits.log_softmax(-1).gather(1, labels).sum()
        return likelihood

    def _add(self, name: str, part: str, value: torch.Tensor) -> None:
        self.local.sums[name, part] += value.detach().double().numpy()

    def _embedding_hook(self, name: str) -> Callable[..., None]:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if output.is_leaf:
                output.requires_grad_(True)
            ids = inputs[0].reshape(-1)[1:]
            self._add(name, "rows", torch.bincount(ids, minlength=module.num_embeddings))
            output.register_hook(lambda g: self._add(name, "columns", _tokens(g).square().sum(0)))

        return hook

    def _linear_hook(self, name: str) -> Callable[..., None]:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            x = _tokens(inputs[0].detach())
            self._add(name, "square", x.square().sum(0))
            self._add(name, "mean", x.sum(0))
            if module is self.network.get_output_embeddings():
                p = _tokens(output.detach()).float().softmax(-1)
                self._add(name, "expected", p.sum(0))
                self._add(name, "fisher", (p - p.square()).sum(0))
            elif output.requires_grad:
                output.register_hook(lambda g: self._add(name, "fisher", _tokens(g).square().sum(0)))

        return hook


def _tokens(x: torch.Tensor) -> torch.Tensor:
    """[tokens, features] without the first position."""
    return x.reshape(-1, x.shape[-1])[1:]


def _layer(info: TensorInfo, totals: Sums, tokens: int) -> LayerStatistics | None:
    part: dict[str, Array] = {k: v / tokens for (name, k), v in totals.items() if name == info.name}
    if "columns" in part:
        rows = part["rows"]
        expected = part.get("expected", rows)
        frequency = (1 - EVEN_SHARE) * (rows + expected) / 2 + EVEN_SHARE / len(rows)
        return LayerStatistics(
            input_square=part["columns"],
            input_mean=np.zeros_like(part["columns"]),
            output_fisher=frequency,
            tokens=tokens,
            head_square=part.get("square"),
            head_fisher=part.get("fisher"),
        )
    if "square" not in part or "fisher" not in part:
        return None
    return LayerStatistics(part["square"], part["mean"], part["fisher"], tokens)
