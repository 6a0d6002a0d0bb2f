"""Logs of ticks, drawn; what the fold and the oracle make of them."""

import random
from collections.abc import Iterable, Sequence

from hypothesis import strategies as st

from kronos_stream.bars.fold import BarsConfig, PartitionFold
from kronos_stream.bars.outputs import BarOut, LateOut, Output, RejectedOut
from kronos_stream.bars.restored import Restored
from kronos_stream.settings import BarsSettings
from kronos_stream.wire.codecs import encode
from kronos_stream.wire.messages import Marker, Tick
from tests.oracle import Entry, Truth, truth

STEP = 60_000
GRACE = 1_000
T0 = 1_735_689_600_000
SYMBOLS = ("AAA", "BBB", "CCC")
ELSEWHERE, UNLISTED = "FAR", "NOBODY"
LISTED = frozenset((*SYMBOLS, ELSEWHERE))


def payload(entry: Entry) -> bytes:
    if entry.symbol is None:
        return encode(Marker(marker_time=entry.time))[0]
    tick = Tick(
        symbol=entry.symbol,
        price=entry.price,
        qty=entry.qty,
        time=entry.time,
        trade_id=entry.trade_id,
    )
    return encode(tick)[0]


def fold_of(bars: BarsSettings, restored: Restored | None = None) -> PartitionFold:
    return PartitionFold(
        config=BarsConfig.of(bars),
        partition=0,
        partition_of=lambda symbol: int(symbol == ELSEWHERE),
        symbols=LISTED,
        restored=restored,
    )


def outputs_of(fold: PartitionFold, log: Iterable[Entry]) -> list[tuple[int, Output]]:
    return [
        (e.offset, output)
        for e in log
        for output in fold.apply(e.offset, e.timestamp, payload(e), ())
    ]


def truth_of(log: Sequence[Entry], bars: BarsSettings) -> Truth:
    return truth(
        log,
        interval=bars.interval,
        grace_ms=bars.grace_ms,
        gaps=bars.gaps,
        edges=bars.edges,
        contiguous_ids=bars.contiguous_ids,
        symbols=LISTED,
        at_home=lambda symbol: symbol != ELSEWHERE,
    )


def split(outputs: Iterable[tuple[int, Output]]) -> Truth:
    outputs = list(outputs)
    return Truth(
        [o.bar for _, o in outputs if isinstance(o, BarOut)],
        [offset for offset, o in outputs if isinstance(o, LateOut)],
        [offset for offset, o in outputs if isinstance(o, RejectedOut)],
    )


PASSES = st.one_of(
    st.integers(0, 2_000),
    st.integers(0, 2 * STEP),
    st.sampled_from([0, 1, GRACE - 1, GRACE, STEP - 1, STEP, STEP + GRACE]),
    st.sampled_from([3 * STEP, 3_600_000, 86_400_000, 86_400_000 + 3 * STEP, 200_000_000]),
)
BACK = st.one_of(st.just(0), st.integers(0, GRACE), st.integers(0, 3 * STEP))
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["tick"] * 8 + ["again"] * 2 + ["marker"] * 2 + ["ahead"]),
        PASSES,
        BACK,
        st.sampled_from([*SYMBOLS * 3, ELSEWHERE, UNLISTED]),
        st.integers(1, 10**12),
        st.integers(1, 10**10),
    ),
    min_size=1,
    max_size=60,
)
BARS = st.builds(
    BarsSettings,
    interval=st.just("1m"),
    grace_ms=st.sampled_from([0, GRACE, GRACE, STEP + 7]),
    gaps=st.sampled_from(["fill", "skip"]),
    edges=st.sampled_from(["drop", "drop", "keep"]),
    contiguous_ids=st.booleans(),
)


def decimal(scaled: int) -> str:
    return f"{scaled // 10**8}.{scaled % 10**8:08d}"


def log_of(events: Sequence[tuple], *, ids: bool, seed: int) -> list[Entry]:
    """Time passes; ticks come up to three intervals old, some twice, some resets of the ids."""
    rng = random.Random(seed)
    log: list[Entry] = []
    now, last_id = T0 + rng.randrange(STEP), 0
    for offset, (kind, passes, back, symbol, price, qty) in enumerate(events):
        now += passes
        entry = Entry(offset, now, now - back)
        if kind == "ahead":
            entry = entry._replace(time=now + 60_001)
        ticks = [e for e in log if e.symbol is not None]
        if kind == "again" and ticks:
            entry = rng.choice(ticks[-10:])._replace(offset=offset, timestamp=now)
        elif kind != "marker":
            last_id = 1 if rng.random() < 0.02 else last_id + rng.choice([1, 1, 1, 3])
            entry = entry._replace(
                symbol=symbol,
                price=decimal(price),
                qty=decimal(qty),
                trade_id=last_id if ids else None,
            )
        log.append(entry)
    return log
