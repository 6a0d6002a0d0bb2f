"""Where records go that a stage cannot use: the rejected and the late topic.

Their identity is the source topic, partition and offset, carried as headers; order is per source
partition. A payload over 64 KiB is cut, with the size and digest of the original in headers: a
rejected megabyte must not become the next reader's poison. Above a rate they are only counted.
"""

import hashlib
from collections.abc import Callable
from typing import Final

from .. import telemetry
from ..kafka import Publisher, Record
from ..wire.codecs import SCHEMA_HEADER, WIRE_HEADER, Headers

MAX_PAYLOAD_BYTES: Final = 65_536
MAX_DETAIL_CHARS: Final = 500
_KEPT: Final = (SCHEMA_HEADER, WIRE_HEADER)


def letter(record: Record, reason: str, detail: str = "") -> tuple[bytes, Headers]:
    """Payload and headers of the record that tells of `record`; the headers that say how its
    payload is encoded are kept."""
    value = record.value
    headers = [
        ("source_topic", record.topic.encode()),
        ("source_partition", b"%d" % record.partition),
        ("source_offset", b"%d" % record.offset),
        ("reason", reason.encode()),
    ]
    if detail:
        headers.append(("detail", detail[:MAX_DETAIL_CHARS].encode(errors="replace")))
    if len(value) > MAX_PAYLOAD_BYTES:
        headers.append(("original_size", b"%d" % len(value)))
        headers.append(
            ("original_digest", hashlib.blake2b(value, digest_size=16).hexdigest().encode())
        )
        value = value[:MAX_PAYLOAD_BYTES]
    kept = [(k, v) for k, v in record.headers if k in _KEPT and len(v or b"") <= 64]
    return value, (*headers, *kept)


class DeadLetters:
    """A bounded flow of dead letters to partition 0 of the topics given."""

    def __init__(
        self, publisher: Publisher, *, max_per_s: float, monotonic: Callable[[], float]
    ) -> None:
        self._publisher = publisher
        self._max_per_s = max_per_s
        self._monotonic = monotonic
        # A bucket of one second's worth, and never less than one letter.
        self._room = self._full = max(1.0, max_per_s)
        self._filled_at = monotonic()
        self.suppressed = 0
        """Letters above the rate, not written."""

    async def send(self, topic: str, record: Record, reason: str, detail: str = "") -> bool:
        """Write one letter. False: above the rate, so only counted."""
        now = self._monotonic()
        self._room = min(self._full, self._room + (now - self._filled_at) * self._max_per_s)
        self._filled_at = now
        if self._room < 1:
            self.suppressed += 1
            telemetry.LETTERS_SUPPRESSED.inc()
            return False
        self._room -= 1
        value, headers = letter(record, reason, detail)
        key = record.key if record.key is None or len(record.key) <= 1024 else None
        await self._publisher.send(topic, value, partition=0, key=key, headers=headers)
        return True
