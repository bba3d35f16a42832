"""Failures a person can act on.

A SaifError is shown to the user word for word. Anything else is a bug: it is logged with a
traceback and reaches the user only as a reference number.
"""


class SaifError(Exception):
    """Base class: `str(error)` says what went wrong, `hint` says what to do about it."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    @property
    def sentence(self) -> str:
        """Message and hint on one line."""
        return f"{self} {self.hint}".strip()


class ModelError(SaifError):
    """A model can't be found, loaded or used."""


class SaeError(SaifError):
    """A sparse autoencoder can't be found, or doesn't belong to this model."""


class PresetError(SaifError):
    """A preset or instruction is missing, malformed, or made for another model."""


class SteeringError(SaifError):
    """A steering request makes no sense, or was asked for and did not take effect."""


class InputError(SaifError):
    """What the user typed can't be used: empty, too long, out of range."""


class StudyError(SaifError):
    """A study file, its published version or its store is wrong, or the study forbids the step."""
