"""Compares what the topics hold with what the oracle makes of the ticks partitions.

Bars, late and rejected ticks come from `tests/oracle.py`. A forecast's context is the oracle's
bars; its values are recomputed for a sample by an engine in this process that has nothing cached.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from kronos_stream.bars.calendar import calendar_of
from kronos_stream.context.window import Window
from kronos_stream.engine.core import Engine
from kronos_stream.engine.messages import EngineHello
from kronos_stream.forecasts.keep_first import comparable
from kronos_stream.forecasts.record import Due, build_forecast, due_forecast
from kronos_stream.wire.messages import Bar, Forecast, ForecastSpec, Skipped, Timing
from tests.oracle import Truth, entries, truth

from .observer import Seen
from .traffic import GRACE_MS, KIND, MINUTE_MS


@dataclass
class Verdict:
    """Counts of what is not as it must be; `notes` tell the first of each kind."""

    bars_due: int = 0
    forecasts_due: int = 0
    recomputed: int = 0
    late: int = 0
    rejected: int = 0
    missing: int = 0
    wrong: int = 0
    conflicting: int = 0
    repeated: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing is missing, wrong or conflicting."""
        return not (self.missing or self.wrong or self.conflicting)

    def tell(self, kind: str, what: str, count: int = 1) -> None:
        """Count something that is not as it must be."""
        if count:
            setattr(self, kind, getattr(self, kind) + count)
            if len(self.notes) < 40:
                self.notes.append(f"{kind}: {what}")


def truths(
    ticks: Iterable[Seen], *, symbols: Collection[str], home: Callable[[str], int]
) -> dict[int, Truth]:
    """What each ticks partition must become."""
    logs: dict[int, list[Seen]] = defaultdict(list)
    for seen in ticks:
        logs[seen.partition].append(seen)
    made = {}
    for partition, log in sorted(logs.items()):
        usable = [s for s in log if (KIND, b"malformed") not in s.headers]
        found = truth(
            entries((s.offset, s.timestamp, s.value) for s in usable),
            interval="1m",
            grace_ms=GRACE_MS,
            symbols=symbols,
            at_home=lambda symbol, p=partition: home(symbol) == p,  # type: ignore[misc]
        )
        junk = {s.offset for s in log} - {s.offset for s in usable}
        made[partition] = found._replace(rejected=sorted({*found.rejected, *junk}))
    return made


def kept(
    verdict: Verdict, what: str, records: Iterable[tuple[Hashable, Any]]
) -> dict[Hashable, Any]:
    """The first content of each identity, in the order of the topic; counts what is repeated and
    what is conflicting."""
    first: dict[Hashable, Any] = {}
    for identity, content in records:
        if identity not in first:
            first[identity] = content
            continue
        verdict.repeated += 1
        if first[identity] != content:
            verdict.tell("conflicting", f"{what} {identity}")
    return first


def judge_bars(verdict: Verdict, truths_: Mapping[int, Truth], records: Iterable[Seen]) -> None:
    """Bars, after keep-first, are those of the oracle, and in its order."""
    pairs = []
    for seen in records:
        bar = msgspec.json.decode(seen.value, type=Bar)
        pairs.append(((seen.partition, bar.symbol, bar.open_time, bar.revision), bar))
    found = kept(verdict, "bar", pairs)
    for partition, expected in truths_.items():
        due = {(partition, b.symbol, b.open_time, 0): b for b in expected.bars}
        verdict.bars_due += len(due)
        here = {i: b for i, b in found.items() if i[0] == partition}  # type: ignore[index]
        _compare(verdict, f"bar in partition {partition}", due, here)


def judge_letters(
    verdict: Verdict, what: str, offsets: Mapping[int, Sequence[int]], records: Iterable[Seen]
) -> None:
    """Late or rejected records, after keep-first, are those of the oracle, in the order of each
    source partition."""
    found = kept(
        verdict,
        what,
        (
            ((int(s.header("source_partition")), int(s.header("source_offset"))), s.value)
            for s in records
        ),
    )
    for partition, expected in offsets.items():
        setattr(verdict, what, getattr(verdict, what) + len(expected))
        due = {(partition, offset): None for offset in expected}
        here = {i: None for i in found if i[0] == partition}  # type: ignore[index]
        _compare(verdict, f"{what} record of partition {partition}", due, here)


