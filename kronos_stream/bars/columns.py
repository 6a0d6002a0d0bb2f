"""Ticks in columns: a batch of records decoded at once, where they are plain.

Plain is our own form with price and quantity as text, of a symbol that was met before. What is not
plain (markers, other forms, junk) is left to `TickDecoder`, which also says what is wrong.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute
from msgspec import Struct
from numpy.typing import NDArray

from ..wire.codecs import WIRE_HEADER, header
from ..wire.decimals import MAX_CHARS
from ..wire.foreign import MAX_BYTES, MS_FROM, MS_UNTIL
from ..wire.topics import Record

_DIGITS: Final = np.isin(np.arange(256), [ord("."), *range(ord("0"), ord("9") + 1)])
_LEAST: Final = np.iinfo(np.int64).min
_MOST: Final = np.iinfo(np.int64).max


class Columns(NamedTuple):
    """One row a record; those of `others` mean nothing."""

    symbol: NDArray[np.int64]
    """Numbers as in the table of names."""
    time: NDArray[np.int64]
    price: NDArray[np.int64]
    qty: NDArray[np.int64]
    trade_id: NDArray[np.int64]
    has_id: NDArray[np.bool_]
    reached: NDArray[np.int64]
    """The largest time of the plain rows so far."""
    others: NDArray[np.int64]
    """The rows that are not plain."""


class _Plain(Struct, gc=False):
    symbol: str
    price: str
    qty: str
    time: int
    trade_id: int | None = None


_Decode = Callable[[bytes], _Plain]
_JSON: Final[_Decode] = msgspec.json.Decoder(_Plain).decode
_MSGPACK: Final[_Decode] = msgspec.msgpack.Decoder(_Plain).decode
_NOT_PLAIN: Final = _Plain("", "1", "1", 0)


def read_columns(
    records: Sequence[Record], numbers: Mapping[str, int], *, digits: int, max_ahead_ms: int
) -> Columns | None:
    """The columns of a batch; `numbers` gives every name one, below 0 where its ticks are not
    plain. None where some figure needs more than 64 bits or is not made of digits, so that the
    batch is to be taken record by record."""
    ticks = _decoded(records)
    price = _scaled([t.price for t in ticks], digits)
    qty = _scaled([t.qty for t in ticks], digits)
    if price is None or qty is None:
        return None
    ids: list[int | None] = [t.trade_id for t in ticks]
    has_id = np.ones(len(ids), bool)
    if None in ids:
        has_id = np.array([i is not None for i in ids])
        ids = [i or 0 for i in ids]
    try:
        time = np.array([t.time for t in ticks], np.int64)
        trade_id = np.array(ids, np.int64)
    except OverflowError:
        return None
    symbol = np.array([numbers[t.symbol] for t in ticks], np.int64)
    ahead = time - np.array([r.timestamp for r in records], np.int64)
    plain = (symbol >= 0) & (time >= MS_FROM) & (time < MS_UNTIL) & (ahead <= max_ahead_ms)
    plain &= (price > 0) & (qty > 0) & (trade_id > _LEAST + 1) & (trade_id < _MOST)
    reached = np.maximum.accumulate(np.where(plain, time, _LEAST))
    others = np.flatnonzero(~plain)
    return Columns(symbol, time, price, qty, trade_id, has_id, reached, others)


def _decoded(records: Sequence[Record]) -> list[_Plain]:
    values = [r.value for r in records]
    headers = [r.headers for r in records]
    kinds = {header(h, WIRE_HEADER) for h in headers} if any(headers) else {None}
    decode: _Decode = _MSGPACK if kinds == {b"msgpack"} else _JSON
    if len(kinds) == 1 and max(map(len, values)) <= MAX_BYTES:
        try:
            return [decode(value) for value in values]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
    return [_one(r) for r in records]


def _one(record: Record) -> _Plain:
    packed = header(record.headers, WIRE_HEADER) == b"msgpack"
    if len(record.value) > MAX_BYTES:
        return _NOT_PLAIN
    try:
        return (_MSGPACK if packed else _JSON)(record.value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _NOT_PLAIN


def _scaled(texts: list[str], digits: int) -> NDArray[np.int64] | None:
    """Decimals × 10^digits, exactly; None where one of them is anything else."""
    characters = "".join(texts).encode()
    lengths = np.fromiter(map(len, texts), np.int32, len(texts))
    if not _DIGITS[np.frombuffer(characters, np.uint8)].all() or lengths.max() > MAX_CHARS:
        return None
    # Not pa.array(), which imports pandas to see whether it was given one of its arrays.
    ends = np.append(np.int32(0), lengths.cumsum(dtype=np.int32))
    buffers = pa.py_buffer(ends), pa.py_buffer(characters)
    strings = pa.StringArray.from_buffers(len(texts), *buffers)
    try:
        decimals: Any = strings.cast(pa.decimal128(38, digits))
    except pa.ArrowInvalid:
        return None
    halves = np.frombuffer(decimals.buffers()[1], np.int64).reshape(-1, 2)[: len(texts)]
    low, high = halves[:, 0], halves[:, 1]
    return None if high.any() or (low < 0).any() else low
