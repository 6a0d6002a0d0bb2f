"""The console: plain lines to a file, a table on a terminal."""

import io
import os

import msgspec
import pytest

from kronos_stream.console import Console
from kronos_stream.settings import Settings
from kronos_stream.summary import band, price
from kronos_stream.wire.messages import Skipped

from .samples import bar, forecast

SETTINGS = msgspec.convert({"symbols": ["BTCUSDT", "ETHUSDT"]}, Settings)
SKIPPED = Skipped(
    id="0", symbol="ETHUSDT", interval="5m", open_time=bar().open_time, reason="flat_anchor"
)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def plain(settings: Settings = SETTINGS) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(settings, out, terminal=False), out


def table(settings: Settings = SETTINGS) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(settings, out, terminal=True, width=80, monotonic=Clock()), out


def test_the_address_is_the_first_of_the_output() -> None:
    console, out = plain()
    console.banner("127.0.0.1:4242", embedded=True)
    first, second, third = out.getvalue().splitlines()
    assert first == "embedded broker 127.0.0.1:4242"
    assert "kronos-stream subscribe --kafka 127.0.0.1:4242" in second
    assert "forget everything at exit" in third


def test_the_command_to_subscribe_names_what_is_not_the_default() -> None:
    given = {"kafka": {"topic_prefix": "mine"}, "bars": {"interval": "1m"}}
    console, out = plain(msgspec.convert(given, Settings))
    console.banner("h:1", embedded=False)
    assert "--kafka h:1 --topic-prefix mine --interval 1m" in out.getvalue()
    assert "forget" not in out.getvalue()


def test_plain_output_is_one_line_an_event() -> None:
    console, out = plain()
    console.start()
    console.on_bar(bar())
    console.on_bar(bar("ETHUSDT", synthetic=True, trades=0))
    console.on_forecast(forecast(), 41.6)
    console.on_late("BTCUSDT")
    console.on_skipped(SKIPPED)
    console.stop()
    assert out.getvalue().splitlines() == [
        "2025-01-01 00:05  BTCUSDT  bar closed at 93,412.1, 290 trades",
        "2025-01-01 00:05  ETHUSDT  bar closed at 93,412.1, no trades",
        "2025-01-01 00:05  BTCUSDT  close 93,412.1  in 3 bars: median 93,412.1 (+0.00 %)  "
        "80% band 93,300.0 to 93,524.2  P(up) 60%  42 ms",
        "2025-01-01 00:05  ETHUSDT  no forecast (flat_anchor)",
        "stopped after 2 bars, 1 forecasts, 1 late ticks, 1 skipped",
    ]


def test_the_table_shows_every_symbol_from_the_beginning() -> None:
    console, out = table()
    console.start()
    shown = out.getvalue()
    assert "BTCUSDT" in shown
    assert "ETHUSDT" in shown
    console.stop()


def test_the_table_holds_the_figures_of_each_symbol() -> None:
    console, out = table()
    console.start()
    console.on_bar(bar())
    for latency_ms in (10.0, 20.0, 30.0, 40.0):
        console.on_forecast(forecast(), latency_ms)
    console.on_late("BTCUSDT")
    console.on_skipped(SKIPPED)
    console.stop()
    last = out.getvalue().split("median and 80% band of the close in 3 bars")[-1]
    assert last.endswith("stopped after 1 bars, 4 forecasts, 1 late ticks, 1 skipped\n")
    row = next(line for line in last.splitlines() if "BTCUSDT" in line)
    assert row.split() == [
        "BTCUSDT", "93,412.1", "93,412.1", "93,300.0–93,524.2", "60%", "20", "40",
        "1", "1", "0",
    ]  # fmt: skip
    other = next(line for line in last.splitlines() if "ETHUSDT" in line)
    assert other.split() == ["ETHUSDT", "…", "…", "…", "…", "…", "…", "0", "0", "1"]
    assert max(len(row), len(other)) <= 80


def test_a_symbol_that_was_not_listed_gets_a_row() -> None:
    console, out = table(msgspec.convert({"symbols": "all"}, Settings))
    console.start()
    console.on_bar(bar("NEWUSDT"))
    console.stop()
    assert "NEWUSDT" in out.getvalue()


def test_the_last_close_is_that_of_the_newest_bar() -> None:
    console, out = table()
    console.start()
    console.on_bar(bar(close=95_000.0))
    console.on_forecast(forecast(), 10.0)
    console.stop()
    assert "95,000.0" in out.getvalue().rsplit("close", 1)[1]


def test_a_terminal_of_another_encoding_does_not_end_the_run() -> None:
    out = io.TextIOWrapper(io.BytesIO(), "latin-1")
    console = Console(SETTINGS, out, terminal=True, width=80, monotonic=Clock())
    console.start()
    console.on_bar(bar())
    console.stop()


@pytest.mark.parametrize("symbol", ["[/x]", "[red]ETH", "[BTC]"])
def test_a_symbol_is_no_markup(symbol: str) -> None:
    console, out = table(msgspec.convert({"symbols": "all"}, Settings))
    console.start()
    console.on_bar(bar(symbol))
    console.stop()
    assert symbol in out.getvalue()


def test_a_reader_that_leaves_does_not_end_the_run() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as out:
        console = Console(SETTINGS, out, terminal=False)
        console.banner("h:1", embedded=True)
        console.on_bar(bar())
        console.stop()


@pytest.mark.parametrize(
    ("value", "shown"),
    [(93412.1, "93,412.1"), (1.2345, "1.23450"), (0.0000123, "0.0000123000"), (0, "0")],
)
def test_prices_have_six_digits(value: float, shown: str) -> None:
    assert price(value) == shown


def test_the_band_is_named_by_the_levels_that_there_are() -> None:
    made = msgspec.structs.replace(
        forecast(),
        quantile_levels=[0.25, 0.5, 0.75],
        quantiles={"close": [[1.0, 2.0, 3.0]] * 3},
    )
    assert band(made) == (1.0, 2.0, 3.0, 0.5)
