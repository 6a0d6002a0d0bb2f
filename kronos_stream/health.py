"""Metrics, and whether this process lives and is ready, over HTTP: /metrics, /healthz, /readyz.

Served by a thread of its own, so that a loop that stands still is told, not merely unheard.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final
from wsgiref.simple_server import make_server

import msgspec
from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer, _SilentHandler

STOP_POLL_S: Final = 0.05
"""How often the server looks whether it is to stop."""
PATIENCE_S: Final = 5.0
"""With a client that says nothing."""
AT_ONCE: Final = 16
LOOP_S: Final = 15.0
"""Without a beat of the event loop for so long, the process counts as stuck."""

Trouble = Callable[[], str | None]
"""What is wrong just now, in words; None: nothing. Called from the server's thread."""


class Health:
    """What the parts of this process say of themselves."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._parts: dict[str, Trouble] = {}
        self._beat_at: float | None = None

    def watch(self, part: str, trouble: Trouble) -> None:
        """From now on the process is ready only while `part` has no trouble."""
        self._parts[part] = trouble

    def beat(self) -> None:
        """The event loop has had its turn."""
        self._beat_at = self._monotonic()

    def alive(self) -> dict[str, str]:
        """Why this process should be ended; empty: it lives."""
        if self._beat_at is None:
            return {}
        silent_s = self._monotonic() - self._beat_at
        return {"loop": f"stands still for {silent_s:.0f} s"} if silent_s > LOOP_S else {}

    def ready(self) -> dict[str, str]:
        """Why nothing should be expected of this process just now; empty: it is at work."""
        if not self._parts:
            return {"process": "is starting"}
        found = self.alive()
        for part, trouble in list(self._parts.items()):
            told = trouble()
            if told is not None:
                found[part] = told
        return found


class _Handler(_SilentHandler):
    timeout = PATIENCE_S

    def handle(self) -> None:
        with contextlib.suppress(TimeoutError):
            super().handle()


class _Server(ThreadingWSGIServer):
    """At most AT_ONCE connections: whoever holds many open takes no descriptors from the rest of
    the process."""

    daemon_threads = True

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._room = threading.BoundedSemaphore(AT_ONCE)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()


class _Server6(_Server):
    address_family = socket.AF_INET6


class HealthServer:
    """Answers at `port` of `host`; 0 takes a free one."""

    def __init__(self, health: Health, port: int, host: str = "") -> None:
        self._health = health
        self._metrics = make_wsgi_app()
        server = _Server6 if ":" in host else _Server
        self._server = make_server(host, port, self._answer, server, handler_class=_Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(STOP_POLL_S,), daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path not in ("/healthz", "/readyz"):
            return self._metrics(environ, start_response)  # type: ignore[no-any-return]
        wrong = self._health.alive() if path == "/healthz" else self._health.ready()
        status = "503 Service Unavailable" if wrong else "200 OK"
        start_response(status, [("Content-Type", "application/json")])
        return [msgspec.json.encode({"ok": not wrong, "wrong": wrong})]
