"""Demands measured at the current quantized weights: the loop of CVXQ's algorithm 1.

Gradients for some sequences, bit widths by dual ascent, weights quantized by them, and again, now with the gradients of
the quantized network. Matrices that the last hidden state does not depend on, or that are no linear layer (embedding,
head), are left alone in the paper; here their squared gradients are the Fisher information that calibration measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load, save

from mediant.forms.compand.companded_matrix import code_bytes
from mediant.forms.compand.compander import compand
from mediant.forms.compand.demands import Demand, bit_widths, clusters, demand, multiplier_within
from mediant.forms.compand.form import Compand, Length
from mediant.methods.layer import Layer, neutral
from mediant.models.matrix_form import from_matrix, to_matrix
from mediant.models.reference import load_reference
from mediant.models.weights import WeightReader
from mediant.progress import Progress
from mediant.statistics.calibration_text import CalibrationText
from mediant.statistics.output_gradients import components, squares
from mediant.values import Array, LayerStatistics, Model, TensorInfo
from mediant.workers import compute_alone, ordered

Demands = dict[str, Demand]
Probe = tuple[torch.Tensor, torch.Tensor]

# Least weight of the newest sequences in the running mean of squared gradients.
NEWEST = 0.5
# Sequences whose gradients one thread adds up.
PART = 4


class DemandHints:
    """Demands as hints of the form (`forms.encoding.Hints`)."""

    def key(self, forms: Mapping[str, Compand]) -> str:
        """Returns the settings of the loop, which all tensors share; the multiplier plays no part."""
        return repr(dataclasses.replace(next(iter(forms.values())), multiplier=1.0))

    def measure(self, context: Any, forms: Mapping[str, Compand]) -> Demands:
        """Demands of all tensors, as the fields of the first form say."""
        model, statistics, settings = context.model, context.statistics, next(iter(forms.values()))
        infos = [info for info in model.tensors if info.name in forms]
        with WeightReader(model) as weights:
            others = {
                info.name: _by_fisher(info, weights, statistics.layers.get(info.name), settings)
                for info in infos
                if not reached(info)
            }
            linear = [info for info in infos if reached(info)]
            found = _Loop(model, linear, context.text, settings, weights, context.progress).run()
        return {info.name: (found | others)[info.name] for info in infos}

    def to_bytes(self, hints: Mapping[str, Demand]) -> bytes:
        """Measured demands, to be kept."""
        arrays = {f"{field}:{name}": value for name, d in hints.items() for field, value in vars(d).items()}
        data: bytes = save({key: np.ascontiguousarray(value) for key, value in arrays.items()})
        return data

    def from_bytes(self, data: bytes) -> Demands:
        """Returns the inverse of `to_bytes`."""
        arrays = load(data)
        names = sorted(key.removeprefix("squares:") for key in arrays if key.startswith("squares:"))
        return {n: Demand(*(arrays[f"{field}:{n}"] for field in ("squares", "variances", "clusters"))) for n in names}

    def neutral(self, form: Compand, layer: Layer) -> Demand:
        """Returns the demand of a matrix whose gradients are all alike."""
        squares = np.ones_like(layer.matrix)
        return demand(layer.matrix, squares, clusters(layer.matrix, squares.mean(axis=1), form.cluster))

    def side(self, form: Compand, hint: Demand) -> Length:
        """Returns the length that the codes will have."""
        return Length(code_bytes(bit_widths(hint, form.multiplier), hint.clusters))


HINTS = DemandHints()


def reached(info: TensorInfo) -> bool:
    """Returns True for matrices whose gradients the loop measures."""
    return info.role == "linear" and info.layout in ("out_in", "in_out")


def _by_fisher(info: TensorInfo, weights: WeightReader, local: LayerStatistics | None, settings: Compand) -> Demand:
    matrix = to_matrix(weights.read(info.name), info)
    s = neutral(matrix) if local is None else local
    gradients = np.outer(s.output_fisher, s.input_square).astype(np.float32)
    if s.head_fisher is not None and s.head_square is not None:
        gradients += np.outer(s.head_fisher, s.head_square).astype(np.float32)
    return demand(matrix, gradients, clusters(matrix, gradients.mean(axis=1), settings.cluster))


@dataclass(frozen=True)
class _Loop:
    """Estimation: everything happens in the weights of one network in memory."""

    model: Model
    infos: Sequence[TensorInfo]
    text: CalibrationText
    settings: Compand
    weights: WeightReader
    progress: Progress

    def run(self) -> Demands:
        """Returns the running means after the last sequence."""
        network = load_reference(self.model).requires_grad_(False)
        parameters = {
            info.name: parameter
            for info in self.infos
            if isinstance(parameter := _parameter(network, info.name), torch.nn.Parameter)
        }
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        count, each = self.settings.sequences, self.settings.renewal or self.settings.sequences
        windows = self.text.windows[torch.arange(count) % len(self.text.windows)]
        (directions,) = ordered(lambda w: components(network, w), [windows], compute_alone)
        sequences = [(windows[i], directions[i % len(directions)]) for i in range(count)]
        found: Demands = {}
        for batch, start in enumerate(range(0, count, each)):
            if batch:
                self._quantize(parameters, found)
            means = self._means(network, parameters, sequences[start : start + each])
            share = max(NEWEST, 1 / (batch + 1))
            found = {name: self._renewed(name, found.get(name), mean, share) for name, mean in means.items()}
        return found

    def _means(
        self, network: Any, parameters: Mapping[str, torch.nn.Parameter], sequences: Sequence[Probe]
    ) -> dict[str, torch.Tensor]:
        """Returns the mean squared gradients over sequences; added up in parts, so that they do not depend on the
        threads.
        """

        def added(part: Sequence[Probe]) -> dict[str, torch.Tensor]:
            sums: dict[str, torch.Tensor] = {}
            for window, direction in part:
                for name, square in squares(network, parameters, window, direction).items():
                    sums[name] = sums[name].add_(square) if name in sums else square
            return sums

        parts = [sequences[i : i + PART] for i in range(0, len(sequences), PART)]
        work = self.progress.track(ordered(added, parts, compute_alone), "Measuring gradients", len(parts))
        totals = next(work)
        for sums in work:
            for name, total in totals.items():
                total.add_(sums[name])
        return {name: total.div_(len(sequences)) for name, total in totals.items()}

    def _renewed(self, name: str, old: Demand | None, mean: torch.Tensor, share: float) -> Demand:
        info = self.model.tensor(name)
        gradients = to_matrix(mean.numpy(), info)
        matrix = to_matrix(self.weights.read(name), info)
        if old is None:
            return demand(matrix, gradients, clusters(matrix, gradients.mean(axis=1), self.settings.cluster))
        new = demand(matrix, gradients, old.clusters)
        mixed = np.float32(1 - share) * old.squares + np.float32(share) * new.squares
        return dataclasses.replace(old, squares=mixed)

    def _quantize(self, parameters: Mapping[str, torch.nn.Parameter], demands: Demands) -> None:
        """Puts companded weights into the network, at the rate that was asked for."""
        multiplier = multiplier_within(list(demands.values()), self.settings.rate)
        matrices = ((name, to_matrix(self.weights.read(name), self.model.tensor(name))) for name in parameters)

        def quantized(job: tuple[str, Array]) -> tuple[str, Array]:
            name, matrix = job
            mine = demands[name]
            return name, compand(matrix, mine.clusters, bit_widths(mine, multiplier)).matrix()

        work = ordered(quantized, matrices, compute_alone)
        with torch.no_grad():
            for name, matrix in self.progress.track(work, "Quantizing", len(parameters)):
                parameters[name].copy_(torch.from_numpy(from_matrix(matrix, self.model.tensor(name))))


def _parameter(network: Any, name: str) -> Any:
    return dict(network.named_parameters()).get(name)
