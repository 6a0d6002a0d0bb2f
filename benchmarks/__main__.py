"""`python -m benchmarks [CASE ...]`: prints a table, and writes it as build/bench.json."""

import sys
from collections.abc import Callable
from pathlib import Path

from . import context, engine, members, pipeline, ticks, ticks_stream
from .table import Row, show

CASES: dict[str, Callable[[], list[Row]]] = {
    "warm-small": engine.warm_small,
    "cold-small": engine.cold_small,
    "burst-small": engine.burst_small,
    "burst-small-bf16": engine.burst_small_bf16,
    "burst-mini": engine.burst_mini,
    "idle-small": engine.idle_small,
    "context-small": context.context_small,
    "pipeline-mini": pipeline.mini,
    "pipeline-2": pipeline.two_symbols,
    "pipeline-20": pipeline.twenty_symbols,
    "members": members.scaled,
    "ticks": ticks_stream.streamed,
    "ticks-offline": ticks.offline,
}


def main(wanted: list[str]) -> int:
    """Runs the cases named, or all of them."""
    unknown = [name for name in wanted if name not in CASES]
    if unknown:
        print(f"no such case: {', '.join(unknown)}; expected {', '.join(CASES)}", file=sys.stderr)
        return 2
    show([row for name in wanted or CASES for row in CASES[name]()], Path("build/bench.json"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
