"""One member of a stage, as `kronos-stream` would start it: `python -m tests.faults.member ARGS`.

Beside the command line itself it lets the campaign befall the engine (see `engine_faults`), break a
promise (see `breaks`), and make its consumers fall silent.
"""

import os
import sys
from pathlib import Path
from typing import Any, Final

from aiokafka import AIOKafkaConsumer

from kronos_stream.cli import main
from kronos_stream.engine import client

from .breaks import BREAKS
from .engine_faults import serve

BREAK_VARIABLE: Final = "FAULTS_BREAK"
SILENCE_VARIABLE: Final = "FAULTS_SILENCE_FILE"
"""Names a file; while it is there, consumers get nothing, and no error either."""


def silence(file: Path) -> None:
    """As consumers were seen to stop: they keep their membership, and fetch no more."""
    fetch, is_silent = AIOKafkaConsumer.getmany, file.exists

    async def getmany(self: AIOKafkaConsumer, *tps: Any, **options: Any) -> Any:
        got = await fetch(self, *tps, **options)
        return {} if is_silent() else got

    AIOKafkaConsumer.getmany = getmany


if __name__ == "__main__":
    client._serve = serve
    broken = os.environ.get(BREAK_VARIABLE)
    if broken:
        BREAKS[broken](setattr)
    if SILENCE_VARIABLE in os.environ:
        silence(Path(os.environ[SILENCE_VARIABLE]))
    sys.exit(main())
