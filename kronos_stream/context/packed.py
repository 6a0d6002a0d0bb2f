"""A bar as a member of the store's sorted set: fixed binary, so that equal bars are equal bytes.

Layout, big-endian: revision u32, offset of its record in the bars topic u64, flags u8, then the
six channels as float64. Open time is the member's score.
"""

import struct
from typing import Final

from ..wire.messages import Bar

_HEAD: Final = struct.Struct(">IQ")
_BODY: Final = struct.Struct(">B6d")
SYNTHETIC, COMPLETE, HISTORY = 1, 2, 4


def head(bar: Bar, offset: int) -> tuple[bytes, bytes]:
    """The first two parts of a member: revision, and the offset of the bar's record."""
    packed = _HEAD.pack(bar.revision, offset)
    return packed[:4], packed[4:]


def body(bar: Bar) -> bytes:
    """The rest of a member: what must be equal for two records of one bar not to conflict."""
    flags = SYNTHETIC * bar.synthetic + COMPLETE * bar.complete + HISTORY * bar.history
    return _BODY.pack(flags, bar.open, bar.high, bar.low, bar.close, bar.volume, bar.amount)


def unpack(member: bytes, open_time: int, symbol: str, interval: str, interval_ms: int) -> Bar:
    """The bar of a member, as far as a window needs it."""
    revision, _ = _HEAD.unpack_from(member)
    flags, open_, high, low, close, volume, amount = _BODY.unpack_from(member, _HEAD.size)
    return Bar(
        symbol=symbol,
        interval=interval,
        open_time=open_time,
        close_time=open_time + interval_ms,
        open=open_,
        high=high,
        low=low,
        close=close,
        volume=volume,
        amount=amount,
        revision=revision,
        synthetic=bool(flags & SYNTHETIC),
        complete=bool(flags & COMPLETE),
        history=bool(flags & HISTORY),
    )
