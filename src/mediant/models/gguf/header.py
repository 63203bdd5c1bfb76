"""The numbers of a GGUF header that describe the network: each is taken once, or refused at the end."""

from __future__ import annotations

from typing import Any

from mediant.errors import ModelError
from mediant.models.gguf import ledger
from mediant.models.gguf.file import GGUFFile

REQUIRED = object()


class Header:
    """A ledger over the header of a file. Names are without the architecture: `rope.freq_base`."""

    def __init__(self, file: GGUFFile) -> None:
        self.file = file
        self._prefix = f"{file.architecture}."
        self._taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self.file.fields

    def take(self, name: str, default: Any = REQUIRED) -> Any:
        """Returns the value of a key, or of every layer where they are equal; `default` where the header does not say.

        Raises:
            ModelError: it is required and missing, or layers differ.
        """
        value = self.take_any(name, default)
        if not isinstance(value, list):
            return value
        distinct = sorted(set(value))
        if len(distinct) != 1:
            raise ModelError(
                f"The GGUF file {self.file.path} has layers with different {self._prefix}{name}"
                f" ({', '.join(map(str, distinct))}), which transformers' network of it does not have."
            )
        return distinct[0]

    def take_any(self, name: str, default: Any = REQUIRED) -> Any:
        """Returns the value of a key, a list where layers have their own."""
        self._taken.add(self._prefix + name)
        value = self.file.fields.get(self._prefix + name, default)
        if value is REQUIRED:
            raise ModelError(f"The header of the GGUF file {self.file.path} does not say {self._prefix}{name}.")
        return value

    def expect(self, name: str, value: Any) -> None:
        """Takes a key that may only say what follows from the rest.

        Raises:
            ModelError: it says something else.
        """
        if (found := self.take(name, value)) != value:
            raise ModelError(
                f"The GGUF file {self.file.path} says {self._prefix}{name} = {found}, but its architecture"
                f" and other numbers ask for {value}."
            )

    def check_all_taken(self) -> None:
        """Refuses a header with numbers that nothing has taken and that are not listed as irrelevant or neutral.

        Raises:
            ModelError: naming them.
        """
        left = []
        for key, value in self.file.fields.items():
            known = key in self._taken or ledger.irrelevant(key)
            if not known and not ledger.neutral(key.removeprefix(self._prefix), value):
                left.append(f"{key} = {value}")
        if left:
            raise ModelError(
                f"The header of the GGUF file {self.file.path} says what Mediant does not know how to give to the"
                f" network: {', '.join(left)}; give the Hugging Face folder it was made from."
            )
