"""Records of the bars topic: what cannot be used is invalid, and says by which field."""

import json

import msgspec
import pytest

from kronos_stream.wire.bars import decode_bar
from kronos_stream.wire.codecs import encode
from tests.samples import bar


def test_our_own_bars_pass() -> None:
    for one in (bar(), bar(index=7, history=True), msgspec.structs.replace(bar(), revision=3)):
        assert decode_bar(*encode(one)) == one


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("revision", value) for value in (-1, 2**32)),
        *(("open_time", value) for value in (-300_000, 0, 2**63 - 1, 10**30, 1_735_689_600_001)),
        ("open_time", 1_735_689_600_000_000),
        ("close_time", 1_735_689_600_000),
        ("interval", "7m"),
        *((name, value) for name in ("open", "close") for value in (0.0, -1.0, 1e308)),
        *((name, value) for name in ("volume", "amount") for value in (-1.0, 1e308)),
    ],
)
def test_a_bar_that_cannot_be_used_is_invalid(field: str, value: object) -> None:
    payload = json.dumps(json.loads(encode(bar())[0]) | {field: value}).encode()
    with pytest.raises(msgspec.ValidationError, match=rf"{field}: expected "):
        decode_bar(payload, ())
