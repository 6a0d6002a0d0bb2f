"""The folder of a run: made, kept from other runs, and what cannot be written to it is told."""

import errno
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

FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""Errors of a write, which name no file."""


@contextmanager
def held(out: Path) -> Iterator[None]:
    """For the length of a run. InputError where another run holds it, or a disk is full."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        folder = os.open(out, os.O_RDONLY)
    except OSError as error:
        raise _unwritable(error.filename, error) from error
    try:
        _lock(folder, out)
        yield
    except OSError as error:
        # Others say what they could not read, or who has left.
        if error.errno not in FULL and not str(error.filename).startswith(str(out)):
            raise
        raise _unwritable(error.filename or out, error) from error
    except SafetensorError as error:
        raise InputError(f"--out: {out}: cannot be written: {error}") from error
    finally:
        os.close(folder)


def _unwritable(where: Path | str, error: OSError) -> InputError:
    return InputError(f"--out: {where}: cannot be written: {error.strerror or error}")


def _lock(folder: int, out: Path) -> None:
    """Ends with the process, however that ends."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"--out: {out}: another run is writing there") from None
    except OSError:
        return  # A file system without locks.