def _compare(verdict: Verdict, what: str, due: Mapping[Any, Any], found: Mapping[Any, Any]) -> None:
    for identity, content in due.items():
        if identity not in found:
            verdict.tell("missing", f"{what}: {identity}")
        elif found[identity] != content:
            verdict.tell(
                "wrong", f"{what}: {identity}: expected {content}, found {found[identity]}"
            )
    for identity in found:
        if identity not in due:
            verdict.tell("wrong", f"{what}: {identity} is not due")
    in_order = [i for i in found if i in due]
    if in_order != [i for i in due if i in found]:
        verdict.tell("wrong", f"{what}: not in order")


class Cold:
    """Makes forecasts anew from the oracle's bars, each with an empty cache."""

    def __init__(self, engine: Callable[[], Engine], spec: ForecastSpec, hello: EngineHello):
        self._engine = engine
        self._spec = spec
        self._hello = hello
        self._calendar = calendar_of(spec.calendar, MINUTE_MS)

    def due(self, bars: Sequence[Bar]) -> Due | None:
        """What is due at the last of these bars of one symbol."""
        window = Window.from_bars(bars[-self._spec.lookback - 1 :])
        return due_forecast(window, self._spec, self._calendar, self._hello.model_revision)

    def made(self, due: Due, levels: Sequence[float]) -> Forecast | str:
        """The record, but for its clock, or the reason why there is none."""
        (reply,) = self._engine().forecast([due.request], lambda: 0)
        if reply.refused is not None:
            return reply.refused
        timing = Timing(bar_read=0, engine_start=0, engine_end=0, published=0)
        return build_forecast(
            due, reply, self._hello, levels=levels, with_paths=False, timing=timing
        )


def judge_forecasts(
    verdict: Verdict,
    truths_: Mapping[int, Truth],
    forecasts: Iterable[Seen],
    skipped: Iterable[Seen],
    cold: Cold,
    sample: Callable[[str, int], bool],
) -> None:
    """Every due forecast is there, made of the right bars; where the engine must refuse it, there
    is a record that says so. `sample` tells which (symbol, open time) are recomputed."""
    made = kept(
        verdict,
        "forecast",
        (
            (f.id, comparable(f))
            for f in (msgspec.json.decode(s.value, type=Forecast) for s in forecasts)
        ),
    )
    reasons = kept(
        verdict,
        "skipped",
        ((s.id, s.reason) for s in (msgspec.json.decode(r.value, type=Skipped) for r in skipped)),
    )
    for partition, expected in truths_.items():
        history: dict[str, list[Bar]] = defaultdict(list)
        for bar in expected.bars:
            history[bar.symbol].append(bar)
            due = cold.due(history[bar.symbol])
            if due is None:
                continue
            verdict.forecasts_due += 1
            found = made.pop(due.id, None)
            told = reasons.pop(due.id, None)
            name = f"forecast of {bar.symbol} at {bar.open_time} in partition {partition}"
            if found is None and told is None:
                verdict.tell("missing", name)
            elif found is None:
                # Refused by the engine: it must be so. Shedding is off in a campaign.
                verdict.recomputed += 1
                if cold.made(due, []) != told:
                    verdict.tell("wrong", f"{name}: skipped as {told}")
            elif found.context.digest != due.window.digest():
                verdict.tell("wrong", f"{name}: made of other bars")
            elif told is not None:
                verdict.tell("wrong", f"{name}: made, and skipped as {told}")
            elif sample(bar.symbol, bar.open_time):
                verdict.recomputed += 1
                again = cold.made(due, found.quantile_levels)
                if isinstance(again, str) or comparable(again) != found:
                    verdict.tell("wrong", f"{name}: other values")
    for identity in [*made, *reasons]:
        verdict.tell("wrong", f"forecast {identity} is not due")
