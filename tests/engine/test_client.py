"""The engine process: dies, hangs, refuses; the client loses nothing."""

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import uvloop

from kronos_stream.engine import client as client_module
from kronos_stream.engine.client import EngineClient
from kronos_stream.engine.core import Engine
from kronos_stream.engine.messages import (
    Answer,
    EngineHello,
    EngineReply,
    Forecasts,
    Order,
    Replies,
)
from kronos_stream.errors import EngineError
from kronos_stream.model.catalog import load_pair
from kronos_stream.settings import ModelSettings
from tests.forecasts.fake_engine import HELLO
from tests.model.peer import bars
from tests.threads import threads

from .requests import request, spec, tiny_pair

WANTED = spec(lookback=60, horizon=3, paths=3)


# One process for the module: a start costs seconds.
pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client() -> AsyncIterator[EngineClient]:
    made = EngineClient(ModelSettings(threads=1, batch_timeout_s=20.0))
    await made.start()
    await made.configure(WANTED)
    yield made
    await made.close()


async def test_a_process_that_cannot_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = multiprocessing.get_context("spawn")
    start, tries = context.Process.start, iter((True,))

    def once(process: multiprocessing.process.BaseProcess) -> None:
        if next(tries, False):
            raise BlockingIOError("Resource temporarily unavailable")
        start(process)  # type: ignore[arg-type]

    monkeypatch.setattr(context.Process, "start", once)
    client = EngineClient(ModelSettings(threads=1))
    assert (await client.start()).model == "builtin"
    await client.close()


