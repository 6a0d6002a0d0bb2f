"""The folder of a run: made, kept from other runs, and what cannot be written to it is told."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from safetensors import SafetensorError

from ..errors import InputError

DATA: Final = "data.json"
"""What was dropped of the bars, and up to when they were trained on."""


@contextmanager
def held(out: Path) -> Iterator[None]:
    """For the length of a run. InputError where another run holds it, or a disk is full."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        folder = os.open(out, os.O_RDONLY)
        try:
            _lock(folder, out)
            yield
        finally:
            os.close(folder)
    except OSError as error:
        where = error.filename or out
        raise InputError(f"--out: {where}: cannot be written: {error.strerror or error}") from error
    except SafetensorError as error:
        raise InputError(f"--out: {out}: cannot be written: {error}") from error


def _lock(folder: int, out: Path) -> None:
    """Ends with the process, however that ends."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"--out: {out}: another run is writing there") from None
    except OSError:
        return  # A file system without locks.
