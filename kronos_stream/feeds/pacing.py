"""Back-pressure between the stages of one process: the feed waits for the slowest of them.

Amounts are whatever a stage counts in (bytes of ticks, number of bars). The embedded broker keeps
about 5 MB a partition and drops the rest silently, so on it this is what loses nothing; elsewhere
it keeps a replay from racing ahead of its forecasts.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

import structlog

log = structlog.get_logger()

LIMITS: Final = {"ticks": 2_000_000, "bars": 1_000}
"""Unread bytes of ticks, and bars that are not finished, at which the feed waits."""


class Backpressure:
    """What each stage has been given and has finished; single-threaded.

    On a broker that other members share, they may take over what was counted here: after
    `patience_s` without progress the counts begin anew. None: wait for ever.
    """

    def __init__(
        self, limits: Mapping[str, int] = LIMITS, *, patience_s: float | None = None
    ) -> None:
        self._limits = dict(limits)
        self._patience_s = patience_s
        self._open = dict.fromkeys(limits, 0)
        self._changed = asyncio.Event()

    def limit(self, stage: str, amount: int) -> None:
        """From now on `stage` may have so much before it."""
        self._limits[stage] = amount

    def produced(self, stage: str, amount: int) -> None:
        """`amount` more is on its way to `stage`."""
        self._open[stage] += amount

    def consumed(self, stage: str, amount: int) -> None:
        """`stage` has finished `amount`; others may have written more than we know of."""
        self._open[stage] = max(0, self._open[stage] - amount)
        self._changed.set()

    def unfinished(self, stage: str) -> int:
        """What `stage` has still to do."""
        return self._open[stage]

    async def wait_room(self) -> None:
        """Until every stage is under its limit."""
        while any(self._open[stage] > limit for stage, limit in self._limits.items()):
            await self._progress()

    async def _progress(self) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(self._patience_s):
                await self._changed.wait()
        except TimeoutError:
            log.info("backpressure_reset", **self._open)
            self._open = dict.fromkeys(self._open, 0)
