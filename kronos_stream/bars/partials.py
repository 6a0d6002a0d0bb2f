"""Parts of bars from sorted columns: what the trades of each group add to its bar."""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_LIMB_BITS: Final = 21
"""Products of two limbs have 42 bits, so 2^21 of them add up within 63."""
_LIMB: Final = (1 << _LIMB_BITS) - 1
MAX_ROWS: Final = 1 << _LIMB_BITS
_NO_ID: Final = np.iinfo(np.int64).max


class Partial(NamedTuple):
    """Integers of the symbol's scale; the keys are (trade time, trade id or log offset)."""

    trades: int
    high: int
    low: int
    volume: int
    amount: int
    open: int
    open_key: tuple[int, int]
    close: int
    close_key: tuple[int, int]
    first_id: int | None
    last_id: int | None


def partials(
    price: Ints, qty: Ints, time: Ints, key: Ints, has_id: NDArray[np.bool_], starts: Ints
) -> Iterator[Partial]:
    """One a group: the rows from one of `starts` to the next, at least one each, in the order of
    the log. `key` is the trade id of the rows that have one. At most MAX_ROWS rows."""
    counts = np.diff(starts, append=len(price))
    first = _ends(time, key, starts, counts, price)
    # The last of equal keys counts as the later: reversed, it is the first.
    back = len(price) - np.append(starts[1:], len(price))[::-1]
    last = _ends(-time[::-1], -key[::-1], back, counts[::-1], price[::-1])
    closes = zip(*(column[::-1].tolist() for column in last), strict=True)
    opens = zip(*(column.tolist() for column in first), strict=True)
    amounts = _sums_of_products(price, qty, starts)
    volumes = _sums_of_products(np.ones_like(qty), qty, starts)
    highs = np.maximum.reduceat(price, starts).tolist()
    lows = np.minimum.reduceat(price, starts).tolist()
    first_ids = np.minimum.reduceat(np.where(has_id, key, _NO_ID), starts).tolist()
    last_ids = (-np.minimum.reduceat(np.where(has_id, -key, _NO_ID), starts)).tolist()
    rows = zip(
        *(counts.tolist(), highs, lows, volumes, amounts, opens, closes, first_ids, last_ids),
        strict=True,
    )
    for trades, high, low, volume, amount, (t0, k0, open_), (t1, k1, close), least, most in rows:
        yield Partial(
            *(trades, high, low, volume, amount),
            *(open_, (t0, k0), close, (-t1, -k1)),
            None if least == _NO_ID else least,
            None if most == -_NO_ID else most,
        )


def _ends(time: Ints, key: Ints, starts: Ints, counts: Ints, price: Ints) -> tuple[Ints, ...]:
    """Time, key and price of each group's least (time, key), the first of equal ones."""
    least = np.minimum.reduceat(time, starts)
    earliest = np.flatnonzero(time == np.repeat(least, counts))
    group = np.repeat(np.arange(len(starts)), counts)[earliest]
    order = np.lexsort((key[earliest], group))
    chosen = earliest[order[np.unique(group, return_index=True)[1]]]
    return least, key[chosen], price[chosen]


def _limbs(values: Ints) -> Iterator[tuple[int, Ints]]:
    for place in range(0, 63, _LIMB_BITS):
        limb = values >> place & _LIMB
        if limb.any():
            yield place, limb


def _sums_of_products(left: Ints, right: Ints, starts: Ints) -> list[int]:
    """Exact, of numbers below 2^63."""
    sums = [0] * len(starts)
    rights = list(_limbs(right))
    for place, a in _limbs(left):
        for other, b in rights:
            parts = np.add.reduceat(a * b, starts).tolist()
            sums = [s + (part << place + other) for s, part in zip(sums, parts, strict=True)]
    return sums
