"""experts: a dense model as a mixture of experts, an ordinary folder that transformers loads without Mediant.

Neurons are sorted by what they do on a text, routers fitted, and what can be learned in some minutes is learned from
the original. The two structural edits that say all this are what a plan takes too.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mediant import files
from mediant.claims import claimed
from mediant.errors import StorageError, UsageError
from mediant.methods.experts.mixture import ACTIVATIONS
from mediant.methods.experts.neuron_clusters import Shape, shape_of, split
from mediant.methods.structure import edit_from
from mediant.methods.structure.split_ffn import encoded
from mediant.methods.structure.tune_experts import LEARNED, MixtureTuner
from mediant.models.dense_folder import write_folder
from mediant.models.file_names import of_model
from mediant.models.opening import open_model
from mediant.models.reference import load_reference
from mediant.models.sidecar_files import travelling
from mediant.models.weights import WeightReader
from mediant.pipeline.apply_edits import LearningContext, apply_edits
from mediant.pipeline.stages.tune import SECONDS, TRIAL
from mediant.pipeline.workspace import Workspace
from mediant.progress import SILENT, Progress
from mediant.statistics.calibration_text import text_to_learn
from mediant.values import MOST_STEPS, Model

# Tokens by which neurons are sorted, and windows that say what was lost.
SORTED_BY, JUDGED_BY = 4096, 8
HELD_OUT = 8


@dataclass(frozen=True)
class ExpertsRequest:
    """What a person asks of `experts`.

    The MLP is cut into `experts` parts, of which the share `active` is used by a token, `shared` of them always.
    `tune` are minutes of learning, `learn` what is learned (methods/structure/tune_experts.py).
    """

    model: str
    out: Path
    experts: int = 8
    active: float = 0.5
    shared: int | None = None
    calibration: Path | None = None
    tune: float = 0.0
    learn: str = "all"
    seed: int = 0
    resume: bool = True
    wait: bool = True

    def check(self) -> None:
        """Refuses what contradicts itself or would write over something.

        Raises:
            UsageError, StorageError: with the first fault.
        """
        if not 0 < self.active <= 1:
            raise UsageError(f"--active is {self.active:g}; it takes a share above 0 up to 1, such as 50%.")
        if not 0 <= self.tune < math.inf:
            raise UsageError(f"--tune is {self.tune}; it takes a number of minutes from 0.")
        if self.learn not in LEARNED:
            raise UsageError(f"--learn is {self.learn!r}; it takes {' or '.join(LEARNED)}.")
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise StorageError(f"{self.out} is already there; name a new folder.")


def convert(wanted: ExpertsRequest, progress: Progress = SILENT) -> dict[str, Any]:
    """Writes the mixture to `wanted.out`; returns its figures, and the edits as a plan takes them.

    Raises:
        MediantError: one sentence about what cannot be done; nothing is at `out` then.
    """
    wanted.check()
    with claimed(wanted.out, progress, wanted.wait):
        wanted.check()
        return _converted(wanted, progress)


def _converted(wanted: ExpertsRequest, progress: Progress) -> dict[str, Any]:
    run = Conversion(wanted, open_model(wanted.model, progress), progress)
    shape = run.shape
    check_model(run)
    try:
        edits = (run.splitting, run.tuning)
        plain, tuned = run.after(*edits[:1], run.fitting), run.after(*edits)
        losses = {"kl_fitted": run.loss(plain), "kl_tuned": run.loss(tuned)}
        _write(wanted.out, tuned, progress)
    except Exception:
        run.workspace.close()
        raise
    run.workspace.close()
    steps = run.tuning["steps"]
    return {
        "out": str(wanted.out),
        **dataclasses.asdict(shape),
        "tune_steps": steps,
        **losses,
        "structure": list(edits),
    }


def check_model(run: Conversion) -> None:
    """Refuses before any work a model that cannot become a mixture.

    Raises:
        PlanError, UsageError: it cannot.
    """
    model, shape = run.model, run.shape
    layers, width = int(model.config["num_hidden_layers"]), int(model.config["intermediate_size"])
    labels = torch.arange(shape.experts).repeat_interleave(shape.neurons) + 1
    text = encoded(torch.cat([torch.zeros(width - len(labels), dtype=torch.int64), labels]).numpy(), shape.experts)
    edit = edit_from(run.split_edit([text] * layers))
    with WeightReader(model) as weights:
        edit.edited(dict(model.config), weights.lazy())  # type: ignore[union-attr]
    if model.config["hidden_act"] not in ACTIVATIONS:
        raise UsageError(f"The activation {model.config['hidden_act']!r} is none of {', '.join(ACTIVATIONS)}.")


@dataclass(frozen=True)
class Conversion:
    """One run: each stage is computed at most once, and taken up from the workspace of a run that was stopped."""

    wanted: ExpertsRequest
    model: Model
    progress: Progress

    @cached_property
    def shape(self) -> Shape:
        """The numbers of experts and neurons that the MLP is cut into.

        Raises:
            UsageError: it cannot be cut so.
        """
        if not self.model.causal or not isinstance(self.model.config.get("intermediate_size"), int):
            raise UsageError(f"{self.model.name} is no model that predicts tokens with MLPs of one known width.")
        try:
            return shape_of(
                self.model.config["intermediate_size"], self.wanted.experts, self.wanted.active, self.wanted.shared
            )
        except ValueError as problem:
            raise UsageError(f"This model cannot be cut as --experts, --active and --shared say: {problem}.") from None

    @cached_property
    def workspace(self) -> Workspace:
        """The folder of finished steps."""
        text = None if self.wanted.calibration is None else files.file_sha256(self.wanted.calibration)
        key = {"experts of": self.model.fingerprint, "text": text, "seed": self.wanted.seed}
        return Workspace.open(self.wanted.out.resolve(), key, self.wanted.resume)

    @cached_property
    def windows(self) -> torch.Tensor:
        """The text, as the edits that learn get it."""
        return text_to_learn(self.model, self.wanted.calibration, self.wanted.seed, self.progress)

    @property
    def fitting(self) -> Mapping[str, Any]:
        """The edit that only fits routers."""
        return {"edit": "tune_experts", "steps": 0}

    @cached_property
    def splitting(self) -> Mapping[str, Any]:
        """The edit that cuts every MLP into experts."""
        name = "-".join(map(str, ("neurons", *dataclasses.astuple(self.shape))))
        return self.split_edit(json.loads(self.workspace.step(name, lambda: json.dumps(self._sorted()).encode())))

    def split_edit(self, neurons: list[str]) -> Mapping[str, Any]:
        """Returns the edit that gives neurons to experts in this way."""
        return {"edit": "split_ffn", "experts": self.shape.experts, "active": self.shape.active, "neurons": neurons}

    @cached_property
    def tuning(self) -> Mapping[str, Any]:
        """The edit that fits routers and learns for as long as was asked for."""
        if not self.wanted.tune:
            return self.fitting
        pace = float(json.loads(self.workspace.step(f"pace-{self.wanted.learn}", self._pace)))
        steps = min(MOST_STEPS, max(1, math.floor(SECONDS * self.wanted.tune / pace)))
        return {"edit": "tune_experts", "steps": steps, "learn": self.wanted.learn, "seed": self.wanted.seed}

    def after(self, *edits: Mapping[str, Any]) -> Model:
        """Returns the model after some edits."""
        context = LearningContext(self.model, lambda: self.windows, self.workspace)
        return apply_edits(self.model, edits, context, self.progress)

    def loss(self, mixture: Model) -> float:
        """KL to the original in nats per token, on windows that were not learned from."""
        held = self.windows[::HELD_OUT][:JUDGED_BY]
        return MixtureTuner(load_reference(mixture), load_reference(self.model), "routers").divergence(held)

    def _pace(self) -> bytes:
        network, reference = load_reference(self.after(self.splitting, self.fitting)), load_reference(self.model)
        tuner, windows = MixtureTuner(network, reference, self.wanted.learn), self.windows[:TRIAL]
        tuner.run(windows, 1, self.wanted.seed)
        begun = time.monotonic()
        tuner.run(windows, TRIAL, self.wanted.seed)
        return json.dumps((time.monotonic() - begun) / TRIAL).encode()

    def _sorted(self) -> list[str]:
        """Returns the expert of each neuron, layer by layer."""
        count = max(1, SORTED_BY // self.windows.shape[1])
        stride = max(1, len(self.windows) // count)
        network = load_reference(self.model)
        inputs = mlp_inputs(network, self.windows[::stride][:count])
        layers = network.base_model.layers
        neurons = []
        for layer, x in self.progress.track(zip(layers, inputs, strict=True), "Sorting neurons", len(layers)):
            with torch.no_grad():
                mlp = layer.mlp
                hidden = mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)
                neurons.append(encoded(split(hidden, mlp.down_proj.weight, self.shape), self.shape.experts))
        return neurons


@torch.no_grad()
def mlp_inputs(network: Any, windows: torch.Tensor) -> list[torch.Tensor]:
    """Collects the inputs of every MLP for windows [windows, tokens], float32 [tokens, hidden] each."""
    found: list[list[torch.Tensor]] = []

    def hook(kept: list[torch.Tensor]) -> Callable[..., None]:
        return lambda module, inputs: kept.append(inputs[0].reshape(-1, inputs[0].shape[-1]))

    handles = []
    for layer in network.base_model.layers:
        found.append([])
        handles.append(layer.mlp.register_forward_pre_hook(hook(found[-1])))
    for window in windows:
        network.base_model(input_ids=window[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return [torch.cat(kept) for kept in found]


def _write(out: Path, model: Model, progress: Progress) -> None:
    beside: dict[str, bytes | Path] = dict(travelling(model.path))
    with WeightReader(model) as weights:
        write_folder(out, model.config, of_model(weights.lazy(), model), beside, progress)
