"""tune: after rounding, scales, norms and biases are learned by KL to the original, and stored where they were."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import load, save

from mediant.allocation.operations import Operations
from mediant.errors import UsageError
from mediant.forms import Encoding
from mediant.forms.encoding import Original, encode
from mediant.methods.training.scale_tuning import Tuned, Tuner
from mediant.models.reference import load_reference
from mediant.models.weights import WeightReader
from mediant.pipeline.certificates import certified
from mediant.pipeline.run import Run
from mediant.pipeline.stages import Encodings
from mediant.planning.plan import Plan
from mediant.statistics.calibration_text import LEARNING_WINDOW
from mediant.values import MOST_STEPS, Array

# Windows that are not learned from, but judge whether learning helped.
HELD_OUT = 8
# Steps that tell how long one takes.
TRIAL = 3
SECONDS = 60


@dataclass(frozen=True)
class Tune:
    """Learning of scales, norms and biases, for the plan's `tune_steps`."""

    place: int = dataclasses.field(default=20, init=False)

    def asked(self, plan: Plan) -> bool:
        """Tells whether there are steps."""
        return plan.tune_steps > 0

    def check(self, run: Run, plan: Plan) -> None:
        """Refuses a model that predicts no tokens, and a plan whose tensors take up no gains.

        Raises:
            UsageError: with the first fault.
        """
        if not run.model.causal:
            raise UsageError("--tune needs a model that predicts tokens; leave it out for an encoder.")
        if run.given is None and not tunable(plan):
            raise UsageError(f"The recipe {run.recipe.name} stores nothing that could be tuned; leave out --tune.")

    def apply(self, run: Run, plan: Plan, encodings: Encodings) -> Generator[Encoding, None, None]:
        """Learns, and yields the tensors with what was learned."""
        tuned = learn_gains(run, plan, encodings)
        return apply_gains(run, encodings, tuned)

    def operations(self, run: Run, plan: Plan) -> Operations:
        """Counts a pass of the original, and one of the compressed model forth and back, each step."""
        return Operations(products=4.0 * plan.tune_steps * LEARNING_WINDOW * run.model.weights)


def steps_within(run: Run, plan: Plan, minutes: float) -> int:
    """Counts the steps that fit into so many minutes here, by a trial; kept, so that a resumed run takes as many."""

    def compute() -> bytes:
        tuner = Tuner(load_reference(run.model), load_reference(run.original), tunable(plan), run.model.tensors)
        windows = run.learning_windows[:TRIAL]
        tuner.run(windows, 1, run.seed)
        begun = time.monotonic()
        tuner.run(windows, TRIAL, run.seed)
        return json.dumps((time.monotonic() - begun) / TRIAL).encode()

    pace = float(json.loads(run.workspace.step("tuning-pace", compute)))
    return min(MOST_STEPS, max(1, math.floor(SECONDS * minutes / pace)))


def tunable(plan: Plan) -> set[str]:
    """Returns the names of the tensors whose rows can take up gains."""
    return {name for name, tensor in plan.tensors.items() if tensor.tunable}


def learn_gains(run: Run, plan: Plan, encodings: Encodings) -> Tuned:
    """Tunes the rounded weights of a plan; returns nothing if that is no better on held-out windows.

    Raises:
        TextError: the calibration text is too short to hold any of it out.
    """
    steps = run.steps(plan)

    def compute() -> bytes:
        network = load_reference(run.model)
        state = {e.info.name: torch.from_numpy(e.decode()) for e in encodings()}
        network.load_state_dict(state, strict=False)
        return _to_bytes(
            _learned(Tuner(network, load_reference(run.original), tunable(plan), run.model.tensors), run, plan)
        )

    return _from_bytes(steps.step(_name("tuned", plan), compute))


def _learned(tuner: Tuner, run: Run, plan: Plan) -> Tuned:
    windows, steps = run.learning_windows, run.steps(plan)
    held = torch.arange(len(windows)) % max(2, -(-len(windows) // HELD_OUT)) == 0
    kept = _name("tuning", plan)
    state = load(steps.read(kept)) if steps.has(kept) else None
    before = tuner.divergence(windows[held])
    tuner.fit_rate(before)
    tuner.run(windows[~held], plan.tune_steps, plan.seed, run.progress, state, lambda s: steps.write(kept, save(s)))
    after = tuner.divergence(windows[held])
    run.progress.say(f"Tuned in {plan.tune_steps} steps: KL {before:.4f} -> {after:.4f} on text not learned from.")
    if after < before:
        return tuner.tuned()
    run.progress.say("That is no better, so nothing is changed.")
    return Tuned({}, {})


def _name(what: str, plan: Plan) -> str:
    return f"{what}-{plan.tune_steps}-{plan.block_steps}-{plan.code_steps}"


def apply_gains(run: Run, encodings: Encodings, tuned: Tuned) -> Generator[Encoding, None, None]:
    """Yields the encodings with what was learned in their scales and values, and with certificates of what they are
    now.
    """
    with WeightReader(run.model) as weights, contextlib.closing(encodings()) as before:
        for encoding in before:
            name = encoding.info.name
            if name in tuned.gains:
                parts = encoding.plan.with_row_gains(encoding.info, encoding.parts, tuned.gains[name])
                changed = dataclasses.replace(encoding, parts=parts)
                yield certified(changed, weights.read(name), run.statistics, run.hessians)
            elif name in tuned.values:
                yield encode(Original(encoding.info, tuned.values[name]), encoding.plan)
            else:
                yield encoding


def _to_bytes(tuned: Tuned) -> bytes:
    gains = {f"gain.{name}": value for name, value in tuned.gains.items()}
    data: bytes = save_arrays(gains | {f"value.{name}": np.ascontiguousarray(v) for name, v in tuned.values.items()})
    return data


def _from_bytes(data: bytes) -> Tuned:
    kinds: dict[str, dict[str, Array]] = {"gain": {}, "value": {}}
    for key, value in load_arrays(data).items():
        kind, _, name = key.partition(".")
        kinds[kind][name] = value
    return Tuned(kinds["gain"], kinds["value"])


METHOD = Tune
