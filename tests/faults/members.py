"""The processes of a campaign, and the supervisor that starts them again."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Final

from tests.services.processes import end, guarded, server_pid

from .engine_faults import VARIABLE
from .member import BREAK_VARIABLE

ROOT: Final = Path(__file__).resolve().parents[2]
LOOK_S: Final = 0.05
RESTART_S: Final = 0.3
"""How long the supervisor waits before it starts a member again."""


class Member:
    """One member of a stage; started again, with the same arguments, whenever it has ended."""

    def __init__(
        self, name: str, stage: str, arguments: list[str], folder: Path, broken: str | None
    ) -> None:
        self.name = name
        self.stage = stage
        self.log = folder / f"{name}.log"
        self._command = [sys.executable, "-m", "tests.faults.member", stage, *arguments]
        self.engine_file = folder / f"{name}.engine-fault"
        self._environment = {VARIABLE: str(self.engine_file)}
        if broken:
            self._environment[BREAK_VARIABLE] = broken
        self.held = threading.Lock()
        """Taken by whoever works on the process, so that the supervisor waits."""
        self.exits: Counter[int] = Counter()
        self.starts = 0
        self.start()

    def start(self) -> None:
        """Start the process; `assigned` tells when it reads."""
        self._from = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            self._process = guarded(
                self._command, cwd=ROOT, output=output, environment=self._environment
            )
        self.starts += 1

    def revive(self) -> None:
        """Start it again if it has ended."""
        with self.held:
            status = self._process.poll()
            if status is not None:
                self.exits[status] += 1
                end(self._process)
                self.start()

    def assigned(self) -> bool:
        """Whether this process has taken an assignment."""
        word = f"{'forecasts' if self.stage == 'forecast' else self.stage}_assigned".encode()
        with self.log.open("rb") as log:
            log.seek(self._from)
            return word in log.read()

    @property
    def pid(self) -> int:
        """Of the Python process; ProcessLookupError where it has ended."""
        return server_pid(self._process)

    @property
    def engine_pid(self) -> int:
        """Of the engine process; ProcessLookupError where there is none."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").parent.parent
        for listed in children.glob("*/children"):
            # A task or a child may end while we look.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for child in map(int, listed.read_text().split()):
                    if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                        return child
        raise ProcessLookupError(f"{self.name} has no engine process now")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the Python process."""
        os.kill(self.pid, number)

    def ended(self) -> bool:
        """Whether the process has ended and is not started again yet."""
        return self._process.poll() is not None

    def close(self) -> None:
        """End it for good."""
        end(self._process)


class Crew:
    """All members, watched by a supervisor."""

    def __init__(self, members: list[Member]) -> None:
        self.members = members
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def of(self, stage: str) -> list[Member]:
        """The members of a stage."""
        return [member for member in self.members if member.stage == stage]

    def close(self) -> None:
        """End all of them."""
        self._stopping.set()
        self._thread.join()
        for member in self.members:
            member.close()

    def _watch(self) -> None:
        seen: dict[str, float] = {}
        while not self._stopping.wait(LOOK_S):
            for member in self.members:
                if not member.ended():
                    seen.pop(member.name, None)
                elif time.monotonic() - seen.setdefault(member.name, time.monotonic()) > RESTART_S:
                    member.revive()


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to any process of ours."""
    os.kill(pid, number)


def run_quietly(command: list[str]) -> None:
    """Run a command to its end; raises with its output where it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
