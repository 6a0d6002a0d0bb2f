"""The fold against the batch oracle: any log, any crash, any order within the grace."""

import random
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kronos_stream.bars.fold import BarsConfig, PartitionFold
from kronos_stream.bars.outputs import BarOut, LateOut, Output, RejectedOut
from kronos_stream.bars.restored import Gap, Restored
from kronos_stream.settings import BarsSettings
from kronos_stream.wire.codecs import encode
from kronos_stream.wire.messages import Bar, Marker, Tick
from tests.oracle import Entry, Truth, truth

STEP = 60_000
GRACE = 1_000
T0 = 1_735_689_600_000
SYMBOLS = ("AAA", "BBB", "CCC")
ELSEWHERE, UNLISTED = "FAR", "NOBODY"
LISTED = frozenset((*SYMBOLS, ELSEWHERE))


def _payload(entry: Entry) -> bytes:
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


def _fold(bars: BarsSettings, restored: Restored | None = None) -> PartitionFold:
    return PartitionFold(
        config=BarsConfig.of(bars),
        partition=0,
        partition_of=lambda symbol: int(symbol == ELSEWHERE),
        symbols=LISTED,
        restored=restored,
    )


def _outputs(fold: PartitionFold, log: Iterable[Entry]) -> list[tuple[int, Output]]:
    return [
        (e.offset, output)
        for e in log
        for output in fold.apply(e.offset, e.timestamp, _payload(e), ())
    ]


def _truth(log: Sequence[Entry], bars: BarsSettings) -> Truth:
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


def _split(outputs: Iterable[tuple[int, Output]]) -> Truth:
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


def _decimal(scaled: int) -> str:
    return f"{scaled // 10**8}.{scaled % 10**8:08d}"


def _log(events: Sequence[tuple], *, ids: bool, seed: int) -> list[Entry]:
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
                price=_decimal(price),
                qty=_decimal(qty),
                trade_id=last_id if ids else None,
            )
        log.append(entry)
    return log


@settings(max_examples=300, deadline=None)
@given(EVENTS, BARS, st.booleans(), st.integers(0, 2**16))
def test_any_log_gives_what_the_oracle_says(
    events: list, bars: BarsSettings, ids: bool, seed: int
) -> None:
    log = _log(events, ids=ids, seed=seed)
    found, expected = _split(_outputs(_fold(bars), log)), _truth(log, bars)
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
        fold = _fold(bars, known)
        end = len(log) if life == 5 else rng.randrange(begin, len(log) + 1)
        if life < 3 and lost_until:
            end = min(end, lost_until)
        for entry in log[begin:end]:
            outputs = _outputs(fold, [entry])
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
    log = _log(events, ids=ids, seed=seed)
    published = _die_and_go_on(log, bars, random.Random(seed))
    expected = _truth(log, bars)
    kept: dict[tuple[str, int], Bar] = {}
    for bar in _split(published).bars:
        assert kept.setdefault((bar.symbol, bar.open_time), bar) == bar
    assert kept == {(bar.symbol, bar.open_time): bar for bar in expected.bars}
    assert set(_split(published).late) == set(expected.late)
    assert set(_split(published).rejected) == set(expected.rejected)


@settings(max_examples=300, deadline=None)
@given(EVENTS, BARS, st.booleans(), st.integers(0, 2**16))
def test_what_retention_took_is_missing_never_flat_or_whole(
    events: list, bars: BarsSettings, ids: bool, seed: int
) -> None:
    in_order = [
        (kind, passes % 3_600_001, 0, *rest) for kind, passes, _, *rest in events if kind != "again"
    ]
    bars = msgspec.structs.replace(bars, contiguous_ids=False)
    log, rng = _log(in_order, ids=ids, seed=seed), random.Random(seed)
    # Of ids that begin again within a bar a lost one may have been the last.
    numbers = [entry.trade_id for entry in log if entry.trade_id is not None]
    assume(numbers == sorted(numbers))
    lost_until = rng.randrange(len(log) + 1)
    kept: dict[tuple[str, int], Bar] = {}
    for bar in _split(_die_and_go_on(log, bars, rng, lost_until=lost_until)).bars:
        assert kept.setdefault((bar.symbol, bar.open_time), bar) == bar
    expected = {(bar.symbol, bar.open_time): bar for bar in _truth(log, bars).bars}
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
        Entry(0, T0 + at, T0 + at, symbol, _decimal(price), _decimal(qty), i if ids else None)
        for i, (at, symbol, price, qty) in enumerate(sorted(ticks))
    ]
    copies = [e for e in ordered for _ in range(1 + (rng.randrange(3) if ids else 0))]
    shuffled = sorted(copies, key=lambda e: e.time + rng.randrange(GRACE))
    encoded = []
    for sequence in (ordered, shuffled):
        begin = [Entry(0, T0, T0), *(Entry(0, T0, T0, s, "1", "1", 10**6) for s in SYMBOLS)]
        end = T0 + 5 * STEP + GRACE
        log = [e._replace(offset=i) for i, e in enumerate([*begin, *sequence, Entry(0, end, end)])]
        found = _split(_outputs(_fold(BarsSettings(interval="1m")), log))
        assert not found.late
        encoded.append([encode(bar)[0] for bar in found.bars])
    assert encoded[0] == encoded[1]
    assert len(encoded[0]) == 5 * len(SYMBOLS)


