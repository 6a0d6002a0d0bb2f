"""Records of a ticks partition to trades: our own form, Binance's payloads, and markers.

The form: `{"symbol", "price", "qty", "time"}`, optionally `trade_id` and `side`, in JSON, or in
msgpack where a header says so. Binance's `trade` and `aggTrade` are taken as they are, alone or in
a combined stream's envelope; `T` is the time of the trade, `E` only that of the event.
"""

import json
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Struct

from ..errors import RejectedError
from .codecs import WIRE_HEADER, Headers, header
from .decimals import scaled

MAX_BYTES: Final = 65_536
MAX_SYMBOL: Final = 64
MS_FROM, MS_UNTIL = 10**11, 10**14
"""1973 to 5138 in milliseconds: the other units of the present lie outside."""
_SECONDS_FROM: Final = 10**8
_MAX_ID: Final = 2**63 - 1
"""What the columns of a table and other languages' readers can hold."""

TradeKind = Literal["trade", "aggTrade"]


class Trade(NamedTuple):
    """A checked trade: price and quantity as integers of the symbol's scale."""

    symbol: str
    time: int
    price: int
    qty: int
    trade_id: int | None


class _Any(Struct, rename=None):
    """Every accepted form at once: one decoding pass, whatever the producer."""

    symbol: str | None = None
    price: str | int | float | None = None
    qty: str | int | float | None = None
    time: int | None = None
    trade_id: int | str | None = None
    marker_time: int | None = None
    e: str | None = None
    s: str | None = None
    p: str | int | float | None = None
    q: str | int | float | None = None
    T: int | None = None
    t: int | None = None
    a: int | None = None
    data: "_Any | None" = None


class _Own(Struct):
    """Our form alone: its producers may have fields that are called like Binance's."""

    symbol: str
    price: str | int | float
    qty: str | int | float
    time: int
    trade_id: int | str | None = None


_JSON: Final = msgspec.json.Decoder(_Any)
_MSGPACK: Final = msgspec.msgpack.Decoder(_Any)
_JSON_OWN: Final = msgspec.json.Decoder(_Own)
_MSGPACK_OWN: Final = msgspec.msgpack.Decoder(_Own)


class TickDecoder:
    """Decodes ticks of one deployment: `digits` of a symbol's decimals, and which of Binance's
    two kinds of trades is taken (their volumes would count twice)."""

    def __init__(
        self,
        *,
        digits: int = 8,
        symbol_digits: Mapping[str, int] | None = None,
        trade_kind: TradeKind = "trade",
    ) -> None:
        self._digits = digits
        self._symbol_digits = dict(symbol_digits or {})
        self._trade_kind = trade_kind

    def digits_of(self, symbol: str) -> int:
        """Decimals of a symbol's prices and quantities."""
        return self._symbol_digits.get(symbol, self._digits)

    def decode(self, value: bytes | None, headers: Headers = ()) -> Trade | int:
        """The trade of a record, or the time of a marker (ms). RejectedError says what is wrong."""
        if not value:
            raise RejectedError("empty", "expected a JSON object, got no payload")
        if len(value) > MAX_BYTES:
            raise RejectedError(
                "too_large", f"expected at most {MAX_BYTES} bytes, got {len(value)}"
            )
        packed = bool(headers) and header(headers, WIRE_HEADER) == b"msgpack"
        try:
            raw = _MSGPACK.decode(value) if packed else _JSON.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            try:
                own = _MSGPACK_OWN.decode(value) if packed else _JSON_OWN.decode(value)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                raise _diagnosis(value, packed) from None
            return self.trade(own.symbol, own.time, own.price, own.qty, own.trade_id)
        if raw.symbol is None:
            if raw.marker_time is not None:
                return checked_time(raw.marker_time, "marker_time")
            if raw.data is not None:
                raw = raw.data
        if raw.symbol is not None or raw.e is None:
            return self.trade(raw.symbol, raw.time, raw.price, raw.qty, raw.trade_id)
        if raw.e not in ("trade", "aggTrade"):
            raise RejectedError("unknown_event", f"e: expected trade or aggTrade, got {raw.e!r}")
        if raw.e != self._trade_kind:
            raise RejectedError(
                "mixed_trade_kind", f"e: expected {self._trade_kind}, got {raw.e!r}"
            )
        trade_id = raw.t if raw.e == "trade" else raw.a
        return self.trade(raw.s, raw.T, raw.p, raw.q, trade_id, names=("s", "T", "p", "q"))

    def trade(
        self,
        symbol: str | None,
        time: int | None,
        price: str | int | float | None,
        qty: str | int | float | None,
        trade_id: int | str | None,
        names: tuple[str, str, str, str] = ("symbol", "time", "price", "qty"),
    ) -> Trade:
        """The checked trade of raw fields; RejectedError names the field and the value."""
        if symbol is None or time is None or price is None or qty is None:
            missing = [
                n for n, v in zip(names, (symbol, time, price, qty), strict=True) if v is None
            ]
            raise RejectedError("missing_field", f"expected {', '.join(missing)}")
        if not is_symbol(symbol):
            raise RejectedError(
                "invalid_symbol",
                f"{names[0]}: expected 1 to {MAX_SYMBOL} printable ASCII characters without "
                f"spaces, got {symbol[: MAX_SYMBOL + 1]!r}",
            )
        if isinstance(trade_id, str):
            if not (trade_id.isascii() and trade_id.isdigit() and len(trade_id) <= 40):
                raise RejectedError(
                    "invalid_trade_id", f"trade_id: expected an integer, got {trade_id[:40]!r}"
                )
            trade_id = int(trade_id)
        if trade_id is not None and not -_MAX_ID <= trade_id <= _MAX_ID:
            raise RejectedError(
                "invalid_trade_id",
                f"trade_id: expected at most 63 bits, got {str(trade_id)[:40]}",
            )
        digits = self.digits_of(symbol)
        return Trade(
            symbol,
            checked_time(time, names[1]),
            scaled(price, digits, "price"),
            scaled(qty, digits, "qty"),
            trade_id,
        )


