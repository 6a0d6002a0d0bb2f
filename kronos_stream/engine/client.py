"""The engine as the consumer's process sees it: a child process behind awaitable calls.

This module imports no torch, so that the consumer's heartbeats never wait for it. A child that
dies or hangs is ended and replaced, and its order is sent again: replies are a function of the
request, so nothing is lost by it.
"""

import asyncio
import multiprocessing
import os
from collections.abc import Awaitable, Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import structlog
from msgspec.structs import replace

from ..errors import EngineError
from ..settings import BUILTIN, ModelSettings
from ..telemetry import CACHE, ENGINE_RESTARTS
from ..wire.messages import ForecastSpec
from .environment import set_defaults
from .messages import (
    MAX_FRAME,
    Answer,
    Configure,
    EngineConfig,
    EngineHello,
    EngineReply,
    EngineRequest,
    Forecasts,
    Hello,
    Load,
    Order,
    Refused,
    Replies,
)

START_TIMEOUT_S: Final = 120.0
DOWNLOAD_TIMEOUT_S: Final = 3600.0
"""Of a start that may first have to fetch the model from the hub: a try that is cut off begins
anew."""
STOP_TIMEOUT_S: Final = 2.0
ATTEMPTS: Final = 5
"""Engine processes that one order may cost before it is given up."""
ACCIDENTS: Final = 2
"""Losses over one batch after which its halves are tried, each by itself."""

log = structlog.get_logger()
T = TypeVar("T")


class EngineLostError(EngineError):
    """One engine process after another died or hung over the same order."""