async def started_slowly(
    client: EngineClient, go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> "asyncio.Task[EngineHello]":
    """A start whose process is being made until `go`."""
    context = multiprocessing.get_context("spawn")
    start, begun = context.Process.start, threading.Event()

    def slow(process: multiprocessing.process.BaseProcess) -> None:
        begun.set()
        go.wait()
        start(process)  # type: ignore[arg-type]

    monkeypatch.setattr(context.Process, "start", slow)
    starting = asyncio.create_task(client.start())
    await asyncio.to_thread(begun.wait)
    return starting


async def test_who_is_stopped_while_it_starts_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = set(multiprocessing.active_children())
    client, go = EngineClient(ModelSettings(threads=1)), threading.Event()
    starting = await started_slowly(client, go, monkeypatch)
    starting.cancel()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await client.close()
    assert set(multiprocessing.active_children()) == before


async def test_a_close_while_a_process_is_started_leaves_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = set(multiprocessing.active_children())
    client, go = EngineClient(ModelSettings(threads=1)), threading.Event()
    starting = await started_slowly(client, go, monkeypatch)
    await client.close()
    go.set()
    with pytest.raises(EngineError, match="the engine was closed"):
        await starting
    assert set(multiprocessing.active_children()) == before


async def test_a_program_that_forgets_to_close_ends_all_the_same() -> None:
    """The engine ignores SIGTERM, and multiprocessing waits for it."""
    program = (
        "import asyncio\n"
        "from kronos_stream.engine.client import EngineClient\n"
        "from kronos_stream.settings import ModelSettings\n"
        "if __name__ == '__main__':\n"
        "    client = EngineClient(ModelSettings(threads=1))\n"
        "    asyncio.run(client.start())\n"
    )
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    try:
        async with asyncio.timeout(40):
            assert await child.wait() == 0
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def test_a_restart_with_another_model_is_an_error(tmp_path: Path) -> None:
    """Ids and records would go on naming the first."""

    def save(seed: int) -> None:
        for part, name in zip(tiny_pair(seed), ("model", "tokenizer"), strict=True):
            part.save_pretrained(tmp_path / name)

    save(0)
    client = EngineClient(ModelSettings(model=str(tmp_path), threads=1, cache_mib=8))
    try:
        first = await client.start()
        assert client.pid is not None
        save(1)
        os.kill(client.pid, signal.SIGKILL)
        told = f"is another one than at the start: expected revision {first.model_revision}, found"
        with pytest.raises(EngineError, match=told):
            await client.configure(spec())
    finally:
        await client.close()


async def test_a_download_may_take_longer_than_a_start(tmp_path: Path) -> None:
    for model, tokenizer, local in (
        ("builtin", None, True),
        (str(tmp_path), None, True),
        (str(tmp_path), "NeoQuasar/Kronos-Tokenizer-base", False),
        ("NeoQuasar/Kronos-base", None, False),
    ):
        client = EngineClient(ModelSettings(model=model, tokenizer=tokenizer))
        expected = client_module.START_TIMEOUT_S if local else client_module.DOWNLOAD_TIMEOUT_S
        assert client._load_timeout_s == expected, model


@pytest.mark.parametrize(("policy", "spins"), [(None, "50000"), ("ACTIVE", None)])
async def test_threads_spin_for_a_short_while_only(
    policy: str | None, spins: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenMP reads it at torch's import, so it is there when the child imports the worker."""
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "THP_MEM_ALLOC_ENABLE"):
        monkeypatch.setenv(name, policy or "")  # So that what the call sets is undone.
        if name != "OMP_WAIT_POLICY" or policy is None:
            monkeypatch.delenv(name)
    found: list[str | None] = []
    stand_in = ModuleType("worker")
    stand_in.main = lambda pipe: found.append(os.environ.get("GOMP_SPINCOUNT"))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kronos_stream.engine.worker", stand_in)
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        client_module._serve(theirs)
    assert found == [spins]


async def test_answers_as_the_engine_does_and_survives_a_kill(client: EngineClient) -> None:
    asked = [request("AAA", bars(120), 100, WANTED)]
    with threads(1):
        expected = Engine(*load_pair("builtin"), WANTED).forecast(asked, lambda: 0)
    first = await client.forecast(asked)
    assert first[0].paths == expected[0].paths
    assert client.hello is not None
    assert (client.hello.max_context, client.hello.interval) == (256, "5m")
    before = client.pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    again = await client.forecast(asked)
    assert again[0].paths == expected[0].paths
    assert client.pid != before


@pytest.mark.parametrize("symbols", [1, 60], ids=["small", "larger_than_the_pipe"])
async def test_a_hanging_process_is_replaced(
    client: EngineClient, monkeypatch: pytest.MonkeyPatch, symbols: int
) -> None:
    asked = [request(f"S{n}", bars(120), 100, WANTED) for n in range(symbols)]
    expected = await client.forecast(asked)
    before = client.pid
    assert before is not None
    os.kill(before, signal.SIGSTOP)
    monkeypatch.setattr(client, "_timeout_s", 0.5)
    again = []
    try:
        # A replacement loads the model within its own time, and then answers within this one.
        again = await client.forecast(asked)
    finally:
        assert client.pid != before
    assert [msgspec.structs.replace(r, started_ms=0, ended_ms=0, cache="miss") for r in again] == [
        msgspec.structs.replace(r, started_ms=0, ended_ms=0, cache="miss") for r in expected
    ]


async def test_an_engine_that_is_killed_while_it_starts_is_started_again() -> None:
    """Found by a campaign: the stage ended with a traceback."""
    made = EngineClient(ModelSettings(threads=1))
    try:
        starting = asyncio.create_task(made.start())
        while made.pid is None:  # noqa: ASYNC110 - there is no event of it
            await asyncio.sleep(0)
        os.kill(made.pid, signal.SIGKILL)
        assert (await starting).max_context == 256
        assert made.pid is not None
        os.kill(made.pid, signal.SIGKILL)
        assert (await made.configure(WANTED)).slots > 0
    finally:
        await made.close()


async def test_a_batch_that_is_too_large_is_halved_until_it_fits() -> None:
    """Whatever the engine dies of at more than two requests, one after another is made."""
    sizes: list[int] = []

    class Small(EngineClient):
        async def _ready(self) -> EngineHello:
            self._pipe = multiprocessing.Pipe()[0]
            return HELLO

        async def _ask(self, order: Order, timeout_s: float) -> Answer:
            assert isinstance(order, Forecasts)
            sizes.append(len(order.requests))
            if sizes[-1] > 2:
                raise EOFError
            return Replies([EngineReply(forecast_id=r.forecast_id) for r in order.requests])

    asked = [request(name, bars(120), 100, WANTED) for name in ("A", "B", "C", "D", "E")]
    asked = [msgspec.structs.replace(r, forecast_id=r.symbol) for r in asked]
    replies = await Small(ModelSettings()).forecast(asked)
    assert [r.forecast_id for r in replies] == ["A", "B", "C", "D", "E"]
    assert sizes == [5, 5, 2, 3, 3, 1, 2]


async def test_frames_larger_than_the_pipe_pass_under_uvloop(client: EngineClient) -> None:
    """uvloop makes a watched pipe non-blocking; a large batch then failed half-way."""
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
    before = client.pid
    series = bars(120)
    for _ in range(3):
        await client.prepare([request(f"S{i}", series, 100, WANTED) for i in range(60)])
    assert client.pid == before


async def test_a_model_that_cannot_load_is_one_error(tmp_path: Path) -> None:
    client = EngineClient(ModelSettings(model=str(tmp_path), threads=1))
    try:
        with pytest.raises(EngineError, match="holds neither model"):
            await client.start()
    finally:
        await client.close()


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set once an order is sent and its answer waited for."""
    event, until_readable = asyncio.Event(), client_module._until_readable

    async def told(*arguments: Any) -> None:
        event.set()
        await until_readable(*arguments)

    monkeypatch.setattr(client_module, "_until_readable", told)
    return event


async def test_an_order_that_is_cancelled_leaves_no_answer_behind(
    client: EngineClient, waiting: asyncio.Event
) -> None:
    one, other = ([request(name, bars(120), 100, WANTED)] for name in ("AAA", "BBB"))
    asked = asyncio.create_task(client.forecast(one))
    await waiting.wait()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert [r.forecast_id for r in await client.forecast(other)] == [other[0].forecast_id]


async def test_close_fails_an_order_that_waits(waiting: asyncio.Event) -> None:
    client = EngineClient(ModelSettings(threads=1))
    await client.start()
    await client.configure(WANTED)
    assert client.pid is not None
    pid = client.pid
    os.kill(pid, signal.SIGSTOP)
    waiting.clear()
    asked = asyncio.create_task(client.forecast([request("AAA", bars(120), 100, WANTED)]))
    await waiting.wait()
    closing = asyncio.create_task(client.close())
    with pytest.raises(EngineError, match="the engine was closed"):
        async with asyncio.timeout(10):
            await asked
    os.kill(pid, signal.SIGCONT)
    await closing


async def test_close_ends_the_process(client: EngineClient) -> None:
    pid = client.pid
    assert pid is not None
    await client.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
