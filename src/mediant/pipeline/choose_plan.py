"""The plan of a run: the one that was given, or the one that meets the asked size or loss."""

from __future__ import annotations

import dataclasses
from functools import partial

from mediant.allocation import Job, strategy_of
from mediant.pipeline import sizes
from mediant.pipeline.pack import pack
from mediant.pipeline.run import Run
from mediant.pipeline.search import HeldOutLoss, smallest_within
from mediant.pipeline.stages.tune import steps_within
from mediant.planning.plan import Plan
from mediant.planning.size import human


def choose_plan(run: Run) -> Plan:
    """Returns the plan that was given, or finds the one for the size or loss that was asked for.

    Raises:
        SizeError: it cannot be met.
    """
    if run.given is not None:
        return run.given
    target = run.target()
    if target is not None:
        chosen = plan_for(run, target)
    else:
        held_out = HeldOutLoss(run, partial(pack, run))
        low, high = strategy_of(run.recipe).range(job_of(run))
        chosen = smallest_within(run, float(run.request.max_kl or 0), low, high, partial(plan_for, run), held_out.loss)
    minutes = run.request.tune
    steps = steps_within(run, chosen, minutes) if minutes else run.recipe.tune_steps
    return dataclasses.replace(chosen, tune_steps=steps)


def plan_for(run: Run, target: int) -> Plan:
    """Finds the plan of least predicted loss for a target in bytes."""
    plan = strategy_of(run.recipe).plan(job_of(run), target)
    size = sizes.folder_bytes(run, plan)
    loss = plan.predicted_loss
    predicted = "" if loss is None else f", predicted loss {loss:.4f} nats per token"
    run.progress.say(f"Plan: {human(size)} of {human(target)}{predicted}.")
    return plan


def job_of(run: Run) -> Job:
    """Returns what the run's strategy may ask for. The work folder is not opened before it is asked for."""
    return Job(
        model=run.model,
        recipe=run.recipe,
        seed=run.seed,
        statistics=lambda: run.statistics,
        hessians=lambda: run.hessians,
        hints=run.hints,
        folder_bytes=partial(sizes.folder_bytes, run),
        least_bytes=partial(sizes.least_bytes, run),
        keep=lambda name, compute: run.workspace.step(name, compute),
        drop=lambda plan: run.steps(plan).close(),
        progress=run.progress,
    )
