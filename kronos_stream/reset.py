"""`kronos-stream reset`: bars or forecasts from a point in time on are forgotten and made again.

Kafka cannot cut the end off a topic. So what is kept is copied to a file, the topic is deleted,
created anew and filled from the file; the groups are moved back and the contexts forgotten. The
stages, once started again, then make the rest as if they had never made it.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from .context.client import client_of
from .errors import BrokerError, RejectedError
from .kafka import Broker
from .settings import Settings
from .wire.foreign import TickDecoder
from .wire.topics import Commit, Record, group_name

What = Literal["bars", "forecasts"]
Say = Callable[[str], None]

FROM_THE_BEGINNING: Final = '{"w":null}'
"""What the bars stage remembers of a position of which it knows nothing."""
LENGTH: Final = 4
KEYS_AT_ONCE: Final = 500


async def reset(settings: Settings, what: What, since_ms: int, *, do: bool, say: Say) -> None:
    """Forgets what was made of open times from `since_ms` on: bars and the forecasts made of them,
    or forecasts alone. Without `do` it only says what it would do.

    BrokerError where a stage still runs, or where the ticks no longer reach back so far.
    """
    broker = Broker(
        settings.kafka,
        bootstrap=str(settings.kafka.bootstrap),
        embedded=False,
        interval=settings.bars.interval,
    )
    await broker.start()
    try:
        await _Reset(settings, broker, since_ms, say).run(what, do=do)
    finally:
        await broker.close()


class _Reset:
    def __init__(self, settings: Settings, broker: Broker, since_ms: int, say: Say) -> None:
        self._settings = settings
        self._broker = broker
        self._since_ms = since_ms
        self._say = say
        interval = settings.bars.interval
        self._bars_group = group_name(settings.kafka, "bars", interval)
        self._prefix = group_name(settings.kafka, "forecasts", interval) + "."

    async def run(self, what: What, *, do: bool) -> None:
        topics = self._broker.topics
        forecasts = await self._broker.groups(self._prefix)
        bars = await self._broker.groups(self._bars_group) if what == "bars" else {}
        bars = {group: n for group, n in bars.items() if group == self._bars_group}
        for group, members in (forecasts | bars).items():
            if members:
                raise BrokerError(
                    f"group {group} has {members} members: stop the stages before a reset (one "
                    "that was killed is a member until its session ends)"
                )
        if what == "bars":
            await self._check_ticks()
        for topic in (topics.bars, topics.forecasts) if what == "bars" else (topics.forecasts,):
            await self._cut(topic, do=do)
        if what == "bars":
            await self._move(self._bars_group, topics.ticks, None, do=do)
        for group in forecasts:
            await self._move(group, topics.bars, self._since_ms, do=do)
            await self._forget(group.removeprefix(self._prefix), do=do)

    async def _partitions(self, topic: str) -> list[int]:
        return list(range(await self._broker.partitions(topic)))

    async def _check_ticks(self) -> None:
        """Bars that cannot be made again must not be forgotten."""
        topic, bars = self._broker.topics.ticks, self._settings.bars
        decoder = TickDecoder(
            digits=bars.scale_digits,
            symbol_digits=bars.symbol_scales,
            trade_kind=bars.trade_kind,
        )
        partitions = await self._partitions(topic)
        begins = await self._broker.begin_offsets(topic, partitions)
        ends = await self._broker.end_offsets(topic, partitions)
        for p in partitions:
            first = await self._first_time(decoder, topic, p, begins[p], ends[p])
            if begins[p] and (first is None or first > self._since_ms):
                raise BrokerError(
                    f"{topic}/{p} begins at {first} ms: retention has removed ticks after "
                    f"{self._since_ms} ms, whose bars could not be made again; give a later --from"
                )

    async def _first_time(
        self, decoder: TickDecoder, topic: str, partition: int, begin: int, end: int
    ) -> int | None:
        async for records in self._broker.read(topic, partition, begin, end):
            for record in records:
                try:
                    made = decoder.decode(record.value, record.headers)
                except RejectedError:
                    continue
                return made if isinstance(made, int) else made.time
        return None

    async def _cut(self, topic: str, *, do: bool) -> None:
        """Record times of these topics are open times."""
        partitions = await self._partitions(topic)
        begins = await self._broker.begin_offsets(topic, partitions)
        ends = await self._broker.end_offsets(topic, partitions)
        kept = dropped = 0
        with tempfile.NamedTemporaryFile(prefix=f"{topic}.kept.", delete=False) as file:
            for p in partitions:
                async for records in self._broker.read(topic, p, begins[p], ends[p]):
                    for record in records:
                        if record.timestamp >= self._since_ms:
                            dropped += 1
                            continue
                        kept += 1
                        if do:
                            data = msgspec.msgpack.encode(tuple(_fields(record)))
                            file.write(len(data).to_bytes(LENGTH, "big") + data)
        self._say(f"{topic}: {dropped} records forgotten, {kept} kept")
        path = Path(file.name)
        if do and dropped:
            try:
                await self._broker.recreate(topic)
                await self._write(topic, path)
            except BaseException:
                self._say(f"{topic}: not finished; what must be kept is in {path}")
                raise
        os.remove(path)

    async def _write(self, topic: str, kept: Path) -> None:
        publisher = self._broker.publisher(linger_ms=5)
        await publisher.start()
        try:
            for partition, timestamp, key, value, headers in _read(kept):
                await publisher.send(
                    topic,
                    value,
                    partition=partition,
                    key=key,
                    timestamp=timestamp,
                    headers=[(name, content) for name, content in headers],
                )
            await publisher.flush()
        finally:
            await publisher.close()

    async def _move(self, group: str, topic: str, since_ms: int | None, *, do: bool) -> None:
        partitions = await self._partitions(topic)
        if since_ms is None:
            # What is still published is found there, and not published again.
            begins = await self._broker.begin_offsets(topic, partitions)
            commits = {p: Commit(offset, FROM_THE_BEGINNING) for p, offset in begins.items()}
        else:
            found = await self._broker.offsets_for_times(topic, dict.fromkeys(partitions, since_ms))
            commits = {p: Commit(offset) for p, offset in found.items()}
        self._say(f"{group}: goes on from {'the beginning' if since_ms is None else since_ms}")
        if do:
            await self._broker.move(group, topic, commits)

    async def _forget(self, scope: str, *, do: bool) -> None:
        """The windows of the past were trimmed away: they are made again from the bars topic."""
        redis = self._settings.redis
        if redis.url is None:
            return
        pattern = f"{redis.prefix}:{scope}:ctx:*"
        client = client_of(redis, redis.url)
        try:
            keys = [key async for key in client.scan_iter(match=pattern, count=KEYS_AT_ONCE)]
            self._say(f"{pattern}: {len(keys)} contexts forgotten")
            for start in range(0, len(keys) if do else 0, KEYS_AT_ONCE):
                await client.delete(*keys[start : start + KEYS_AT_ONCE])
        finally:
            await client.aclose()


_Kept = tuple[int, int, bytes | None, bytes, list[tuple[str, bytes]]]


def _fields(record: Record) -> _Kept:
    headers = [(name, content) for name, content in record.headers]
    return record.partition, record.timestamp, record.key, record.value, headers


def _read(file: Path) -> Iterator[_Kept]:
    with file.open("rb") as data:
        while length := data.read(LENGTH):
            yield msgspec.msgpack.decode(data.read(int.from_bytes(length, "big")), type=_Kept)
