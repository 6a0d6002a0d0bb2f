"""What `run` shows: a live table on a terminal, plain lines elsewhere."""

import io
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Final, TextIO

from rich.console import Console as RichConsole
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .settings import Settings
from .summary import band, bar_line, forecast_line, price, skipped_line
from .wire.messages import Bar, Forecast, Skipped

REFRESH_S: Final = 0.25
REMEMBERED: Final = 500
"""Latencies of a symbol from which the percentiles are taken."""


class _Row:
    """What is known of one symbol."""

    def __init__(self) -> None:
        self.last_close = math.nan
        self.forecast: Forecast | None = None
        self.latencies_ms: deque[float] = deque(maxlen=REMEMBERED)
        self.bars = 0
        self.forecasts = 0
        self.late = 0
        self.skipped = 0


class Console:
    """The console of one run; all calls come from the event loop's thread."""

    def __init__(
        self,
        settings: Settings,
        out: TextIO,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        terminal: bool | None = None,
        width: int | None = None,
    ) -> None:
        """`terminal` and `width` override what `out` is found to be."""
        if isinstance(out, io.TextIOWrapper):
            # A terminal of another encoding shows ? where it has no sign of ours.
            out.reconfigure(errors="replace")
        self._out = out
        self._monotonic = monotonic
        self._interval = settings.bars.interval
        self._prefix = settings.kafka.topic_prefix
        self._terminal = out.isatty() if terminal is None else terminal
        self._rich = RichConsole(file=out, force_terminal=self._terminal, width=width)
        self._live: Live | None = None
        self._shown_at = -math.inf
        self._rows: dict[str, _Row] = {}
        if settings.symbols != "all":
            self._rows = {symbol: _Row() for symbol in settings.symbols}
        self._closed = False

    def banner(self, bootstrap: str, embedded: bool) -> None:
        """Where the broker is (the first HOST:PORT of the output) and how to subscribe."""
        where = "embedded broker" if embedded else "broker"
        options = f"--kafka {bootstrap}"
        if self._prefix != "kronos":
            options += f" --topic-prefix {self._prefix}"
        if self._interval != "5m":
            options += f" --interval {self._interval}"
        self._say(f"{where} {bootstrap}")
        self._say(f"subscribe with: kronos-stream subscribe {options} --from-beginning")
        if embedded:
            self._say("the embedded broker and store forget everything at exit")

    def start(self) -> None:
        """Begin the live table, where there is a terminal."""
        if self._terminal and not self._closed:
            # Refreshed by us alone: a thread of rich's would draw while the loop changes rows.
            self._live = Live(
                self._table(),
                console=self._rich,
                auto_refresh=False,
                redirect_stderr=sys.stderr.isatty(),
            )
            self._live.start(refresh=True)

    def stop(self) -> None:
        """Leave the last table on the screen, and say what was done."""
        if self._live is not None:
            live, self._live = self._live, None
            try:
                live.update(self._table(), refresh=True)
                live.stop()
            except OSError:
                self._leave()
        rows = self._rows.values()
        self._say(
            f"stopped after {sum(r.bars for r in rows)} bars, "
            f"{sum(r.forecasts for r in rows)} forecasts, "
            f"{sum(r.late for r in rows)} late ticks, {sum(r.skipped for r in rows)} skipped"
        )

    def on_bar(self, bar: Bar) -> None:
        """A bar was closed."""
        row = self._row(bar.symbol)
        row.last_close = bar.close
        row.bars += 1
        self._show(lambda: bar_line(bar))

    def on_forecast(self, forecast: Forecast, latency_ms: float) -> None:
        """A forecast was acknowledged, `latency_ms` after its bar was read."""
        row = self._row(forecast.symbol)
        row.forecast = forecast
        if math.isnan(row.last_close):
            row.last_close = forecast.last_close
        row.forecasts += 1
        row.latencies_ms.append(latency_ms)
        self._show(lambda: f"{forecast_line(forecast)}  {latency_ms:.0f} ms")

    def on_late(self, symbol: str) -> None:
        """A tick came after its bar was closed."""
        self._row(symbol).late += 1
        self._show(None)

    def on_skipped(self, skipped: Skipped) -> None:
        """A due forecast was not made."""
        self._row(skipped.symbol).skipped += 1
        self._show(lambda: skipped_line(skipped))

    def _row(self, symbol: str) -> _Row:
        return self._rows.setdefault(symbol, _Row())

    def _show(self, line: Callable[[], str] | None) -> None:
        if not self._terminal:
            if line is not None:
                self._say(line())
            return
        if self._live is None or self._monotonic() - self._shown_at < REFRESH_S:
            return
        self._shown_at = self._monotonic()
        try:
            self._live.update(self._table(), refresh=True)
        except OSError:
            self._leave()

    def _say(self, line: str) -> None:
        """One line, flushed at once: whoever started us waits for the address."""
        if self._closed:
            return
        try:
            self._out.write(line + "\n")
            self._out.flush()
        except OSError:
            self._leave()

    def _leave(self) -> None:
        """Whoever read us has left, or has no room: the run goes on, its output are the topics."""
        self._closed = True
        self._live = None
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())

    def _table(self) -> Table:
        forecasts = [r.forecast for r in self._rows.values() if r.forecast is not None]
        steps = len(forecasts[0].step_open_times) if forecasts else 0
        share = band(forecasts[0]).share if forecasts else 0.8
        # Without borders and with two-line heads, six-digit prices fit into 80 columns.
        table = Table(
            title=f"median and {share:.0%} band of the close in {steps or '…'} bars",
            box=None,
            padding=(0, 1, 0, 0),
        )
        table.add_column("\nsymbol", no_wrap=True)
        for name in ("last\nclose", "\nmedian", f"{share:.0%}\nband", "\nP(up)"):
            table.add_column(name, justify="right", no_wrap=True)
        for name in ("p50\nms", "p99\nms", "\nbars", "late\nticks", "\nskipped"):
            table.add_column(name, justify="right", no_wrap=True)
        for symbol, row in self._rows.items():
            table.add_row(Text(symbol), *_cells(row))
        return table


def _cells(row: _Row) -> list[str]:
    median = spread = p_up = "…"
    if row.forecast is not None:
        at_end = band(row.forecast)
        median, p_up = price(at_end.median), f"{row.forecast.p_up[-1]:.0%}"
        spread = f"{price(at_end.low)}–{price(at_end.high)}"
    last = "…" if math.isnan(row.last_close) else price(row.last_close)
    known = row.latencies_ms
    latency = [f"{percentile(known, share):.0f}" if known else "…" for share in (0.5, 0.99)]
    counts = [str(n) for n in (row.bars, row.late, row.skipped)]
    return [last, median, spread, p_up, *latency, *counts]


def percentile(values: deque[float], share: float) -> float:
    """The smallest value that `share` of them do not exceed; NaN of none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
