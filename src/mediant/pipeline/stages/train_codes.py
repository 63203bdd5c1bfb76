"""train_codes: after rounding, codes and step sizes learn, block by block and then end to end, and are stored anew.

A block learns from the same block before quantization, over inputs of the network as it is rounded so far; the whole
network from the original, by KL. What was learned is rounded into the form in which it is stored, and only then judged
on text that was not learned from: where it is no better, what was there stays.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import load, save

from mediant.allocation.operations import Operations
from mediant.errors import PlanError, UsageError
from mediant.forms import Encoding, Form
from mediant.kernels.rotation import rotate
from mediant.methods.structure.distill import held_out
from mediant.methods.training._descent import Course, Descent
from mediant.methods.training.distillation import Distillation
from mediant.methods.training.quantization_aware import Latent, QuantizationAware, Rows, block_loss
from mediant.models.blocks import block_path
from mediant.models.matrix_form import to_matrix
from mediant.models.reference import load_reference, parameters_to_modules
from mediant.models.weights import WeightReader
from mediant.pipeline.certificates import certified
from mediant.pipeline.run import Run
from mediant.pipeline.stages import Encodings
from mediant.planning.plan import Plan
from mediant.statistics.calibration_text import LEARNING_WINDOW
from mediant.values import Array, Model, TensorInfo
from mediant.workers import compute_alone, ordered

# Windows whose hidden states are kept while blocks learn.
BLOCK_WINDOWS = 72
# Steps between two states that are kept; one has three times the bytes of all latents.
KEEP_EVERY = 25

Learned = Mapping[str, Mapping[str, Array]]


@dataclass(frozen=True)
class TrainCodes:
    """Learning of codes and step sizes: `block_steps` in each block, then `code_steps` end to end."""

    place: int = dataclasses.field(default=10, init=False)

    def asked(self, plan: Plan) -> bool:
        """Tells whether there are steps of either kind."""
        return plan.block_steps > 0 or plan.code_steps > 0

    def check(self, run: Run, plan: Plan) -> None:
        """Refuses a plan with no codes that can learn, and a model that predicts no tokens.

        Raises:
            PlanError, UsageError: with the first fault.
        """
        check_trainable(run.model, plan)
        if not run.model.causal:
            raise UsageError("Training codes needs a model that predicts tokens; take another recipe for an encoder.")

    def apply(self, run: Run, plan: Plan, encodings: Encodings) -> Generator[Encoding, None, None]:
        """Trains, and yields the tensors with the codes that learned."""
        return replace_codes(run, encodings, train(run, plan, encodings))

    def operations(self, run: Run, plan: Plan) -> Operations:
        """Counts forth and back of one window a step, windows entering every block twice, and the teacher's passes."""
        steps = 3.0 * plan.block_steps + 4.0 * plan.code_steps
        entering = 3.0 * BLOCK_WINDOWS if plan.block_steps else 0.0
        return Operations(products=(steps + entering) * LEARNING_WINDOW * run.model.weights)


def trainable(info: TensorInfo, plan: Form) -> bool:
    """Returns True if the codes of a tensor can learn: a matrix of a block, quantized as a whole."""
    return (
        plan.trainable and info.role == "linear" and info.layout in ("out_in", "in_out") and bool(block_path(info.name))
    )


def check_trainable(model: Model, plan: Plan) -> None:
    """Refuses a plan that has steps for codes and no codes that can learn.

    Raises:
        PlanError: there are none.
    """
    if not any(trainable(info, plan.tensors[info.name]) for info in model.tensors):
        raise PlanError(
            "No codes of this plan can be trained; these are codes of matrices within blocks that are quantized "
            "without outliers, equalization, sparsity or factors."
        )


def train(run: Run, plan: Plan, encodings: Encodings) -> Learned:
    """Returns the parts of all tensors whose codes learned, by name; of those that did not become better, as they were.

    Raises:
        PlanError: no codes can be trained.
        TextError: the calibration text is too short to hold any of it out.
    """
    steps = run.steps(plan)
    check_trainable(run.model, plan)

    def compute() -> bytes:
        pupil = _Pupil(run, plan, {e.info.name: e for e in encodings()})
        windows = run.learning_windows
        if plan.block_steps:
            pupil.learn_blocks(windows)
        if plan.code_steps:
            pupil.learn_together(windows)
        return _to_bytes({name: pupil.encodings[name].parts for name in pupil.names})

    return _from_bytes(steps.step(_name("codes", plan), compute))


def _name(what: str, plan: Plan) -> str:
    return f"{what}-{plan.block_steps}-{plan.code_steps}"


