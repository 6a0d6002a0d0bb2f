"""Whatever is written to a ticks topic is counted, and stops nobody (`make fuzz`: a million)."""

import contextlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronos_stream.errors import RejectedError
from kronos_stream.wire.codecs import MAX_BYTES, decode
from kronos_stream.wire.foreign import TickDecoder, Trade
from kronos_stream.wire.messages import Bar, Forecast, Marker, Skipped, Tick

from .fuzzer import ODD, fold

HEADERS = st.sampled_from([(), (("wire", b"msgpack"),), (("wire", b"json"), ("schema", b""))])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(ODD),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    ["symbol", "price", "qty", "time", "trade_id", "marker_time", "data", *"espqTta", "other"]
)


@pytest.mark.timeout(120)
def test_a_share_of_the_million_malformed_messages_is_counted() -> None:
    found = fold(seed=7, count=60_000)
    reasons = [name for name in found if name.startswith("rejected as")]
    assert len(reasons) >= 10
    assert sum(found[name] for name in reasons) > 30_000


@given(value=st.binary(max_size=200), headers=HEADERS)
@settings(max_examples=400, deadline=None)
def test_any_bytes_are_a_trade_a_marker_or_rejected(
    value: bytes, headers: tuple[tuple[str, bytes], ...]
) -> None:
    _decoded(value, headers)


@given(message=st.dictionaries(NAMES, JSON, max_size=8))
@settings(max_examples=400, deadline=None)
def test_any_json_object_is_a_trade_a_marker_or_rejected(message: dict[str, object]) -> None:
    try:
        value = msgspec.json.encode(message)
    except UnicodeEncodeError:
        return
    _decoded(value, ())


def _decoded(value: bytes, headers: tuple[tuple[str, bytes], ...]) -> None:
    with contextlib.suppress(RejectedError):
        assert isinstance(TickDecoder().decode(value, headers), Trade | int)


@pytest.mark.parametrize("kind", [Bar, Forecast, Marker, Skipped, Tick])
@given(value=st.binary(max_size=200), headers=HEADERS)
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_one_of_our_records_or_invalid(
    kind: type[msgspec.Struct], value: bytes, headers: tuple[tuple[str, bytes], ...]
) -> None:
    with contextlib.suppress(msgspec.ValidationError, msgspec.DecodeError):
        assert isinstance(decode(value, headers, kind), kind)


@pytest.mark.parametrize("opening", [b"[", b'{"symbol":', b'{"other":', b'{"other":['])
def test_a_deeply_nested_bar_is_invalid_and_no_crash(opening: bytes) -> None:
    """Python's RecursionError is no DecodeError: it would have ended the stage, ever again."""
    for depth in (500, MAX_BYTES // len(opening), MAX_BYTES):
        with pytest.raises((msgspec.ValidationError, msgspec.DecodeError)):
            decode(opening * depth, (), Bar)


def test_a_bar_of_a_megabyte_is_not_even_parsed() -> None:
    with pytest.raises(msgspec.ValidationError, match="at most 65536 bytes"):
        decode(b" " * 1_000_000, (), Bar)
