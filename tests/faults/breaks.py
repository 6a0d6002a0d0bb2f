"""Ways to break what the design promises, so that a campaign is seen to fail.

They are put into a member's process from here; the product knows nothing of them.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from kronos_stream.bars.fold import PartitionFold
from kronos_stream.context.contexts import Contexts
from kronos_stream.context.packed import body, head, window_of
from kronos_stream.context.store import Appended, ContextStore
from kronos_stream.context.window import Window
from kronos_stream.forecasts import owned, service
from kronos_stream.forecasts.outbox import Item
from kronos_stream.wire.messages import Bar
from kronos_stream.wire.topics import Commit, Record

Set = Callable[[object, str, object], None]
"""How an attribute is replaced: setattr, or a test's monkeypatch, which undoes it."""


def commit_first(replace: Set) -> None:
    """What was read counts as done: the position is committed ahead of the work."""
    work = service.ForecastService._take

    async def take(self: service.ForecastService, number: int, records: list[Record]) -> None:
        if records:
            await self._subscription.commit({number: Commit(records[-1].offset + 1)})
        await work(self, number, records)

    replace(service.ForecastService, "_take", take)
    replace(owned.Owned, "position", lambda self: self.next_offset)
    replace(PartitionFold, "low_water", property(lambda self: self._next_offset))
    replace(PartitionFold, "watermark_at_low_water", property(lambda self: self.watermark))


def publish_before_append(replace: Set) -> None:
    """A forecast is made from what the store holds and the bar in hand, and the bar is appended
    only once the forecast is out."""
    append, finish = Contexts.append, service.ForecastService._finish
    tasks: set[asyncio.Task[Any]] = set()

    async def look(self: Contexts, bar: Bar, partition: int, offset: int) -> Window | None:
        rows = [*await _before(self._store, bar, self._want - 1), _row(bar, offset)]
        if len(rows) < self._want:
            return await append(self, bar, partition, offset)
        return window_of(b"".join(rows), bar.symbol, bar.interval)

    def finished(self: service.ForecastService, item: Item) -> None:
        record = item.record
        later = append(self._contexts, item.bar, record.partition, record.offset)
        task = asyncio.get_running_loop().create_task(later)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        finish(self, item)

    replace(Contexts, "append", look)
    replace(service.ForecastService, "_finish", finished)


async def _before(store: ContextStore, bar: Bar, count: int) -> list[bytes]:
    found = await store._redis.zrevrangebyscore(
        store._key(bar.symbol), f"({bar.open_time}", "-inf", start=0, num=count, withscores=True
    )
    return [int(at).to_bytes(8, "big") + member for member, at in reversed(found)]


def _row(bar: Bar, offset: int) -> bytes:
    revision, place = head(bar, offset)
    return bar.open_time.to_bytes(8, "big") + revision + place + body(bar)


def no_guard(replace: Set) -> None:
    """Every append pushes and trims, whatever is there already; nothing looks for a hole."""

    async def push(self: ContextStore, bar: Bar, offset: int, *, want: int) -> Appended:
        key = self._key(bar.symbol) + ":list"
        redis: Any = self._redis
        await redis.rpush(key, _row(bar, offset))
        await redis.ltrim(key, -self._keep, -1)
        rows = await redis.lrange(key, -want, -1) if want else []
        return Appended("applied", window_of(b"".join(rows), bar.symbol, self._interval))

    replace(ContextStore, "append", push)
    replace(Contexts, "_is_short", lambda self, bar, appended: False)


BREAKS: Final[dict[str, Callable[[Set], None]]] = {
    "commit-first": commit_first,
    "publish-before-append": publish_before_append,
    "no-guard": no_guard,
}
