"""The truth in batch: what a ticks partition must become, from the rules and not from the fold.

Everything is known at once here, so each rule is one expression: lateness is a comparison with the
running maximum, a bar is a group, open and close are the ends of a sort, sums are fractions.
"""

import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

from kronos_stream.wire.intervals import DAY_MS, INTERVAL_MS
from kronos_stream.wire.messages import Bar


class Entry(NamedTuple):
    """A record of the partition: a tick, or with `symbol` None a marker. What is no message at all
    is no entry, but keeps its offset."""

    offset: int
    timestamp: int
    time: int
    symbol: str | None = None
    price: str = ""
    qty: str = ""
    trade_id: int | None = None


class Truth(NamedTuple):
    """All bars in the order of their closes, and the offsets of records that go elsewhere."""

    bars: list[Bar]
    late: list[int]
    rejected: list[int]


def entries(records: Iterable[tuple[int, int, bytes]]) -> list[Entry]:
    """Of (offset, timestamp, payload) with ticks in our own form in JSON, and markers."""
    found = []
    for offset, timestamp, payload in records:
        raw = json.loads(payload)
        if "marker_time" in raw:
            found.append(Entry(offset, timestamp, raw["marker_time"]))
        else:
            found.append(
                Entry(
                    offset,
                    timestamp,
                    raw["time"],
                    raw["symbol"],
                    str(raw["price"]),
                    str(raw["qty"]),
                    raw.get("trade_id"),
                )
            )
    return found


def truth(
    log: Sequence[Entry],
    *,
    interval: str = "5m",
    grace_ms: int = 1_000,
    gaps: str = "fill",
    edges: str = "drop",
    max_ahead_ms: int = 60_000,
    contiguous_ids: bool = False,
    symbols: Iterable[str] | None = None,
    at_home: Callable[[str], bool] = lambda symbol: True,
    exists: Callable[[str, int], bool] = lambda symbol, open_time: True,
    to_the_end: bool = False,
) -> Truth:
    """What `log` becomes. `exists` tells a symbol's intervals; `to_the_end`: the log ends, so
    whole bars wait for no late tick, and with edges kept the interval that it cuts off counts."""
    step = INTERVAL_MS[interval]
    rejected = [
        e.offset
        for e in log
        if e.time - e.timestamp > max_ahead_ms or (e.symbol is not None and not at_home(e.symbol))
    ]
    unusable = set(rejected)
    taken = [e for e in log if e.offset not in unusable]
    # A late tick or a duplicate is never the newest, so the watermark is a running maximum.
    before = [None, *itertools.accumulate((e.time for e in taken), max)]
    listed = [
        (e, w)
        for e, w in zip(taken, before, strict=False)
        if e.symbol is not None and (symbols is None or e.symbol in symbols)
    ]
    late = [
        e.offset
        for e, w in listed
        if w is not None and e.time // step * step + step + grace_ms <= w
    ]
    too_late = set(late)
    end = before[-1]
    groups: dict[str, dict[int, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    seen_at: dict[int, int | None] = {}
    known: set[tuple[str, int, int]] = set()
    for e, w in listed:
        open_time = e.time // step * step
        if e.offset in too_late or not exists(str(e.symbol), open_time):
            continue
        if e.trade_id is not None:
            if (str(e.symbol), open_time, e.trade_id) in known:
                continue
            known.add((str(e.symbol), open_time, e.trade_id))
        groups[str(e.symbol)][open_time].append(e)
        seen_at[e.offset] = w
    bars: list[Bar] = []
    if end is not None:
        for symbol, buckets in groups.items():
            upto = end - grace_ms - (end - grace_ms) % step
            if to_the_end:
                upto = max(upto, end - end % step + step * (edges == "keep"))
            bars += _bars_of(
                symbol,
                buckets,
                seen_at,
                upto=upto,
                end=end,
                interval=interval,
                gaps=gaps,
                edges=edges,
                contiguous_ids=contiguous_ids,
                exists=exists,
            )
    bars.sort(key=lambda bar: (bar.open_time, bar.symbol))
    return Truth(bars, late, rejected)


def _bars_of(
    symbol: str,
    buckets: dict[int, list[Entry]],
    seen_at: dict[int, int | None],
    *,
    upto: int,
    end: int,
    interval: str,
    gaps: str,
    edges: str,
    contiguous_ids: bool,
    exists: Callable[[str, int], bool],
) -> list[Bar]:
    step = INTERVAL_MS[interval]
    bars: list[Bar] = []
    closed = sorted(b for b in buckets if b < upto)
    last_close: float | None = None
    last_id: int | None = None
    dropped: int | None = None
    for bucket, following in itertools.zip_longest(closed, closed[1:], fillvalue=upto):
        ticks = buckets[bucket]
        if dropped is not None and not bars and bucket > dropped + DAY_MS:
            # Nothing was published for a day after the partial bar: the symbol begins anew.
            last_close = last_id = None
        whole = True
        if last_close is None:
            first = min(
                (t for b, ts in buckets.items() if b >= bucket for t in ts), key=lambda t: t.offset
            )
            reached = seen_at[first.offset]
            whole = reached is not None and reached >= bucket
        bar = _traded(symbol, bucket, ticks, interval)
        ids = sorted(t.trade_id for t in ticks if t.trade_id is not None)
        hole = bool(ids) and (
            ids != list(range(ids[0], ids[0] + len(ids)))
            or (last_id is not None and ids[0] != last_id + 1)
        )
        cut_off = bucket >= upto or (bucket + step > end)
        last_close, last_id = bar["close"], bar["last_trade_id"] or last_id
        prev = bars[-1].open_time if bars else None
        if whole or edges == "keep":
            complete = whole and not cut_off and not (contiguous_ids and hole)
            bars.append(Bar(**bar, prev_open_time=prev, complete=complete))
            dropped = None
        else:
            dropped = bucket
        if gaps == "fill":
            between = (o for o in range(bucket + step, following, step) if exists(symbol, o))
            for run, open_time in enumerate(itertools.islice(between, DAY_MS // step), 1):
                if not bars and open_time > bucket + DAY_MS:
                    break
                bars.append(
                    Bar(
                        symbol=symbol,
                        interval=interval,
                        open_time=open_time,
                        close_time=open_time + step,
                        open=last_close,
                        high=last_close,
                        low=last_close,
                        close=last_close,
                        volume=0.0,
                        amount=0.0,
                        last_trade_id=last_id,
                        prev_open_time=bars[-1].open_time if bars else None,
                        complete=open_time + step <= end,
                        synthetic=True,
                        flat_run=run,
                    )
                )
    return bars


def _traded(symbol: str, bucket: int, ticks: list[Entry], interval: str) -> dict:
    step = INTERVAL_MS[interval]
    ordered = sorted(ticks, key=lambda t: (t.time, t.offset if t.trade_id is None else t.trade_id))
    prices = [Fraction(t.price) for t in ordered]
    volumes = [Fraction(t.qty) for t in ordered]
    ids = [t.trade_id for t in ticks if t.trade_id is not None]
    return {
        "symbol": symbol,
        "interval": interval,
        "open_time": bucket,
        "close_time": bucket + step,
        "open": float(prices[0]),
        "high": float(max(prices)),
        "low": float(min(prices)),
        "close": float(prices[-1]),
        "volume": float(sum(volumes)),
        "amount": float(sum((p * q for p, q in zip(prices, volumes, strict=True)), Fraction())),
        "trades": len(ticks),
        "first_trade_id": min(ids, default=None),
        "last_trade_id": max(ids, default=None),
    }
