"""One training run, from bars to checkpoints."""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import msgspec
import torch
from torch import nn

from .. import __version__
from ..bars.calendar import Calendar, calendar_of
from ..errors import SettingsError
from ..model.checkpoints import Checkpointed
from ..wire.intervals import INTERVAL_MS
from .folder import DATA, held
from .loop import Loop, Outcome
from .progress import Shown
from .ranks import Ranks
from .segments import Read, read_bank
from .settings import Running, TrainSettings
from .windows import Parts, Windows, split_in_time


class Job(NamedTuple):
    """What is trained, by which loss, as which settings say."""

    settings: TrainSettings
    trained: Checkpointed
    loss: nn.Module


def train(
    job: Job, running: Running, bars: Sequence[Path], out: Path, ranks: Ranks, console: TextIO
) -> Outcome:
    """Reads the bars, says what was dropped, and trains; OUT/best and OUT/last are checkpoints."""
    settings = job.settings
    settings.check()
    if running.threads:
        torch.set_num_threads(running.threads)
    first = ranks.rank == 0
    calendar = _calendar(settings)
    read = read_bank(bars, settings.interval, calendar, settings.cleaning)
    parts = split_in_time(read.bank, settings.sampling, settings.cleaning.min_segment)
    windows = [Windows(read.bank, s, settings.sampling) for s in (parts.train, parts.validation)]
    report = _report(read, parts, windows)
    with held(out) if first else nullcontext():
        loop = Loop(
            settings,
            running,
            job.trained,
            job.loss,
            *windows,
            data=read.bank.digest(),
            out=out,
            ranks=ranks,
        )
        shown = Shown(
            console if first else None,
            settings.stage,
            done=loop.progress.step,
            total=settings.optimisation.steps,
        )
        try:
            if first:
                _write(out / DATA, report)
                whole = {"version": __version__, **msgspec.to_builtins(settings)}
                _write(out / "settings.json", whole | msgspec.to_builtins(running))
                shown.say(_summary(report, job.trained))
            return loop.run(shown)
        finally:
            shown.close()


def _calendar(settings: TrainSettings) -> Calendar:
    try:
        return calendar_of(settings.calendar, INTERVAL_MS[settings.interval])
    except SettingsError as error:
        # There it is a setting, here a flag.
        raise SettingsError(str(error).replace("bars.calendar", "--calendar", 1)) from error


def _report(read: Read, parts: Parts, windows: list[Windows]) -> dict[str, Any]:
    by_symbol = {symbol: dropped._asdict() for symbol, dropped in read.dropped.items()}
    rules = next(iter(by_symbol.values()))
    return {
        "train_until": parts.train_until,
        "validation_from": parts.validation_from,
        "train": {"bars": windows[0].bars, "windows": windows[0].count},
        "validation": {"bars": windows[1].bars, "windows": windows[1].count},
        "total": {rule: sum(d[rule] for d in by_symbol.values()) for rule in rules},
        "symbols": by_symbol,
    }


def _summary(report: dict[str, Any], trained: Checkpointed) -> str:
    total = report["total"]
    weights = sum(p.numel() for p in trained.parameters())
    return (
        f"{total['bars']:,} bars of {len(report['symbols'])} symbols: cut at {total['gaps']:,} "
        f"gaps and {total['jumps']:,} jumps, dropped {total['illiquid']:,} illiquid, "
        f"{total['stagnant']:,} stagnant, {total['outside_sessions']:,} outside sessions and "
        f"{total['short']:,} in short segments; {report['train']['bars']:,} to train on, "
        f"{report['validation']['bars']:,} to validate; {weights:,} weights"
    )


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
