"""Contexts of synthetic K-lines: spread over symbols and over the time of each."""

from collections import Counter

import pytest

from kronos_stream.evaluation.origins import Origin
from kronos_stream.evaluation.synthetic import _spread


def origins_of(*sizes: int) -> list[Origin]:
    """So many of each symbol at the first times, all symbols of a time together."""
    origins = [Origin(n, time, time) for n, size in enumerate(sizes) for time in range(size)]
    return sorted(origins, key=lambda origin: (origin.time, origin.series))


def test_every_quarter_of_the_time_has_as_many_of_each_symbol() -> None:
    chosen = _spread(origins_of(100, 100), 100)
    quarters = Counter((origin.series, origin.time // 25) for origin in chosen)
    assert sorted(quarters) == [(symbol, quarter) for symbol in (0, 1) for quarter in range(4)]
    assert max(quarters.values()) - min(quarters.values()) <= 1
    assert [origin.time for origin in chosen] == sorted(origin.time for origin in chosen)


@pytest.mark.parametrize(
    ("sizes", "count", "shares"),
    [
        ((50, 50), 5, [3, 2]),
        ((50, 50, 50), 2, [1, 1, 0]),
        ((50, 3), 20, [17, 3]),
        ((4, 3), 20, [4, 3]),
    ],
)
def test_what_a_symbol_lacks_is_the_others(
    sizes: tuple[int, ...], count: int, shares: list[int]
) -> None:
    chosen = _spread(origins_of(*sizes), count)
    assert [sum(o.series == n for o in chosen) for n in range(len(sizes))] == shares
    assert len(set(chosen)) == len(chosen)
