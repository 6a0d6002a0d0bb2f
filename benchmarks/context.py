"""What a warm close costs at a short and at a long context: the same, but for attention itself."""

from statistics import median

from torch.profiler import ProfilerActivity, profile

from tests.model.peer import SMALL

from .engine import bench
from .table import Row

SHORT, LONG = 63, 479
CLOSES = 8
ATTENTION = "scaled_dot_product"


def context_small() -> list[Row]:
    """2 symbols × 10 paths × 24 steps at context 64 and 480, and one symbol's memory."""
    short, short_rest, _ = _measured(SHORT)
    long, long_rest, slot_mib = _measured(LONG)
    return [
        Row("context-small: 480 beside 64", long, "s", short, short / long, note="whole closes"),
        Row(
            "context-small: 480 beside 64, without attention over the prefix",
            long_rest,
            "s",
            short_rest,
            short_rest / long_rest,
            note="at least 0.9",
        ),
        Row("context-small: cache of one symbol at 480", slot_mib, "MiB", note="all of its memory"),
    ]


def _measured(lookback: int) -> tuple[float, float, float]:
    """Median seconds of a close, the same without its attention, MiB of a symbol's slot."""
    with bench(SMALL, symbols=2, paths=10, lookback=lookback, steps=24) as b:
        b.close(b.requests())
        b.idle()
        whole: list[float] = []
        rest: list[float] = []
        for _ in range(CLOSES):
            asked = b.requests()
            with profile(activities=[ProfilerActivity.CPU]) as profiled:
                replies, elapsed = b.close(asked)
            assert {r.cache for r in replies} == {"hit"}
            attention = sum(e.cpu_time_total for e in profiled.key_averages() if ATTENTION in e.key)
            whole.append(elapsed)
            rest.append(elapsed - attention / 1e6)
            b.idle()
        slot_mib = b.hello.hello.cache_bytes / 2**20
    return median(whole), median(rest), slot_mib
