"""A bar as a member of the store's sorted set: fixed binary, so that equal bars are equal bytes.

Layout, big-endian: revision u32, offset of its record in the bars topic u64, flags u8, then the
six channels as float64. Open time is the member's score, and stands before it in an answer.
"""

import struct
from typing import Final

import numpy as np

from ..wire.messages import CHANNELS, Bar
from .window import Window

_HEAD: Final = struct.Struct(">IQ")
_BODY: Final = struct.Struct(">B6d")
SYNTHETIC, COMPLETE, HISTORY = 1, 2, 4
_ROW: Final = np.dtype(
    [
        ("open_time", ">i8"),
        ("revision", ">u4"),
        ("offset", ">u8"),
        ("flags", "u1"),
        ("values", ">f8", len(CHANNELS)),
    ]
)


def head(bar: Bar, offset: int) -> tuple[bytes, bytes]:
    """The first two parts of a member: revision, and the offset of the bar's record."""
    packed = _HEAD.pack(bar.revision, offset)
    return packed[:4], packed[4:]


def body(bar: Bar) -> bytes:
    """The rest of a member: what must be equal for two records of one bar not to conflict."""
    flags = SYNTHETIC * bar.synthetic + COMPLETE * bar.complete + HISTORY * bar.history
    return _BODY.pack(flags, bar.open, bar.high, bar.low, bar.close, bar.volume, bar.amount)


def window_of(rows: bytes, symbol: str, interval: str) -> Window | None:
    """The window of an answer's rows; None where there are none."""
    found = np.frombuffer(rows, _ROW)
    if not len(found):
        return None
    flags = found["flags"]
    return Window(
        symbol=symbol,
        interval=interval,
        open_times=found["open_time"].astype(np.int64),
        revisions=found["revision"].astype(np.int64),
        values=found["values"].astype(np.float64),
        synthetic=(flags & SYNTHETIC) != 0,
        complete=(flags & COMPLETE) != 0,
        history=(flags & HISTORY) != 0,
    )
