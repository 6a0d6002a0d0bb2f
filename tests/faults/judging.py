"""The end of a campaign: waits until the stages have caught up, then lets the verdict speak."""

import random
import time
from collections.abc import Callable
from typing import Final

from kronos_stream.engine.core import Engine
from kronos_stream.engine.messages import EngineHello
from kronos_stream.engine.spec import resolve_spec
from kronos_stream.model.catalog import load_pair
from kronos_stream.model.checkpoints import revision_of
from kronos_stream.settings import BarsSettings, ForecastSettings, Settings
from kronos_stream.wire.intervals import INTERVAL_MS
from kronos_stream.wire.topics import Topics
from tests.threads import threads

from .observer import Observer, read_topic
from .plan import Plan
from .report import Report
from .traffic import Traffic
from .verdict import Cold, judge_bars, judge_forecasts, judge_letters, truths
from .world import World

LOOKBACK, HORIZON, PATHS = 16, 2, 4
LOOK_S: Final = 0.1


def judge(
    report: Report,
    world: World,
    topics: Topics,
    traffic: Traffic,
    plan: Plan,
    observer: Observer,
    home: Callable[[str], int],
    *,
    quiet_s: float,
    say: Callable[[str], None],
) -> None:
    """Fills the report's verdict."""
    expected = truths(read_topic(world.bootstrap, topics.ticks), symbols=traffic.symbols, home=home)
    cold = _cold()
    bars = sum(len(t.bars) for t in expected.values())
    forecasts = _due(expected, cold)
    say(f"waiting for {bars} bars and {forecasts} forecasts")
    _settle(observer, bars, forecasts, quiet_s)
    verdict = report.verdict
    late = {p: t.late for p, t in expected.items()}
    rejected = {p: t.rejected for p, t in expected.items()}
    judge_bars(verdict, expected, read_topic(world.bootstrap, topics.bars))
    judge_letters(verdict, "late", late, read_topic(world.bootstrap, topics.late))
    judge_letters(verdict, "rejected", rejected, read_topic(world.bootstrap, topics.rejected))
    # The members' engines have one.
    with threads(1):
        judge_forecasts(
            verdict,
            expected,
            read_topic(world.bootstrap, topics.forecasts),
            read_topic(world.bootstrap, topics.skipped),
            cold,
            _sample(report, plan, observer, forecasts, home),
        )
    report.slowest_s, report.slowest = slowest_return(report, plan, observer)


def settings() -> Settings:
    """What the members' flags come to, as far as content depends on it."""
    return Settings(
        bars=BarsSettings(interval="1m"),
        forecast=ForecastSettings(
            lookback=LOOKBACK, horizon=HORIZON, paths=PATHS, tiny_prices="scale"
        ),
    )


def _cold() -> Cold:
    pair = load_pair("builtin", None, revision=None)
    spec = resolve_spec(settings(), pair[0].max_context, "24/7")
    revision = revision_of(*pair)
    hello = EngineHello(
        model="builtin",
        model_revision=revision,
        max_context=pair[0].max_context,
        device="cpu",
        dtype="float32",
        threads=1,
        cache_bytes=0,
        slots=0,
    )
    return Cold(lambda: Engine(*pair, spec, revision=revision, cache_bytes=2**20), spec, hello)


def _due(expected: dict, cold: Cold) -> int:  # type: ignore[type-arg]
    """Forecasts due: one a bar, once a symbol has its lookback."""
    count = 0
    for t in expected.values():
        seen: dict[str, int] = {}
        for bar in t.bars:
            seen[bar.symbol] = seen.get(bar.symbol, 0) + 1
            count += seen[bar.symbol] > LOOKBACK
    return count


def _settle(observer: Observer, bars: int, forecasts: int, quiet_s: float) -> None:
    """Until as much is there as is due, or nothing new comes any more."""
    last, since = -1, time.monotonic()
    while time.monotonic() - since < quiet_s:
        seen = observer.distinct["bars"] + observer.distinct["forecast"]
        if observer.distinct["bars"] >= bars and observer.distinct["forecast"] >= forecasts:
            return
        if seen != last:
            last, since = seen, time.monotonic()
        time.sleep(LOOK_S)


def _sample(
    report: Report, plan: Plan, observer: Observer, due: int, home: Callable[[str], int]
) -> Callable[[str, int], bool]:
    """The first forecast of every partition after each fault of the forecast stage, its engine,
    the store or the broker; of the others a share."""
    arrivals = sorted(
        (at, symbol, opened)
        for (stage, symbol, opened), at in observer.arrivals.items()
        if stage == "forecast"
    )
    chosen: set[tuple[str, int]] = set()
    for fault, began, ended in report.spans:
        if fault.startswith("bars"):
            continue
        first: dict[int, tuple[str, int]] = {}
        for at, symbol, opened in arrivals:
            if began < at <= ended:
                first.setdefault(home(symbol), (symbol, opened))
        chosen |= set(first.values())
    rng = random.Random(f"sample/{report.seed}")
    share = plan.sampled / max(1, due)
    return lambda symbol, opened: (symbol, opened) in chosen or rng.random() < share


def slowest_return(report: Report, plan: Plan, observer: Observer) -> tuple[float, str]:
    """How long after a rolling restart, or after its next record was due, a symbol came back at
    worst, and which. What another member published during the restart was no pause: a symbol's
    next record is due the time between two closes after that."""
    closes_s = INTERVAL_MS["1m"] / 1000 / plan.speed
    slowest_s, slowest = 0.0, ""
    for stage, began, assigned in report.restarts:
        by_symbol: dict[str, list[float]] = {}
        for (of, symbol, _), at in observer.arrivals.items():
            if of == stage:
                by_symbol.setdefault(symbol, []).append(at)
        for symbol, times in by_symbol.items():
            before = max((at for at in times if at <= assigned), default=None)
            after = min((at for at in times if at > assigned), default=None)
            if before is None or after is None:
                continue
            late_s = after - max(before + closes_s, assigned)
            if late_s > slowest_s:
                slowest_s = late_s
                slowest = (
                    f"{stage} at {report.seconds(began):.2f} s: {symbol} before "
                    f"{report.seconds(before):.2f}, assigned {report.seconds(assigned):.2f}, "
                    f"after {report.seconds(after):.2f}"
                )
    return slowest_s, slowest