def replace_codes(run: Run, encodings: Encodings, learned: Learned) -> Generator[Encoding, None, None]:
    """Yields the encodings with the parts that were learned, and with certificates of what they are now."""
    with WeightReader(run.model) as weights, contextlib.closing(encodings()) as before:
        for encoding in before:
            name = encoding.info.name
            if name not in learned:
                yield encoding
                continue
            changed = dataclasses.replace(encoding, parts=learned[name])
            yield certified(changed, weights.read(name), run.statistics, run.hessians)


class _Pupil:
    """The network as it is rounded, whose codes learn; its weights are always what `encodings` decode to."""

    def __init__(self, run: Run, plan: Plan, encodings: dict[str, Encoding]) -> None:
        self.run, self.plan, self.encodings = run, plan, encodings
        self.network: Any = load_reference(run.model)
        self.network.load_state_dict({n: torch.from_numpy(e.decode()) for n, e in encodings.items()}, strict=False)
        self.network.requires_grad_(False)
        self.owners: dict[str, Any] = parameters_to_modules(self.network)
        self.names = [t.name for t in run.model.tensors if trainable(t, plan.tensors[t.name])]

    def learn_blocks(self, windows: torch.Tensor) -> None:
        """Trains one block after another; those that an earlier run finished are taken up."""
        windows = windows[np.unique(np.linspace(0, len(windows) - 1, BLOCK_WINDOWS).round().astype(int))]
        before = load_reference(self.run.model).requires_grad_(False)
        blocks = {block_path(name): [n for n in self.names if block_path(n) == block_path(name)] for name in self.names}
        here, there = (_Stream(network, windows, list(blocks)) for network in (self.network, before))
        track = self.run.progress.track(blocks.items(), "Training codes, block by block", len(blocks))
        steps = self.run.steps(self.plan)
        for path, names in track:
            wanted = there.outputs(path)

            def compute(path: str = path, names: list[str] = names, wanted: Sequence[torch.Tensor] = wanted) -> bytes:
                self._learn_block(here, path, names, wanted)
                return _to_bytes({name: self.encodings[name].parts for name in names})

            self._take(_from_bytes(steps.step(f"{path}-{self.plan.block_steps}", compute)))
            here.inputs, there.inputs = here.outputs(path), wanted

    def _learn_block(self, here: _Stream, path: str, names: list[str], wanted: Sequence[torch.Tensor]) -> None:
        held = held_out(len(wanted))

        def loss(window: torch.Tensor) -> torch.Tensor:
            return block_loss(here.output(path, here.inputs[int(window)]), wanted[int(window)])

        course = Course(self.plan.block_steps, seed=self.plan.seed, keep_every=self.plan.block_steps + 1)
        numbers = torch.arange(len(wanted))
        self._better(
            names, lambda: _mean(loss, numbers[held]), lambda d: d.run(_gradient(loss, d), numbers[~held], course)
        )

    def learn_together(self, windows: torch.Tensor) -> None:
        """Trains all codes by KL to the original."""
        teacher, method = load_reference(self.run.original).requires_grad_(False), Distillation()
        held, steps, kept = held_out(len(windows)), self.run.steps(self.plan), _name("latents", self.plan)
        course = Course(self.plan.code_steps, seed=self.plan.seed, keep_every=KEEP_EVERY)

        def loss(window: torch.Tensor) -> torch.Tensor:
            return method.loss(self.network, teacher, window)

        def learn(descent: Descent) -> None:
            state = load(steps.read(kept)) if steps.has(kept) else None
            descent.run(
                _gradient(loss, descent), windows[~held], course, self.run.progress, "Training codes", state,
                lambda found: steps.write(kept, save(found)),
            )  # fmt: skip

        before, after = self._better(self.names, lambda: _mean(loss, windows[held]), learn)
        self.run.progress.say(
            f"Codes trained in {self.plan.code_steps} steps: KL {before:.4f} -> {after:.4f} on text not learned from."
        )

    def _better(
        self, names: list[str], judged: Callable[[], float], learn: Callable[[Descent], None]
    ) -> tuple[float, float]:
        """Losses before and after some tensors learned; if it did not fall, they are as they were."""
        before, old = judged(), {name: self.encodings[name].parts for name in names}
        latents = {name: self._latent(name) for name in names}
        parameters = {f"{n}.{kind}": p for n, latent in latents.items() for kind, p in latent.named_parameters()}
        for name, latent in latents.items():
            _attach(self.owners[name], latent)
        learn(Descent(parameters, QuantizationAware().rate))
        for name in names:
            del self.owners[name].forward
        self._take({name: _stored(self.encodings[name], latents[name]) for name in names})
        after = judged()
        if after >= before:
            self._take(old)
        return before, min(before, after)

    def _take(self, parts: Learned) -> None:
        for name, found in parts.items():
            self.encodings[name] = dataclasses.replace(self.encodings[name], parts=found)
            with torch.no_grad():
                self.owners[name].weight.copy_(torch.from_numpy(self.encodings[name].decode()))

    def _latent(self, name: str) -> Latent:
        encoding = self.encodings[name]
        with WeightReader(self.run.model) as weights:
            matrix = to_matrix(weights.read(name), encoding.info)
        found = encoding.plan.codes(encoding.info, encoding.parts, encoding.side)
        rows, row = [], 0
        for table, codes in zip(found.tables, found.codes, strict=True):
            here = slice(row, row + len(codes))
            rows.append(Rows(here, torch.from_numpy(np.array(table)), torch.from_numpy(codes.astype(np.int64))))
            row += len(codes)
        return Latent(
            torch.from_numpy(np.array(matrix) if found.rotation is None else rotate(matrix, found.rotation)),
            torch.from_numpy(found.scales),
            None if found.zeros is None else torch.from_numpy(found.zeros),
            rows, found.group, found.rotation,
        )  # fmt: skip


