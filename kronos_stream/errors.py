"""A small tree of errors: every one that a user can cause derives from KronosStreamError.

The command line prints such an error as one line and exits with status 2; anything else is a bug
and shows its traceback.
"""

from collections.abc import Iterable
from itertools import islice


def some_of(names: Iterable[str], most: int = 5) -> str:
    """The first of some names, for a message: A, B and others; none."""
    first = list(islice(names, most + 1))
    if not first:
        return "none"
    return ", ".join(first[:most]) + (" and others" if len(first) > most else "")


def first_line(error: BaseException) -> str:
    """What a library says, without what it says after that; its kind where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)


class KronosStreamError(Exception):
    """Something that the user can mend; the message names the value and what was expected."""


class SettingsError(KronosStreamError):
    """A flag, environment variable or TOML value that cannot be used."""


class CalendarEndError(SettingsError):
    """A time past what the exchange calendar knows."""


class InputError(KronosStreamError):
    """A file, table or array that cannot be used."""


class ModelError(KronosStreamError):
    """A checkpoint that cannot be loaded or a model in the wrong mode."""


class BrokerError(KronosStreamError):
    """The broker or a topic is not as it must be."""


class StoreError(KronosStreamError):
    """The context store is not as it must be."""


class EngineError(KronosStreamError):
    """The engine process refused its settings or died for good."""


class RejectedError(KronosStreamError):
    """A message that must go to the rejected topic; `reason` is a stable snake_case word."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
