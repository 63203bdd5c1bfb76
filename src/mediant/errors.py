"""The exception tree. Every message is one sentence: what was wrong, where, and what would be right."""

from __future__ import annotations


class MediantError(Exception):
    """Anything a user can mend. The command line prints the message alone and exits with `exit_code`."""

    exit_code = 1


class UsageError(MediantError):
    """An argument, option or environment variable is not one that Mediant takes."""

    exit_code = 2


class SizeError(MediantError):
    """The asked size or loss cannot be met; the message names the size that can.

    `smallest` and `largest` are the sizes in bytes between which a recipe offers any for the model; None where the
    refusal came before that was known.
    """

    exit_code = 3

    def __init__(self, message: str, smallest: int | None = None, largest: int | None = None) -> None:
        super().__init__(message)
        self.smallest, self.largest = smallest, largest


class ModelError(MediantError):
    """A model cannot be found, read or understood, or its weights are not finite."""

    exit_code = 4


class TextError(MediantError):
    """A calibration or evaluation text is missing or too short."""

    exit_code = 5


class CheckpointError(MediantError):
    """A compressed checkpoint is damaged, tampered with, or of an unknown version."""

    exit_code = 6


class PlanError(MediantError):
    """A plan or recipe does not fit the model, or names a method that does not exist."""

    exit_code = 7


class StorageError(MediantError):
    """The output cannot be written: no space, no permission, or something else is already there."""

    exit_code = 8


class ExportError(MediantError):
    """What was written for another program does not read back as the model; it has been removed."""

    exit_code = 9


class MediantWarning(UserWarning):
    """Something worked, but not as well as it could."""
