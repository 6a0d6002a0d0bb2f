"""Records of the bars topic: whatever is written there, what passes is a bar that can be used."""

from typing import Final

import msgspec

from .codecs import Headers, decode
from .foreign import MS_FROM, MS_UNTIL
from .intervals import INTERVAL_MS
from .messages import CHANNELS, Bar
from .topics import Record

_REVISIONS: Final = 2**32
_MOST: Final = 1e100
"""Of a price, volume or amount: its square is still a number."""


def decode_bar(payload: bytes, headers: Headers) -> Bar:
    """The bar of a record; msgspec.ValidationError or DecodeError names the field that is wrong."""
    bar = decode(payload, headers, Bar)
    interval_ms = INTERVAL_MS.get(bar.interval)
    if interval_ms is None:
        raise _wrong(f"interval: expected {', '.join(INTERVAL_MS)}, got {bar.interval!r}")
    if not MS_FROM <= bar.open_time < MS_UNTIL or bar.open_time % interval_ms:
        raise _wrong(
            f"open_time: expected milliseconds, a multiple of {bar.interval}, got {bar.open_time}"
        )
    if bar.close_time != bar.open_time + interval_ms:
        raise _wrong(f"close_time: expected {bar.open_time + interval_ms}, got {bar.close_time}")
    if not 0 <= bar.revision < _REVISIONS:
        raise _wrong(f"revision: expected 0 to {_REVISIONS - 1}, got {bar.revision}")
    for name in CHANNELS:
        value = getattr(bar, name)
        may_be_0 = name in ("volume", "amount")
        if not 0 <= value <= _MOST or (value == 0 and not may_be_0):
            what = "0 or more" if may_be_0 else "a price above 0"
            raise _wrong(f"{name}: expected {what}, got {value}")
    return bar


def bar_of(record: Record, interval: str, until: int | None) -> Bar:
    """The bar of a record. msgspec.ValidationError or DecodeError where it is of use to nobody:
    `until` (ms) is the last open time that can be true."""
    bar = decode_bar(record.value, record.headers)
    if bar.interval != interval:
        raise _wrong(f"interval is {bar.interval!r}")
    if until is not None and bar.open_time > until:
        raise _wrong(
            f"open_time: expected {until} or earlier, a day past the clock and every bar before, "
            f"got {bar.open_time}"
        )
    return bar


def _wrong(text: str) -> msgspec.ValidationError:
    return msgspec.ValidationError(text)
