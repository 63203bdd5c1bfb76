"""Recipes: named combinations of methods, one YAML file each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files as resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

import yaml

from mediant.errors import PlanError
from mediant.values import Run, Storage, TensorPlan, checked_fields

# Planning does not import methods, so it has to know which of them need the Hessian.
HESSIAN_ROUNDINGS = ("babai", "gptq", "k_best")
HESSIAN_LOW_RANK = ("whitened_svd", "residual")
ROTATION_SEED = 0


@dataclass(frozen=True)
class Recipe:
    """One way to compress. Specs name files under `methods`; `depths` are the bits per weight on offer.

    `balance` says how columns are scaled before rounding, `outliers` how many are not rounded at all; without `rotate`.
    The method `compand` has only `cluster`, `sequences` and `renewal` (methods/companded.py).
    With `low_rank`, matrices become products of two thin ones (pipeline/ranks.py): `factors` says whether these are
    cast to `keep`, quantized, or cast beside a quantized matrix whose error they make good; `whole`, whether a matrix
    may also stay in one piece. Where nothing is quantized, a recipe needs no grid, scale, rounding and depths.
    """

    name: str
    description: str
    method: Literal["quantize", "compand"] = "quantize"
    grid: Mapping[str, Any] = field(default_factory=dict)
    scale: Mapping[str, Any] = field(default_factory=dict)
    rounding: Mapping[str, Any] = field(default_factory=dict)
    depths: tuple[int, ...] = ()
    paper: str = ""
    evidence: str = ""
    group: int = 64
    scale_bits: int = 6
    scale_signed: bool = True
    scale_steps: int = 8
    storage: Storage = "rows"
    rotate: bool = False
    balance: Mapping[str, Any] = field(default_factory=dict)
    outliers: int = 0
    cluster: int = 512
    sequences: int = 48
    renewal: int = 16
    allocation: Literal["rate_distortion", "same_everywhere"] = "rate_distortion"
    bias_correction: bool = True
    keep: Literal["float16", "bfloat16", "float32"] = "float16"
    low_rank: Mapping[str, Any] = field(default_factory=dict)
    factors: Literal["cast", "quantize", "residual"] = "cast"
    whole: bool = True

    @property
    def quantizes(self) -> bool:
        """Whether anything is quantized."""
        return not self.low_rank or self.factors != "cast"

    @property
    def needs_hessian(self) -> bool:
        """Whether calibration has to measure Hessians for it."""
        return needs_hessian(self.rounding) or self.low_rank.get("name") in HESSIAN_LOW_RANK

    def tensor_plan(self, runs: tuple[Run, ...]) -> TensorPlan:
        """The plan of one quantized tensor."""
        return TensorPlan(
            method="quantize",
            grid=self.grid,
            scale=self.scale,
            rounding=self.rounding,
            runs=runs,
            group=self.group,
            scale_bits=self.scale_bits,
            scale_signed=self.scale_signed,
            scale_steps=self.scale_steps,
            storage=self.storage,
            basis=self._basis(),
            outliers=self.outliers,
        )

    def _basis(self) -> dict[str, Any]:
        if self.balance:
            return {"name": "columns", "by": dict(self.balance)}
        return {"name": "rotation", "seed": ROTATION_SEED} if self.rotate else {}


def needs_hessian(rounding: Mapping[str, Any]) -> bool:
    """Whether a rounding goes by more than diagonal sensitivities, so that calibration has to measure Hessians."""
    return rounding.get("name") in HESSIAN_ROUNDINGS


def plan_needs_hessian(plan: TensorPlan) -> bool:
    """Whether what a plan does with a tensor goes by its Hessian."""
    parts = (plan, *plan.factors.values())
    by_factors = plan.low_rank.get("name") in HESSIAN_LOW_RANK
    return plan.method == "lattice" or by_factors or any(needs_hessian(part.rounding) for part in parts)


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes that come with Mediant."""
    return tuple(
        sorted(f.name.removesuffix(".yaml") for f in resources("mediant.recipes").iterdir() if f.name.endswith(".yaml"))
    )


def load_recipe(name_or_file: str) -> Recipe:
    """The recipe of that name, or in that YAML file.

    Raises:
        PlanError: there is none, or it has a field that is missing, unknown or of the wrong kind.
    """
    file: Path | Traversable = Path(name_or_file)
    if name_or_file in recipe_names():
        file = resources("mediant.recipes") / f"{name_or_file}.yaml"
    elif not file.is_file():
        raise PlanError(f"There is no recipe or file {name_or_file!r}; the recipes are: {', '.join(recipe_names())}.")
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
        fields = {"name": Path(name_or_file).stem, **data} if isinstance(data, dict) else data
        return _checked(Recipe(**checked_fields(Recipe, fields)))
    except (yaml.YAMLError, OSError, ValueError) as problem:
        raise PlanError(f"The recipe {name_or_file} is not usable: {' '.join(str(problem).split())}.") from None


def _checked(recipe: Recipe) -> Recipe:
    if recipe.method == "compand":
        return _checked_compand(recipe)
    if recipe.low_rank and "name" not in recipe.low_rank:
        raise ValueError("the low_rank names no method")
    if not recipe.quantizes:
        return recipe
    for kind in ("grid", "scale", "rounding"):
        if "name" not in getattr(recipe, kind):
            raise ValueError(f"the {kind} names no method")
    if recipe.balance and ("name" not in recipe.balance or recipe.rotate):
        raise ValueError("the balance names no method, or goes with rotate, which it cannot")
    if recipe.outliers < 0:
        raise ValueError("the outliers are not a whole number from 0")
    if not recipe.depths or any(type(b) is not int or not 1 <= b <= 8 for b in recipe.depths):
        raise ValueError("the depths are not whole numbers from 1 to 8")
    if recipe.group < 2:
        raise ValueError("the group is not a whole number from 2")
    return dataclasses.replace(recipe, depths=tuple(sorted(set(recipe.depths))))


def _checked_compand(recipe: Recipe) -> Recipe:
    if recipe.cluster < 1 or recipe.sequences < 1 or recipe.renewal < 0:
        raise ValueError("the cluster and the sequences are not whole numbers from 1, or the renewal is below 0")
    if recipe.grid or recipe.scale or recipe.rounding or recipe.depths:
        raise ValueError("a grid, a scale, a rounding and depths do not go with the method compand")
    return recipe
