"""Ends a process whose position stands still while its topic moves.

A consumer can fall silent without any error; its supervisor starts the process again, and the
group goes on from the last commit. The watchdog also learns how far behind the stage is, and
whether the broker answers at all.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, Protocol

import structlog

from . import telemetry
from .errors import BrokerError

log = structlog.get_logger()

ANSWER_S: Final = 10.0
LOOKS: Final = 8
"""How often it looks within the time after which it bites."""
MOST_S: Final = 5.0
"""Between two looks."""


class Watched(Protocol):
    """A stage over partitions of one topic."""

    @property
    def waits_for(self) -> str | None:
        """What the stage knowingly waits for (a store that is away, work that was read): then its
        position may stand still."""

    def positions(self) -> Mapping[int, int]:
        """The next offset to be dealt with, by owned partition."""


class Watchdog:
    """One stage's. `ends` gives the end offsets of partitions."""

    def __init__(
        self,
        stage: str,
        watched: Watched,
        ends: Callable[[Iterable[int]], Awaitable[Mapping[int, int]]],
        *,
        bites_after_s: float,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._stage = stage
        self._watched = watched
        self._ends = ends
        self._bites_after_s = bites_after_s
        self._every_s = min(MOST_S, bites_after_s / LOOKS)
        self._monotonic = monotonic
        self._sleep = sleep
        self._still: dict[int, tuple[int, int, float]] = {}
        """By partition: position, and end and moment when it was first seen there."""
        self._heard_at = monotonic()

    async def run(self) -> None:
        """Until cancelled. BrokerError: a position stood still."""
        while True:
            await self._sleep(self._every_s)
            await self.look()

    async def look(self) -> None:
        """Once."""
        owned = self._watched.positions()
        try:
            async with asyncio.timeout(ANSWER_S):
                ends = await self._ends(owned)
        except (BrokerError, TimeoutError) as error:
            log.warning("broker_unheard", stage=self._stage, error=str(error))
            self._still.clear()
            return
        now = self._heard_at = self._monotonic()
        telemetry.LAG.labels(self._stage).set(sum(max(0, ends[p] - at) for p, at in owned.items()))
        for partition, position in owned.items():
            was = self._still.get(partition)
            waits = self._watched.waits_for is not None
            if was is None or was[0] != position or waits or ends[partition] <= position:
                self._still[partition] = (position, ends[partition], now)
            elif ends[partition] > was[1] and now - was[2] > self._bites_after_s:
                raise BrokerError(
                    f"{self._stage}: partition {partition} stands still at {position} for "
                    f"{now - was[2]:.0f} s, while its end moved from {was[1]} to {ends[partition]}"
                )
        self._still = {p: still for p, still in self._still.items() if p in owned}

    def trouble(self) -> str | None:
        """For /readyz: a broker that does not answer."""
        silent_s = self._monotonic() - self._heard_at
        if silent_s > ANSWER_S + 2 * self._every_s:
            return f"the broker has not answered for {silent_s:.0f} s"
        return None
