"""Ticks of a campaign: real ones replayed, simulated ones, and everything that spoils a topic.

All of it follows from the seed and, where it is there, the folder of real ticks. Time is virtual:
each minute is given as lines with the virtual time at which they are written.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from kronos_stream.feeds.simulated import SimulatedFeed
from kronos_stream.settings import FeedSettings
from kronos_stream.wire.codecs import encode
from kronos_stream.wire.messages import Marker, Tick
from kronos_stream.wire.partitioning import partition_of
from kronos_stream.wire.tick_files import read_ticks

MINUTE_MS: Final = 60_000
GRACE_MS: Final = 1_000
HOUR_MS: Final = 3_600_000
MARKER_EVERY_MS: Final = 15_000
LATE_MS: Final = 20_000
RESTARTING: Final = "RESTART"
"""A symbol whose ids begin again every few minutes."""
RESTART_MINUTES: Final = 7
UNLISTED: Final = "UNLISTED"
FLOOD: Final = 20
KIND: Final = "kind"
"""A header that tells the verdict what a record is; the pipeline knows nothing of it."""
REAL: Final = ("BTCUSDT_USDM_20200222", "XRPETH", "TRXUSDT_SPOT")
REAL_PER_MINUTE: Final = 25
"""Of a busy file so many ticks a minute are replayed, the first ones."""


class Line(NamedTuple):
    """One record to be written at virtual time `at` (ms)."""

    at: int
    partition: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


class Traffic:
    """What is written to the ticks partitions, minute by minute from `start_ms`, a full minute."""

    def __init__(
        self, seed: int, *, partitions: int, start_ms: int, simulated: int, ticks: Path | None
    ) -> None:
        self._rng = random.Random(f"traffic/{seed}")
        self._partitions = partitions
        self._minute = start_ms // MINUTE_MS
        self.start_ms = start_ms
        names = [f"SIM{i}USDT" for i in range(1_000)]
        # The same number of symbols in each partition, so that each one publishes all the time.
        chosen = [
            name
            for p in range(partitions)
            for name in [n for n in names if partition_of(n, partitions) == p][
                : -(-simulated // partitions)
            ]
        ]
        feed = FeedSettings(
            seed=seed, ticks_per_minute=12, duplicates=0.03, out_of_order=0.05, late=0.03
        )
        self._simulated = SimulatedFeed(
            [*chosen, UNLISTED], feed, interval="1m", grace_ms=GRACE_MS, start_ms=start_ms
        ).minutes()
        files = [ticks / f"{name}.csv.gz" for name in REAL] if ticks is not None else []
        self._real = [_Replay(file, self._minute) for file in files]
        self.symbols = (*chosen, *(r.symbol for r in self._real), RESTARTING)
        self._flood_ids = 10**9
        self._restarting_id = 0
        self._late: list[Line] = []

    def minute(self, *, flood: bool = False) -> list[Line]:
        """The lines of the next minute, in the order of their virtual times; `flood` writes
        FLOOD times as many ticks."""
        begin = self._minute * MINUTE_MS
        self._minute += 1
        end = self._minute * MINUTE_MS
        _, arrivals = next(self._simulated)
        lines = [self._tick(arrival.tick, arrival.at) for arrival in arrivals]
        for replay in self._real:
            lines += [line for tick in replay.minute() for line in self._disordered(tick)]
        lines += [self._tick(tick, tick.time) for tick in self._restarting(begin)]
        if flood:
            lines += [self._flooding(a.tick, begin) for a in arrivals for _ in range(FLOOD - 1)]
        lines += [line for _ in range(3) for line in self._junk(self._rng.randrange(begin, end))]
        waiting = [*self._late, *lines]
        self._late = [line for line in waiting if line.at >= end]
        marks = [*range(begin, end, MARKER_EVERY_MS), begin + GRACE_MS]
        due = [line for line in waiting if line.at < end]
        return sorted([*due, *(m for at in marks for m in self.marks(at))], key=lambda x: x.at)

    def marks(self, at: int) -> list[Line]:
        """A marker at virtual time `at` for every partition."""
        value, headers = encode(Marker(marker_time=at))
        return [Line(at, p, None, value, headers) for p in range(self._partitions)]

    # -- what spoils a topic, on request -------------------------------------------------------

    def poison(self, at: int) -> list[Line]:
        """One message in every partition that has stopped a reader somewhere before."""
        deep = b"[" * 60_000
        huge = b'{"symbol":"SIM0USDT","price":"1","qty":"1","time":1e400}'
        payloads = [b"\xff\xfe" * 450_000, deep, b'{"a":' * 20_000, b"", huge, b"null", b"\x00"]
        self._rng.shuffle(payloads)
        return [_malformed(at, p, payloads[p % len(payloads)]) for p in range(self._partitions)]

    def elsewhere(self, at: int) -> list[Line]:
        """A symbol appears in a second partition."""
        lines = []
        for symbol in self._rng.sample(self.symbols, 3):
            tick = Tick(symbol=symbol, price="1", qty="1", time=at, trade_id=at)
            home = partition_of(symbol, self._partitions)
            lines.append(self._tick(tick, at, partition=(home + 1) % self._partitions))
        return lines

    def ahead(self, at: int, wall_ms: int) -> list[Line]:
        """A producer whose clock is an hour ahead of the broker's."""
        lines = []
        for symbol in self._rng.sample(self.symbols, 3):
            time = wall_ms + HOUR_MS
            tick = Tick(symbol=symbol, price="5", qty="1", time=time, trade_id=time)
            lines.append(self._tick(tick, at))
        return lines

    # -- lines ---------------------------------------------------------------------------------

    def _tick(self, tick: Tick, at: int, *, partition: int | None = None) -> Line:
        value, headers = encode(tick)
        home = partition_of(tick.symbol, self._partitions)
        where = home if partition is None else partition
        return Line(at, where, tick.symbol.encode(), value, headers)

    def _disordered(self, tick: Tick) -> Iterator[Line]:
        """At its own time, or within the grace, or twice, or too late."""
        chance, at = self._rng.random(), tick.time
        if chance < 0.05:
            at += self._rng.randrange(GRACE_MS)
        elif chance < 0.06:
            close = at - at % MINUTE_MS + MINUTE_MS + GRACE_MS
            at = close + self._rng.randrange(1, LATE_MS)
        yield self._tick(tick, at)
        if self._rng.random() < 0.03:
            yield self._tick(tick, at + self._rng.randrange(GRACE_MS))

    def _flooding(self, tick: Tick, begin: int) -> Line:
        self._flood_ids += 1
        time = begin + self._rng.randrange(MINUTE_MS)
        more = Tick(
            symbol=tick.symbol,
            price=tick.price,
            qty=tick.qty,
            time=time,
            trade_id=self._flood_ids,
        )
        return self._tick(more, time)

    def _restarting(self, begin: int) -> list[Tick]:
        if begin // MINUTE_MS % RESTART_MINUTES == 0:
            self._restarting_id = 0
        ticks = []
        for time in sorted(self._rng.sample(range(begin, begin + MINUTE_MS), 6)):
            self._restarting_id += 1
            price = f"{50 + self._rng.random():.4f}"
            ticks.append(
                Tick(
                    symbol=RESTARTING,
                    price=price,
                    qty="2",
                    time=time,
                    trade_id=self._restarting_id,
                )
            )
        return ticks

    def _junk(self, at: int) -> list[Line]:
        payload = self._rng.choice(
            [
                b"{",
                b'{"symbol":"SIM1USDT"}',
                b'{"symbol":"a b","price":"1","qty":"1","time":1735689600000}',
                b'{"symbol":"SIM1USDT","price":"-1","qty":"1","time":1735689600000}',
                b'{"symbol":"SIM1USDT","price":"1","qty":"1","time":1735689600}',
                b'{"symbol":"SIM1USDT","price":"1.123456789","qty":"1","time":1735689600000}',
                self._rng.randbytes(40),
            ]
        )
        return [_malformed(at, self._rng.randrange(self._partitions), payload)]


