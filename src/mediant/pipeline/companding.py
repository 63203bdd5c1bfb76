"""choose, for CVXQ: demands measured at the current quantized weights, then the rate that meets a byte target.

The loop of the paper's algorithm 1: gradients for some sequences, depths by dual ascent, weights quantized by them, and
again, now with the gradients of the quantized network. Matrices that the last hidden state does not depend on, or that
are no linear layer (embedding, head), are left alone in the paper; here their squared gradients are the Fisher
information that calibration measured, and depths are allocated among them by themselves, at the same rate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load, save

from mediant.allocation.whole_plan import whole_plan
from mediant.kernels.companded_matrix import code_bytes
from mediant.kernels.part_shapes import MOST_DEPTH, MOST_WEIGHTS, CodedForm, Form
from mediant.methods import companded
from mediant.methods.companded import Demand, compand, demand
from mediant.methods.layer import neutral
from mediant.models.matrix_form import from_matrix, to_matrix
from mediant.models.reference import load_reference
from mediant.models.weights import WeightReader
from mediant.pipeline.approximate import depths
from mediant.pipeline.choose import quantizable
from mediant.planning import dual_ascent
from mediant.planning.recipe import Recipe
from mediant.planning.size import check_range
from mediant.plans import Plan, TensorPlan
from mediant.progress import SILENT, Progress
from mediant.statistics.calibration import CalibrationText
from mediant.statistics.output_gradients import components, squares
from mediant.values import Array, LayerStatistics, Model, Statistics, TensorInfo
from mediant.workers import compute_alone, ordered

Demands = dict[str, Demand]
Probe = tuple[torch.Tensor, torch.Tensor]

# Least weight of the newest sequences in the running mean of squared gradients.
NEWEST = 0.5
TRIALS = 40
# Sequences whose gradients one thread adds up.
PART = 4
# A folder this close to its target is not improved any more.
CLOSE = 0.9995
# A multiplier that takes as many characters in a manifest as any does.
LONGEST = 1.2345678901234567e-100


def measure_demands(
    model: Model, text: CalibrationText, statistics: Statistics, settings: TensorPlan, progress: Progress = SILENT
) -> Demands:
    """Demands of all matrices that quantization touches, as the fields of `settings` say (values.TensorPlan)."""
    with WeightReader(model) as weights:
        others = {
            info.name: _by_fisher(info, weights, statistics.layers.get(info.name), settings)
            for info in quantizable(model)
            if not _reached(info)
        }
        found = _Loop(model, text, settings, weights, progress).run()
    return {info.name: (found | others)[info.name] for info in quantizable(model)}


def _reached(info: TensorInfo) -> bool:
    return info.role == "linear" and info.layout in ("out_in", "in_out")


def _by_fisher(info: TensorInfo, weights: WeightReader, local: LayerStatistics | None, settings: TensorPlan) -> Demand:
    matrix = to_matrix(weights.read(info.name), info)
    s = neutral(matrix) if local is None else local
    gradients = np.outer(s.output_fisher, s.input_square).astype(np.float32)
    if s.head_fisher is not None and s.head_square is not None:
        gradients += np.outer(s.head_fisher, s.head_square).astype(np.float32)
    return demand(matrix, gradients, companded.clusters(matrix, gradients.mean(axis=1), settings.cluster))


@dataclass(frozen=True)
class _Loop:
    """Estimation: everything happens in the weights of one network in memory."""

    model: Model
    text: CalibrationText
    settings: TensorPlan
    weights: WeightReader
    progress: Progress

    def run(self) -> Demands:
        """The running means after the last sequence."""
        network = load_reference(self.model).requires_grad_(False)
        parameters = {
            info.name: parameter
            for info in quantizable(self.model)
            if _reached(info) and isinstance(parameter := _parameter(network, info.name), torch.nn.Parameter)
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
        """Mean squared gradients over sequences; added up in parts, so that they do not depend on the threads."""

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
            return demand(matrix, gradients, companded.clusters(matrix, gradients.mean(axis=1), self.settings.cluster))
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
            return name, compand(matrix, mine.clusters, depths(mine, multiplier)).matrix()

        work = ordered(quantized, matrices, compute_alone)
        with torch.no_grad():
            for name, matrix in self.progress.track(work, "Quantizing", len(parameters)):
                parameters[name].copy_(torch.from_numpy(from_matrix(matrix, self.model.tensor(name))))


def _parameter(network: Any, name: str) -> Any:
    return dict(network.named_parameters()).get(name)


def multiplier_within(demands: Sequence[Demand], rate: float) -> float:
    """V at which whole depths of all groups have a mean of at most `rate` bits."""
    demand = np.concatenate([dual_ascent.log2_demand(d.squares, d.variances).reshape(-1) for d in demands])
    sizes = np.concatenate([d.sizes.reshape(-1) for d in demands])
    return float(f"{2 ** dual_ascent.within(demand, sizes, rate):.9g}")


def companded_forms(plan: Plan, demands: Mapping[str, Demand]) -> dict[str, Form]:
    """How long the codes are that a plan leads to, by tensor."""
    return {
        name: CodedForm(code_bytes(depths(demands[name], tensor.multiplier), demands[name].clusters))
        for name, tensor in plan.tensors.items()
        if tensor.method == "compand"
    }


@dataclass(frozen=True)
class Companding:
    """Finds the rate whose folder keeps to a target in bytes, everything counted.

    `folder_bytes` says how many bytes the folder of a plan has, `least_bytes` how many without any code; `demands` are
    measured at the rate that a plan says.
    """

    model: Model
    recipe: Recipe
    folder_bytes: Callable[[Plan], int]
    least_bytes: Callable[[Plan], int]
    demands: Callable[[Plan], Demands]
    seed: int

    def range(self) -> tuple[int, int]:
        """Bytes with no code at all, and with eight bits for every weight; both to within the padding of codes."""
        names = [info.name for info in quantizable(self.model)]
        least = self.least_bytes(self._plan(dict.fromkeys(names, LONGEST), 0.0123, MOST_WEIGHTS))
        weights = sum(info.size for info in quantizable(self.model))
        return least, least + weights * MOST_DEPTH // 8

    def plan(self, target: int) -> Plan:
        """The plan of a folder of at most `target` bytes, and of hardly less.

        Raises:
            SizeError: the target is outside what depths from 0 to 8 give.
        """
        least, largest = self.range()
        check_range(target, least, largest)
        weights = sum(info.size for info in quantizable(self.model))
        # Demands are measured near the rate that is found in the end; in three digits, so that a trial repeats.
        measured = float(f"{max(0.01, min(MOST_DEPTH, 8 * (target - least) / weights)):.3g}")
        demands = self.demands(self._plan({}, measured, target))
        low, high, best = 0.0, float(MOST_DEPTH), None
        rate = measured
        for _ in range(TRIALS):
            plan = self._plan(self._multipliers(demands, rate), measured, target)
            size = self.folder_bytes(plan)
            if size <= target:
                low, best = rate, plan
                if size >= CLOSE * target:
                    break
            else:
                high = rate
            rate = (low + high) / 2
        if best is None:
            check_range(target, size, largest)
            raise AssertionError("a range that was checked")
        return best

    def _multipliers(self, demands: Demands, rate: float) -> dict[str, float]:
        """V for each tensor: one for the linear layers, one for what the paper leaves alone."""
        found: dict[str, float] = {}
        for reached in (True, False):
            names = [info.name for info in quantizable(self.model) if _reached(info) == reached]
            if names:
                multiplier = multiplier_within([demands[name] for name in names], rate)
                found |= dict.fromkeys(names, multiplier)
        return found

    def _plan(self, multipliers: Mapping[str, float], rate: float, target: int) -> Plan:
        r = self.recipe
        companded = {
            info.name: TensorPlan(
                "compand", multiplier=multipliers.get(info.name, 1.0), rate=rate, cluster=r.cluster,
                sequences=r.sequences, renewal=r.renewal,
            )
            for info in quantizable(self.model)
        }  # fmt: skip
        return whole_plan(self.model, r, companded, self.seed, target)


def demands_to_bytes(demands: Mapping[str, Demand]) -> bytes:
    """Measured demands, to be kept in a workspace."""
    arrays = {f"{field}:{name}": value for name, d in demands.items() for field, value in vars(d).items()}
    data: bytes = save({key: np.ascontiguousarray(value) for key, value in arrays.items()})
    return data


def demands_from_bytes(data: bytes) -> Demands:
    """The inverse of `demands_to_bytes`."""
    arrays = load(data)
    names = sorted(key.removeprefix("squares:") for key in arrays if key.startswith("squares:"))
    return {n: Demand(*(arrays[f"{field}:{n}"] for field in ("squares", "variances", "clusters"))) for n in names}
