"""Records to bytes and back."""

import msgspec
import pytest

from kronos_stream.wire.codecs import Wire, decode, encode, header
from kronos_stream.wire.messages import SCHEMAS, Bar, Marker, Skipped, Tick

from .. import samples

RECORDS = [
    Tick(symbol="A", price="1.10", qty=2.5, time=1_700_000_000_000, trade_id=4, side="buy"),
    Marker(marker_time=1_700_000_000_000),
    samples.bar(),
    samples.forecast(),
    Skipped(id="x", symbol="A", interval="5m", open_time=0, reason="too_short"),
]


@pytest.mark.parametrize("wire", ["json", "msgpack"])
@pytest.mark.parametrize("record", RECORDS, ids=lambda r: type(r).__name__)
def test_round_trip(record: msgspec.Struct, wire: Wire) -> None:
    payload, headers = encode(record, wire)
    assert decode(payload, headers, type(record)) == record
    assert header(headers, "schema") == SCHEMAS[type(record)].encode()
    assert header(headers, "wire") == (b"msgpack" if wire == "msgpack" else None)


@pytest.mark.parametrize("wire", ["json", "msgpack"])
def test_unknown_fields_are_ignored_and_missing_ones_rejected(wire: Wire) -> None:
    codec = msgspec.json if wire == "json" else msgspec.msgpack
    _, headers = encode(samples.bar(), wire)
    fields = msgspec.to_builtins(samples.bar())
    known = codec.encode({**fields, "later": [1]})
    assert decode(known, headers, Bar) == samples.bar()
    del fields["close"]
    with pytest.raises(msgspec.ValidationError, match="close"):
        decode(codec.encode(fields), headers, Bar)


def test_broken_bytes_are_a_decode_error() -> None:
    for headers in ((), (("wire", b"msgpack"),)):
        with pytest.raises(msgspec.DecodeError):
            decode(b"", headers, Bar)


def test_the_first_header_of_a_name_counts() -> None:
    assert header((("a", b"1"), ("a", b"2")), "a") == b"1"
    assert header((), "a") is None
