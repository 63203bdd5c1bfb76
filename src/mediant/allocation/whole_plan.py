"""A whole model's plan from the plans of some of its tensors."""

from __future__ import annotations

from collections.abc import Mapping

from mediant.forms import Form, kept
from mediant.models.weight_range import beyond
from mediant.planning.plan import Plan
from mediant.planning.recipe import Recipe
from mediant.values import Model

# As many bytes as float16, with the range of float32.
WIDE = "bfloat16"


def whole_plan(
    model: Model,
    recipe: Recipe,
    chosen: Mapping[str, Form],
    seed: int,
    target: int | None,
    loss: float | None = None,
) -> Plan:
    """Returns the plan that does what `chosen` says to some tensors and casts all others.

    Args:
        model: the model after all structural edits; the plan names the original and lists the edits.
        recipe: it says the type that other tensors are cast to, and what happens after rounding. A tensor with weights
            beyond the range of that type is cast to bfloat16.
        chosen: plans by the tensor's name. A bias beside a tensor that is not just cast takes up its mean error,
            if the recipe says so.
        seed: of everything random.
        target: bytes that the plan is for.
        loss: predicted, in nats per token.
    """
    modules = {model.tensor(name).module for name, plan in chosen.items() if not plan.plain}
    others = [t for t in model.tensors if t.name not in chosen]
    wide = beyond(model, (t.name for t in others), recipe.keep)
    cast = {
        t.name: kept(
            WIDE if t.name in wide else recipe.keep,
            recipe.bias_correction and t.role == "bias" and t.module in modules,
        )
        for t in others
    }
    return Plan(
        model_fingerprint=model.unedited.fingerprint,
        recipe=recipe.name,
        seed=seed,
        tensors={t.name: chosen.get(t.name) or cast[t.name] for t in model.tensors},
        target_bytes=target,
        predicted_loss=loss,
        block_steps=recipe.block_steps,
        code_steps=recipe.code_steps,
        after=recipe.after,
        structure=model.edits,
        calibrated=recipe.calibrated,
    )
