"""Which runtime runs a model: the native decoder, or transformers with decoded weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mediant.kernels import native
from mediant.models.configuration import configuration
from mediant.runtime.description import UnsupportedModel
from mediant.runtime.families import describe


@dataclass(frozen=True)
class Choice:
    """Whether the native decoder runs it, and why or why not, in a few words."""

    native: bool
    reason: str

    def sentence(self) -> str:
        """For a person.

        >>> Choice(False, "its model_type is 'gpt2'").sentence()
        "transformers runs this model: its model_type is 'gpt2'."
        """
        return f"{'The native decoder' if self.native else 'transformers'} runs this model: {self.reason}."


def choose(folder: str | Path) -> Choice:
    """Returns the runtime for the model in a folder.

    Raises:
        ModelError: there is no model there, or transformers refuses its configuration.
    """
    found = configuration(Path(folder))
    if native is None:
        return Choice(False, "the native kernels were not built, or are switched off by MEDIANT_KERNELS")
    try:
        return Choice(True, f"it is of the family {describe(found).family}")
    except UnsupportedModel as problem:
        return Choice(False, str(problem))