class _Stream:
    """Windows on their way through the blocks of a network: each block's own arguments, and the inputs so far."""

    def __init__(self, network: Any, windows: torch.Tensor, paths: Sequence[str]) -> None:
        self.blocks = {path: network.get_submodule(path) for path in paths}
        self.calls: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self.inputs: Sequence[torch.Tensor] = []
        hooks = [block.register_forward_pre_hook(self._seen(p), with_kwargs=True) for p, block in self.blocks.items()]
        with torch.no_grad():
            network.base_model(input_ids=windows[:1], use_cache=False)
        for hook in hooks:
            hook.remove()
        self.inputs = [self._entering(network, window) for window in windows]

    def _seen(self, path: str) -> Callable[..., None]:
        def note(block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kwargs = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            self.calls[path] = (args[1:], kwargs)

        return note

    def _entering(self, network: Any, window: torch.Tensor) -> torch.Tensor:
        """Computes the hidden states that enter the first block."""
        found = []

        def stop(block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.append(args[0] if args else kwargs["hidden_states"])
            raise _EnoughError

        hook = next(iter(self.blocks.values())).register_forward_pre_hook(stop, with_kwargs=True)
        try:
            with torch.no_grad():
                network(input_ids=window[None], use_cache=False)
        except _EnoughError:
            pass
        finally:
            hook.remove()
        entering: torch.Tensor = found[0]
        return entering

    def output(self, path: str, hidden: torch.Tensor) -> torch.Tensor:
        """Computes a block's output for the hidden states of one window."""
        args, kwargs = self.calls[path]
        found = self.blocks[path](hidden, *args, **kwargs)
        output: torch.Tensor = found[0] if isinstance(found, tuple) else found
        return output

    def outputs(self, path: str) -> Sequence[torch.Tensor]:
        """Computes a block's outputs for the hidden states of all windows."""

        def of(hidden: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return self.output(path, hidden)

        return list(ordered(of, self.inputs, compute_alone))


class _EnoughError(Exception):
    """A network need not go on."""


def _attach(module: Any, latent: Latent) -> None:
    """Lets a linear module, or GPT-2's Conv1D, compute with what its latent rounds to."""
    module.forward = lambda x: latent(x, getattr(module, "bias", None))


def _gradient(
    loss: Callable[[torch.Tensor], torch.Tensor], descent: Descent
) -> Callable[[torch.Tensor], tuple[float, Sequence[torch.Tensor]]]:
    def gradient(window: torch.Tensor) -> tuple[float, Sequence[torch.Tensor]]:
        found, parameters = loss(window), list(descent.parameters.values())
        return float(found.detach()), torch.autograd.grad(found, parameters, allow_unused=True, materialize_grads=True)

    return gradient


def _mean(loss: Callable[[torch.Tensor], torch.Tensor], windows: torch.Tensor) -> float:
    def measured(window: torch.Tensor) -> float:
        with torch.no_grad():
            return float(loss(window))

    return float(np.mean(list(ordered(measured, windows, compute_alone))))


def _stored(encoding: Encoding, latent: Latent) -> dict[str, Array]:
    """Returns the parts of an encoding with the gains in its scales, and codes rounded anew for these scales."""
    plan, info = encoding.plan, encoding.info
    parts = plan.with_row_gains(info, encoding.parts, latent.gain.detach().numpy())
    scales = plan.codes(info, parts, encoding.side).scales
    return plan.with_codes(info, parts, [codes.numpy() for codes in latent.codes(torch.from_numpy(scales))])


def _to_bytes(learned: Learned) -> bytes:
    data: bytes = save_arrays({f"{name}|{part}": a for name, parts in learned.items() for part, a in parts.items()})
    return data


def _from_bytes(data: bytes) -> dict[str, dict[str, Array]]:
    found: dict[str, dict[str, Array]] = {}
    for key, array in load_arrays(data).items():
        name, _, part = key.rpartition("|")
        found.setdefault(name, {})[part] = array
    return found


METHOD = TrainCodes
