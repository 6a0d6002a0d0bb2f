"""The market model has the facts that real markets have, and is a function of its seed."""

import numpy as np

from kronos_stream.feeds.market import SymbolMarket, activity


def returns(minutes: int, seed: int = 1) -> np.ndarray:
    market = SymbolMarket.of("BTCUSDT", seed, 5.0)
    prices = []
    for minute in range(minutes):
        market.minute(minute)
        prices.append(market.price)
    return np.diff(np.log(prices))


def test_volatility_clusters_and_tails_are_heavy() -> None:
    r = returns(6_000)
    z = np.abs(r - r.mean())
    lag = np.corrcoef(z[1:], z[:-1])[0, 1]
    assert lag > 0.05
    assert abs(np.corrcoef(r[1:], r[:-1])[0, 1]) < 0.1
    assert np.mean((r - r.mean()) ** 4) / r.var() ** 2 > 4


def test_activity_follows_the_day() -> None:
    day = np.array([activity(minute) for minute in range(1_440)])
    assert day.argmin() == 180
    assert day.argmax() == 900
    assert abs(day.mean() - 1) < 0.01


def test_symbols_differ_in_busyness_and_price() -> None:
    markets = [SymbolMarket.of(f"SYM{i}", 7, 60.0) for i in range(20)]
    rates = [m.ticks_per_minute for m in markets]
    assert max(rates) > 3 * min(rates)
    assert len({m.price for m in markets}) == 20


def test_a_minute_is_a_function_of_seed_symbol_and_minute() -> None:
    one, two = (SymbolMarket.of("ETHUSDT", 3, 60.0) for _ in range(2))
    for minute in (5, 6):
        a, b = one.minute(minute), two.minute(minute)
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    other = SymbolMarket.of("ETHUSDT", 4, 60.0).minute(5)
    assert not np.array_equal(other.times, SymbolMarket.of("ETHUSDT", 3, 60.0).minute(5).times)


def test_trades_are_in_order_and_positive() -> None:
    made = SymbolMarket.of("DOGEUSDT", 3, 200.0).minute(29_000_000)
    assert (np.diff(made.times) >= 0).all()
    assert made.times.min() >= 29_000_000 * 60_000
    assert made.times.max() < 29_000_001 * 60_000
    assert (made.prices > 0).all()
    assert (made.qtys > 0).all()
