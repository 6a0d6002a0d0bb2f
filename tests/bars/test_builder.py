"""One bar from trades in any order: ends by (time, id), sums exact, figures the nearest double."""

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos_stream.bars.builder import BarBuilder
from kronos_stream.wire.messages import Bar

DIGITS = 8
SCALE = 10**DIGITS

TRADES = st.lists(
    st.tuples(
        st.integers(0, 20),
        st.integers(1, 10**15),
        st.integers(1, 10**15),
    ),
    min_size=1,
    max_size=30,
)


def _bar(builder: BarBuilder, digits: int = DIGITS) -> Bar:
    return builder.bar(
        "AAA", "5m", 300_000, 600_000, digits=digits, prev_open_time=0, complete=True
    )


def _built(trades: list[tuple[int, int, int, int | None]]) -> BarBuilder:
    """Of (time, price, qty, id), arriving in that order at offsets from 10."""
    builder = BarBuilder(10, 5)
    for offset, (time, price, qty, trade_id) in enumerate(trades, 10):
        builder.add(offset, time, price, qty, trade_id)
    return builder


@given(TRADES, st.randoms(use_true_random=False))
def test_any_order_gives_the_bar_of_the_sorted_trades(
    trades: list[tuple[int, int, int]], rng: random.Random
) -> None:
    numbered = [(t, p, q, i) for i, (t, p, q) in enumerate(trades)]
    ordered = sorted(numbered, key=lambda trade: (trade[0], trade[3]))
    rng.shuffle(numbered)
    bar = _bar(_built(numbered))
    prices = [Fraction(p, SCALE) for _, p, _, _ in ordered]
    volumes = [Fraction(q, SCALE) for _, _, q, _ in ordered]
    assert (bar.open, bar.close) == (float(prices[0]), float(prices[-1]))
    assert (bar.high, bar.low) == (float(max(prices)), float(min(prices)))
    assert bar.volume == float(sum(volumes))
    assert bar.amount == float(sum(p * q for p, q in zip(prices, volumes, strict=True)))
    assert bar.trades == len(trades)
    assert (bar.first_trade_id, bar.last_trade_id) == (0, len(trades) - 1)


@given(TRADES)
def test_without_ids_ties_of_time_go_by_the_logs_offset(
    trades: list[tuple[int, int, int]],
) -> None:
    bar = _bar(_built([(t, p, q, None) for t, p, q in trades]))
    in_order = sorted(trades, key=lambda trade: trade[0])
    assert bar.open == in_order[0][1] / SCALE
    assert bar.close == in_order[-1][1] / SCALE
    assert (bar.first_trade_id, bar.last_trade_id) == (None, None)


def test_the_id_decides_within_one_millisecond() -> None:
    bar = _bar(_built([(7, 3 * SCALE, 1, 12), (7, 1 * SCALE, 1, 10), (7, 2 * SCALE, 1, 11)]))
    assert (bar.open, bar.close) == (1.0, 3.0)


def test_the_time_goes_before_the_id() -> None:
    bar = _bar(_built([(8, 1 * SCALE, 1, 1), (7, 2 * SCALE, 1, 2)]))
    assert (bar.open, bar.close) == (2.0, 1.0)


def test_a_thousand_tenths_are_a_whole_sum() -> None:
    builder = _built([(i, SCALE // 10, SCALE // 10, i) for i in range(1_000)])
    assert (_bar(builder).volume, _bar(builder).amount) == (100.0, 10.0)


def test_figures_are_the_nearest_doubles() -> None:
    # 2^53 + 1 in units of 1e-8, and a product that no double holds.
    price, qty = 2**53 + 1, 3
    bar = _bar(_built([(0, price, qty, 0)]))
    assert bar.close == float(Fraction(price, SCALE))
    assert bar.amount == float(Fraction(price * qty, SCALE**2))


@pytest.mark.parametrize("digits", [0, 2, 18])
def test_the_scale_is_the_symbols(digits: int) -> None:
    bar = _bar(_built([(0, 5 * 10**digits, 3 * 10**digits, 0)]), digits)
    assert (bar.close, bar.volume, bar.amount) == (5.0, 3.0, 15.0)


@pytest.mark.parametrize(
    ("ids", "previous", "hole"),
    [
        ([4, 3, 5], None, False),
        ([4, 3, 5], 2, False),
        ([3, 5], None, True),
        ([3, 4], 1, True),
        ([3, 4], 3, True),
        ([None, None], 1, False),
    ],
)
def test_a_hole_is_an_id_that_is_missing_within_or_before(
    ids: list[int | None], previous: int | None, hole: bool
) -> None:
    assert _built([(0, 1, 1, i) for i in ids]).has_hole(previous) is hole


def test_the_rest_is_as_told() -> None:
    builder = BarBuilder(10, 5)
    builder.add(10, 1, SCALE, SCALE, None)
    bar = builder.bar("AAA", "5m", 0, 300_000, digits=8, prev_open_time=None, complete=False)
    assert (builder.first_offset, builder.watermark_before) == (10, 5)
    assert (bar.symbol, bar.interval, bar.open_time, bar.close_time) == ("AAA", "5m", 0, 300_000)
    assert (bar.prev_open_time, bar.complete, bar.synthetic, bar.flat_run) == (
        None,
        False,
        False,
        0,
    )
