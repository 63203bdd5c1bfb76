"""The bytes of a folder before it is written: everything counted, to the byte."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from mediant.checkpoint.manifest import Calibration
from mediant.checkpoint.writer import overhead_bytes
from mediant.forms import Side
from mediant.models.card import model_card
from mediant.models.companions import CARD, companion_files
from mediant.planning.plan import Plan
from mediant.statistics.calibration import CalibrationText
from mediant.values import Model


@dataclass(frozen=True)
class Accounts:
    """Counts for one model; `text` is what it is calibrated on, or a stand-in of the same source and size."""

    model: Model
    text: CalibrationText

    def companions(self, plan: Plan) -> dict[str, bytes]:
        """The files that travel with the weights."""
        card = model_card(self.model, plan.recipe, plan.seed, self.text.source)
        return self._uncarded | {CARD: card.encode()}

    def folder_bytes(self, plan: Plan, sides: Mapping[str, Side]) -> int:
        """Bytes of the folder that a plan leads to, with the side information that it does not tell, by tensor.

        Raises:
            PlanError: the plan does not fit the model.
        """
        companions = self.companions(plan)
        text = Calibration(self.text.source, self.text.tokens, self.text.fingerprint)
        payload = sum(plan.tensors[i.name].nbytes(i, sides.get(i.name)) for i in self.model.tensors)
        beside = sum(map(len, companions.values()))
        return payload + beside + overhead_bytes(self.model, plan, text, companions, sides)

    @cached_property
    def _uncarded(self) -> dict[str, bytes]:
        return companion_files(self.model, "")
