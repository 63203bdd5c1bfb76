"""How long a compression will take, told before it starts: the operations of its stages over this machine's speeds.

Four speeds are measured in about a second, all threads working at once as they will: multiply-adds of float32
products, which the passes over the calibration text consist of; of products with a few vectors, which the model writes
text by; of factoring a metric in float64; and of rounding on a lattice, everything around it included. What a stage
takes beside these is in its factor below, found on SmolLM2-135M (docs/log.md).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from mediant.allocation import strategy_of
from mediant.allocation.layers import quantizable
from mediant.allocation.operations import Operations
from mediant.forms.encoding import trial_losses
from mediant.methods.layer import prepare
from mediant.pipeline.choose_plan import job_of
from mediant.pipeline.preflight import intended
from mediant.pipeline.run import Run
from mediant.pipeline.stages import stages_of
from mediant.planning.recipe import load_recipe
from mediant.statistics.calibration_text import MOST_AT_ONCE, tokens_to_write
from mediant.statistics.metric_factors import factorize
from mediant.statistics.sensitivity import BACKWARD_SHARE
from mediant.values import LayerStatistics, Model, RowSpan
from mediant.workers import compute_alone, ordered, threads

# Side of the products and metrics that are tried, and rows that are rounded.
SIDE, ROWS = 576, 128
# Of the sides, so that a matrix does not stay in the cache while it is multiplied with a few vectors.
WIDE = 16
LEAST_SECONDS = 0.15
# Operations beside those counted: attention, probabilities, copies; Hessians, of which some layers share one; choosing
# tokens; reading, turning, certifying and packing.
PASSES, GRAMS, WRITING, ROUNDING = 1.4, 0.35, 1.6, 1.8
SECONDS = 60
# A smaller model is done before an estimate would be read.
FEWEST_WEIGHTS = 10**7


@dataclass(frozen=True)
class Speeds:
    """Multiply-adds a second of all threads together."""

    products: float
    few_vectors: float
    factors: float
    rounding: float


def of(run: Run) -> str | None:
    """Estimates the time of a compression, in a sentence; None for what hardly takes any time, or for a plan."""
    if run.given is not None or run.request.size is None or run.model.weights < FEWEST_WEIGHTS:
        return None
    calibrated = not run.calibrated or run.calibrator.done
    writes = run.request.calibration is None and run.model.causal and not calibrated
    written = tokens_to_write(run.original, run.seed) if writes else 0
    tokens = 0 if calibrated else run.described.tokens
    return sentence(seconds(run.model, tokens, operations(run), measure_speeds(), written), run.request.tune)


def operations(run: Run) -> Operations:
    """Counts what is done behind calibration, but for tuning by minutes."""
    work, plan = strategy_of(run.recipe).operations(job_of(run)), intended(run)
    if plan is None:
        return work
    planned = dataclasses.replace(plan, tune_steps=0) if run.request.tune else plan
    return sum((stage.operations(run, planned) for stage in stages_of(planned)), work)


def seconds(model: Model, tokens: int, work: Operations, speeds: Speeds, written: int = 0) -> float:
    """Seconds until the folder is there, without tuning by minutes.

    Args:
        model: to be compressed.
        tokens: of the calibration text; 0 if the statistics are there already.
        work: behind calibration.
        speeds: of this machine.
        written: tokens that the model has yet to write.
    """
    shapes = [info.matrix_shape for info in quantizable(model)]
    passes = tokens * sum(rows * columns for rows, columns in shapes) * (1 + 1 / BACKWARD_SHARE)
    grams = tokens * sum(columns**2 for _, columns in shapes)
    calibration = (PASSES * passes + GRAMS * grams) / speeds.products
    writing = WRITING * written * sum(rows * columns for rows, columns in shapes) / speeds.few_vectors
    rounding = work.factors / speeds.factors + ROUNDING * work.rounding / speeds.rounding
    return writing + calibration + PASSES * work.products / speeds.products + rounding


def measure_speeds() -> Speeds:
    """Measures the speeds of this machine at present."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((SIDE, SIDE)).astype(np.float32)
    metric = (x.T @ x / SIDE + np.eye(SIDE)).astype(np.float64)
    matrix = torch.from_numpy(x)
    few, wide = matrix[:MOST_AT_ONCE], matrix.repeat(WIDE, 1)
    statistics = LayerStatistics(np.ones(SIDE), np.zeros(SIDE), np.ones(ROWS), tokens=0)
    plan = load_recipe("default").tensor_plan((RowSpan(ROWS, 3),))
    layer = prepare(x[:ROWS], plan.rotation, statistics, metric)
    trial_losses(layer, {3: plan})
    return Speeds(
        _rate(lambda: matrix @ matrix, SIDE**3),
        _rate(lambda: few @ wide.T, few.shape[0] * wide.numel()),
        _rate(lambda: factorize(metric), SIDE**3),
        _rate(lambda: trial_losses(layer, {3: plan}), ROWS * SIDE**2),
    )


def _rate(work: Callable[[], object], operations: float) -> float:
    def repeated(_: int) -> float:
        begun, count = time.monotonic(), 0
        while (passed := time.monotonic() - begun) < LEAST_SECONDS:
            work()
            count += 1
        return count * operations / passed

    return sum(ordered(repeated, range(threads()), compute_alone))


def sentence(expected: float, tuning: float = 0.0) -> str:
    """Puts an estimate in words; `tuning` is the minutes that were asked for.

    >>> sentence(170), sentence(9000)
    ('This takes about 3 minutes.', 'This takes about 2.5 hours.')
    >>> sentence(20, tuning=15)
    'This takes about 20 seconds and 15 minutes of tuning.'
    """
    tuned = f" and {_spoken(tuning * SECONDS)} of tuning" if tuning else ""
    return f"This takes about {_spoken(expected)}{tuned}."


def _spoken(duration: float) -> str:
    units = ((3600.0, "hour"), (60.0, "minute"), (1.0, "second"))
    size, name = next(((s, n) for s, n in units if duration >= 1.5 * s), units[-1])
    count = duration / size
    shown = f"{round(2 * count) / 2:g}" if count < 9.75 and size > 1 else f"{max(1, math.ceil(count)):d}"
    return f"{shown} {name}" + ("" if shown == "1" else "s")
