"""Wiring: brokers, stores and stages come up in order, run, and go down in order."""

import asyncio
import functools
import gc
import math
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from . import telemetry
from .bars.calendar import calendar_for
from .bars.service import BarsService
from .bars.tables import in_sessions, read_bars
from .clock import wall_ms
from .console import Console
from .context.contexts import Contexts
from .context.store import ContextStore
from .drain import drained
from .embedded import EmbeddedBroker, EmbeddedStore
from .engine.client import EngineClient
from .engine.messages import EngineHello
from .engine.spec import bars_needed, doubts, resolve_spec
from .errors import CalendarEndError
from .feeds.pacing import Backpressure
from .feeds.service import FeedService
from .forecasts.record import check_message_size
from .forecasts.service import ForecastService
from .kafka import Broker
from .settings import Settings
from .signals import stopped_by_signals
from .watchdog import Watchdog
from .wire.ids import digest
from .wire.intervals import DAY_MS
from .wire.messages import Bar, ForecastSpec
from .wire.topics import group_name

log = structlog.get_logger()

DEFAULT_LOOKBACK: Final = 400
PATIENCE_S: Final = 10.0
BEAT_S: Final = 1.0
ENDS_SOON_MS: Final = 30 * DAY_MS


async def run(
    settings: Settings, *, stages: tuple[str, ...], for_s: float | None, bars: int | None
) -> int:
    """Runs the stages until Ctrl-C, `for_s` seconds, `bars` bars, or the end of the feed; 0.

    Raises a KronosStreamError (or a group of them) for what the user can mend.
    """
    spare_the_collector()
    with stopped_by_signals():
        try:
            async with asyncio.timeout(for_s) as limit:
                await _serve(settings, stages, bars)
        except TimeoutError:
            if not limit.expired():
                raise
    return 0


