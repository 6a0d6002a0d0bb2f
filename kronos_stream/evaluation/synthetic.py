"""Synthetic K-lines: sampled futures of real contexts, as bars that any command can read."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..bars.tables import check_ending, write_rows
from ..engine.spec import bars_needed
from ..errors import InputError
from ..forecasts.record import following
from ..settings import Settings
from ..wire.messages import CHANNELS
from .inputs import open_inputs
from .origins import spread
from .progress import progress
from .sampler import Sampler, refusal

COLUMNS: Final = ("series", "symbol", "source", "open_time", *CHANNELS)


class Generated(NamedTuple):
    """How many series were written, and how many contexts were passed over and why."""

    series: int
    refused: dict[str, int]


def generate_file(
    settings: Settings,
    bars: Sequence[Path],
    symbols: Sequence[str],
    count: int,
    out: Path,
    say: TextIO,
    *,
    since: int | None = None,
    until: int | None = None,
) -> Generated:
    """Writes `count` series of `horizon` candles each to a bars file.

    Contexts are spread evenly over symbols and the time of each, past those that give no forecast;
    where there are fewer of them than series, each is continued more than once. A series is a
    symbol of its own, SOURCE#NUMBER, so that its bars are never taken for those of its neighbours;
    `source` is the symbol of its context.
    """
    check_ending(out)
    opened = open_inputs(settings, bars, symbols, say)
    passed: dict[tuple[int, int], str | None] = {}

    def fits(number: int, row: int) -> bool:
        if (number, row) not in passed:
            passed[number, row] = refusal(opened.series[number], row, opened.spec)
        return passed[number, row] is None

    origins = spread(
        opened.series,
        opened.calendar,
        context=bars_needed(opened.spec),
        horizon=0,
        count=count,
        fits=fits,
        since=since,
        until=until,
    )
    refused = dict(Counter(reason for reason in passed.values() if reason is not None))
    if not origins:
        told = ", ".join(f"{n} {reason}" for reason, n in sorted(refused.items()))
        raise InputError(f"bars: expected a context that gives a forecast, found none ({told})")
    each, more = divmod(count, len(origins))
    spec = msgspec.structs.replace(opened.spec, paths=each + (more > 0))
    sampler = Sampler(
        opened.pair,
        spec,
        opened.calendar,
        device=settings.model.device,
        cache_bytes=settings.model.cache_mib * 2**20,
    )
    rows: list[dict[str, Any]] = []
    made = 0
    with progress("contexts", len(origins), say) as advance:
        for place, sample in enumerate(sampler.samples(opened.series, origins)):
            advance()
            one = opened.series[sample.origin.series]
            times = following(opened.calendar, int(one.open_times[sample.origin.row]), spec.horizon)
            for path in sample.joined(spec.join)[: each + (place < more)]:
                rows += _candles(made, one.symbol, times, path)
                made += 1
    write_rows(out, rows, list(COLUMNS))
    return Generated(made, refused)


def _candles(
    number: int, source: str, times: list[int], path: NDArray[np.float64]
) -> Iterator[dict[str, Any]]:
    for open_time, candle in zip(times, path.tolist(), strict=True):
        yield {
            "series": number,
            "symbol": f"{source}#{number}",
            "source": source,
            "open_time": open_time,
        } | dict(zip(CHANNELS, candle, strict=True))