def is_symbol(text: str) -> bool:
    """Whether `text` can name a symbol: printable ASCII without spaces, not too long."""
    plain = text.isascii() and text.isprintable() and " " not in text
    return plain and 0 < len(text) <= MAX_SYMBOL


def checked_time(time: int, field: str) -> int:
    """A time in ms as it is; RejectedError names the unit that it seems to be in."""
    if MS_FROM <= time < MS_UNTIL:
        return time
    if _SECONDS_FROM <= time < MS_FROM:
        unit = "seconds"
    elif MS_UNTIL <= time < 1000 * MS_UNTIL:
        unit = "microseconds"
    elif 1000 * MS_UNTIL <= time < 10**6 * MS_UNTIL:
        unit = "nanoseconds"
    else:
        raise RejectedError(
            "time_out_of_range", f"{field}: expected milliseconds, got {str(time)[:40]}"
        )
    raise RejectedError(f"time_in_{unit}", f"{field}: expected milliseconds, got {time} ({unit})")


def _diagnosis(value: bytes, packed: bool) -> RejectedError:
    """Why a payload is none of the accepted forms, in words."""
    try:
        raw: Any = msgspec.msgpack.decode(value) if packed else json.loads(value)
    except (ValueError, UnicodeDecodeError, RecursionError, msgspec.DecodeError) as error:
        kind = "msgpack" if packed else "JSON"
        return RejectedError(f"not_{kind.lower()}", f"expected {kind}: {str(error)[:200]}")
    if isinstance(raw, dict) and isinstance(raw.get("data"), dict):
        raw = raw["data"]
    if not isinstance(raw, dict):
        return RejectedError("not_an_object", f"expected an object, got {type(raw).__name__}")
    for names, kinds, word in (
        (("price", "p", "qty", "q"), (str, int, float), "a decimal"),
        (("time", "T", "marker_time"), (int,), "integer milliseconds"),
        (("symbol", "s"), (str,), "a string"),
        (("trade_id", "t", "a"), (int, str), "an integer"),
    ):
        for name in names:
            found = raw.get(name)
            wrong = found is not None and (not isinstance(found, kinds) or isinstance(found, bool))
            # json.loads takes NaN and Infinity, which are no JSON.
            if wrong or (isinstance(found, float) and found - found != 0):
                long = {"p": "price", "q": "qty", "T": "time", "marker_time": "time"}
                long |= {"s": "symbol", "t": "trade_id", "a": "trade_id"}
                field = long.get(name, name)
                reason = (
                    f"{field}_not_a_number" if field in ("price", "qty") else f"invalid_{field}"
                )
                return RejectedError(reason, f"{name}: expected {word}, got {str(found)[:40]!r}")
    return RejectedError("invalid_message", "expected symbol, price, qty and time")
