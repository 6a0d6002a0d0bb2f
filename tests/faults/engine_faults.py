"""What can befall an engine process in the middle of a batch, asked for through a file.

The members' engine processes run `serve` instead of the product's own entry: the same worker, which
before each batch looks whether a fault is wanted.
"""

import os
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

VARIABLE: Final = "FAULTS_ENGINE_FILE"
"""Names the file; its content is one of KINDS. Whoever acts on it removes it."""
SLOWER_VARIABLE: Final = "FAULTS_SLOWER"
"""How many times as long as it needs each batch takes."""
KINDS: Final = ("kill", "hang", "oom")


def serve(pipe: Connection) -> None:
    """As `kronos_stream.engine.client._serve`."""
    from kronos_stream.engine import worker
    from kronos_stream.engine.messages import Answer, Forecasts, Order

    class Faulty(worker.Worker):
        def answer(self, order: Order) -> Answer:
            if isinstance(order, Forecasts) and order.requests and not order.prepare:
                kind = _wanted()
                if kind is not None:
                    # Half of the batch is made, and lost.
                    half = order.requests[: len(order.requests) // 2]
                    super().answer(Forecasts(requests=half))
                    _befall(kind)
            began = time.monotonic()
            answer = super().answer(order)
            slower = float(os.environ.get(SLOWER_VARIABLE, "1"))
            if isinstance(order, Forecasts):
                time.sleep((slower - 1) * (time.monotonic() - began))
            return answer

    worker.Worker = Faulty  # type: ignore[misc]
    worker.main(pipe)


def _wanted() -> str | None:
    file = Path(os.environ[VARIABLE])
    try:
        kind = file.read_text()
        file.unlink()
    except FileNotFoundError:
        return None
    return kind


def _befall(kind: str) -> None:
    import torch

    if kind == "kill":
        os._exit(9)
    if kind == "hang":
        threading.Event().wait()
    if kind == "oom":
        raise torch.OutOfMemoryError("simulated by the campaign")
    raise ValueError(f"unknown engine fault {kind!r}")
