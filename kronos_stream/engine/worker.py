"""The engine's own process: frames in, frames out, idle work in between.

It ends when the parent's pipe closes, however the parent died, and ignores Ctrl-C, which a
terminal sends to the whole group: the parent decides when it stops.
"""

import signal
from multiprocessing.connection import Connection

import msgspec
import torch

from ..clock import wall_ms
from ..errors import KronosStreamError
from ..model.checkpoints import revision_of
from .core import Engine
from .loading import load
from .messages import (
    MAX_FRAME,
    Answer,
    Configure,
    EngineConfig,
    EngineHello,
    EngineReply,
    Forecasts,
    Hello,
    Load,
    Order,
    Refused,
    Replies,
)
from .native import used


def main(pipe: Connection) -> None:
    """Serves orders until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    orders = msgspec.msgpack.Decoder(Order)
    worker = Worker()
    try:
        while True:
            # A close must not wait for idle work: look for an order before each unit of it.
            if not pipe.poll(0) and worker.step_idle():
                continue
            order = orders.decode(pipe.recv_bytes(MAX_FRAME))
            try:
                answer = worker.answer(order)
            except KronosStreamError as error:
                pipe.send_bytes(msgspec.msgpack.encode(Refused(error=str(error))))
                return
            pipe.send_bytes(msgspec.msgpack.encode(answer))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


class Worker:
    """Answers orders; owns the model and, once configured, the engine."""

    def __init__(self) -> None:
        self._config: EngineConfig | None = None
        self._engine: Engine | None = None

    def answer(self, order: Order) -> Answer:
        """The answer to one order; KronosStreamError for settings that can never work."""
        if isinstance(order, Load):
            return Hello(hello=self._load(order.config))
        if isinstance(order, Configure):
            return Hello(hello=self._configure(order))
        return Replies(replies=self._forecast(order))

    def step_idle(self) -> bool:
        """One unit of idle work; False where there is none."""
        return self._engine is not None and self._engine.step_idle()

    def _load(self, config: EngineConfig) -> EngineHello:
        # TF32 would cut the encoder's mantissa, and with it flip bits of ids.
        torch.backends.cuda.matmul.allow_tf32 = False
        self._config = config
        self._pair = load(config)
        self._revision = revision_of(*self._pair)
        return self._hello(0, 0)

    def _configure(self, order: Configure) -> EngineHello:
        assert self._config is not None
        self._engine = Engine(
            *self._pair,
            order.spec,
            revision=self._revision,
            device=self._config.device,
            cache_bytes=self._config.cache_bytes,
        )
        return self._hello(self._engine.cache.slot_bytes, self._engine.cache.capacity)

    def _forecast(self, order: Forecasts) -> list[EngineReply]:
        assert self._engine is not None
        if order.prepare:
            self._engine.prepare(order.requests)
            return []
        return self._engine.forecast(order.requests, wall_ms)

    def _hello(self, slot_bytes: int, slots: int) -> EngineHello:
        assert self._config is not None
        return EngineHello(
            model=self._config.model,
            model_revision=self._revision,
            max_context=self._pair[0].max_context,
            device=self._config.device,
            dtype=self._config.dtype,
            threads=torch.get_num_threads(),
            cache_bytes=slot_bytes,
            slots=slots,
            kernels=used() if self._config.device == "cpu" else "torch",
            interval=self._pair[0].interval,
            fine_head_rotary=self._pair[0].fine_head_rotary,
        )
