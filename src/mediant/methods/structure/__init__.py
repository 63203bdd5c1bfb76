"""Structural edits: each file turns a model into a smaller, or other, ordinary model of transformers.

An edit is a pure function of the configuration (what `config.json` says) and of the tensors by their names in the
network. What it needs to know of data, such as which neurons to keep, stands in its parameters, so that the plan alone
repeats it. `METHOD` is a frozen dataclass of these parameters, as JSON gives them, with the method `edited`.

An edit that learns has `train` instead (`Learner`): new values for some tensors, from the original model and text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from mediant import discovery
from mediant.models.lazy import LazyTensor
from mediant.progress import Progress

Config = dict[str, Any]
Tensors = dict[str, LazyTensor]
State = Mapping[str, torch.Tensor]


@runtime_checkable
class Edit(Protocol):
    """A change of a model's structure."""

    def edited(self, config: Config, tensors: Tensors) -> tuple[Config, Tensors]:
        """Returns the configuration and the tensors of the other model; the arguments stay as they are.

        Raises:
            PlanError: the edit does not fit the model.
        """


@runtime_checkable
class Learner(Protocol):
    """A change of a model's weights that is learned, with the same bits for the same arguments."""

    def train(
        self,
        student: nn.Module,
        teacher: nn.Module,
        windows: torch.Tensor,
        progress: Progress,
        state: State | None,
        keep: Callable[[State], None],
    ) -> State:
        """New values by the names of the student's tensors.

        Args:
            student: the model as the edits before have left it, float32; may be changed.
            teacher: the original model, float32; stays as it is.
            windows: tokens to learn from [windows, window], int64.
            progress: is told of every step.
            state: what `keep` was given last by a run that was stopped; None in the beginning.
            keep: stores, now and then, all that is needed to go on from here with the same result.
        """


def edit_from(spec: Mapping[str, Any]) -> Edit | Learner:
    """Returns the edit that an entry of a plan's `structure` names.

    Raises:
        PlanError: there is none of that name, or it does not have such parameters.
    """
    found: Edit | Learner = discovery.make("structure", {"name": spec["edit"], **_parameters(spec)})
    return found


def _parameters(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in spec.items() if name != "edit"}