def _tick(
    offset: int,
    time: int,
    price: str = "100",
    qty: str = "1",
    *,
    trade_id: int | None = None,
    symbol: str = "AAA",
) -> Entry:
    return Entry(offset, T0 + time, T0 + time, symbol, price, qty, trade_id)


def _marker(offset: int, time: int) -> Entry:
    return Entry(offset, T0 + time, T0 + time)


def _bars(log: list[Entry], **more: object) -> list[Bar]:
    settings = BarsSettings(interval="1m", **more)  # type: ignore[arg-type]
    return _split(_outputs(_fold(settings), log)).bars


def test_a_tick_on_the_boundary_belongs_to_the_later_bar() -> None:
    log = [
        _marker(0, 0),
        _tick(1, STEP - 1, "1"),
        _tick(2, STEP, "2"),
        _marker(3, 2 * STEP + GRACE),
    ]
    assert [(b.open_time - T0, b.close) for b in _bars(log)] == [(0, 1.0), (STEP, 2.0)]


@pytest.mark.parametrize(("time", "closed"), [(STEP + GRACE - 1, 0), (STEP + GRACE, 1)])
def test_a_bar_closes_when_the_watermark_reaches_close_and_grace(time: int, closed: int) -> None:
    assert len(_bars([_marker(0, 0), _tick(1, 5), _marker(2, time)])) == closed


def test_a_marker_far_ahead_closes_all_in_order_and_stops_filling_after_a_day() -> None:
    two = [_tick(1, 5, symbol="BBB"), _tick(2, 6, symbol="AAA")]
    bars = _bars([_marker(0, 0), *two, _marker(3, 400 * 86_400_000)])
    assert [(b.open_time, b.symbol) for b in bars] == sorted((b.open_time, b.symbol) for b in bars)
    assert [b.flat_run for b in bars if b.symbol == "AAA"] == list(range(1441))
    assert all(b.synthetic == (b.flat_run > 0) for b in bars)


def test_the_chain_tells_a_silence() -> None:
    log = [
        _marker(0, 0),
        _tick(1, 5),
        _marker(2, 3 * 86_400_000),
        _tick(3, 3 * 86_400_000 + 5),
        _marker(4, 3 * 86_400_000 + STEP + GRACE),
    ]
    *_, before, bar = _bars(log)
    assert before.flat_run == 1440
    assert bar.prev_open_time == before.open_time == T0 + 1440 * STEP
    assert not bar.synthetic


def test_open_and_close_go_by_time_and_id_not_by_arrival() -> None:
    log = [
        _marker(0, 0),
        _tick(1, 20, "2", trade_id=8),
        _tick(2, 20, "3", trade_id=9),
        _tick(3, 10, "5", trade_id=4),
        _tick(4, 10, "4", trade_id=3),
        _tick(5, 20, "7", trade_id=7),
        _marker(6, STEP + GRACE),
    ]
    (bar,) = _bars(log)
    assert (bar.open, bar.close, bar.high, bar.low) == (4, 3, 7, 2)
    assert (bar.first_trade_id, bar.last_trade_id, bar.trades) == (3, 9, 5)


def test_sums_are_exact() -> None:
    log = [_marker(0, 0), *(_tick(i, i, "0.1", "0.1") for i in range(1, 11))]
    (bar,) = _bars([*log, _marker(11, STEP + GRACE)])
    assert (bar.volume, bar.amount) == (1.0, 0.1)


