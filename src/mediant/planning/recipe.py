"""Recipes: named combinations of methods, one YAML file each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files as resources
from pathlib import Path
from typing import Any, Literal

import yaml

from mediant.errors import PlanError
from mediant.values import Run, TensorPlan

# Planning does not import methods, so it has to know which of them need the Hessian.
HESSIAN_ROUNDINGS = ("babai",)
ROTATION_SEED = 0


@dataclass(frozen=True)
class Recipe:
    """One way to compress. Specs name files under `methods`; `depths` are the bits per weight on offer."""

    name: str
    description: str
    grid: Mapping[str, Any]
    scale: Mapping[str, Any]
    rounding: Mapping[str, Any]
    depths: tuple[int, ...]
    paper: str = ""
    evidence: str = ""
    group: int = 64
    scale_bits: int = 6
    scale_signed: bool = True
    scale_steps: int = 8
    rotate: bool = False
    allocation: Literal["rate_distortion", "same_everywhere"] = "rate_distortion"
    bias_correction: bool = True
    keep: str = "float16"

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
            basis={"name": "rotation", "seed": ROTATION_SEED} if self.rotate else {},
        )

    @property
    def needs_hessian(self) -> bool:
        """Whether calibration has to measure Hessians."""
        return self.rounding["name"] in HESSIAN_ROUNDINGS


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
    if name_or_file in recipe_names():
        text = (resources("mediant.recipes") / f"{name_or_file}.yaml").read_text()
    elif Path(name_or_file).is_file():
        text = Path(name_or_file).read_text()
    else:
        raise PlanError(f"There is no recipe or file {name_or_file!r}; the recipes are: {', '.join(recipe_names())}.")
    try:
        data = yaml.safe_load(text)
        return _checked(Recipe(**{"name": Path(name_or_file).stem, **data, "depths": tuple(data["depths"])}))
    except (yaml.YAMLError, TypeError, KeyError, ValueError) as problem:
        raise PlanError(f"The recipe {name_or_file} is not usable: {' '.join(str(problem).split())}.") from None


def _checked(recipe: Recipe) -> Recipe:
    for field in ("grid", "scale", "rounding"):
        if "name" not in dict(getattr(recipe, field)):
            raise ValueError(f"{field} names no method")
    if not recipe.depths or any(not isinstance(b, int) or not 1 <= b <= 8 for b in recipe.depths):
        raise ValueError("depths must be whole numbers from 1 to 8")
    if not isinstance(recipe.group, int) or recipe.group < 2:
        raise ValueError("group must be a whole number from 2")
    if recipe.allocation not in ("rate_distortion", "same_everywhere"):
        raise ValueError("allocation must be rate_distortion or same_everywhere")
    if recipe.keep not in ("float16", "bfloat16", "float32"):
        raise ValueError("keep must be float16, bfloat16 or float32")
    return dataclasses.replace(recipe, depths=tuple(sorted(set(recipe.depths))))
