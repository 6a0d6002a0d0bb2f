"""Records as they are, whatever their headers are called.

aiokafka decodes the names of headers strictly, while Kafka takes any bytes from any client: one
name that is no UTF-8 would end every reader of its partition, at every start. A process that meets
one reads on with this: such a batch is parsed by aiokafka's own code in Python, with a replacement
sign in the name. It costs a seventh of the speed, so it is not used before.
"""

from collections.abc import Iterator
from typing import Any

import structlog
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy

log = structlog.get_logger()


class _Lossy(bytearray):
    """Decodes anything."""

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return _Lossy(found) if isinstance(key, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, errors)


class _Batch:
    """A batch of records, otherwise as aiokafka's own."""

    def __init__(self, batch: Any, raw: bytes) -> None:
        self._batch = batch
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        try:
            return iter(list(self._batch))
        except UnicodeDecodeError:
            lossy = _DefaultRecordBatchPy(self._raw)
            lossy._maybe_uncompress()
            lossy._buffer = _Lossy(lossy._buffer)
            return iter(list(lossy))


class TolerantRecords(_MemoryRecordsPy):  # type: ignore[misc]
    """What a fetch has brought, cut into batches."""

    def next_batch(self) -> Any:
        raw = self._next_slice
        batch = super().next_batch()
        # Older formats have no headers.
        return batch if raw is None or batch.magic < 2 else _Batch(batch, raw)


def tolerate() -> None:
    """From now on every consumer of this process reads so. The one that met it must seek to where
    it was: what it had fetched is lost."""
    if fetcher.MemoryRecords is not TolerantRecords:
        log.warning("header_names_that_are_no_utf8")
        fetcher.MemoryRecords = TolerantRecords
