"""`mediant analyze`: figures of every tensor, and which to quantize first."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mediant.cli._console import JsonOption, RichProgress, table_console, write_json
from mediant.cli._model_options import MOST_SEED
from mediant.errors import UsageError

if TYPE_CHECKING:
    from mediant.progress import Progress
    from mediant.statistics.analysis import Analysis, KindAnalysis, TensorAnalysis
    from mediant.statistics.attention_distance import Reach
    from mediant.values import Model, Statistics, TensorInfo

FIGURES = (
    "count",
    "minimum",
    "maximum",
    "absmax",
    "mean",
    "std",
    "skewness",
    "kurtosis",
    "peak",
    "zeros_share",
)

# Texts in which to see how far layers look, and how many times the tokens asked about they are long.
REACH_WINDOWS, REACH_TIMES = 4, 4


def command(
    model: Annotated[str, typer.Argument(help="A compressed model, or any model that 'compress' takes.")],
    tensors: Annotated[str, typer.Option(metavar="GLOB", help="Only tensors of such a name, like '*.mlp.*'.")] = "*",
    calibration: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Measure sensitivity on this text file.")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure sensitivity on text that the model writes.")
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_SEED, help="Seed of samples and of the text the model writes.")
    ] = 0,
    spectrum: Annotated[bool, typer.Option(help="Compute singular values and Fourier energy.")] = True,
    attention: Annotated[
        int | None,
        typer.Option(min=1, metavar="TOKENS", help="Measure which layers look further back than so many tokens."),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Show what a model's weights look like, and which of them to quantize first."""
    from mediant.cli._analysis_tables import show
    from mediant.cli._attention_table import show_reaches
    from mediant.cli._opening import plain
    from mediant.statistics.analysis import analyze

    progress = RichProgress()
    opened = plain(model, progress)
    chosen = choose(opened, tensors)
    statistics = _calibrated(opened, calibration, seed, progress) if calibration or calibrate else None
    reaches = () if attention is None else _reaches(opened, calibration, attention, seed, progress)
    analysis = analyze(opened, chosen, statistics, spectrum, seed, progress)
    show(table_console(json), opened, analysis, statistics)
    if attention is not None:
        show_reaches(table_console(json), reaches, attention)
    write_json(json, report(opened, analysis, statistics) | {"attention": [dataclasses.asdict(r) for r in reaches]})


def choose(model: Model, pattern: str) -> list[TensorInfo]:
    """Returns the tensors one of whose names matches the pattern.

    Raises:
        UsageError: there are none.
    """
    chosen = [t for t in model.tensors if any(fnmatch.fnmatchcase(name, pattern) for name in (t.name, *t.aliases))]
    if not chosen:
        example = model.tensors[0].name
        raise UsageError(f"No tensor of {model.name} matches {pattern!r}; a name is like {example!r}.")
    return chosen


def _calibrated(model: Model, file: Path | None, seed: int, progress: Progress) -> Statistics:
    from mediant.statistics.calibration_text import calibration_tokens
    from mediant.statistics.sensitivity import collect

    return collect(model, calibration_tokens(model, file, seed, progress), progress)


def _reaches(model: Model, file: Path | None, window: int, seed: int, progress: Progress) -> tuple[Reach, ...]:
    from mediant.statistics.attention_distance import attention_reach
    from mediant.statistics.calibration_text import calibration_tokens

    text = calibration_tokens(model, file, seed, progress, REACH_WINDOWS, REACH_TIMES * window)
    return attention_reach(model, text.windows, window, progress=progress)


def report(model: Model, analysis: Analysis, statistics: Statistics | None) -> dict[str, Any]:
    """Returns all figures in JSON types; what is not a finite number becomes null."""
    calibration = {"source": statistics.source, "tokens": statistics.tokens} if statistics else None
    data = {
        "model": model.name,
        "architecture": model.architecture,
        "fingerprint": model.fingerprint,
        "weights": model.weights,
        "calibration": calibration,
        "kinds": [_kind_report(k) for k in analysis.kinds],
        "tensors": [_tensor_report(t) for t in analysis.tensors],
        "targets": [dataclasses.asdict(t) for t in analysis.targets],
    }
    plain: dict[str, Any] = _plain(data)
    return plain


def _kind_report(kind: KindAnalysis) -> dict[str, Any]:
    return {"role": kind.role, "tensors": kind.tensors, **_values_report(kind), "families": kind.families}


def _tensor_report(tensor: TensorAnalysis) -> dict[str, Any]:
    return {
        **dataclasses.asdict(tensor.info),
        **_values_report(tensor),
        "family": tensor.families.best,
        "families": dataclasses.asdict(tensor.families),
        "spectrum": dataclasses.asdict(tensor.spectrum) if tensor.spectrum else None,
        "sensitivity": dataclasses.asdict(tensor.sensitivity) if tensor.sensitivity else None,
        "loss": tensor.loss,
        "expert_tokens": tensor.expert_tokens,
    }


def _values_report(part: TensorAnalysis | KindAnalysis) -> dict[str, Any]:
    figures = {name: getattr(part.moments, name) for name in FIGURES}
    return {**figures, "outliers": part.outliers}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