def _malformed(at: int, partition: int, payload: bytes) -> Line:
    return Line(at, partition, None, payload, ((KIND, b"malformed"),))


class _Replay:
    """A file of real ticks, shifted so that it begins with the campaign, again and again."""

    def __init__(self, file: Path, first_minute: int) -> None:
        self._minutes: dict[int, list[Tick]] = {}
        for batch in read_ticks(file):
            for symbol, price, qty, time, trade_id, _ in zip(*batch, strict=True):
                tick = Tick(symbol=symbol, price=price, qty=qty, time=time, trade_id=trade_id)
                of_minute = self._minutes.setdefault(time // MINUTE_MS, [])
                if len(of_minute) < REAL_PER_MINUTE:
                    of_minute.append(tick)
        self.symbol = symbol
        self._begin = min(self._minutes)
        self._length = max(self._minutes) - self._begin + 1
        ids = [t.trade_id or 0 for ticks in self._minutes.values() for t in ticks]
        self._ids = max(ids) - min(ids) + 1
        self._next = 0
        self._shift_ms = (first_minute - self._begin) * MINUTE_MS

    def minute(self) -> list[Tick]:
        round_, place = divmod(self._next, self._length)
        self._next += 1
        shift_ms = self._shift_ms + round_ * self._length * MINUTE_MS
        return [
            Tick(
                symbol=tick.symbol,
                price=tick.price,
                qty=tick.qty,
                time=tick.time + shift_ms,
                trade_id=None if tick.trade_id is None else tick.trade_id + round_ * self._ids,
            )
            for tick in self._minutes.get(self._begin + place, [])
        ]
