"""Ticks of any producer: accepted forms, and the reason of every rejection."""

import contextlib
import json
import random
from typing import Any

import msgspec
import pytest

from kronos_stream.errors import RejectedError
from kronos_stream.wire.foreign import MAX_BYTES, TickDecoder, Trade, TradeKind

T = 1_700_000_000_000
PACKED = (("wire", b"msgpack"),)
OWN = {"symbol": "BTCUSDT", "price": "0.001", "qty": "100", "time": T}
TRADE = {"e": "trade", "E": T + 5, "s": "BTCUSDT", "t": 12, "p": "0.001", "q": "100", "T": T}
AGG = {"e": "aggTrade", "E": T + 5, "s": "BTCUSDT", "a": 34, "p": "0.001", "q": "100", "T": T}


def expected(trade_id: int | None = None) -> Trade:
    return Trade("BTCUSDT", T, 100_000, 10_000_000_000, trade_id)


def rejected(value: bytes | None, headers: Any = (), **options: Any) -> RejectedError:
    with pytest.raises(RejectedError) as caught:
        TickDecoder(**options).decode(value, headers)
    return caught.value


def text(**changes: Any) -> bytes:
    return json.dumps({**OWN, **changes}).encode()


@pytest.mark.parametrize(
    ("more", "trade_id"),
    [
        ({}, None),
        ({"side": "buy"}, None),
        ({"trade_id": 7}, 7),
        ({"trade_id": "7", "side": "sell"}, 7),
        ({"t": "x", "a": [1], "data": 7, "e": 3}, None),
        ({"e": "trade", "venue": {"x": 1}}, None),
        ({"trade_id": 2**63 - 1}, 2**63 - 1),
    ],
)
def test_our_form_in_both_encodings(more: dict[str, Any], trade_id: int | None) -> None:
    decoder = TickDecoder()
    assert decoder.decode(text(**more)) == expected(trade_id)
    assert decoder.decode(msgspec.msgpack.encode({**OWN, **more}), PACKED) == expected(trade_id)


@pytest.mark.parametrize("kind", ["trade", "aggTrade"])
@pytest.mark.parametrize("wrap", [False, True])
def test_binance_takes_the_time_of_the_trade_and_one_kind(kind: TradeKind, wrap: bool) -> None:
    for payload, its_kind, trade_id in ((TRADE, "trade", 12), (AGG, "aggTrade", 34)):
        value = json.dumps({"stream": "x", "data": payload} if wrap else payload).encode()
        if its_kind == kind:
            assert TickDecoder(trade_kind=kind).decode(value) == expected(trade_id)
        else:
            assert rejected(value, trade_kind=kind).reason == "mixed_trade_kind"


def test_binance_without_its_trade_time_does_not_fall_back_to_the_events() -> None:
    error = rejected(json.dumps({k: v for k, v in TRADE.items() if k != "T"}).encode())
    assert (error.reason, error.detail) == ("missing_field", "expected T")
    assert rejected(b'{"e":"kline","s":"A"}').reason == "unknown_event"


def test_markers() -> None:
    assert TickDecoder().decode(b'{"marker_time":%d}' % T) == T
    assert rejected(b'{"marker_time":1700000000}').reason == "time_in_seconds"


def test_digits_of_a_symbol() -> None:
    decoder = TickDecoder(digits=2, symbol_digits={"BTCUSDT": 3})
    assert decoder.decode(text()) == Trade("BTCUSDT", T, 1, 100_000, None)
    assert (decoder.digits_of("BTCUSDT"), decoder.digits_of("x")) == (3, 2)
    assert rejected(text(), digits=2).reason == "too_many_digits"


@pytest.mark.parametrize("missing", list(OWN))
def test_missing_and_null_fields_are_named(missing: str) -> None:
    for fields in ({k: v for k, v in OWN.items() if k != missing}, {**OWN, missing: None}):
        error = rejected(json.dumps(fields).encode())
        assert (error.reason, error.detail) == ("missing_field", f"expected {missing}")


@pytest.mark.parametrize("field", ["price", "qty"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (-1, "{}_not_positive"),
        ("0", "{}_not_positive"),
        ("NaN", "{}_not_a_number"),
        (float("nan"), "{}_not_a_number"),
        (float("inf"), "{}_not_a_number"),
        (True, "{}_not_a_number"),
        ([], "{}_not_a_number"),
        ("1.123456789", "too_many_digits"),
        (10**60, "too_many_digits"),
    ],
)
def test_bad_amounts(field: str, value: Any, reason: str) -> None:
    error = rejected(text(**{field: value}))
    assert error.reason == reason.format(field)
    assert field in error.detail


@pytest.mark.parametrize(
    ("time", "reason"),
    [
        (T // 1000, "time_in_seconds"),
        (T * 1000, "time_in_microseconds"),
        (T * 10**6, "time_in_nanoseconds"),
        (0, "time_out_of_range"),
        (-T, "time_out_of_range"),
        (10**30, "time_out_of_range"),
        (T + 0.5, "invalid_time"),
        (str(T), "invalid_time"),
        (True, "invalid_time"),
    ],
)
def test_bad_times_name_the_unit(time: Any, reason: str) -> None:
    error = rejected(text(time=time))
    assert error.reason == reason
    assert "milliseconds" in error.detail


@pytest.mark.parametrize("symbol", ["", "a b", "é", "\n", "\0", "\x7f", "A" * 65, 5])
def test_bad_symbols(symbol: Any) -> None:
    assert rejected(text(symbol=symbol)).reason == "invalid_symbol"


@pytest.mark.parametrize("trade_id", ["x", "", "9" * 41, 2**63, 5.5, True, []])
def test_bad_trade_ids(trade_id: Any) -> None:
    assert rejected(text(trade_id=trade_id)).reason == "invalid_trade_id"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b"{", "not_json"),
        (b"\xff", "not_json"),
        (b'{"symbol":"\xff"}', "not_json"),
        (b"[" * 60_000, "not_json"),
        (b'{"data":' * 8000, "not_json"),
        (text().replace(b'"100"', b"9" * 6000), "not_json"),
        (b"[]", "not_an_object"),
        (b"null", "not_an_object"),
        (b'{"e":5}', "invalid_message"),
        (b"x" * (MAX_BYTES + 1), "too_large"),
    ],
)
def test_what_is_no_message(value: bytes | None, reason: str) -> None:
    assert rejected(value).reason == reason


@pytest.mark.parametrize("value", [b"\xc1", b"\x91" * 60_000])
def test_what_is_no_msgpack(value: bytes) -> None:
    assert rejected(value, PACKED).reason == "not_msgpack"


JUNK = [None, True, -1, 2**70, 1.5, float("nan"), "", "x", "1" * 60, [], [[]], {}, {"e": "trade"}]


def test_nothing_but_a_rejection_is_ever_raised() -> None:
    rng = random.Random(5)
    names = [*OWN, *TRADE, "a", "trade_id", "marker_time", "data"]
    decoder = TickDecoder()
    packed = msgspec.msgpack.encode(OWN)
    for _ in range(3000):
        fields = {name: rng.choice(JUNK) for name in rng.sample(names, rng.randint(0, 4))}
        cut = bytearray(packed)
        cut[rng.randrange(len(cut))] = rng.randrange(256)
        for value in (text(**fields), json.dumps({**TRADE, **fields}).encode(), bytes(cut)):
            for headers in ((), PACKED):
                with contextlib.suppress(RejectedError):
                    assert isinstance(decoder.decode(value, headers), Trade | int)
