"""One member of a stage, as `kronos-stream` would start it: `python -m tests.faults.member ARGS`.

Beside the command line itself it lets the campaign befall the engine (see `engine_faults`) and
break a promise (see `breaks`).
"""

import os
import sys
from typing import Final

from kronos_stream.cli import main
from kronos_stream.engine import client

from .breaks import BREAKS
from .engine_faults import serve

BREAK_VARIABLE: Final = "FAULTS_BREAK"

if __name__ == "__main__":
    client._serve = serve
    broken = os.environ.get(BREAK_VARIABLE)
    if broken:
        BREAKS[broken](setattr)
    sys.exit(main())
