"""Trades summed up by group and merged are the trades added one by one."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kronos_stream.bars.builder import BarBuilder
from kronos_stream.bars.partials import partials
from kronos_stream.bars.symbols import SymbolState

SIZES = st.one_of(st.integers(1, 3), st.integers(1, 2**63 - 1))
TRADES = st.lists(
    st.tuples(st.integers(0, 2), SIZES, SIZES, st.none() | st.integers(-3, 6)),
    min_size=1,
    max_size=12,
)


def _built(builder: BarBuilder) -> dict[str, object]:
    return {slot: getattr(builder, slot) for slot in builder.__slots__ if slot != "ids"}


@settings(max_examples=300, deadline=None)
@given(st.lists(TRADES, min_size=1, max_size=4), TRADES)
def test_of_several_groups(groups: list[list], later: list) -> None:
    rows = [trade for group in groups for trade in group]
    time, price, qty = (np.array([row[i] for row in rows], np.int64) for i in range(3))
    has_id = np.array([row[3] is not None for row in rows])
    offsets = np.arange(len(rows))
    key = np.where(has_id, [row[3] or 0 for row in rows], offsets)
    starts = np.cumsum([0, *map(len, groups[:-1])])
    parts = list(partials(price, qty, time, key, has_id, starts))
    assert len(parts) == len(groups)
    for start, group, part in zip(starts.tolist(), groups, parts, strict=True):
        one, many = BarBuilder(0, None), BarBuilder(0, None)
        for offset, trade in enumerate(group, start):
            one.add(offset, *trade)
        many.merge(part)
        for builder in (one, many):
            for offset, trade in enumerate(later, len(rows)):
                builder.add(offset, *trade)
        assert _built(many) == _built(one)
        one.merge(part), many.merge(part)
        assert _built(many) == _built(one)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), min_size=1, max_size=12))
def test_ids_that_begin_anew_are_counted_alike(trades: list[tuple[int, int]]) -> None:
    one, many = SymbolState("AAA", None, None), SymbolState("AAA", None, None)
    half = len(trades) // 2
    counted = sum(one.follow_id(trade_id, time, 10) for trade_id, time in trades)
    found = 0
    for part in (trades[:half], trades[half:]):
        if part:
            ids, times = np.array(part, np.int64).T
            found += many.follow_ids(ids, times, 10)
    assert found == counted
    assert (many.highest_id, many.highest_time) == (one.highest_id, one.highest_time)
