"""The faults themselves: each is injected, undone where it does not end by itself, and waited for
until the stages that it concerns have published again."""

import contextlib
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from .members import Crew, Member, send
from .observer import Observer
from .plan import Plan
from .report import Report
from .traffic import Traffic
from .world import World
from .writer import Writer

LOOK_S: Final = 0.02
BRIEF_S: Final = 3.0
"""How long what is slow or refused stays so."""
SLOW_S: Final = 0.3


class RecoveryError(Exception):
    """A stage did not publish again in time."""


class Injector:
    """Injects faults by name, from several lanes at once. A fault of the broker concerns everyone,
    and a rolling restart is measured: these wait until the other lanes' faults are over, and the
    other lanes wait for them."""

    def __init__(
        self,
        world: World,
        crew: Crew,
        observer: Observer,
        writer: Writer,
        traffic: Traffic,
        homes: Sequence[int],
        plan: Plan,
        report: Report,
    ) -> None:
        self._world = world
        self._crew = crew
        self._observer = observer
        self._writer = writer
        self._traffic = traffic
        self._homes = homes
        self._plan = plan
        self._report = report
        self._alone = _Alone()

    def inject(self, lane: str, fault: str, rng: random.Random) -> None:
        """One fault, until what it concerns has published again. RecoveryError where that takes
        longer than the plan allows."""
        if lane == "input":
            self._input(fault)
            self._report.count(fault)
            time.sleep(rng.uniform(1, 4) * 30 / self._plan.speed)
            return
        if lane == "broker":
            with self._alone.exclusively():
                self._timed(fault, ("bars", "forecast"), lambda: self._broker(fault, rng))
            time.sleep(rng.uniform(5, 10) * 30 / self._plan.speed)
            return
        with self._alone.exclusively() if fault == "term" else self._alone.together():
            if lane == "redis":
                self._timed(fault, ("forecast",), lambda: self._redis(fault))
            else:
                stages = ("bars", "forecast") if lane == "bars" else ("forecast",)
                self._timed(
                    fault if fault.startswith("engine") else f"{lane}_{fault}",
                    stages[:1],
                    lambda: self._process(lane, fault, rng),
                )
        time.sleep(rng.uniform(0.0, 1.0))

    def _timed(self, name: str, stages: Sequence[str], work: Callable[[], None]) -> None:
        began = time.monotonic()
        work()
        self._report.count(name)
        # What counts is published after the fault is over, not while it lasted.
        since = time.monotonic()
        deadline = since + self._plan.recover_s
        while not all(self._observer.published_since(s, self._homes, since) for s in stages):
            if time.monotonic() > deadline:
                raise RecoveryError(
                    f"{name}: {' and '.join(stages)} did not publish again in all partitions "
                    f"within {self._plan.recover_s:.0f} s"
                )
            time.sleep(LOOK_S)
        self._report.paused(name, began, time.monotonic())

    # -- processes -----------------------------------------------------------------------------

    def _process(self, stage: str, fault: str, rng: random.Random) -> None:
        member = rng.choice(self._crew.of(stage))
        with contextlib.suppress(ProcessLookupError):
            if fault == "kill":
                self._kill(member)
            elif fault == "burst":
                for each in self._crew.of(stage):
                    self._kill(each)
                time.sleep(rng.uniform(0.0, 1.5))
                self._kill(member)
            elif fault == "term":
                self._terminate(member)
            elif fault == "stop_cont":
                self._stop_and_continue(member)
            elif fault == "engine_kill":
                send(member.engine_pid, signal.SIGKILL)
                self._report.killed["engine"] += 1
            else:
                self._engine(member, fault.removeprefix("engine_").removesuffix("_in_batch"))

    def _kill(self, member: Member) -> None:
        with contextlib.suppress(ProcessLookupError), member.held:
            member.signal(signal.SIGKILL)
            self._report.killed[member.stage] += 1

    def _terminate(self, member: Member) -> None:
        """A rolling restart: what it costs is the restart itself."""
        began, starts = time.monotonic(), member.starts
        member.signal(signal.SIGTERM)
        self._until(lambda: member.starts > starts, "the process ends and is started again")
        self._until(member.assigned, "the new process has its assignment")
        self._report.restarts.append((member.stage, began, time.monotonic()))

    def _stop_and_continue(self, member: Member) -> None:
        """Longer than the session: when it goes on, others own its partitions."""
        member.signal(signal.SIGSTOP)
        time.sleep(self._plan.session_ms / 1000 + 2)
        member.signal(signal.SIGCONT)

    def _engine(self, member: Member, kind: str) -> None:
        """Befalls the next batch, however long it is until that."""
        self._until(member.assigned, "the member has its assignment")
        written = member.engine_file.with_suffix(".new")
        written.write_text(kind)
        written.rename(member.engine_file)
        self._until(lambda: not member.engine_file.exists(), f"{kind} befalls a batch")
        if kind == "kill":
            self._report.killed["engine"] += 1

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + self._plan.recover_s
        while not condition():
            if time.monotonic() > deadline:
                raise RecoveryError(f"{what}: not within {self._plan.recover_s:.0f} s")
            time.sleep(LOOK_S)

    # -- the store, the broker and the input ---------------------------------------------------

    def _redis(self, fault: str) -> None:
        world = self._world
        if fault == "redis_kill":
            world.valkey.kill()
            time.sleep(BRIEF_S)
            world.valkey.snapshot.unlink(missing_ok=True)
            world.valkey.start()
        elif fault == "redis_empty":
            world.restart_store(old=False)
        elif fault == "redis_old":
            world.save_store()
            time.sleep(BRIEF_S)
            world.restart_store(old=True)
        elif fault == "redis_slow":
            world.store_proxy.delay(SLOW_S)
            time.sleep(BRIEF_S)
            world.store_proxy.delay(0)
        elif fault == "redis_read_only":
            world.make_store_read_only()
            time.sleep(BRIEF_S)
            world.make_store_writable()

    def _broker(self, fault: str, rng: random.Random) -> None:
        world = self._world
        if fault == "broker_stop":
            world.kafka.stop()
            world.kafka.start()
        elif fault == "broker_kill":
            world.kafka.kill()
            if rng.random() < 0.5:
                self._kill(rng.choice(self._crew.members))
            world.kafka.start()
        elif fault == "broker_cut":
            for _ in range(5):
                world.broker_proxy.cut()
                time.sleep(rng.uniform(0.0, 0.5))
        elif fault == "broker_delay":
            world.broker_proxy.delay(SLOW_S)
            time.sleep(BRIEF_S)
            world.broker_proxy.delay(0)
        elif fault == "broker_silence":
            world.broker_proxy.silence()
            time.sleep(self._plan.silence_s)
            world.broker_proxy.speak()

    def _input(self, fault: str) -> None:
        traffic = self._traffic
        if fault == "flood":
            self._writer.flood()
        elif fault == "poison":
            self._writer.write(traffic.poison)
        elif fault == "two_partitions":
            self._writer.write(traffic.elsewhere)
        elif fault == "clock_ahead":
            self._writer.write(lambda at: traffic.ahead(at, time.time_ns() // 1_000_000))


class _Alone:
    """Many together, or one alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._together = 0
        self._waiting = 0
        self._taken = False

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._taken and not self._waiting)
            self._together += 1
        try:
            yield
        finally:
            with self._changed:
                self._together -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def exclusively(self) -> Iterator[None]:
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: not self._taken and not self._together)
            self._waiting -= 1
            self._taken = True
        try:
            yield
        finally:
            with self._changed:
                self._taken = False
                self._changed.notify_all()
