"""Contexts of synthetic K-lines: spread over symbols and over the time of each."""

from collections import Counter

import pytest

from kronos_stream.errors import InputError
from kronos_stream.evaluation.origins import Origin, spread
from kronos_stream.evaluation.series import Series

from .samples import CALENDAR, series_of

CONTEXT = 25


def spread_over(count: int, *series: Series) -> list[Origin]:
    return spread(series, CALENDAR, context=CONTEXT, horizon=0, count=count)


def with_contexts(name: str, contexts: int, **options: int) -> Series:
    return series_of(name, contexts + CONTEXT - 1, **options)


def counts_of(origins: list[Origin], symbols: int) -> list[int]:
    return [sum(origin.series == n for origin in origins) for n in range(symbols)]


def test_every_quarter_of_the_time_has_as_many_of_each_symbol() -> None:
    pair = with_contexts("AAA", 1_000), with_contexts("BBB", 1_000)
    chosen = spread_over(100, *pair)
    quarters = Counter((origin.series, origin.time // 250) for origin in chosen)
    assert sorted(quarters) == [(symbol, quarter) for symbol in (0, 1) for quarter in range(4)]
    assert max(quarters.values()) - min(quarters.values()) <= 1
    assert [origin.time for origin in chosen] == sorted(origin.time for origin in chosen)
    assert all(o.row == o.time + CONTEXT - 1 for o in chosen)


@pytest.mark.parametrize(
    ("sizes", "count", "shares"),
    [
        ((50, 50), 5, [3, 2]),
        ((50, 50, 50), 2, [1, 1, 0]),
        ((50, 3), 20, [17, 3]),
        ((4, 3), 20, [4, 3]),
        ((1, 900), 1, [1, 0]),
    ],
)
def test_what_a_symbol_lacks_is_the_others(
    sizes: tuple[int, ...], count: int, shares: list[int]
) -> None:
    chosen = spread_over(count, *(with_contexts(f"S{n}", size) for n, size in enumerate(sizes)))
    assert counts_of(chosen, len(sizes)) == shares
    assert len(set(chosen)) == len(chosen)


def test_a_young_and_a_sparse_symbol_give_all_that_they_have() -> None:
    old = with_contexts("OLD", 9_976)
    young = with_contexts("NEW", 176, first=9_800)
    gaps = tuple(i for i in range(10_000) if i % 1_000 >= 40)
    sparse = series_of("GAPS", 10_000, without=gaps)
    assert counts_of(spread_over(400, old, young), 2) == [224, 176]
    assert counts_of(spread_over(900, old, young, sparse), 3) == [564, 176, 160]


def test_no_context_at_all_is_told() -> None:
    with pytest.raises(InputError, match=r"expected 25 bars of 5m without a gap .* found none"):
        spread_over(5, series_of("AAA", 100, without=tuple(range(0, 100, 10))))


def test_what_does_not_fit_is_passed_over_within_its_symbol() -> None:
    pair = with_contexts("AAA", 400), with_contexts("BBB", 400)

    def fits(number: int, row: int) -> bool:
        return number == 1 or row >= 200 + CONTEXT - 1

    def chosen(count: int) -> list[Origin]:
        return spread(pair, CALENDAR, context=CONTEXT, horizon=0, count=count, fits=fits)

    assert counts_of(chosen(100), 2) == [50, 50]
    assert all(fits(o.series, o.row) for o in chosen(100))
    assert counts_of(chosen(550), 2) == [200, 350]
    assert counts_of(chosen(9_999), 2) == [200, 400]


def test_what_a_poor_symbol_lacks_goes_to_poorer_ones_too() -> None:
    three = [with_contexts(name, size) for name, size in (("A", 10), ("B", 20), ("C", 100))]
    chosen = spread(
        three,
        CALENDAR,
        context=CONTEXT,
        horizon=0,
        count=12,
        fits=lambda number, row: number != 1 or row < CONTEXT + 1,
    )
    assert counts_of(chosen, 3) == [5, 2, 5]
