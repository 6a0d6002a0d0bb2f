"""Seeded ticks and markers as a feed with all its faults would write them."""

import random
from collections.abc import Iterator, Sequence

from kronos_stream.wire.intervals import INTERVAL_MS
from kronos_stream.wire.messages import Marker, Tick

STEP = INTERVAL_MS["5m"]
GRACE = 1_000
T0 = 1_735_689_600_000
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")


def session(
    intervals: range, *, seed: int = 7, symbols: Sequence[str] = SYMBOLS, ticks: int = 30
) -> Iterator[Tick | Marker]:
    """The intervals numbered `intervals` from T0: `ticks` random ticks each, in order, with
    duplicates and late ones, between a marker at the open and one at close and grace.

    Trade ids follow the interval's number, so that sessions join.
    """
    for i in intervals:
        rng = random.Random(f"{seed}/{i}")
        open_time = T0 + i * STEP
        trade_id = i * 2 * ticks
        yield Marker(marker_time=open_time)
        for offset in sorted(rng.randrange(STEP) for _ in range(ticks)):
            trade_id += 1
            tick = Tick(
                symbol=rng.choice(symbols),
                price=f"{100 + rng.randrange(1000) / 100:.2f}",
                qty=str(rng.randrange(1, 99)),
                time=open_time + offset,
                trade_id=trade_id,
            )
            yield tick
            if rng.random() < 0.1:
                yield tick
            if rng.random() < 0.1:
                late = open_time - STEP - rng.randrange(STEP)
                trade_id += 1
                yield Tick(symbol=tick.symbol, price="99", qty="1", time=late, trade_id=trade_id)
        yield Marker(marker_time=open_time + STEP + GRACE)
