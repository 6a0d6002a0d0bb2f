"""The fold in columns gives what the fold record by record gives, whatever the log and the cuts."""

import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronos_stream.bars.batches import BatchFold
from kronos_stream.bars.fold import BarsConfig, PartitionFold
from kronos_stream.bars.outputs import Output
from kronos_stream.settings import BarsSettings
from kronos_stream.wire.codecs import encode
from kronos_stream.wire.messages import Marker
from kronos_stream.wire.topics import Record

STEP, GRACE = 60_000, 1_000
T0 = 1_735_689_600_000
MOST = 2**63 - 1
SYMBOLS = ("AAA", "BBB", "CCC", "UNLISTED", "FAR", "SCALED", "NYSE")


def _config(bars: BarsSettings) -> BarsConfig:
    scaled = {"symbol_scales": {"SCALED": 2}, "symbol_calendars": {"NYSE": "XNYS"}}
    return BarsConfig.of(msgspec.structs.replace(bars, **scaled))


def _fold(bars: BarsSettings) -> PartitionFold:
    return PartitionFold(
        config=_config(bars),
        partition_of=lambda symbol: int(symbol == "FAR"),
        symbols=frozenset(SYMBOLS) - {"UNLISTED"},
    )


def _state(fold: PartitionFold) -> dict[str, Any]:
    """All that a later record or a restart could depend on."""
    symbols = {
        name: {
            slot: getattr(symbol, slot)
            for slot in symbol.__slots__
            if slot not in ("open", "calendar")
        }
        | {
            open_time: {slot: getattr(builder, slot) for slot in builder.__slots__}
            for open_time, builder in symbol.open.items()
        }
        for name, symbol in fold._symbols.items()
        if symbol.open or symbol.close is not None
    }
    for symbol in symbols.values():
        symbol["dropped"] = symbol["dropped"] and symbol["dropped"][0]
    return {
        "symbols": symbols,
        "watermark": fold.watermark,
        "next_open": fold.next_open,
        "low_water": fold.low_water,
        "before": fold.watermark_at_low_water,
        "next_close": fold.next_close_ms,
        "counters": {name: count for name, count in fold.counters.items() if count},
    }


def _one_by_one(fold: PartitionFold, log: Sequence[Record]) -> list[tuple[int, list[Output]]]:
    found = [(r.offset, fold.apply(r.offset, r.timestamp, r.value, r.headers)) for r in log]
    return [(offset, outputs) for offset, outputs in found if outputs]


def _in_batches(
    fold: PartitionFold, log: Sequence[Record], rng: random.Random, least_run: int
) -> list[tuple[int, list[Output]]]:
    batches = BatchFold(fold, least_run=least_run)
    found, start = [], 0
    while start < len(log):
        end = start + rng.choice([1, 2, 7, 30, 1000])
        found += [(record.offset, outputs) for record, outputs in batches.apply(log[start:end])]
        start = end
    return found


