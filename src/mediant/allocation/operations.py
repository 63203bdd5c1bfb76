"""Counts the work of finding and carrying out a plan, from shapes alone, for the estimate of how long it takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mediant import discovery
from mediant.allocation.layers import quantizable
from mediant.planning.recipe import Recipe
from mediant.values import Model

# Multiply-adds, in units of those of rounding by a Hessian, that one weight takes where each is rounded alone.
ALONE = 150.0


@dataclass(frozen=True)
class Operations:
    """Multiply-adds of some work, by the kind of work whose speed they go at.

    Attributes:
        products: of float32 matrices, as in a pass over text.
        factors: of decompositions in float64.
        rounding: of rounding on a lattice, with all that goes around it.
    """

    products: float = 0.0
    factors: float = 0.0
    rounding: float = 0.0

    def __add__(self, other: Operations) -> Operations:
        """Adds kind by kind."""
        return Operations(self.products + other.products, self.factors + other.factors, self.rounding + other.rounding)


def rounding_all(model: Model, recipe: Recipe) -> Operations:
    """Counts rounding every matrix once, by the rounding of a recipe."""
    shapes = [info.matrix_shape for info in quantizable(model)]
    factors = sum(2.0 * columns**3 for _, columns in shapes) if _by_hessian(recipe) else 0.0
    return Operations(factors=factors) + rounding_some(shapes, recipe)


def rounding_some(shapes: Iterable[tuple[int, int]], recipe: Recipe) -> Operations:
    """Counts rounding some rows of matrices, [rows, columns] each, whose metric is there already."""
    by_hessian = _by_hessian(recipe)
    work = sum(float(rows) * columns * (columns if by_hessian else ALONE) for rows, columns in shapes)
    return Operations(rounding=work)


def _by_hessian(recipe: Recipe) -> bool:
    return "hessian" in discovery.needs("rounding", recipe.rounding)
