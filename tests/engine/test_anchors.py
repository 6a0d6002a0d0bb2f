"""The anchor rule against a plain reading of it, and the anchors that give no scale."""

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray

from kronos_stream.engine.anchors import (
    TINY_STD,
    NoAnchorError,
    Span,
    anchor_of,
    epoch_of,
    next_prefix,
    span_of,
)
from kronos_stream.engine.spec import bars_needed
from kronos_stream.model.features import scale_of

from ..model.peer import bars
from .requests import INTERVAL_MS, START_MS, spec

SYMBOLS = ["BTCUSDT", "ETHUSDT", "600519.SH"]
LOOKBACK = 24
PERIODS = [1, 4, 16]


def times(n: int, missing: tuple[int, ...] = ()) -> NDArray[np.int64]:
    every = START_MS + INTERVAL_MS * np.arange(n, dtype=np.int64)
    return np.delete(every, missing)


def offset_of(symbol: str) -> int:
    """The first 63 bits of blake2b over the symbol in a JSON array."""
    hashed = hashlib.blake2b(f'["{symbol}"]'.encode(), digest_size=8).digest()
    return int.from_bytes(hashed, "big") >> 1


def epoch(symbol: str, open_time: int, k: int) -> int:
    return (open_time // INTERVAL_MS + offset_of(symbol)) // k


def context_of(
    symbol: str, open_times: NDArray[np.int64], k: int
) -> tuple[list[int], list[int]] | None:
    """Open times of the anchor and of the epoch's bars, from the sentence: the anchor is the
    lookback before the first bar of the last bar's epoch."""
    rows = open_times.tolist()
    current = epoch(symbol, rows[-1], k)
    in_epoch = [t for t in rows if epoch(symbol, t, k) == current]
    before = rows[: -len(in_epoch)]
    return (before[-LOOKBACK:], in_epoch) if len(before) >= LOOKBACK else None


@pytest.mark.parametrize("k", PERIODS)
@pytest.mark.parametrize("symbol", SYMBOLS)
def test_an_epoch_is_a_floor_of_interval_number_plus_offset(symbol: str, k: int) -> None:
    found = [epoch_of(symbol, int(t), INTERVAL_MS, k) for t in times(64)]
    assert found == [epoch(symbol, int(t), k) for t in times(64)]
    lengths = np.unique(found, return_counts=True)[1]
    assert (lengths[1:-1] == k).all()


def test_epochs_of_symbols_begin_at_different_bars() -> None:
    """Anchors are renewed evenly over time, not for all symbols at one close."""
    first = START_MS // INTERVAL_MS
    beginning = [0] * 16
    for i in range(1_600):
        epochs = [epoch_of(f"SYMBOL{i}", first + row, 1, 16) for row in range(17)]
        beginning[next(row for row in range(16) if epochs[row] != epochs[row + 1])] += 1
    # Binomial: 100 expected, standard deviation 9.7.
    assert 60 < min(beginning) <= max(beginning) < 140


@pytest.mark.parametrize("missing", [(), (50, 51, 57, 70)], ids=["whole", "gaps"])
@pytest.mark.parametrize("k", PERIODS)
@pytest.mark.parametrize("symbol", SYMBOLS)
def test_the_anchor_is_the_lookback_before_the_epoch(
    symbol: str, k: int, missing: tuple[int, ...]
) -> None:
    every = times(90, missing)
    for n in range(1, len(every) + 1):
        seen = every[:n]
        span = span_of(symbol, seen, INTERVAL_MS, spec(anchor_every=k))
        expected = context_of(symbol, seen, k)
        if span is None:
            assert expected is None
            continue
        anchor, in_epoch = expected or ([], [])
        assert seen[span.start : span.split].tolist() == anchor
        assert seen[span.split : span.end].tolist() == in_epoch
        assert 1 <= len(in_epoch) <= k
        assert span.end == n


def test_by_default_the_anchor_is_what_precedes_the_bar() -> None:
    settings = spec(anchor_every=1)
    assert span_of("A", times(LOOKBACK), INTERVAL_MS, settings) is None
    assert span_of("A", times(LOOKBACK + 1), INTERVAL_MS, settings) == Span(0, LOOKBACK, 25)
    assert span_of("A", times(60), INTERVAL_MS, settings) == Span(35, 59, 60)


def test_0_is_upstreams_rule_the_bar_is_in_its_own_anchor() -> None:
    settings = spec(anchor_every=0)
    assert span_of("A", times(LOOKBACK - 1), INTERVAL_MS, settings) is None
    span = span_of("A", times(60), INTERVAL_MS, settings)
    assert span == Span(36, 59, 60)
    assert span.end - span.start == LOOKBACK
    assert next_prefix("A", times(60), int(times(61)[-1]), INTERVAL_MS, settings) is None


@pytest.mark.parametrize("k", [0, *PERIODS])
def test_the_bars_needed_are_enough_and_more_change_nothing(k: int) -> None:
    settings = spec(anchor_every=k)
    every = times(120)
    for n in range(bars_needed(settings), len(every) + 1):
        least = every[n - bars_needed(settings) : n]
        short = span_of("BTCUSDT", least, INTERVAL_MS, settings)
        whole = span_of("BTCUSDT", every[:n], INTERVAL_MS, settings)
        assert short is not None
        assert whole is not None
        assert least[short.start : short.end].tolist() == every[whole.start : whole.end].tolist()
        assert short.end - short.split == whole.end - whole.split


@pytest.mark.parametrize("missing", [(), (50, 51, 57, 70)], ids=["whole", "gaps"])
@pytest.mark.parametrize("k", PERIODS)
def test_what_is_prepared_is_what_the_next_bar_uses(k: int, missing: tuple[int, ...]) -> None:
    settings = spec(anchor_every=k)
    every = times(90, missing)
    prepared = 0
    for n in range(1, len(every)):
        prefix = next_prefix("BTCUSDT", every[:n], int(every[n]), INTERVAL_MS, settings)
        span = span_of("BTCUSDT", every[: n + 1], INTERVAL_MS, settings)
        if span is None:
            assert prefix is None
            continue
        assert prefix == Span(span.start, span.split, n)
        prepared += 1
    assert prepared > 40


def test_the_scale_is_of_the_anchor() -> None:
    values = bars(LOOKBACK)
    ours, plain = anchor_of(values, spec()), scale_of(values)
    for mine, theirs in zip(ours, plain, strict=True):
        assert (mine == theirs).all()


def reason_of(values: NDArray[np.float64], tiny_prices: str = "skip") -> str:
    with pytest.raises(NoAnchorError) as caught:
        anchor_of(values, spec(tiny_prices=tiny_prices))
    return caught.value.reason


@pytest.mark.parametrize("tiny_prices", ["skip", "scale"])
@pytest.mark.parametrize("channel", range(4))
@pytest.mark.parametrize("price", [100.0, 0.1, 1e-9])
def test_a_flat_price_channel_gives_no_scale(price: float, channel: int, tiny_prices: str) -> None:
    values = bars(LOOKBACK)
    values[:, channel] = price
    assert reason_of(values, tiny_prices) == "flat_anchor"


def test_flat_volume_is_a_scale() -> None:
    values = bars(LOOKBACK)
    values[:, 4:] = 0.0
    assert (anchor_of(values, spec()).normalise(values)[:, 4:] == 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_give_no_scale(value: float) -> None:
    values = bars(LOOKBACK)
    values[3, 5] = value
    assert reason_of(values) == "non_finite_values"


@pytest.mark.parametrize("channel", range(4))
def test_one_tiny_price_channel_is_enough(channel: int) -> None:
    values = bars(LOOKBACK)
    spread = values[:, channel] - values[:, channel].mean()
    narrow = 100.0 + spread / spread.std() * TINY_STD
    values[:, channel] = 100.0 + (narrow - 100.0) * 0.99
    assert reason_of(values) == "tiny_prices"
    values[:, channel] = 100.0 + (narrow - 100.0) * 1.01
    assert (anchor_of(values, spec()).floor == 1e-5).all()


@pytest.mark.parametrize("power", [5, 6, 9])
def test_scaled_tiny_prices_are_normalised_as_prices_times_a_power_of_ten(power: int) -> None:
    tiny = bars(LOOKBACK)
    tiny[:, :4] *= 10.0**-power
    least = tiny[:, :4].std(0).min()
    assert least < TINY_STD
    scale = anchor_of(tiny, spec(tiny_prices="scale"))
    n = round(np.log10(1e-5 / scale.floor[0]))
    assert 1e-2 <= least * 10.0**n < 1e-1
    assert (scale.floor[4:] == 1e-5).all()
    large = tiny.copy()
    large[:, :4] *= 10.0**n
    np.testing.assert_allclose(scale.normalise(tiny), scale_of(large).normalise(large), atol=1e-5)
    np.testing.assert_allclose(scale.restore(scale.normalise(tiny)), tiny, rtol=1e-5)


def test_scaling_leaves_prices_that_are_not_tiny() -> None:
    values = bars(LOOKBACK)
    assert (anchor_of(values, spec(tiny_prices="scale")).floor == 1e-5).all()
