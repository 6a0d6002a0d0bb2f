"""What the fold makes of a record."""

from msgspec import Struct

from ..wire.messages import Bar


class BarOut(Struct, frozen=True):
    """A bar to be published."""

    bar: Bar


class LateOut(Struct, frozen=True):
    """The record's tick belongs to a bar that is closed."""

    symbol: str


class RejectedOut(Struct, frozen=True):
    """The record cannot be used; `reason` is a stable snake_case word."""

    reason: str
    detail: str


Output = BarOut | LateOut | RejectedOut