def spare_the_collector() -> None:
    """Each record is some objects that live for one batch and go by reference counting. With
    Python's own thresholds the cycle collector walks them again and again: a sixth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


async def _serve(settings: Settings, stages: tuple[str, ...], bars: int | None) -> None:
    whole = stages == ("feed", "bars", "forecast")
    _check_calendars(settings)
    async with AsyncExitStack() as stack:
        console = Console(settings, sys.stdout)
        broker = await stack.enter_async_context(_broker(settings, console if whole else None))
        await broker.ensure_topics()
        backpressure = None
        if whole:
            backpressure = Backpressure(patience_s=None if broker.embedded else PATIENCE_S)
        history_bars = _history_bars(settings)
        embedded_store: EmbeddedStore | None = None
        if "forecast" in stages:
            url = settings.redis.url
            if url is None:
                embedded_store = await asyncio.to_thread(EmbeddedStore)
                stack.callback(embedded_store.close)
                url = embedded_store.url
            forecast_service, history_bars = await _forecast_service(
                settings, broker, url, stack, console, backpressure
            )
        console.start()
        stack.callback(console.stop)
        # The stages end before what they use does.
        tasks: dict[str, asyncio.Task[None]] = {}
        stack.push_async_callback(_stop, tasks)

        def begin(name: str, work: Coroutine[Any, Any, None]) -> None:
            tasks[name] = asyncio.create_task(work, name=name)

        def guard(name: str, service: BarsService | ForecastService, topic: str) -> None:
            """Its watchdog, and its say on whether this process is ready."""
            telemetry.HEALTH.watch(name, service.trouble)
            if settings.kafka.watchdog_s:
                dog = Watchdog(
                    name,
                    service,
                    functools.partial(broker.end_offsets, topic),
                    bites_after_s=settings.kafka.watchdog_s,
                )
                telemetry.HEALTH.watch(f"broker of {name}", dog.trouble)
                begin(f"watchdog of {name}", dog.run())

        begin("beat", _beat())
        if embedded_store is not None:
            begin("store", embedded_store.ended())
        if "bars" in stages:
            bars_service = BarsService(
                settings,
                broker,
                backpressure=backpressure,
                on_bar=console.on_bar,
                on_late=console.on_late,
            )
            begin("bars", bars_service.run())
            guard("bars", bars_service, broker.topics.ticks)
        if "forecast" in stages:
            begin("forecast", forecast_service.run())
            guard("forecast", forecast_service, broker.topics.bars)
            await _first(tasks, forecast_service.ready.wait())
        if "bars" in stages:
            await _first(tasks, bars_service.ready.wait())
        if "feed" in stages:
            feed = FeedService(
                settings,
                broker,
                kind=settings.feed.kind or "kafka",
                read_history=functools.partial(_read_history, settings),
                history_bars=history_bars,
                exists=lambda symbol, time: calendar_for(settings.bars, symbol).is_open(time),
                bars_limit=bars,
                backpressure=backpressure,
            )
            telemetry.HEALTH.watch("feed", lambda: None)
            begin("feed", feed.run())
            await _first(tasks, asyncio.shield(tasks["feed"]))
            del tasks["feed"]
            if backpressure is None:
                return
            if settings.feed.kind != "kafka":
                patience_s = math.inf if broker.embedded else PATIENCE_S
                done = _done(broker, bars_service, forecast_service, patience_s)
                await _first(tasks, done)
                return
        await _first(tasks, asyncio.Event().wait())


async def _done(
    broker: Broker, bars: BarsService, forecasts: ForecastService, patience_s: float
) -> None:
    """Until what the feed has written, and what was there before, is dealt with to the end."""
    for stage, topic in ((bars, broker.topics.ticks), (forecasts, broker.topics.bars)):
        ends = await broker.end_offsets(topic, range(await broker.partitions(topic)))
        await drained(stage, ends, patience_s=patience_s)
        await stage.flush()


@asynccontextmanager
async def _broker(settings: Settings, console: Console | None) -> AsyncIterator[Broker]:
    """The named broker, or an embedded one; `console` tells the user its address at once."""
    async with AsyncExitStack() as stack:
        bootstrap = settings.kafka.bootstrap
        embedded = bootstrap is None
        if bootstrap is None:
            server = await asyncio.to_thread(EmbeddedBroker)
            stack.callback(server.close)
            bootstrap = server.bootstrap
        if console is not None:
            console.banner(bootstrap, embedded)
        broker = Broker(
            settings.kafka,
            bootstrap=bootstrap,
            embedded=embedded,
            interval=settings.bars.interval,
        )
        await broker.start()
        stack.push_async_callback(broker.close)
        yield broker


async def _forecast_service(
    settings: Settings,
    broker: Broker,
    url: str,
    stack: AsyncExitStack,
    console: Console,
    backpressure: Backpressure | None,
) -> tuple[ForecastService, int]:
    """The engine comes up together with the service that uses it, on the store at `url`. With it
    the number of bars that its contexts keep."""
    engine = EngineClient(settings.model)
    telemetry.HEALTH.watch("engine", engine.trouble)
    stack.push_async_callback(engine.close)
    hello = await engine.start()
    spec = resolve_spec(settings, hello.max_context, settings.bars.calendar)
    check_message_size(settings, spec)
    for doubt in doubts(settings, hello):
        log.warning("model_not_trained_for", detail=doubt)
    hello = await engine.configure(spec)
    scope = _scope(settings, spec, hello)
    keep = bars_needed(spec) + settings.context.slack
    store = ContextStore(
        settings.redis, url=url, interval=settings.bars.interval, scope=scope, keep=keep
    )
    stack.push_async_callback(store.close)
    await store.start()
    log.info(
        "engine_ready",
        model=hello.model,
        revision=hello.model_revision,
        device=hello.device,
        dtype=hello.dtype,
        kernels=hello.kernels,
        lookback=spec.lookback,
        slot_bytes=hello.cache_bytes,
        slots=hello.slots,
    )
    service = ForecastService(
        settings,
        broker,
        Contexts(store, broker, want=bars_needed(spec), keep=keep),
        engine,
        hello,
        group=group_name(settings.kafka, "forecasts", settings.bars.interval, scope),
        spec_of=lambda symbol: msgspec.structs.replace(
            spec, calendar=settings.bars.calendar_name(symbol)
        ),
        calendar_of=functools.partial(calendar_for, settings.bars),
        shed=settings.forecast.shed == "on",
        backpressure=backpressure,
        on_forecast=console.on_forecast,
        on_skipped=console.on_skipped,
    )
    return service, keep


def _scope(settings: Settings, spec: ForecastSpec, hello: EngineHello) -> str:
    """Two models, two sets of settings, or two bars topics side by side: each has its own group
    and contexts."""
    calendars, topics = settings.bars.symbol_calendars, settings.kafka.topic_prefix
    return digest(hello.model_revision, spec, calendars, topics, size=4)


def _check_calendars(settings: Settings) -> None:
    """SettingsError for one that there is not; a warning for one that ends soon."""
    soon = wall_ms() + ENDS_SOON_MS
    ending: set[str] = set()
    for symbol in ("", *settings.bars.symbol_calendars):
        try:
            calendar_for(settings.bars, symbol).next_open(soon)
        except CalendarEndError as error:
            ending.add(str(error))
    for detail in sorted(ending):
        log.warning("calendar_ends", detail=detail)


def _history_bars(settings: Settings) -> int:
    forecast = settings.forecast
    lookback = forecast.lookback or DEFAULT_LOOKBACK
    return lookback + forecast.anchor_every + settings.context.slack


def _read_history(settings: Settings, path: Path, symbol: str) -> list[Bar]:
    read = read_bars(path, settings.bars.interval, symbol=symbol)[symbol]
    kept = in_sessions(read, calendar_for(settings.bars, symbol))
    if len(kept) < len(read):
        outside = len(read) - len(kept)
        log.info("history_outside_sessions", symbol=symbol, bars=outside, of=len(read))
    return kept


async def _first(tasks: dict[str, asyncio.Task[None]], goal: Any) -> None:
    """Waits for `goal`, unless a stage ends before: stages only end by failing, the feed apart."""
    waiting = asyncio.ensure_future(goal)
    try:
        await asyncio.wait({waiting, *tasks.values()}, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks.values():
            if task.done():
                task.result()
        await waiting
    finally:
        waiting.cancel()


async def _beat() -> None:
    """Says that the event loop has its turns."""
    while True:
        telemetry.HEALTH.beat()
        await asyncio.sleep(BEAT_S)


async def _stop(tasks: dict[str, asyncio.Task[None]]) -> None:
    """In the order of the flow: what is on its way is still taken by the next stage. Whatever
    watches them goes last. What one of them fails with is raised once all have ended."""
    stages = ("feed", "bars", "forecast")
    failed: BaseException | None = None
    for name in (*stages, *(name for name in tasks if name not in stages)):
        task = tasks.get(name)
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                failed = failed or task.exception()
    if failed is not None:
        raise failed
