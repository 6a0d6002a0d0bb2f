"""What a record's fields may hold, and the schemas that say so."""

import msgspec
import pytest

from kronos_stream.wire.messages import CHANNELS, SCHEMAS, Tick, json_schemas

TICK = {"symbol": "A", "price": "1", "qty": 1, "time": 1_700_000_000_000}


@pytest.mark.parametrize("symbol", ["BTCUSDT", "BINANCE:BTCUSDT", "x", "A" * 64])
def test_symbols(symbol: str) -> None:
    assert msgspec.convert({**TICK, "symbol": symbol}, Tick).symbol == symbol


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("symbol", ""),
        ("symbol", "a b"),
        ("symbol", "é"),
        ("symbol", "A" * 65),
        ("side", "up"),
        ("time", 1.5),
    ],
)
def test_refused_values_name_their_field(field: str, value: object) -> None:
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert({**TICK, field: value}, Tick)


def test_a_tick_needs_four_fields_and_writes_no_more() -> None:
    assert msgspec.to_builtins(msgspec.convert(TICK, Tick)) == TICK
    for name in TICK:
        with pytest.raises(msgspec.ValidationError, match=name):
            msgspec.convert({k: v for k, v in TICK.items() if k != name}, Tick)


def test_every_record_has_a_schema_and_channels_keep_their_order() -> None:
    assert set(json_schemas()) == {name.split("/")[0] for name in SCHEMAS.values()}
    assert CHANNELS == ("open", "high", "low", "close", "volume", "amount")