JUNK = [
    *(("price", text) for text in ["0", "-1", "1e3", "NaN", "", "1.", ".5", "+1", " 1", "."]),
    *(("price", text) for text in ["1.123456789", "9" * 41, "1" * 30, "1.2.3", "1_0", "\u0661"]),
    *(("qty", value) for value in [1, 2.5, 1e-9, 2**63, None, True, "1.500000000", "0" * 39 + "1"]),
    *(("time", value) for value in [T0 // 1000, T0 * 1000, -5, 2**63, None, 1.5]),
    *(("trade_id", value) for value in [MOST, -MOST, -MOST - 1, MOST + 1, "12", "x", 1.5]),
    *(("symbol", name) for name in ["", "a b", "\u00e9", "x" * 65, "x" * 64, None, 5]),
    *[("junk", "x" * 70_000), ("e", 1), ("data", []), ("marker_time", "x"), ("side", "buy")],
]


def _junk(rng: random.Random, time: int) -> bytes:
    tick = {"symbol": "AAA", "price": "1.5", "qty": "2", "time": time, "trade_id": 5}
    field, value = rng.choice(JUNK)
    binance = {"s": "BBB", "p": "3", "q": "1", "T": time, "t": 9, "a": 9}
    return rng.choice(
        [
            *[msgspec.json.encode(tick | {field: value})] * 8,
            msgspec.json.encode(binance | {"e": "trade"}),
            msgspec.json.encode(binance | {"e": "aggTrade"}),
            *[b"", b"{", b"\xff\xfe", b"[1,2]", b"[" * 5_000, b'{"symbol":"AAA"}'],
        ]
    )


def _log(seed: int, rows: int, *, wild: bool) -> list[Record]:
    """Mostly ordered ticks of a few symbols with ids, some again, some late, some of everything."""
    rng = random.Random(seed)
    now, log, ids = T0 + rng.randrange(STEP), [], dict.fromkeys(SYMBOLS, 0)
    pace = rng.choice([2, 10, 300, 5_000])
    packed = (("wire", b"msgpack"),)
    with_ids = rng.random() < 0.7
    for offset in range(rows):
        now += rng.randrange(pace)
        kind = rng.random()
        headers: tuple[tuple[str, bytes], ...] = ()
        if wild and kind < 0.03:
            now += rng.choice([STEP, 5 * STEP, 3_600_000, 86_400_000 * 2])
        if kind < 0.01:
            value, headers = encode(Marker(marker_time=now))
        elif wild and kind < 0.06:
            value = _junk(rng, now)
            headers = rng.choice([(), (), packed])
        elif kind < 0.1 and log:
            again = rng.choice(log[-20:])
            value, headers = again.value, again.headers
        else:
            symbol = rng.choice(SYMBOLS)
            ids[symbol] = 1 if wild and rng.random() < 0.01 else ids[symbol] + rng.choice([1, 1, 2])
            back = rng.choice([0] * 20 + [GRACE // 2, GRACE, STEP, 3 * STEP])
            scale = rng.choice([1, 10**3, 10**10])
            tick = {
                "symbol": symbol,
                "price": f"{rng.randrange(1, 9_999) * scale / 100:.2f}",
                "qty": f"{rng.randrange(1, 10**6) / 10 ** rng.choice([0, 5]):.5f}",
                "time": now - back,
            }
            if with_ids or (wild and rng.random() < 0.1):
                tick["trade_id"] = ids[symbol] + rng.choice([0, 0, 0, -1, 7, 100])
            value = msgspec.json.encode(tick)
            if wild and rng.random() < 0.1:
                value, headers = msgspec.msgpack.encode(tick), packed
        stamp = now - (70_000 if wild and rng.random() < 0.01 else 0)
        log.append(Record("ticks", 0, offset, stamp, None, value, headers))
    return log


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 300),
    st.booleans(),
    st.builds(
        BarsSettings,
        interval=st.just("1m"),
        grace_ms=st.sampled_from([0, GRACE, STEP + 7]),
        gaps=st.sampled_from(["fill", "skip"]),
        edges=st.sampled_from(["drop", "keep"]),
        contiguous_ids=st.booleans(),
    ),
    st.sampled_from([1, 1, 8, 48]),
)
def test_any_log_in_any_batches(
    seed: int, rows: int, wild: bool, bars: BarsSettings, least_run: int
) -> None:
    log = _log(seed, rows, wild=wild)
    one, many = _fold(bars), _fold(bars)
    assert _in_batches(many, log, random.Random(seed), least_run) == _one_by_one(one, log)
    assert _state(many) == _state(one)


@pytest.mark.parametrize("least_run", [1, 48])
def test_a_restored_fold_goes_on_in_batches(least_run: int) -> None:
    bars = BarsSettings(interval="1m")
    log = _log(7, 2_000, wild=False)
    whole = _one_by_one(_fold(bars), log)
    fold = _fold(bars)
    batches = BatchFold(fold, least_run=least_run)
    found = [(r.offset, outputs) for r, outputs in batches.apply(log[:1_000])]
    found += _one_by_one(fold, log[1_000:1_500])
    found += [(r.offset, outputs) for r, outputs in batches.apply(log[1_500:])]
    assert found == whole


def test_prices_and_sums_beyond_53_bits_are_exact() -> None:
    rows = [("92233720368.54775807", "92233720368.54775807")] * 60 + [("0.00000001", "0.1")]
    log = [
        Record(
            *("ticks", 0, i, T0 + i, None),
            msgspec.json.encode(
                {"symbol": "AAA", "price": p, "qty": q, "time": T0 + i, "trade_id": i}
            ),
            (),
        )
        for i, (p, q) in enumerate(rows)
    ]
    one, many = _fold(BarsSettings()), _fold(BarsSettings())
    _one_by_one(one, log)
    list(BatchFold(many, least_run=1).apply(log))
    assert _state(many) == _state(one)
    (builder,) = many._symbols["AAA"].open.values()
    assert builder.amount == 60 * MOST**2 + 10**7


def test_the_least_of_all_ids_is_an_id() -> None:
    def record(offset: int, trade_id: int) -> Record:
        tick = {"symbol": "AAA", "price": "1", "qty": "1", "time": T0 + offset}
        value = msgspec.json.encode(tick | {"trade_id": trade_id})
        return Record("ticks", 0, offset, T0 + offset, None, value, ())

    log = [record(offset, trade_id) for offset, trade_id in enumerate((-7, -MOST, -8))]
    one, many = _fold(BarsSettings()), _fold(BarsSettings())
    _one_by_one(one, log)
    batches = BatchFold(many, least_run=1)
    for alone in log:
        list(batches.apply([alone]))
    assert _state(many) == _state(one)
