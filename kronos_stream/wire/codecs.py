"""Records to bytes and back: JSON by default, msgpack on request and told by a header."""

from typing import Final, Literal, TypeVar

import msgspec

from .messages import SCHEMAS, Forecast

Wire = Literal["json", "msgpack"]
Headers = tuple[tuple[str, bytes], ...]
T = TypeVar("T", bound=msgspec.Struct)

SCHEMA_HEADER: Final = "schema"
WIRE_HEADER: Final = "wire"

MAX_BYTES: Final = 65_536
"""Of a record that is read; a forecast may be as long as any broker lets it be."""
MAX_FORECAST_BYTES: Final = 64 * 2**20

_JSON = msgspec.json.Encoder()
_MSGPACK = msgspec.msgpack.Encoder()


def encode(message: msgspec.Struct, wire: Wire = "json") -> tuple[bytes, Headers]:
    """The payload and the headers (`schema`, and `wire` where it is not JSON) of a record."""
    schema = (SCHEMA_HEADER, SCHEMAS[type(message)].encode())
    if wire == "json":
        return _JSON.encode(message), (schema,)
    return _MSGPACK.encode(message), (schema, (WIRE_HEADER, b"msgpack"))


def header(headers: Headers, name: str) -> bytes | None:
    """The value of the first header called `name`."""
    return next((value for key, value in headers if key == name), None)


def decode(payload: bytes, headers: Headers, kind: type[T]) -> T:
    """The record of type `kind`; raises msgspec.ValidationError or DecodeError where it is none,
    whatever is wrong with it."""
    limit = MAX_FORECAST_BYTES if kind is Forecast else MAX_BYTES
    if len(payload) > limit:
        raise msgspec.ValidationError(f"expected at most {limit} bytes, got {len(payload)}")
    try:
        if header(headers, WIRE_HEADER) == b"msgpack":
            return msgspec.msgpack.decode(payload, type=kind)
        return msgspec.json.decode(payload, type=kind)
    except (RecursionError, UnicodeDecodeError) as error:
        raise msgspec.ValidationError(str(error)) from None
