"""Where a fold goes on that others began."""

from collections.abc import Mapping

from msgspec import Struct

from ..wire.messages import Bar


class Gap(Struct, frozen=True):
    """Ticks that no fold has seen: of all symbols, or of those that were not listed then."""

    begin: int
    """A symbol whose newest bar opens earlier begins anew, if an interval of its own lies between
    that and the end, ms."""
    end: int
    """Intervals that open later lack none of their ticks, ms."""


class Restored(Struct, frozen=True):
    """Where a fold goes on: the watermark at its first record, and each symbol's newest bar made
    from ticks that is published."""

    watermark: int | None = None
    last: Mapping[str, Bar] = {}
    gap: Gap | None = None
    """The last one before the first record."""
    lost: bool = False
    """Records just before the first one are gone."""
    relisted: bool = False
    """Ticks before the first record were folded for other symbols."""
