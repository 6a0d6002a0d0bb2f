"""Ctrl-C and SIGTERM."""

import asyncio
import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator
from typing import Final

FORCED: Final = 130
"""Exit status after a second Ctrl-C."""


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """SIGINT and SIGTERM end the body in good order; a second one ends the process at once."""
    loop = asyncio.get_running_loop()
    body = asyncio.current_task()
    assert body is not None
    asked = False

    def stop() -> None:
        nonlocal asked
        if asked:
            for child in multiprocessing.active_children():
                child.kill()
            os._exit(FORCED)
        asked = True
        body.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        yield
    except asyncio.CancelledError:
        if not asked:
            raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
