"""`kronos-stream reset`: bars or forecasts from a point in time on are forgotten and made again.

Kafka cannot cut the end off a topic. So what is kept is copied to a file, the topic is deleted,
created anew and filled from the file; the groups are moved back and the contexts forgotten. The
stages, once started again, then make the rest as if they had never made it.
"""

import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import IO, Final, Literal

import msgspec

from .context.client import client_of
from .errors import BrokerError, InputError, RejectedError
from .kafka import Broker
from .settings import Settings
from .wire.bars import decode_bar
from .wire.codecs import decode
from .wire.foreign import MS_FROM, MS_UNTIL, TickDecoder
from .wire.messages import Bar, Forecast
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
            self._say(f"{self._bars_group}: goes on from the beginning")
            if do:
                await self._broker.move(self._bars_group, topics.ticks, await self._first_ticks())
        first_bars = await self._first_bars() if do and forecasts else {}
        for group in forecasts:
            self._say(f"{group}: goes on from {self._since_ms}")
            if do:
                await self._broker.move(group, topics.bars, first_bars)
            await self._forget(group.removeprefix(self._prefix), do=do)
        if forecasts:
            self._say("start the forecast stages with --shed off until they have caught up")

    async def _partitions(self, topic: str) -> list[int]:
        return list(range(await self._broker.partitions(topic)))

    async def _check_ticks(self) -> None:
        """Bars that cannot be made again must not be forgotten."""
        topic, decoder = self._broker.topics.ticks, self._settings.bars.tick_decoder()
        partitions = await self._partitions(topic)
        begins = await self._broker.begin_offsets(topic, partitions)
        ends = await self._broker.end_offsets(topic, partitions)
        for p in partitions:
            if not begins[p]:
                continue
            first = await self._first_time(decoder, topic, p, begins[p], ends[p])
            if first is None and not await self._any_live(p):
                continue
            if first is None or first > self._since_ms:
                found = "has no ticks left" if first is None else f"begins at {first} ms"
                raise BrokerError(
                    f"{topic}/{p} {found}: retention has removed ticks after "
                    f"{self._since_ms} ms, whose bars could not be made again; give a later --from"
                )

    async def _any_live(self, partition: int) -> bool:
        """Whether bars that were made from a partition's ticks are to be forgotten."""
        found = False
        async for _, made in self._read(self._broker.topics.bars, partition):
            if isinstance(made, Bar) and not made.history and not made.revision:
                found |= made.open_time >= self._since_ms
        return found

    async def _read(
        self, topic: str, partition: int
    ) -> AsyncIterator[tuple[Record, Bar | Forecast | None]]:
        """The records of the bars or the forecasts topic, all of them: a correction of an old bar
        may bear the time of its writing, so a search by time is not to be trusted."""
        kind = Bar if topic == self._broker.topics.bars else Forecast
        begin = (await self._broker.begin_offsets(topic, [partition]))[partition]
        end = (await self._broker.end_offsets(topic, [partition]))[partition]
        async for records in self._broker.read(topic, partition, begin, end):
            for record in records:
                yield record, _decoded(record, kind)

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
        file = tempfile.NamedTemporaryFile(prefix=f"{topic}.kept.", delete=False)  # noqa: SIM115
        path = file.name
        try:
            with file:
                dropped = await self._keep(topic, file, do=do)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            os.remove(path)
            raise InputError(f"{path}: cannot be written: {error.strerror}") from error
        except BaseException:
            os.remove(path)
            raise
        if do and dropped:
            try:
                await self._broker.recreate(topic)
                await self._write(topic, Path(path))
            except BaseException:
                self._say(f"{topic}: not finished; what must be kept is in {path}")
                raise
        os.remove(path)

    async def _keep(self, topic: str, file: IO[bytes], *, do: bool) -> int:
        """Copies what opens before --from; how many records do not."""
        kept = dropped = corrections = 0
        for p in await self._partitions(topic):
            async for record, made in self._read(topic, p):
                opens = _opens(record, made)
                if opens >= self._since_ms:
                    dropped += 1
                    corrections += isinstance(made, Bar) and made.revision > 0
                    continue
                kept += 1
                if do:
                    data = msgspec.msgpack.encode(_fields(record, opens))
                    file.write(len(data).to_bytes(LENGTH, "big") + data)
        among = f" ({corrections} of them corrections)" if corrections else ""
        self._say(f"{topic}: {dropped} records forgotten{among}, {kept} kept")
        return dropped

    async def _write(self, topic: str, kept: Path) -> None:
        publisher = self._broker.publisher(linger_ms=5)
        await publisher.start()
        try:
            for partition, timestamp, key, value, headers in _kept_in(kept):
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

    async def _first_ticks(self) -> dict[int, Commit]:
        """The begin: what is still published is found there, and not published again."""
        topic = self._broker.topics.ticks
        begins = await self._broker.begin_offsets(topic, await self._partitions(topic))
        return {p: Commit(offset, FROM_THE_BEGINNING) for p, offset in begins.items()}

    async def _first_bars(self) -> dict[int, Commit]:
        """The first records that open at --from or later; the end where there is none."""
        topic = self._broker.topics.bars
        first = await self._broker.end_offsets(topic, await self._partitions(topic))
        for p in first:
            async for record, made in self._read(topic, p):
                if _opens(record, made) >= self._since_ms:
                    first[p] = min(first[p], record.offset)
        return {p: Commit(offset) for p, offset in first.items()}

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


def _decoded(record: Record, kind: type[Bar] | type[Forecast]) -> Bar | Forecast | None:
    """None where a record is not of that kind, or of a time that no record can have."""
    try:
        if kind is Bar:
            return decode_bar(record.value, record.headers)
        forecast = decode(record.value, record.headers, Forecast)
    except (msgspec.ValidationError, msgspec.DecodeError):
        return None
    return forecast if MS_FROM <= forecast.open_time < MS_UNTIL else None


def _opens(record: Record, made: Bar | Forecast | None) -> int:
    """Open time of a record; its own time where it cannot be decoded."""
    return record.timestamp if made is None else made.open_time


def _fields(record: Record, opens: int) -> _Kept:
    # Others may write a header without a value.
    headers = [(name, content or b"") for name, content in record.headers]
    return record.partition, opens, record.key, record.value, headers


def _kept_in(file: Path) -> Iterator[_Kept]:
    with file.open("rb") as data:
        while length := data.read(LENGTH):
            yield msgspec.msgpack.decode(data.read(int.from_bytes(length, "big")), type=_Kept)
