"""The fold, rule by rule."""

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronos_stream.bars.outputs import RejectedOut
from kronos_stream.settings import BarsSettings
from kronos_stream.wire.codecs import encode
from kronos_stream.wire.messages import Bar
from tests.oracle import Entry

from .logs import ELSEWHERE, GRACE, STEP, T0, UNLISTED, fold_of, outputs_of, split


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
    return split(outputs_of(fold_of(settings), log)).bars


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
    fold = fold_of(BarsSettings(interval="1m"))
    log = [
        _marker(0, 0),
        _tick(1, 5, trade_id=1000),
        _tick(2, 2 * STEP, trade_id=1),
        _marker(3, 4 * STEP),
    ]
    found = split(outputs_of(fold, log))
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
    found = split(outputs_of(fold_of(BarsSettings(interval="1m")), [*log, _tick(3, 5, trade_id=1)]))
    assert found.late == [3]


def test_next_close_is_the_oldest_open_or_due_bar() -> None:
    fold = fold_of(BarsSettings(interval="1m"))
    assert fold.next_close_ms is None
    steps: list[tuple[Entry, Callable[[], int] | None]] = [
        (_marker(0, 0), None),
        (_tick(1, 5), lambda: T0 + STEP + GRACE),
        (_marker(2, STEP + GRACE), lambda: T0 + 2 * STEP + GRACE),
        (_marker(3, 3 * 86_400_000), None),
    ]
    for entry, expected in steps:
        outputs_of(fold, [entry])
        assert fold.next_close_ms == (expected() if expected else None)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_junk_is_rejected_and_changes_nothing(junk: bytes, packed: bool) -> None:
    fold = fold_of(BarsSettings(interval="1m"))
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
