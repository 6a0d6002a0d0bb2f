"""The rolling context of every symbol, in Redis: a materialised view of the bars topic.

One sorted set per symbol and interval. Redis may lose all of it at any moment; `contexts.py`
rebuilds it from the topic.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from importlib.resources import files
from typing import Any, Final, Literal, NamedTuple, TypeVar, cast

from redis.exceptions import RedisError

from ..errors import StoreError
from ..settings import RedisSettings
from ..wire.intervals import DAY_MS
from ..wire.messages import Bar
from .client import client_of
from .packed import body, head, window_of
from .window import Window

Status = Literal["applied", "duplicate", "conflict", "hole"]
T = TypeVar("T")

Placed = tuple[Bar, int]
"""A bar and the offset of its record."""

KEPT_MS: Final = 60 * DAY_MS
"""A context to which nothing is appended for so long is forgotten: what another model or other
settings left, too. Longer than any exchange is closed; a symbol that comes back is rebuilt."""
ASIDE_MS: Final = 3_600_000
"""What is written anew by a process that ended meanwhile."""
PIPELINE: Final = 500
"""Bars sent before their answers are read, when a context is rebuilt."""


class Appended(NamedTuple):
    """What an append did, and the window that ends with its bar (None where nothing is there)."""

    status: Status
    window: Window | None


class Span(NamedTuple):
    """Open times of a context."""

    oldest: int
    newest: int


class ContextStore:
    """The contexts of one forecast group; `scope` keeps two groups apart (a digest of model
    revision and settings), `keep` is how many bars of a symbol are held."""

    def __init__(
        self, settings: RedisSettings, *, url: str, interval: str, scope: str, keep: int
    ) -> None:
        self._keep = keep
        self._interval = interval
        self._prefix = f"{settings.prefix}:{scope}:ctx"
        self._redis = client_of(settings, url)
        self._append, self._replace = (
            self._redis.register_script(files(__package__).joinpath(name).read_text())
            for name in ("append.lua", "replace.lua")
        )

    async def start(self) -> None:
        """StoreError where the store does not answer."""
        try:
            await cast(Awaitable[Any], self._redis.ping())
        except (RedisError, OSError) as error:
            raise StoreError(f"redis: no answer: {error}") from error

    async def close(self) -> None:
        """Closes the connections."""
        await self._redis.aclose()

    async def append(self, bar: Bar, offset: int, *, want: int) -> Appended:
        """Inserts a bar whose record stands at `offset`; the window has up to `want` bars, as
        they stood when that record was written. Guarded: appending again changes nothing."""
        answer = await _cancellable(
            self._append(
                keys=[self._key(bar.symbol)],
                args=self._args(bar, offset, want, self._keep, KEPT_MS),
            )
        )
        status = cast(Status, answer[0].decode())
        return Appended(status, window_of(answer[1], bar.symbol, self._interval))

    async def extend(self, bars: Sequence[Placed], *, aside: str | None = None) -> None:
        """Inserts bars with the offsets of their records, without answers; with a name, `aside`
        until they are put in the place of what is held."""
        for_ms = KEPT_MS if aside is None else ASIDE_MS
        for start in range(0, len(bars), PIPELINE):
            some = bars[start : start + PIPELINE]
            last = {bar.symbol: place for place, (bar, _) in enumerate(some)}
            async with self._redis.pipeline(transaction=False) as pipe:
                for place, (bar, offset) in enumerate(some):
                    keep = self._keep if place == last[bar.symbol] else 0
                    await self._append(
                        keys=[self._key(bar.symbol, aside)],
                        args=self._args(bar, offset, 0, keep, for_ms),
                        client=pipe,
                    )
                await _cancellable(pipe.execute())

    async def spans(self, symbols: Sequence[str]) -> list[Span | None]:
        """Of each symbol the open times that are held; None where there are none."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for symbol in symbols:
                for end in (0, -1):
                    pipe.zrange(self._key(symbol), end, end, withscores=True)
            ends = await _cancellable(pipe.execute())
        return [
            Span(int(oldest[0][1]), int(newest[0][1])) if oldest else None
            for oldest, newest in zip(ends[::2], ends[1::2], strict=True)
        ]

    async def state(self, symbol: str) -> bytes:
        """What is held, in a word: it changes with it."""
        return cast(bytes, await _cancellable(self._replace(keys=[self._key(symbol)])))

    async def replace(self, symbol: str, aside: str, held: bytes, prev: int | None) -> bool:
        """What was written aside takes the place of what was held when `state` answered `held`;
        False where that has changed, and stays. Of what is held, that up to `prev` stays: the open
        time of the bar before the first one written, if there is such a bar."""
        keys = [self._key(symbol), self._key(symbol, aside)]
        args = [held, b"" if prev is None else prev, KEPT_MS]
        return bool(await _cancellable(self._replace(keys=keys, args=args)))

    async def drop(self, symbols: Sequence[str], aside: str) -> None:
        """What was written anew is not needed."""
        if symbols:
            keys = [self._key(symbol, aside) for symbol in symbols]
            await _cancellable(cast(Awaitable[Any], self._redis.delete(*keys)))

    async def clear(self, symbol: str) -> None:
        """Forgets a symbol."""
        await cast(Awaitable[Any], self._redis.delete(self._key(symbol)))

    def _key(self, symbol: str, aside: str | None = None) -> str:
        key = f"{self._prefix}:{symbol}:{self._interval}"
        return key if aside is None else f"{key}:{aside}"

    def _args(self, bar: Bar, offset: int, want: int, keep: int, for_ms: int) -> list[bytes | int]:
        prev = b"" if bar.prev_open_time is None else str(bar.prev_open_time).encode()
        revision, place = head(bar, offset)
        return [bar.open_time, revision, place, body(bar), prev, want, keep, for_ms]


async def _cancellable(call: Awaitable[T]) -> T:
    """redis-py (8.1) may swallow a cancellation that arrives in the middle of a call and answer
    as if nothing had happened: a stage that is told to stop would then go on for ever."""
    try:
        return await call
    finally:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
