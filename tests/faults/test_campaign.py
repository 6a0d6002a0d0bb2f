"""The short campaign, which runs with every test, and the parts that a campaign stands on."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from .campaign import run
from .plan import BARS, BROKER, ENGINE, FORECAST, INPUT, REDIS, SHORT, Plan
from .proxy import Proxy
from .report import Report
from .verdict import Verdict


@pytest.mark.campaign
@pytest.mark.timeout(600)
def test_whatever_dies_the_topics_equal_what_the_oracle_computes() -> None:
    """Two members of each stage, simulated ticks. It fails on content only, never on duration."""
    report = run(7, SHORT, broken=None, ticks=None, say=print)
    print(report.table())
    figures = report.as_json()
    assert report.verdict.clean, report.table()
    assert figures["bars_due"] > 200
    assert figures["forecasts_due"] > 100
    assert figures["recomputed"] > 20
    assert figures["rejected"] > 50
    assert figures["late"] > 10


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_long_campaign_has_every_kind_of_fault(seed: int) -> None:
    lanes = Plan().lanes(seed)
    assert set(BARS) <= set(lanes["bars"])
    assert {*FORECAST, *ENGINE} <= set(lanes["forecast"])
    assert set(REDIS) <= set(lanes["redis"])
    assert set(BROKER) <= set(lanes["broker"])
    assert set(INPUT) <= set(lanes["input"])
    assert lanes["broker"].count("broker_silence") == 1
    assert sum(len(f) for name, f in lanes.items() if name != "input") >= 100


def test_the_plan_follows_from_the_seed() -> None:
    assert Plan().lanes(1) == Plan().lanes(1)
    assert Plan().lanes(1) != Plan().lanes(2)


def test_the_report_counts_the_input_apart() -> None:
    report = Report(seed=1, broken=None)
    for fault in ("bars_kill", "engine_oom", "flood"):
        report.count(fault)
    report.paused("bars_kill", 1.0, 3.5)
    report.verdict = Verdict(bars_due=5)
    report.verdict.tell("missing", "a bar")
    assert not report.verdict.clean
    figures = report.as_json()
    assert figures["faults_of_kinds_1_to_3"] == 2
    assert figures["longest_pause_s"] == 2.5
    assert "missing: a bar" in report.table()


@pytest.fixture
def echo() -> Iterator[int]:
    """A port that answers what it is sent."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=_echo, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()


def _echo(connection: socket.socket) -> None:
    with connection:
        while data := connection.recv(4096):
            connection.sendall(data)


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    with closing(Proxy(echo)) as proxy:
        yield proxy


def _connected(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=10)


def test_the_proxy_passes_and_cuts(proxy: Proxy) -> None:
    with _connected(proxy) as one:
        one.sendall(b"a")
        assert one.recv(1) == b"a"
        proxy.cut()
        with contextlib.suppress(ConnectionResetError):
            assert one.recv(1) == b""
    with _connected(proxy) as two:
        two.sendall(b"b")
        assert two.recv(1) == b"b"


def test_the_proxy_says_nothing_until_it_speaks(proxy: Proxy) -> None:
    with _connected(proxy) as one:
        proxy.silence()
        one.sendall(b"a")
        one.settimeout(0.2)
        with pytest.raises(TimeoutError):
            one.recv(1)
        one.settimeout(10)
        proxy.speak()
        assert one.recv(1) == b"a"


def test_the_proxy_delays(proxy: Proxy) -> None:
    with _connected(proxy) as one:
        proxy.delay(0.1)
        began = time.monotonic()
        one.sendall(b"a")
        assert one.recv(1) == b"a"
        assert time.monotonic() - began >= 0.2
