"""Records to bytes and back: JSON by default, msgpack on request and told by a header."""

from typing import Final, Literal, TypeVar

import msgspec

from .messages import SCHEMAS

Wire = Literal["json", "msgpack"]
Headers = tuple[tuple[str, bytes], ...]
T = TypeVar("T", bound=msgspec.Struct)

SCHEMA_HEADER: Final = "schema"
WIRE_HEADER: Final = "wire"

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
    """The record of type `kind`; raises msgspec.ValidationError or DecodeError where it is none."""
    if header(headers, WIRE_HEADER) == b"msgpack":
        return msgspec.msgpack.decode(payload, type=kind)
    return msgspec.json.decode(payload, type=kind)
