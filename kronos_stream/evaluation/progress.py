"""How far a long command has come: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TextIO

from ..progress import bar_on

LINE_EVERY_S: Final = 15.0


@contextmanager
def progress(what: str, total: int, out: TextIO) -> Iterator[Callable[[], None]]:
    """Gives what is to be called after each of `total` units."""
    if out.isatty():
        with bar_on(out) as bar:
            task = bar.add_task(what, total=total)
            yield lambda: bar.advance(task)
        return
    began = said = time.monotonic()
    done = 0

    def advance() -> None:
        nonlocal done, said
        done += 1
        now = time.monotonic()
        if now - said >= LINE_EVERY_S or done == total:
            said = now
            print(f"{what}: {done}/{total}, {now - began:.0f} s", file=out, flush=True)

    yield advance
