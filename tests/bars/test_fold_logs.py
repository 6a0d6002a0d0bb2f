"""The fold against the batch oracle: any log, any crash, any loss, any order within the grace."""

import random
from typing import NamedTuple

import msgspec
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kronos_stream.bars.outputs import BarOut, Output
from kronos_stream.bars.restored import Gap, Restored
from kronos_stream.settings import BarsSettings
from kronos_stream.wire.codecs import encode
from kronos_stream.wire.messages import Bar
from tests.oracle import Entry

from .logs import (
    BARS,
    EVENTS,
    GRACE,
    STEP,
    SYMBOLS,
    T0,
    decimal,
    fold_of,
    log_of,
    outputs_of,
    split,
    truth_of,
)


@settings(max_examples=300, deadline=None)
@given(EVENTS, BARS, st.booleans(), st.integers(0, 2**16))
def test_any_log_gives_what_the_oracle_says(
    events: list, bars: BarsSettings, ids: bool, seed: int
) -> None:
    log = log_of(events, ids=ids, seed=seed)
    found, expected = split(outputs_of(fold_of(bars), log)), truth_of(log, bars)
    assert found.bars == expected.bars
    assert found.late == expected.late
    assert found.rejected == expected.rejected


class _Saved(NamedTuple):
    """A commit."""

    offset: int = 0
    watermark: int | None = None
    gap: Gap | None = None
    lost: bool = False


def _die_and_go_on(
    log: list[Entry], bars: BarsSettings, rng: random.Random, *, lost_until: int = 0
) -> list[tuple[int, Output]]:
    """Everything that was ever published: each life commits where it likes, dies where it likes,
    also between two outputs of one record, and begins from its last commit and what it finds. From
    its fourth life on retention has removed the records before `lost_until`."""
    published: list[tuple[int, Output]] = []
    commit = _Saved()
    for life in range(6):
        last: dict[str, Bar] = {}
        for _, output in published:
            if isinstance(output, BarOut):
                last[output.bar.symbol] = max(
                    last.get(output.bar.symbol, output.bar),
                    output.bar,
                    key=lambda bar: bar.open_time,
                )
        begin = max(commit.offset, lost_until if life >= 3 else 0)
        known = Restored(commit.watermark, last, commit.gap, commit.lost)
        if begin > commit.offset:
            known = Restored(last=last, lost=True)
        fold = fold_of(bars, known)
        end = len(log) if life == 5 else rng.randrange(begin, len(log) + 1)
        if life < 3 and lost_until:
            end = min(end, lost_until)
        for entry in log[begin:end]:
            outputs = outputs_of(fold, [entry])
            if life < 5 and entry.offset == end - 1 and outputs:
                published += outputs[: rng.randrange(len(outputs) + 1)]
                break
            published += outputs
            if rng.random() < 0.3:
                known_then = fold.watermark_at_low_water, fold.gap, fold.lost
                commit = _Saved(fold.low_water, *known_then)
    return published


@settings(max_examples=300, deadline=None)
@given(EVENTS, BARS, st.booleans(), st.integers(0, 2**16))
def test_a_crash_anywhere_gives_the_same_content(
    events: list, bars: BarsSettings, ids: bool, seed: int
) -> None:
    log = log_of(events, ids=ids, seed=seed)
    published = _die_and_go_on(log, bars, random.Random(seed))
    expected = truth_of(log, bars)
    kept: dict[tuple[str, int], Bar] = {}
    for bar in split(published).bars:
        assert kept.setdefault((bar.symbol, bar.open_time), bar) == bar
    assert kept == {(bar.symbol, bar.open_time): bar for bar in expected.bars}
    assert set(split(published).late) == set(expected.late)
    assert set(split(published).rejected) == set(expected.rejected)


@settings(max_examples=300, deadline=None)
@given(EVENTS, BARS, st.booleans(), st.integers(0, 2**16))
def test_what_retention_took_is_missing_never_flat_or_whole(
    events: list, bars: BarsSettings, ids: bool, seed: int
) -> None:
    in_order = [
        (kind, passes % 3_600_001, 0, *rest) for kind, passes, _, *rest in events if kind != "again"
    ]
    bars = msgspec.structs.replace(bars, contiguous_ids=False)
    log, rng = log_of(in_order, ids=ids, seed=seed), random.Random(seed)
    # Of ids that begin again within a bar a lost one may have been the last.
    numbers = [entry.trade_id for entry in log if entry.trade_id is not None]
    assume(numbers == sorted(numbers))
    lost_until = rng.randrange(len(log) + 1)
    kept: dict[tuple[str, int], Bar] = {}
    for bar in split(_die_and_go_on(log, bars, rng, lost_until=lost_until)).bars:
        assert kept.setdefault((bar.symbol, bar.open_time), bar) == bar
    expected = {(bar.symbol, bar.open_time): bar for bar in truth_of(log, bars).bars}
    for key, bar in kept.items():
        if bar.complete:
            assert bar == msgspec.structs.replace(expected[key], prev_open_time=bar.prev_open_time)
    seen: dict[str, int] = {}
    for entry in log[lost_until:]:
        if entry.symbol is not None and entry.time - entry.timestamp <= 60_000:
            seen.setdefault(entry.symbol, entry.time)
    for key, bar in expected.items():
        if not bar.synthetic and bar.open_time > seen.get(bar.symbol, bar.open_time):
            assert kept[key].complete


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 5 * STEP - 1),
            st.sampled_from(SYMBOLS),
            st.integers(1, 10**12),
            st.integers(1, 10**10),
        ),
        min_size=1,
        max_size=50,
        unique_by=lambda tick: tick[0],
    ),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_any_order_and_duplication_within_the_grace_gives_the_same_bytes(
    ticks: list, ids: bool, rng: random.Random
) -> None:
    # Without ids a tick cannot be told from its duplicate.
    ordered = [
        Entry(0, T0 + at, T0 + at, symbol, decimal(price), decimal(qty), i if ids else None)
        for i, (at, symbol, price, qty) in enumerate(sorted(ticks))
    ]
    copies = [e for e in ordered for _ in range(1 + (rng.randrange(3) if ids else 0))]
    shuffled = sorted(copies, key=lambda e: e.time + rng.randrange(GRACE))
    encoded = []
    for sequence in (ordered, shuffled):
        begin = [Entry(0, T0, T0), *(Entry(0, T0, T0, s, "1", "1", 10**6) for s in SYMBOLS)]
        end = T0 + 5 * STEP + GRACE
        log = [e._replace(offset=i) for i, e in enumerate([*begin, *sequence, Entry(0, end, end)])]
        found = split(outputs_of(fold_of(BarsSettings(interval="1m")), log))
        assert not found.late
        encoded.append([encode(bar)[0] for bar in found.bars])
    assert encoded[0] == encoded[1]
    assert len(encoded[0]) == 5 * len(SYMBOLS)
