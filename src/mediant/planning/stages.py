"""Recipes in stages: what becomes of the model, one after another, under one size.

    stages:
      - prune: {layers: 2, neurons: 25%}        # whole parts, chosen by calibration; `refit: false` leaves it at that
      - drop_layers: {layers: [3]}              # any structural edit by its name, as it is
      - sparsify: {pattern: {name: n_of_m, n: 2, m: 4}, score: {name: sparsegpt}}
      - factor: {low_rank: {name: whitened_svd}}  # matrices may become products; not with sparsify
      - quantize: {recipe: default}             # a recipe by name, and whatever should differ
      - train_codes: {block_steps: 40, code_steps: 0}  # in each block, then end to end; not with sparsify, factor
      - tune: {steps: 40}
      - sharpen: {rate: 0.1}                    # any other stage behind `quantize`, a file in pipeline/stages

Structure comes first, then sparsity or factors, then quantization, then training and tuning: each stage needs what the
ones before have left, and none undoes one before. Every stage may be left out but `quantize`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

ORDER = ("sparsify", "factor", "quantize", "train_codes", "tune")
FACTORS = ("low_rank", "factors", "whole")
# How bytes are spent where matrices may become products.
BY_RANKS = {"name": "ranks", "factors": "quantize"}
PARTS = ("layers", "neurons", "heads", "hidden")
# Beside the parts, how the stage prune chooses them and what it does then (pipeline/choose_units.py).
HOW = ("score", "refit")


def fields(stages: object, recipe: Callable[[str], Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the fields of a recipe that stages say.

    Args:
        stages: as YAML gave them.
        recipe: the fields of the recipe of some name.

    Raises:
        ValueError: naming the first fault.
    """
    pairs = _pairs(stages)
    quantized = next((i for i, (name, _) in enumerate(pairs) if name == "quantize"), len(pairs))
    after = {name: dict(given) for name, given in pairs[quantized:] if name not in ORDER}
    pairs = [*pairs[:quantized], *(pair for pair in pairs[quantized:] if pair[0] in ORDER)]
    names = [name for name, _ in pairs]
    late = [name for name in names if name in ORDER]
    if late != sorted(set(late), key=ORDER.index) or names != [n for n in names if n not in ORDER] + late:
        raise ValueError(
            "the stages do not come in the order structure, sparsify, factor, quantize, train_codes, tune, each of "
            "these once"
        )
    found: dict[str, Any] = {"structure": [[name, dict(given)] for name, given in pairs if name not in ORDER]}
    if after:
        found["after"] = after
    for name, given in pairs:
        if name == "prune" and (unknown := set(given) - {*PARTS, *HOW}):
            raise ValueError(f"the stage prune has no {min(unknown)!r}; it has: {', '.join((*PARTS, *HOW))}")
        if name == "prune" and not isinstance(given.get("refit"), bool | None):
            raise ValueError(f"refit of the stage prune is {given['refit']!r}; it takes true or false")
        if name == "sparsify":
            found |= _only(given, name, ("pattern", "score"))
        if name == "factor":
            found["allocation"] = BY_RANKS | _only(given, name, tuple(k for k in FACTORS if k in given))
        if name == "quantize":
            found |= {
                **recipe(str(given.get("recipe", "default"))),
                **{k: v for k, v in given.items() if k != "recipe"},
            }
        if name == "train_codes":
            found |= _only(given, name, ("block_steps", "code_steps"))
        if name == "tune":
            found["tune_steps"] = _only(given, name, ("steps",))["steps"]
    if "quantize" not in names:
        raise ValueError("no stage quantizes")
    return found


def _pairs(stages: object) -> Sequence[tuple[str, Mapping[str, Any]]]:
    if not isinstance(stages, list) or not all(isinstance(s, dict) and len(s) == 1 for s in stages):
        raise ValueError("the stages are not a list in which each has one name with its fields")
    pairs = [(str(name), given or {}) for stage in stages for name, given in stage.items()]
    for name, given in pairs:
        if not isinstance(given, dict):
            raise ValueError(f"the stage {name} is not a mapping of names to values")
    return pairs


def _only(given: Mapping[str, Any], stage: str, names: Sequence[str]) -> dict[str, Any]:
    if set(given) != set(names):
        raise ValueError(f"the stage {stage} needs just: {', '.join(names)}")
    return dict(given)