class EngineClient:
    """One engine process. `start` loads the model, `configure` fixes the settings; then
    `forecast` and `prepare`, one call at a time."""

    def __init__(self, settings: ModelSettings) -> None:
        self._config = EngineConfig(
            model=settings.model,
            tokenizer=settings.tokenizer,
            revision=settings.revision,
            device=settings.device,
            dtype=settings.dtype,
            threads=settings.threads,
            native=settings.native,
            max_context=settings.max_context,
            cache_bytes=settings.cache_mib * 2**20,
        )
        self._timeout_s = settings.batch_timeout_s
        names = settings.model, settings.tokenizer or BUILTIN
        local = all(name == BUILTIN or Path(name).is_dir() for name in names)
        self._load_timeout_s = START_TIMEOUT_S if local else DOWNLOAD_TIMEOUT_S
        self._spec: ForecastSpec | None = None
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._turn = asyncio.Lock()
        self._answers = msgspec.msgpack.Decoder(Answer)
        self._closed = False
        self._asked = False
        """Whether an answer is under way."""
        self._readable = asyncio.Event()
        self._serves = False
        self.hello: EngineHello | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the engine, None where none runs."""
        return self._process.pid if self._process is not None else None

    def trouble(self) -> str | None:
        """For /readyz, from any thread: no engine process that could answer just now."""
        pipe = self._pipe
        if not self._serves or pipe is None:
            return "is being started"
        try:
            # Unasked, it says nothing: what can be read is the end of the pipe.
            died = not self._asked and pipe.poll(0) and not self._asked
        except (OSError, EOFError):
            died = True
        return "has died" if died else None

    async def start(self) -> EngineHello:
        """Starts the process and loads the model; EngineError where it can never work."""
        async with self._turn:
            return await self._persistently(self._spawn)

    async def configure(self, spec: ForecastSpec) -> EngineHello:
        """The settings of all forecasts from now on, kept over restarts."""
        async with self._turn:
            self._spec = spec
            return await self._persistently(self._ready)

    async def forecast(self, requests: Sequence[EngineRequest]) -> list[EngineReply]:
        """One reply a request, in order."""
        replies = await self._order(Forecasts(requests=list(requests)))
        for reply in replies:
            CACHE.labels(reply.cache).inc()
        return replies

    async def prepare(self, requests: Sequence[EngineRequest]) -> None:
        """Lets the engine warm the prefixes of the bars that follow these."""
        await self._order(Forecasts(requests=list(requests), prepare=True))

    async def close(self) -> None:
        """Ends the process: it leaves when its pipe closes, and is killed if it does not. An
        order that is still waiting fails."""
        self._closed = True
        # A closed pipe would not wake who waits for it.
        self._readable.set()
        process, self._process = self._process, None
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.close()
        if process is not None:
            await asyncio.to_thread(_end, process)

    async def _order(self, order: Forecasts) -> list[EngineReply]:
        async with self._turn:
            return await self._made(order)

    async def _made(self, order: Forecasts) -> list[EngineReply]:
        half = len(order.requests) // 2
        try:
            return await self._persistently(
                lambda: self._answered(order), ACCIDENTS if half else ATTEMPTS
            )
        except EngineLostError:
            if not half:
                raise
        # No accident: the batch may be too large for the memory, or for its time.
        parts = order.requests[:half], order.requests[half:]
        made = [await self._made(replace(order, requests=part)) for part in parts]
        return [reply for replies in made for reply in replies]

    async def _answered(self, order: Forecasts) -> list[EngineReply]:
        if self._pipe is None:
            await self._ready()
        answer = await self._ask(order, self._timeout_s)
        assert isinstance(answer, Replies)
        return answer.replies

    async def _persistently(self, call: Callable[[], Awaitable[T]], attempts: int = ATTEMPTS) -> T:
        """Again with a new process where the process dies or hangs meanwhile."""
        for attempt in range(1, attempts + 1):
            try:
                return await call()
            except (EOFError, OSError, TimeoutError) as error:
                if self._closed:
                    raise EngineError("the engine was closed") from error
                log.warning("engine_lost", attempt=attempt, error=repr(error))
                ENGINE_RESTARTS.inc()
                await self._kill()
        raise EngineLostError(f"the engine died or hung {attempts} times over one order")

    async def _ready(self) -> EngineHello:
        """A process that is configured."""
        if self._closed:
            raise EngineError("the engine was closed")
        if self._pipe is None:
            await self._spawn()
        assert self._spec is not None
        answer = await self._ask(Configure(spec=self._spec), START_TIMEOUT_S)
        assert isinstance(answer, Hello)
        self.hello = answer.hello
        self._serves = True
        return answer.hello

    async def _spawn(self) -> EngineHello:
        # The import runs torch's in the child alone: spawn pickles the function by its name.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), daemon=True)
        starting = asyncio.create_task(asyncio.to_thread(process.start))
        try:
            await asyncio.shield(starting)
        finally:
            # Not left halfway: a process that nobody knows would outlive us.
            await asyncio.wait({starting})
            theirs.close()
            if process.pid is None:
                ours.close()
            else:
                self._process, self._pipe = process, ours
        if self._closed:
            await self._kill()
            raise EngineError("the engine was closed")
        # At exit daemons are waited for, and this one leaves when its pipe closes.
        Finalize(self, ours.close, exitpriority=10)
        answer = await self._ask(Load(config=self._config), self._load_timeout_s)
        assert isinstance(answer, Hello)
        before = self.hello
        if before is not None and before.model_revision != answer.hello.model_revision:
            # Ids and records name the one that the stage was started with.
            raise EngineError(
                f"model: {self._config.model!r} is another one than at the start: expected "
                f"revision {before.model_revision}, found {answer.hello.model_revision}"
            )
        self.hello = answer.hello
        return answer.hello

    async def _ask(self, order: Order, timeout_s: float) -> Answer:
        pipe = self._pipe
        if pipe is None:
            raise EngineError("the engine is not started")
        self._asked = True
        self._readable.clear()
        try:
            # Of the sending, too: a process that hangs reads nothing, and the pipe may be smaller.
            async with asyncio.timeout(timeout_s):
                await asyncio.to_thread(pipe.send_bytes, msgspec.msgpack.encode(order))
                await _until_readable(pipe, self._readable)
                answer: Answer = self._answers.decode(
                    await asyncio.to_thread(pipe.recv_bytes, MAX_FRAME)
                )
        except asyncio.CancelledError:
            # Its answer would be taken for the next one's.
            self._abandon()
            raise
        finally:
            self._asked = False
        if isinstance(answer, Refused):
            raise EngineError(answer.error)
        return answer

    async def _kill(self) -> None:
        process = self._abandon()
        if process is not None:
            await asyncio.to_thread(process.join)

    def _abandon(self) -> BaseProcess | None:
        """Ends the process by force, without waiting for its end."""
        self._serves = False
        process, self._process = self._process, None
        pipe, self._pipe = self._pipe, None
        # Killed first: that wakes a thread which still writes or reads, before the descriptor is
        # somebody else's.
        if process is not None:
            process.kill()
        if pipe is not None:
            pipe.close()
        return process


async def _until_readable(pipe: Connection, ready: asyncio.Event) -> None:
    """Waits until an answer begins, or somebody else sets `ready`."""
    loop = asyncio.get_running_loop()
    # Kept, because a closed pipe no longer tells it.
    descriptor = pipe.fileno()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
        # uvloop makes what it watches non-blocking, and a frame may be larger than the pipe.
        if not pipe.closed:
            os.set_blocking(descriptor, True)


def _serve(pipe: Connection) -> None:
    set_defaults()
    from .worker import main

    main(pipe)


def _end(process: BaseProcess) -> None:
    process.join(STOP_TIMEOUT_S)
    if process.is_alive():
        process.kill()
        process.join()
