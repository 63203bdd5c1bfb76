"""Adam over windows of text: resumable at any step, and with the same bits for any number of threads.

A window's gradient is computed by one thread alone; gradients are added in the order of the windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import nn

from mediant.progress import SILENT, Progress
from mediant.workers import compute_alone, ordered

# Of the rate: a short rise, then a straight fall to a last share.
WARM_UP, LAST_SHARE = 10, 0.05
BETAS = (0.9, 0.99)
# The size that a parameter has at least.
LEAST = 1e-6
# Marks for a curve in one line of text, and how many fit beside a bar.
MARKS, CURVE = "▁▂▃▄▅▆▇█", 24

State = dict[str, torch.Tensor]
# Loss of a window, and its gradients in the order of the parameters.
Gradient = Callable[[torch.Tensor], tuple[float, Sequence[torch.Tensor]]]


def keep_nothing(state: State) -> None:
    """For runs that need not be resumed."""


@dataclass(frozen=True)
class Course:
    """How a run goes: steps, windows a step, the seed of their order, and steps between two states that are kept."""

    steps: int
    batch: int = 2
    seed: int = 0
    keep_every: int = 10


@dataclass
class Descent:
    """Parameters by name that learn; `rate` is relative to the size of each.

    That is the root mean square, at least `least`, or what `sizes` says of the parameter.
    """

    parameters: Mapping[str, nn.Parameter]
    rate: float
    least: float = LEAST
    sizes: Mapping[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        sizes = {name: max(self.least, size_of(p)) for name, p in self.parameters.items()} | dict(self.sizes)
        groups = [{"params": [p], "rate": self.rate * sizes[name]} for name, p in self.parameters.items()]
        self.optimizer = torch.optim.Adam(groups, lr=self.rate, betas=BETAS)

    def slow_down(self, factor: float) -> None:
        """Multiplies the rate by a factor, from the next step on."""
        for group in self.optimizer.param_groups:
            group["rate"] *= factor

    def run(
        self,
        gradient: Gradient,
        windows: torch.Tensor,
        course: Course,
        progress: Progress = SILENT,
        what: str = "Learning",
        state: State | None = None,
        keep: Callable[[State], None] = keep_nothing,
    ) -> None:
        """Takes the steps of a course over windows [windows, tokens].

        With `state`, as `keep` was once given it, the run goes on from there and ends with the same bits.
        """
        done = 0 if state is None else self._restore(state)
        batches = _batches(len(windows), course)
        for step in progress.track(range(done, course.steps), lambda: f"{what} {curve(self.losses)}"):
            for group in self.optimizer.param_groups:
                group["lr"] = group["rate"] * _rate(step, course.steps)
            self.losses.append(self._step(gradient, [windows[i] for i in batches[step]]))
            if (step + 1) % course.keep_every == 0 and step + 1 < course.steps:
                keep(self._state(step + 1))

    def _step(self, gradient: Gradient, chosen: Sequence[torch.Tensor]) -> float:
        losses = []
        for loss, parts in ordered(gradient, chosen, compute_alone):
            losses.append(loss)
            for parameter, part in zip(self.parameters.values(), parts, strict=True):
                share = part / len(chosen)
                parameter.grad = share if parameter.grad is None else parameter.grad.add_(share)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return sum(losses) / len(losses)

    def _state(self, done: int) -> State:
        state = {f"value.{name}": p.detach().clone() for name, p in self.parameters.items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            state |= {f"adam.{i}.{key}": value.clone() for key, value in moments.items()}
        return state | {"done": torch.tensor(done), "losses": torch.tensor(self.losses, dtype=torch.float64)}

    def _restore(self, state: State) -> int:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state[f"value.{name}"])
        adam = self.optimizer.state_dict()
        for key, value in state.items():
            if key.startswith("adam."):
                _, i, moment = key.split(".")
                adam["state"].setdefault(int(i), {})[moment] = value
        self.optimizer.load_state_dict(adam)
        self.losses = state["losses"].tolist()
        return int(state["done"])


def curve(losses: Sequence[float], width: int = CURVE) -> str:
    """Returns a loss curve in one line, `width` means wide, and the newest value.

    >>> curve([4, 3, 2, 1])
    '█▆▃▁ 1.000'
    """
    if not losses:
        return ""
    count = min(width, len(losses))
    edges = [len(losses) * i // count for i in range(count + 1)]
    means = [sum(losses[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    top = len(MARKS) - 1
    marks = (MARKS[round(top * (m - low) / (high - low)) if high > low else 0] for m in means)
    return f"{''.join(marks)} {losses[-1]:.3f}"


def size_of(parameter: nn.Parameter) -> float:
    """Returns its root mean square."""
    return float(parameter.detach().square().mean().sqrt())


def _rate(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / WARM_UP) * (1 - (1 - LAST_SHARE) * step / steps)


def _batches(windows: int, course: Course) -> list[list[int]]:
    """Yields windows of each step: every window once before any comes again."""

    def shuffled() -> Iterator[int]:
        generator = torch.Generator().manual_seed(course.seed)
        while True:
            yield from torch.randperm(windows, generator=generator).tolist()

    order = shuffled()
    return [[next(order) for _ in range(course.batch)] for _ in range(course.steps)]
