"""The wall clock, for what is told and measured: bars and forecasts know no clock."""

import time


def wall_ms() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000
