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
from mediant.planning.plan import checked_after
from mediant.values import MOST_STEPS, Role, RowSpan

# The grid whose codes of 2 bits stand for two weights at once; and the one in its place where each weight has to go
# alone: among sparse ones, and where codes are trained.
PAIRED, ALONE = {"name": "vq2d"}, {"name": "gaussian_int"}
SPARSE_ROLES: tuple[Role, ...] = ("linear", "expert")


@dataclass(frozen=True)
class Recipe:
    """One way to compress. Specs name files under `methods`; `bit_widths` are the bits per weight on offer.

    `allocation` names how bytes are spent, a file in `allocation/strategies`, with what it may be told there. Most
    strategies choose among the `bit_widths` for matrices that a grid, a scale and a rounding quantize; others need
    none. `method` is the form of quantized matrices. `equalize` says how columns are scaled before rounding, `outliers`
    how many are not rounded at all; without `rotate`.
    Unless `calibrated`, no text is read and no model is run: only weights are looked at.
    `structure` are stages before it that change the model, [name, fields] each (planning/stages.py). A `pattern` with
    its `score` makes linear layers sparse first; `block_steps`, `code_steps` and `tune_steps` follow rounding,
    and what `after` names, with its fields (pipeline/stages).
    """

    name: str
    description: str
    method: str = "quantize"
    grid: Mapping[str, Any] = field(default_factory=dict)
    scale: Mapping[str, Any] = field(default_factory=dict)
    rounding: Mapping[str, Any] = field(default_factory=dict)
    bit_widths: tuple[int, ...] = ()
    paper: str = ""
    evidence: str = ""
    group: int = 64
    scale_bits: int = 6
    scale_signed: bool = True
    scale_steps: int = 8
    storage: Literal["rows", "tiles", "nested"] = "rows"
    rotate: bool = False
    equalize: Mapping[str, Any] = field(default_factory=dict)
    outliers: int = 0
    allocation: str | Mapping[str, Any] = "rate_distortion"
    bias_correction: bool = True
    calibrated: bool = True
    keep: Literal["float16", "bfloat16", "float32"] = "float16"
    structure: tuple[Any, ...] = ()
    pattern: Mapping[str, Any] = field(default_factory=dict)
    score: Mapping[str, Any] = field(default_factory=dict)
    tune_steps: int = 0
    block_steps: int = 0
    code_steps: int = 0
    after: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needs(self) -> frozenset[str]:
        """Statistics that the recipe's score and rounding need, such as `hessian`."""
        return discovery.needs("pruning.scores", self.score) | discovery.needs("rounding", self.rounding)

    def tensor_plan(self, runs: tuple[RowSpan, ...], role: Role = "linear") -> Form:
        """Returns the plan of one quantized tensor; embeddings and heads are never sparse."""
        sparse = bool(self.pattern) and role in SPARSE_ROLES
        return self.sparse_plan(runs) if sparse else form(self.method).of_recipe(vars(self), runs)

    def sparse_plan(self, runs: tuple[RowSpan, ...]) -> Form:
        """Returns the plan of one sparse and quantized tensor, which goes without a basis, outliers and tiles."""
        return asked_by("pattern").of_recipe(vars(self), runs)


def recipe_names() -> tuple[str, ...]:
    """Returns the names of the recipes that come with Mediant."""
    return tuple(
        sorted(f.name.removesuffix(".yaml") for f in resources("mediant.recipes").iterdir() if f.name.endswith(".yaml"))
    )


def load_recipe(name_or_file: str) -> Recipe:
    """Returns the recipe of that name, or in that YAML file.

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
    """Reads a recipe file, with the fields of its stages in their place."""
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(data, dict) or "stages" not in data:
        return data
    own = {name: value for name, value in data.items() if name != "stages"}
    return {**stages.fields(data["stages"], _named), **own}


def _named(name: str) -> dict[str, Any]:
    """Returns the fields of a recipe that comes with Mediant, but for those that only describe it."""
    if name not in recipe_names():
        raise ValueError(f"there is no recipe {name!r} to quantize by")
    data = yaml.safe_load((resources("mediant.recipes") / f"{name}.yaml").read_text(encoding="utf-8"))
    if "stages" in data:
        raise ValueError(f"the recipe {name!r} has stages itself")
    return {key: value for key, value in data.items() if key not in ("description", "paper", "evidence")}


def _checked(recipe: Recipe) -> Recipe:
    if any(not 0 <= steps <= MOST_STEPS for steps in (recipe.tune_steps, recipe.block_steps, recipe.code_steps)):
        raise ValueError(f"the steps of training or tuning are outside 0 to {MOST_STEPS}")
    if bool(recipe.pattern) != bool(recipe.score):
        raise ValueError("a pattern goes with a score")
    if recipe.grid == PAIRED and (recipe.pattern or recipe.block_steps or recipe.code_steps):
        recipe = dataclasses.replace(recipe, grid=ALONE)
    checked_after(recipe.after)
    if any(type(b) is not int or not 1 <= b <= 8 for b in recipe.bit_widths):
        raise ValueError("the bit widths are not whole numbers from 1 to 8")
    return dataclasses.replace(recipe, bit_widths=tuple(sorted(set(recipe.bit_widths))))
