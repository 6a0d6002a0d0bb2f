"""The time grid of K-lines: an interval is named as on the wire and measured in milliseconds."""

from typing import Final

INTERVAL_MS: Final[dict[str, int]] = {"1m": 60_000, "5m": 300_000, "15m": 900_000, "1h": 3_600_000}
"""The intervals that a deployment can run at; one per deployment."""

DAY_MS: Final = 86_400_000


def open_time_of(time_ms: int, interval_ms: int) -> int:
    """The open time of the right-open interval that holds `time_ms` (UTC milliseconds)."""
    return time_ms - time_ms % interval_ms


def end_mark(time: int, interval_ms: int, grace_ms: int) -> int:
    """The marker after which no bar waits for late ticks that is whole at `time`; one that `time`
    cuts off stays open."""
    return open_time_of(time, interval_ms) + grace_ms
