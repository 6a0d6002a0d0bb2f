"""/healthz and /readyz say what is so, also when the event loop can say nothing any more."""

import contextlib
import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing

import pytest

from kronos_stream import telemetry
from kronos_stream.health import AT_ONCE, LOOP_S, Health, HealthServer


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(clock)


@pytest.fixture
def server(health: Health) -> Iterator[HealthServer]:
    with closing(HealthServer(health, 0)) as server:
        yield server


def asked(server: HealthServer, path: str) -> tuple[int, dict[str, object]]:
    """Status and body."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=10) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_process_that_starts_lives_and_is_not_ready(server: HealthServer) -> None:
    assert asked(server, "/healthz") == (200, {"ok": True, "wrong": {}})
    status, body = asked(server, "/readyz")
    assert (status, body["wrong"]) == (503, {"process": "is starting"})


def test_it_is_ready_while_no_part_has_trouble(server: HealthServer, health: Health) -> None:
    trouble: list[str] = []
    health.watch("store", lambda: trouble[0] if trouble else None)
    health.watch("engine", lambda: None)
    assert asked(server, "/readyz")[0] == 200
    trouble.append("does not answer")
    assert asked(server, "/readyz") == (503, {"ok": False, "wrong": {"store": "does not answer"}})
    assert asked(server, "/healthz")[0] == 200
    trouble.clear()
    assert asked(server, "/readyz")[0] == 200


def test_a_loop_that_stands_still_is_told(
    server: HealthServer, health: Health, clock: Clock
) -> None:
    health.watch("bars", lambda: None)
    health.beat()
    clock.now += LOOP_S - 1
    assert asked(server, "/healthz")[0] == 200
    clock.now += 2
    for path in ("/healthz", "/readyz"):
        status, body = asked(server, path)
        assert (status, body["wrong"]) == (503, {"loop": "stands still for 16 s"})
    health.beat()
    assert asked(server, "/healthz")[0] == 200


@pytest.fixture(scope="module")
def metrics() -> str:
    with closing(HealthServer(Health(Clock()), 0)) as server:
        telemetry.EVENT_LAG.labels("bars", "0").set(1.5)
        url = f"http://127.0.0.1:{server.port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as reply:
            text: str = reply.read().decode()
            return text


def test_metrics_are_served_beside_it(metrics: str) -> None:
    assert 'kronos_event_time_lag_seconds{partition="0",stage="bars"} 1.5' in metrics


@pytest.mark.parametrize(
    "name",
    [
        *("ticks", "rejected", "bars", "bars_events", "letters_suppressed", "context_appends"),
        *("context_refills", "forecasts", "skipped", "prefix_cache", "engine_restarts"),
        *("history_clashes", "numeric_variants", "producers_replaced", "assignments"),
        *("assignments_lost", "store_waits"),
    ],
)
def test_everything_that_the_design_counts_has_a_counter(metrics: str, name: str) -> None:
    assert f"# TYPE kronos_{name}_total counter" in metrics


def test_who_holds_connections_open_takes_no_more_than_a_few(health: Health) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(closing(HealthServer(health, 0, "127.0.0.1")))
        address = ("127.0.0.1", server.port)
        held = [
            stack.enter_context(socket.create_connection(address, timeout=10))
            for _ in range(AT_ONCE + 3)
        ]
        for surplus in held[AT_ONCE:]:
            with contextlib.suppress(ConnectionResetError):
                assert surplus.recv(1) == b""
        serving = [t for t in threading.enumerate() if "process_request" in t.name]
        assert len(serving) == AT_ONCE
