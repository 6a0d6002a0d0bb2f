"""Waiting for a store that is away."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import structlog
from redis.exceptions import RedisError

from .. import telemetry

log = structlog.get_logger()
T = TypeVar("T")

STORE_PAUSE_S: Final = 0.5
"""Before a call is tried again."""


class Patience:
    """Calls the store until it answers: no position is committed meanwhile, so waiting loses
    nothing."""

    def __init__(self) -> None:
        self.away: str | None = None
        """What the store said last, if it was an error."""

    async def __call__(self, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        """The answer."""
        while True:
            try:
                answer = await call(*args)
                self.away = None
                return answer
            except (RedisError, OSError) as error:
                self.away = str(error)
                telemetry.STORE_WAITS.inc()
                log.warning("store_unavailable", error=self.away)
                await asyncio.sleep(STORE_PAUSE_S)
