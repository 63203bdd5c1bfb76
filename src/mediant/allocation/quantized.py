"""Checks of recipes whose matrices are quantized by a grid, a scale and a rounding."""

from __future__ import annotations

from mediant import discovery
from mediant.planning.recipe import Recipe
from mediant.values import RowSpan, TensorInfo


def check_quantized(recipe: Recipe) -> None:
    """Refuses a recipe that does not say how to quantize a matrix.

    Raises:
        ValueError: a field is missing, or fields do not go together.
        PlanError: a method does not exist, or does not have the recipe's parameters or bit widths.
    """
    for kind in ("grid", "scale", "rounding"):
        if "name" not in getattr(recipe, kind):
            raise ValueError(f"the {kind} names no method")
    if recipe.equalize and ("name" not in recipe.equalize or recipe.rotate):
        raise ValueError("the field equalize names no method, or goes with rotate, which it cannot")
    if recipe.outliers < 0:
        raise ValueError("the outliers are not a whole number from 0")
    if not recipe.bit_widths:
        raise ValueError("the bit widths are not whole numbers from 1 to 8")
    if recipe.group < 2:
        raise ValueError("the group is not a whole number from 2")
    runs = tuple(RowSpan(1, bits) for bits in recipe.bit_widths)
    any_matrix = TensorInfo("any matrix", (len(runs), recipe.group), "float32", "embedding", "out_in")
    recipe.tensor_plan(runs, "embedding").check(any_matrix)
    if recipe.pattern:
        discovery.make("pruning.patterns", recipe.pattern)
        discovery.make("pruning.scores", recipe.score)


def check_pattern(recipe: Recipe) -> None:
    """Refuses a recipe that wants every linear layer sparse and says what sparse matrices do not have.

    Raises:
        ValueError: it does.
    """
    apart = recipe.rotate or bool(recipe.equalize) or recipe.outliers > 0 or recipe.storage != "rows"
    if recipe.pattern and apart:
        raise ValueError("a pattern goes with a score and storage rows, and not with rotate, equalize or outliers")
    if recipe.pattern and (recipe.block_steps or recipe.code_steps):
        raise ValueError("codes are trained where matrices are quantized as a whole: no pattern")
