"""What a compression refuses before any work: sizes out of reach, and wishes that do not go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mediant.errors import UsageError
from mediant.pipeline import approximate
from mediant.pipeline.choose import outline, quantizable
from mediant.pipeline.one_denominator import denominator_plan
from mediant.pipeline.ranks import RankSizing, outline_ranks
from mediant.pipeline.sizing import Sizing
from mediant.pipeline.train_codes import check_trainable
from mediant.planning.size import check_range

if TYPE_CHECKING:
    from mediant.pipeline.compress import Compression


def check(run: Compression) -> None:
    """Refuses what cannot be met however the weights turn out.

    Raises:
        PlanError: the plan that was given does not fit the model.
        UsageError: the size is none; or the model predicts no tokens, which the wish needs.
        SizeError: the size is outside what the recipe offers.
    """
    if run.given is not None:
        approximate.check(run.given, run.model)
        if run.given.block_steps or run.given.code_steps:
            check_trainable(run.model, run.given)
    target = run.target()
    if target is not None:
        _check_size(run, target)
    if run.recipe.method == "compand" and (target is None or run.request.tune) and run.given is None:
        raise UsageError(f"The recipe {run.recipe.name} goes with --size, and without --tune.")
    if run.model.causal:
        return
    trains = run.recipe if run.given is None else run.given
    if run.request.max_kl is not None:
        raise UsageError("--max-kl needs a model that predicts tokens; give --size for an encoder.")
    if trains.block_steps or trains.code_steps:
        raise UsageError("Training codes needs a model that predicts tokens; take another recipe for an encoder.")
    if run.request.tune:
        raise UsageError("--tune needs a model that predicts tokens; leave it out for an encoder.")


def _check_size(run: Compression, target: int) -> None:
    """Against the sizes that the recipe's allocation could reach, from shapes alone."""
    model, recipe, seed = run.model, run.recipe, run.seed
    if run.entropy_coded:
        steps = {info.name: 1.0 for info in quantizable(model)}
        check_range(target, run.least_bytes(denominator_plan(model, steps, recipe.keep, seed, target)), target)
    elif recipe.method == "compand":
        check_range(target, *run.companding.range())
    elif recipe.low_rank:
        RankSizing(model, recipe, outline_ranks(model, recipe), run.folder_bytes, seed).check(target)
    else:
        Sizing(model, recipe, outline(model, recipe), run.folder_bytes, seed).check(target)
