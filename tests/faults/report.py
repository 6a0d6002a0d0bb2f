"""What a campaign found: a table for people, a JSON file for machines."""

import shutil
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import msgspec

from .plan import BROKER, ENGINE, INPUT, REDIS
from .verdict import Verdict

BUILD: Final = Path(__file__).resolve().parents[2] / "build"
SLACK_S: Final = 2.0


class Report:
    """Filled while the campaign runs, from several threads."""

    def __init__(self, *, seed: int, broken: str | None) -> None:
        self.seed = seed
        self.broken = broken
        self.faults: Counter[str] = Counter()
        self.killed: Counter[str] = Counter()
        """SIGKILLs of bars, forecast and engine processes."""
        self.exits: Counter[int] = Counter()
        self.longest: dict[str, float] = {}
        """The longest time from a fault to the next record of every partition, by kind."""
        self.spans: list[tuple[str, float, float]] = []
        """Of each fault: its kind, when it began, when all partitions had published again."""
        self.restarts: list[tuple[str, float, float]] = []
        """Of each rolling restart: stage, SIGTERM, assignment of the new process."""
        self.slowest_s = 0.0
        """How long after a rolling restart a symbol came back at worst; SLACK_S is allowed."""
        self.slowest = ""
        """Which restart that was, in seconds since the first fault could come."""
        self.failures: list[str] = []
        self.verdict = Verdict()
        self._began = time.monotonic()
        self._lock = threading.Lock()

    @property
    def elapsed_s(self) -> float:
        """Since the first fault could come."""
        return self.seconds(time.monotonic())

    def seconds(self, at: float) -> float:
        """A monotonic time since the first fault could come."""
        return at - self._began

    @property
    def injected(self) -> int:
        """Faults so far."""
        return self.faults.total()

    def count(self, fault: str) -> None:
        """One fault was injected."""
        with self._lock:
            self.faults[fault] += 1

    def paused(self, fault: str, began: float, ended: float) -> None:
        """A fault is over: all partitions have published again."""
        with self._lock:
            self.longest[fault] = max(self.longest.get(fault, 0.0), ended - began)
            self.spans.append((fault, began, ended))

    def of_process(self) -> int:
        """Faults of kinds 1 to 3: all but those of the input."""
        return sum(n for fault, n in self.faults.items() if fault not in INPUT)

    def as_json(self) -> dict[str, Any]:
        """What build/chaos.json holds."""
        v = self.verdict
        return {
            "seed": self.seed,
            "break": self.broken,
            "faults": dict(sorted(self.faults.items())),
            "faults_of_kinds_1_to_3": self.of_process(),
            "sigkills": dict(self.killed),
            "exits": {str(status): n for status, n in sorted(self.exits.items())},
            "bars_due": v.bars_due,
            "forecasts_due": v.forecasts_due,
            "recomputed": v.recomputed,
            "late": v.late,
            "rejected": v.rejected,
            "missing": v.missing,
            "wrong": v.wrong,
            "conflicting": v.conflicting,
            "repeated": v.repeated,
            "longest_pause_s": round(max(self.longest.values(), default=0.0), 1),
            "rolling_restarts": dict(Counter(stage for stage, _, _ in self.restarts)),
            "slowest_return_s": round(self.slowest_s, 2),
            "slowest_restart": self.slowest,
            "elapsed_s": round(self.elapsed_s, 1),
            "failures": self.failures,
            "notes": v.notes,
        }

    def table(self) -> str:
        """Every kind of fault with its longest pause, then the counts."""
        groups = {**dict.fromkeys(BROKER, "broker"), **dict.fromkeys(REDIS, "redis")}
        groups |= {**dict.fromkeys(ENGINE, "engine"), **dict.fromkeys(INPUT, "input")}
        lines = [f"{'fault':24} {'count':>5} {'longest pause':>14}"]
        for fault, count in sorted(
            self.faults.items(), key=lambda x: (groups.get(x[0], "a"), x[0])
        ):
            pause = f"{self.longest[fault]:.1f} s" if fault in self.longest else ""
            lines.append(f"{fault:24} {count:5} {pause:>14}")
        figures = self.as_json()
        kills = ", ".join(f"{n} {stage}" for stage, n in sorted(self.killed.items()))
        lines += [
            "",
            f"faults of kinds 1 to 3: {self.of_process()}, SIGKILLs: {kills or 'none'}",
            f"bars due {figures['bars_due']}, forecasts due {figures['forecasts_due']} "
            f"({figures['recomputed']} recomputed), late {figures['late']}, "
            f"rejected {figures['rejected']}",
            f"missing {figures['missing']}, wrong {figures['wrong']}, "
            f"conflicting {figures['conflicting']}, repeated {figures['repeated']}",
            f"longest pause {figures['longest_pause_s']} s; {len(self.restarts)} rolling restarts, "
            f"at worst a symbol came back {figures['slowest_return_s']} s after one "
            f"({SLACK_S:.0f} s allowed); {figures['elapsed_s']:.0f} s in all",
            *figures["failures"],
            *figures["notes"][:10],
        ]
        return "\n".join(lines)

    def write(self) -> Path:
        """To build/chaos.json, and beside it one file a seed."""
        BUILD.mkdir(exist_ok=True)
        text = msgspec.json.format(msgspec.json.encode(self.as_json()))
        suffix = f"-{self.broken}" if self.broken else ""
        (BUILD / f"chaos-{self.seed}{suffix}.json").write_bytes(text)
        (BUILD / "chaos.json").write_bytes(text)
        return BUILD / "chaos.json"

    def keep_logs(self, folder: Path) -> None:
        """The members' logs, of this seed's last campaign."""
        kept = BUILD / f"chaos-{self.seed}-logs"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("*.engine-fault"))
