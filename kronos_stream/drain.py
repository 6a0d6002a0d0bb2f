"""Waiting for a stage to deal with all that its topic holds."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

import structlog

from .watchdog import Watched

log = structlog.get_logger()

EVERY_S: Final = 0.05


class Stage(Watched, Protocol):
    """A stage over partitions of one topic."""

    def trouble(self) -> str | None:
        """Why it owns nothing just now, for one."""


async def drained(
    stage: Stage,
    ends: Mapping[int, int],
    *,
    patience_s: float,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Until the stage has dealt with the partitions that it owns up to `ends`. On a broker that
    others write to a partition may end in records that no consumer is given (the end of a
    transaction): after `patience_s` without progress it is taken for done.
    """
    seen: Mapping[int, int] | None = None
    still_s = 0.0
    while True:
        positions = stage.positions()
        behind = {n: at for n, at in positions.items() if at < ends.get(n, 0)}
        busy = stage.waits_for is not None or stage.trouble() is not None
        if not behind and not busy:
            return
        if busy or positions != seen:
            seen, still_s = positions, 0.0
        elif still_s > patience_s:
            log.info("not_drained", behind=behind)
            return
        await sleep(EVERY_S)
        still_s += EVERY_S
