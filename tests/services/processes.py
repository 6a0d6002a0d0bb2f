"""Servers that never outlive the tests."""

import contextlib
import os
import socket
import subprocess
from pathlib import Path
from typing import IO, Final, NoReturn

import pytest

# The server ends when the pipe on this script's standard input closes, however the tests end.
_GUARD: Final = (
    'exec 3<&0; "$@" </dev/null 3<&- & server=$!; '
    "(cat <&3 >/dev/null; kill -9 $server) & wait $server"
)


def guarded(
    command: list[str], *, cwd: Path, output: IO[bytes], environment: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a server whose data nobody needs afterwards: it is ended by force."""
    return subprocess.Popen(
        ["/bin/sh", "-c", _GUARD, "sh", *command],
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=os.environ | (environment or {}),
        start_new_session=True,
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """End a guarded server and wait for it."""
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


def server_pid(process: subprocess.Popen[bytes]) -> int:
    """The process id of a guarded server itself: the first child of its guard."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while True:
        if process.poll() is not None:
            raise ProcessLookupError(f"the server has ended with status {process.returncode}")
        with contextlib.suppress(FileNotFoundError):
            found = children.read_text().split()
            if found:
                return int(found[0])


def free_ports(count: int) -> list[int]:
    """Distinct ports that were free a moment ago."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def unavailable(reason: str) -> NoReturn:
    """Skip, saying why; under CI these tests are the point, so there it is a failure."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
