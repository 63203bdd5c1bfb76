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

from mediant import discovery
from mediant.checked_fields import checked_fields
from mediant.errors import PlanError
from mediant.forms import Form, asked_by, form
from mediant.planning import stages
from mediant.values import MOST_STEPS, Role, RowSpan

# The grid whose codes of 2 bits stand for two weights at once; and the one in its place where each weight has to go
# alone: among sparse ones, and where codes are trained.
PAIRED, ALONE = {"name": "paired"}, {"name": "bell"}
SPARSE_ROLES: tuple[Role, ...] = ("linear", "expert")


@dataclass(frozen=True)
class Recipe:
    """One way to compress. Specs name files under `methods`; `depths` are the bits per weight on offer.

    `balance` says how columns are scaled before rounding, `outliers` how many are not rounded at all; without `rotate`.
    `structure` are stages before it that change the model, [name, fields] each (planning/stages.py). A `pattern` with
    its `score` makes linear layers sparse first; `block_steps`, `code_steps` and `tune_steps` follow rounding.
    The method `compand` has only `cluster`, `sequences` and `renewal` (forms/compand).
    With `low_rank`, matrices become products of two thin ones (pipeline/ranks.py): `factors` says whether these are
    cast to `keep`, quantized, or cast beside a quantized matrix whose error they make good; `whole`, whether a matrix
    may also stay in one piece. With a `pattern` too, each matrix may be quantized whole, sparse, or a product. Where
    nothing is quantized, a recipe needs no grid, scale, rounding and depths.
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
    storage: Literal["rows", "tiles", "nested"] = "rows"
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
    structure: tuple[Any, ...] = ()
    pattern: Mapping[str, Any] = field(default_factory=dict)
    score: Mapping[str, Any] = field(default_factory=dict)
    tune_steps: int = 0
    block_steps: int = 0
    code_steps: int = 0

    @property
    def quantizes(self) -> bool:
        """Whether anything is quantized."""
        return not self.low_rank or self.factors != "cast"

    @property
    def needs_hessian(self) -> bool:
        """Whether calibration has to measure Hessians for it."""
        specs = (("low_rank", self.low_rank), ("pruning.scores", self.score), ("rounding", self.rounding))
        return any("hessian" in discovery.needs(*spec) for spec in specs)

    def tensor_plan(self, runs: tuple[RowSpan, ...], role: Role = "linear") -> Form:
        """The plan of one quantized tensor; embeddings and heads are never sparse."""
        sparse = bool(self.pattern) and not self.low_rank and role in SPARSE_ROLES
        return self.sparse_plan(runs) if sparse else form(self.method).of_recipe(vars(self), runs)

    def sparse_plan(self, runs: tuple[RowSpan, ...]) -> Form:
        """The plan of one sparse and quantized tensor, which goes without a basis, outliers and tiles."""
        return asked_by("pattern").of_recipe(vars(self), runs)


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
        data = _data(file)
        fields = {"name": Path(name_or_file).stem, **data} if isinstance(data, dict) else data
        return _checked(Recipe(**checked_fields(Recipe, fields)))
    except RecursionError:
        raise PlanError(f"The recipe {name_or_file} is nested too deeply.") from None
    except (yaml.YAMLError, OSError, ValueError) as problem:
        raise PlanError(f"The recipe {name_or_file} is not usable: {' '.join(str(problem).split())}.") from None


def _data(file: Path | Traversable) -> Any:
    """What a recipe file says, with the fields of its stages in their place."""
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(data, dict) or "stages" not in data:
        return data
    own = {name: value for name, value in data.items() if name != "stages"}
    return {**stages.fields(data["stages"], _named), **own}


def _named(name: str) -> dict[str, Any]:
    """The fields of a recipe that comes with Mediant, but for those that only describe it."""
    if name not in recipe_names():
        raise ValueError(f"there is no recipe {name!r} to quantize by")
    data = yaml.safe_load((resources("mediant.recipes") / f"{name}.yaml").read_text(encoding="utf-8"))
    if "stages" in data:
        raise ValueError(f"the recipe {name!r} has stages itself")
    return {key: value for key, value in data.items() if key not in ("description", "paper", "evidence")}


def _checked(recipe: Recipe) -> Recipe:
    if any(not 0 <= steps <= MOST_STEPS for steps in (recipe.tune_steps, recipe.block_steps, recipe.code_steps)):
        raise ValueError(f"the steps of training or tuning are outside 0 to {MOST_STEPS}")
    if (recipe.block_steps or recipe.code_steps) and (recipe.pattern or recipe.low_rank or recipe.method == "compand"):
        raise ValueError("codes are trained where matrices are quantized as a whole: no pattern, low_rank or compand")
    apart = recipe.rotate or bool(recipe.balance) or recipe.outliers > 0 or recipe.storage != "rows"
    if bool(recipe.pattern) != bool(recipe.score) or (recipe.pattern and not recipe.low_rank and apart):
        raise ValueError("a pattern goes with a score and storage rows, and not with rotate, balance or outliers")
    if recipe.grid == PAIRED and (recipe.pattern or recipe.block_steps or recipe.code_steps):
        recipe = dataclasses.replace(recipe, grid=ALONE)
    if recipe.pattern and recipe.low_rank and not (recipe.factors == "quantize" and recipe.whole):
        raise ValueError("a pattern goes with low_rank where factors are quantized and matrices may stay whole")
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
