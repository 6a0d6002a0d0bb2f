"""A campaign: the stages as processes on a real Kafka and Valkey, ticks, faults, and a verdict."""

import random
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from kronos_stream.wire.partitioning import partition_of
from kronos_stream.wire.topics import Topics

from .faults import Injector, RecoveryError
from .judging import HORIZON, LOOKBACK, PATHS, judge
from .members import Crew, Member, run_quietly
from .observer import Observer
from .plan import Plan
from .report import Report
from .traffic import MINUTE_MS, Traffic
from .world import World
from .writer import Writer

READY_S: Final = 90.0
QUIET_S: Final = 60.0
"""At the end: nothing new for so long means that nothing more comes."""
LOOK_S: Final = 0.05
REACH_MINUTES: Final = 600
"""How far before the present virtual time begins."""

Say = Callable[[str], None]


class CampaignError(Exception):
    """The campaign itself could not go on: a stage did not come back in time, say."""


def run(seed: int, plan: Plan, *, broken: str | None, ticks: Path | None, say: Say) -> Report:
    """One campaign. `broken` names a break to put into every member; `ticks` is the folder of real
    ticks. CampaignError where a stage did not publish again in time."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kronos-chaos-")))
        world = World()
        stack.callback(world.close)
        topics = Topics(f"chaos{uuid.uuid4().hex[:8]}", "1m")
        start = int(time.time()) // 60 * MINUTE_MS - REACH_MINUTES * MINUTE_MS
        traffic = Traffic(
            seed,
            partitions=plan.partitions,
            start_ms=start,
            simulated=plan.simulated,
            ticks=ticks,
        )

        def home(symbol: str) -> int:
            return partition_of(symbol, plan.partitions)

        prefix = topics.ticks.removesuffix(".ticks")
        _create_topics(world, prefix, plan.partitions)
        observer = Observer(
            world.bootstrap,
            {"bars": topics.bars, "forecast": topics.forecasts, "skipped": topics.skipped},
            home,
        )
        stack.callback(observer.close)
        crew = Crew(list(_members(world, prefix, traffic.symbols, plan, folder, broken)))
        stack.callback(crew.close)
        _wait(lambda: all(m.assigned() for m in crew.members), READY_S, "the members start")
        writer = Writer(world.bootstrap, topics.ticks, traffic, speed=plan.speed)
        writer.start()
        homes = sorted({home(symbol) for symbol in traffic.symbols})
        _wait(
            lambda: observer.published_since("forecast", homes, 0.0), READY_S, "the first forecasts"
        )
        report = Report(seed=seed, broken=broken)
        stack.callback(lambda: report.keep_logs(folder))
        injector = Injector(world, crew, observer, writer, traffic, homes, plan, report)
        _inject(seed, plan, injector, report, observer, say)
        _wait(
            lambda: (
                observer.distinct["bars"] >= plan.bars_due
                and observer.distinct["forecast"] >= plan.forecasts_due
            ),
            READY_S + 60 * plan.bars_due / plan.simulated / plan.speed,
            "enough bars and forecasts",
        )
        writer.finish()
        for member in crew.members:
            report.exits.update(member.exits)
        judge(report, world, topics, traffic, plan, observer, home, quiet_s=QUIET_S, say=say)
        return report


def _create_topics(world: World, prefix: str, partitions: int) -> None:
    kafka = ("--kafka", world.bootstrap, "--topic-prefix", prefix, "--interval", "1m")
    create = ("topics", "--create", "--partitions", str(partitions), *kafka)
    run_quietly([sys.executable, "-m", "kronos_stream", *create])


def _members(
    world: World,
    prefix: str,
    symbols: tuple[str, ...],
    plan: Plan,
    folder: Path,
    broken: str | None,
) -> Iterator[Member]:
    """Of each stage one member is dynamic, the others are static: a restart of these is quiet."""
    shared = [
        *("--kafka", world.members_bootstrap, "--topic-prefix", prefix, "--interval", "1m"),
        *("--symbols", ",".join(symbols), "--feed", "simulated", "--log-format", "json"),
        *("--set", f"kafka.session_timeout_ms={plan.session_ms}"),
        *("--set", f"kafka.heartbeat_ms={plan.session_ms // 6}"),
        *("--set", f"kafka.rebalance_timeout_ms={plan.session_ms}"),
        *("--set", f"kafka.request_timeout_ms={plan.session_ms}"),
        *("--set", "bars.max_rejected_per_s=100000"),
    ]
    forecast = [
        *("--redis", world.members_redis, "--shed", "off", "--threads", "1"),
        *("--lookback", str(LOOKBACK), "--horizon", str(HORIZON), "--paths", str(PATHS)),
        *("--set", "forecast.tiny_prices=scale", "--set", "redis.timeout_s=2"),
        *("--set", "model.batch_timeout_s=6", "--set", "model.cache_mib=64"),
    ]
    for stage, count, more in (
        ("bars", plan.bars_members, []),
        ("forecast", plan.forecast_members, forecast),
    ):
        for i in range(count):
            name = f"{stage}-{i}"
            static = ["--instance-id", name] if i else []
            yield Member(name, stage, [*shared, *more, *static], folder, broken)


def _inject(
    seed: int, plan: Plan, injector: Injector, report: Report, observer: Observer, say: Say
) -> None:
    """All lanes beside each other, to their ends, or until one of them fails."""
    lanes = plan.lanes(seed)
    total = sum(len(faults) for faults in lanes.values())
    failed: list[BaseException] = []

    def lane(name: str, faults: list[str]) -> None:
        rng = random.Random(f"lane/{seed}/{name}")
        try:
            for fault in faults:
                if failed:
                    return
                try:
                    injector.inject(name, fault, rng)
                except RecoveryError as error:
                    if plan.strict:
                        raise
                    say(f"{name}: {error}")
        except BaseException as error:
            failed.append(error)

    threads = [
        threading.Thread(target=lane, args=item, name=item[0], daemon=True)
        for item in lanes.items()
    ]
    for thread in threads:
        thread.start()
    said = 0.0
    while any(thread.is_alive() for thread in threads):
        time.sleep(LOOK_S)
        if time.monotonic() - said > 5:
            said = time.monotonic()
            say(
                f"{report.elapsed_s:4.0f} s  faults {report.injected}/{total}  "
                f"bars {observer.distinct['bars']}  forecasts {observer.distinct['forecast']}"
            )
    if failed and report.broken is None:
        raise CampaignError(f"{type(failed[0]).__name__}: {failed[0]}") from failed[0]
    report.failures += [str(error) for error in failed]


def _wait(condition: Callable[[], bool], limit_s: float, what: str) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise CampaignError(f"{what}: not within {limit_s:.0f} s")
        time.sleep(LOOK_S)