def test_a_reset_of_the_ids_is_counted_and_accepted() -> None:
    fold = _fold(BarsSettings(interval="1m"))
    log = [
        _marker(0, 0),
        _tick(1, 5, trade_id=1000),
        _tick(2, 2 * STEP, trade_id=1),
        _marker(3, 4 * STEP),
    ]
    found = _split(_outputs(fold, log))
    assert [b.trades for b in found.bars] == [1, 0, 1]
    assert fold.counters["id_reset"] == 1


@pytest.mark.parametrize(
    ("ids", "complete"),
    [((1, 2, 3, 4), [True, True]), ((1, 3, 4, 5), [False, True]), ((1, 2, 4, 5), [True, False])],
)
def test_a_hole_in_contiguous_ids_is_told(ids: tuple[int, ...], complete: list[bool]) -> None:
    times = (1, 2, STEP + 1, STEP + 2)
    ticks = [_tick(i, t, trade_id=n) for i, (t, n) in enumerate(zip(times, ids), 1)]
    log = [_marker(0, 0), *ticks, _marker(5, 2 * STEP + GRACE)]
    assert [b.complete for b in _bars(log, contiguous_ids=True)] == complete
    assert [b.complete for b in _bars(log)] == [True, True]


def test_the_first_bar_needs_the_partition_to_have_reached_its_open_before_the_symbol() -> None:
    tail = [_tick(2, 5), _marker(3, STEP + GRACE)]
    assert _bars([_tick(1, 4), *tail]) == []
    assert [b.trades for b in _bars([_marker(1, 0), *tail])] == [1]
    kept = _bars([_tick(1, 4), *tail], edges="keep")
    assert [(b.trades, b.complete) for b in kept] == [(2, False)]


def test_a_young_tick_that_came_first_does_not_make_the_older_bar_whole() -> None:
    log = [_tick(0, STEP + 5), _tick(1, STEP - 5), _marker(2, 2 * STEP + GRACE)]
    assert [b.open_time - T0 for b in _bars(log)] == [STEP]


def test_unlisted_ticks_move_the_watermark_and_others_do_not() -> None:
    far = T0 + STEP + GRACE
    for symbol, ahead, closed in ((UNLISTED, 0, 1), (ELSEWHERE, 0, 0), ("AAA", 60_001, 0)):
        last = Entry(2, far - ahead, far, symbol, "1", "1")
        assert len(_bars([_marker(0, 0), _tick(1, 5), last])) == closed


def test_late_before_duplicate_so_that_a_restart_decides_the_same() -> None:
    log = [_marker(0, 0), _tick(1, 5, trade_id=1), _marker(2, STEP + GRACE)]
    found = _split(_outputs(_fold(BarsSettings(interval="1m")), [*log, _tick(3, 5, trade_id=1)]))
    assert found.late == [3]


def test_next_close_is_the_oldest_open_or_due_bar() -> None:
    fold = _fold(BarsSettings(interval="1m"))
    assert fold.next_close_ms is None
    steps: list[tuple[Entry, Callable[[], int] | None]] = [
        (_marker(0, 0), None),
        (_tick(1, 5), lambda: T0 + STEP + GRACE),
        (_marker(2, STEP + GRACE), lambda: T0 + 2 * STEP + GRACE),
        (_marker(3, 3 * 86_400_000), None),
    ]
    for entry, expected in steps:
        _outputs(fold, [entry])
        assert fold.next_close_ms == (expected() if expected else None)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_junk_is_rejected_and_changes_nothing(junk: bytes, packed: bool) -> None:
    fold = _fold(BarsSettings(interval="1m"))
    headers = (("wire", b"msgpack"),) if packed else ()
    (output,) = fold.apply(0, T0, junk, headers)
    assert isinstance(output, RejectedOut)
    assert fold.watermark is None


def test_every_bar_can_be_encoded_however_large_its_ticks() -> None:
    top = 2**63 - 1
    log = [_marker(0, 0), _tick(1, 5, "9" * 30, "9" * 30, trade_id=top), _marker(2, STEP + GRACE)]
    (bar,) = _bars(log)
    for wire in ("json", "msgpack"):
        encode(bar, wire)  # type: ignore[arg-type]
    assert msgspec.json.decode(encode(bar)[0], type=Bar).last_trade_id == top
