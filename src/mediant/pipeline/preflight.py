"""What a compression refuses before any work: sizes out of reach, and wishes that do not go together."""

from __future__ import annotations

import dataclasses

from mediant.allocation import check_recipe, strategy_of
from mediant.claims import check_space
from mediant.errors import UsageError
from mediant.methods.structure import edit_from
from mediant.pipeline import encode
from mediant.pipeline.choose_plan import job_of
from mediant.pipeline.run import Run
from mediant.pipeline.stages import stages_of
from mediant.planning.plan import Plan
from mediant.planning.recipe import Recipe


def check_methods(recipe: Recipe) -> None:
    """Refuses a recipe whose methods do not exist, do not go together or do not have its bit widths.

    Raises:
        PlanError: with the first fault.
    """
    check_recipe(recipe)
    for name, given in recipe.structure:
        if name != "prune":
            edit_from({"edit": name, **given})


def check(run: Run) -> None:
    """Refuses what cannot be met however the weights turn out.

    Raises:
        PlanError: the plan that was given does not fit the model.
        UsageError: the size is none; or the model predicts no tokens, which the request needs.
        SizeError: the size is outside what the recipe offers.
        StorageError: there is not room enough for it.
    """
    if run.given is not None:
        encode.check(run.given, run.model)
    target = run.target()
    if target is not None:
        strategy_of(run.recipe).check(job_of(run), target)
    if run.request.max_kl is not None and not run.model.causal:
        raise UsageError("--max-kl needs a model that predicts tokens; give --size for an encoder.")
    plan = intended(run)
    if plan is not None:
        for stage in stages_of(plan):
            stage.check(run, plan)
    # Finished tensors wait in the work folder until the output has them all.
    check_space(run.request.out.resolve().parent, 2 * (target or 0))


def intended(run: Run) -> Plan | None:
    """Returns a plan with all that is to follow rounding: the one that was given, or the smallest; None for nothing."""
    if run.given is not None:
        return run.given
    r, minutes = run.recipe, run.request.tune
    if not (r.tune_steps or r.block_steps or r.code_steps or r.after or minutes):
        return None
    smallest = strategy_of(r).outline(job_of(run))
    return dataclasses.replace(smallest, tune_steps=r.tune_steps or int(minutes > 0))
