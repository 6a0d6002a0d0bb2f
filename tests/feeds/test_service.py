"""The feed's shell over a broker in memory, with a clock that only moves when it sleeps."""

import itertools
import math
import random
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from structlog.testing import capture_logs

from kronos_stream.bars.fold import BarsConfig, PartitionFold
from kronos_stream.bars.offline import fold_file
from kronos_stream.bars.outputs import BarOut
from kronos_stream.errors import BrokerError, InputError, SettingsError
from kronos_stream.settings import BarsSettings
from kronos_stream.telemetry import HISTORY_CLASHES
from kronos_stream.wire.codecs import decode, encode
from kronos_stream.wire.messages import Bar, Marker, Tick
from kronos_stream.wire.topics import Record
from tests.fakes import FakeBroker, FakeCluster
from tests.feeds.serving import Clock, service
from tests.samples import START_MS, STEP_MS, bar


def split(records: list[Record]) -> tuple[list[Tick], list[Marker]]:
    markers = [decode(r.value, r.headers, Marker) for r in records if r.key is None]
    ticks = [decode(r.value, r.headers, Tick) for r in records if r.key is not None]
    return ticks, markers


def bars_of(fold: PartitionFold, records: list[Record]) -> list[Bar]:
    return [
        output.bar
        for r in records
        for output in fold.apply(r.offset, r.timestamp, r.value, r.headers)
        if isinstance(output, BarOut)
    ]


async def test_history_comes_first_and_only_for_cold_symbols() -> None:
    broker = FakeBroker(FakeCluster(partitions=2))
    await service(broker, Clock()).run()
    history = [decode(r.value, r.headers, Bar) for r in broker.cluster.records(broker.topics.bars)]
    assert len(history) == 40
    assert all(b.history and b.close_time <= START_MS for b in history)
    await service(broker, Clock()).run()
    assert len(broker.cluster.records(broker.topics.bars)) == 40


async def test_markers_close_every_bar_and_never_overtake_a_tick() -> None:
    broker = FakeBroker(FakeCluster(partitions=2))
    await service(broker, Clock(), speed=600.0).run()
    for partition in (0, 1):
        log = broker.cluster.logs[broker.topics.ticks, partition]
        reached = 0
        for record in log:
            if record.key is None:
                reached = max(reached, decode(record.value, record.headers, Marker).marker_time)
            else:
                assert decode(record.value, record.headers, Tick).time >= reached - 1
        _, markers = split(log)
        times = [m.marker_time for m in markers]
        assert {START_MS + STEP_MS + 1_000, START_MS + 2 * STEP_MS + 1_000} <= set(times)
        assert max(b - a for a, b in itertools.pairwise(times)) <= 600 * 250 + STEP_MS


async def test_virtual_time_runs_at_its_speed() -> None:
    clock = Clock()
    await service(FakeBroker(FakeCluster(partitions=1)), clock, speed=60.0).run()
    assert clock.now == pytest.approx((2 * STEP_MS + 1_000) / 1000 / 60, abs=0.3)


async def test_a_second_run_continues_time_and_ids() -> None:
    broker = FakeBroker(FakeCluster(partitions=1))
    for _ in range(2):
        await service(broker, Clock()).run()
    ticks, markers = split(broker.cluster.records(broker.topics.ticks))
    for symbol in ("BTCUSDT", "ETHUSDT"):
        ids = [t.trade_id for t in ticks if t.symbol == symbol]
        assert len(set(ids)) == len(ids)
        assert ids == sorted(ids)
    times = [m.marker_time for m in markers]
    assert times == sorted(times)
    assert len([t for t in times if t % STEP_MS == 1_000]) == 4


async def test_every_simulated_bar_is_whole() -> None:
    broker = FakeBroker(FakeCluster(partitions=1))
    await service(broker, Clock(), bars=3, duplicates=0.05, out_of_order=0.1).run()
    fold = PartitionFold(config=BarsConfig.of(BarsSettings(contiguous_ids=True)))
    bars = bars_of(fold, broker.cluster.records(broker.topics.ticks))
    assert len(bars) == 6
    assert all(b.complete and b.trades for b in bars)
    assert fold.counters["late"] == 0
    assert fold.counters["duplicate"] > 0


def ticks_file(folder: Path) -> Path:
    path = folder / "ticks.csv"
    rows = ["ts_ms,symbol,price,qty,side,trade_id"]
    rows += [f"{START_MS + i * 60_000},BTCUSDT,{100 + i}.5,1.0,buy,{i}" for i in range(12)]
    path.write_text("\n".join(rows) + "\n")
    return path


async def test_replay_ends_with_its_last_whole_bar_closed(tmp_path: Path) -> None:
    broker = FakeBroker(FakeCluster(partitions=2))
    path = str(ticks_file(tmp_path))
    await service(broker, Clock(), kind="replay", file=path, bars=None).run()
    ticks, markers = split(broker.cluster.records(broker.topics.ticks))
    assert [t.price for t in ticks] == [f"{100 + i}.5" for i in range(12)]
    times = {m.marker_time for m in markers}
    assert START_MS + 2 * STEP_MS + 1_000 in times
    assert max(times) < START_MS + 3 * STEP_MS


@pytest.mark.parametrize("edges", ["drop", "keep"])
@pytest.mark.parametrize("last_s", [4, 300, 599, 600, 601, 630])
async def test_a_replay_makes_the_bars_of_the_file_off_line(
    tmp_path: Path, last_s: int, edges: Literal["drop", "keep"]
) -> None:
    """Whatever the file's end cuts off, or leaves waiting for late ticks."""
    path = tmp_path / "ticks.csv"
    rows = [f"{START_MS + s * 1_000},BTCUSDT,100,1" for s in range(0, last_s + 1, 4)]
    rows += [f"{START_MS + last_s * 1_000},ETHUSDT,100,1"]
    path.write_text("\n".join(["ts_ms,symbol,price,qty", *rows]) + "\n")
    broker = FakeBroker(FakeCluster(partitions=1))
    bars = BarsSettings(edges=edges)
    feed = service(broker, Clock(), kind="replay", file=str(path), bars=None, settings=bars)
    await feed.run()
    fold = PartitionFold(config=BarsConfig.of(bars))
    streamed = bars_of(fold, broker.cluster.records(broker.topics.ticks))
    offline, _ = fold_file(path, bars)
    if edges == "keep":
        # Only off-line it is known that the end cut a bar off.
        streamed, offline = (
            [msgspec.structs.replace(b, complete=True) for b in found]
            for found in (streamed, offline)
        )
    assert streamed == offline
    # The first bar was not seen from its beginning.
    if edges == "drop":
        assert [b.open_time for b in streamed] == [START_MS + STEP_MS] * (last_s >= 600)


def scattered_ticks(folder: Path, seed: int) -> Path:
    """Five symbols that begin at times of their own, some just after an interval, with pauses."""
    rng = random.Random(seed)
    rows: list[tuple[int, str]] = []
    for i, symbol in enumerate(("OTHER", "BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT")):
        at = START_MS + 20_000 + rng.randrange(i * 100_000 + 1) // 60_000 * 60_000 + 500
        while at < START_MS + 900_000:
            rows.append((at, symbol))
            at += rng.choice((700, 9_000, 30_000, 100_000))
    path = folder / "ticks.csv"
    lines = [f"{at},{symbol},{rng.randrange(100, 110)},1" for at, symbol in sorted(rows)]
    path.write_text("\n".join(["time,symbol,price,qty", *lines]) + "\n")
    return path


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("grace_ms", [0, 5_000])
@pytest.mark.parametrize("edges", ["drop", "keep"])
@pytest.mark.parametrize("symbols", ["all", ("ETHUSDT", "XRPUSDT")], ids=str)
async def test_a_replay_makes_them_at_any_speed_in_any_partitions(
    tmp_path: Path,
    symbols: tuple[str, ...] | Literal["all"],
    edges: Literal["drop", "keep"],
    grace_ms: int,
    seed: int,
) -> None:
    """A symbol's first bar is whole or not for what the file says, and of symbols that are not
    listed the time counts."""
    path = scattered_ticks(tmp_path, seed)
    bars = BarsSettings(interval="1m", grace_ms=grace_ms, edges=edges)
    listed = None if symbols == "all" else frozenset(symbols)
    offline, _ = fold_file(path, bars, listed)
    offline = [msgspec.structs.replace(b, complete=True) for b in offline]
    assert len({b.symbol for b in offline}) > 1
    for partitions, speed in itertools.product((1, 3), (20.0, math.inf)):
        broker = FakeBroker(FakeCluster(partitions=partitions))
        feed = service(
            *(broker, Clock()),
            kind="replay",
            file=str(path),
            bars=None,
            settings=bars,
            symbols=symbols,
            speed=speed,
        )
        await feed.run()
        streamed: list[Bar] = []
        for partition in range(partitions):
            fold = PartitionFold(config=BarsConfig.of(bars), partition=partition, symbols=listed)
            streamed += bars_of(fold, broker.cluster.logs[broker.topics.ticks, partition])
        if edges == "keep":
            # Only off-line it is known that the file's ends cut a bar off.
            streamed = [msgspec.structs.replace(b, complete=True) for b in streamed]
        assert sorted(streamed, key=lambda b: (b.open_time, b.symbol)) == offline


async def test_a_replay_that_is_ended_by_its_bars_publishes_no_more(tmp_path: Path) -> None:
    broker = FakeBroker(FakeCluster(partitions=1))
    bars = BarsSettings(interval="1m", edges="keep")
    path = str(scattered_ticks(tmp_path, 1))
    await service(broker, Clock(), kind="replay", file=path, bars=3, settings=bars).run()
    fold = PartitionFold(config=BarsConfig.of(bars))
    made = bars_of(fold, broker.cluster.records(broker.topics.ticks))
    assert len({b.open_time for b in made}) == 3


async def test_replay_refuses_a_topic_that_is_past_its_beginning(tmp_path: Path) -> None:
    broker = FakeBroker(FakeCluster(partitions=2))
    path = str(ticks_file(tmp_path))
    await service(broker, Clock(), kind="replay", file=path, bars=None).run()
    with pytest.raises(BrokerError, match="another --topic-prefix"):
        await service(broker, Clock(), kind="replay", file=path, bars=None).run()


async def test_a_time_in_another_unit_is_told_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "ticks.csv"
    path.write_text(f"time,symbol,price,qty\n{START_MS},BTCUSDT,1,1\n0,BTCUSDT,1,1\n")
    feed = service(
        FakeBroker(FakeCluster(partitions=1)), Clock(), kind="replay", file=str(path), bars=None
    )
    with pytest.raises(InputError, match=r"ticks\.csv: row 2: time: expected milliseconds, got 0"):
        await feed.run()


async def test_history_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "BTCUSDT.csv").write_text("")
    made = [bar("BTCUSDT", i) for i in range(-30, 0)]
    broker = FakeBroker(FakeCluster(partitions=2))
    await service(
        broker,
        Clock(),
        kind="kafka",
        history=str(tmp_path),
        read_history=lambda path, symbol: made,
    ).run()
    history = [decode(r.value, r.headers, Bar) for r in broker.cluster.records(broker.topics.bars)]
    assert [b.open_time for b in history] == [b.open_time for b in made[-20:]]
    assert history[0].prev_open_time is None
    assert msgspec.structs.replace(history[-1], history=False, prev_open_time=None) == made[-1]


async def test_history_that_a_killed_feed_left_in_pieces_is_completed(tmp_path: Path) -> None:
    (tmp_path / "BTCUSDT.csv").write_text("")
    made = [bar("BTCUSDT", i) for i in range(-30, 0)]
    broker = FakeBroker(FakeCluster(partitions=2))
    topic = broker.topics.bars

    async def run() -> list[Record]:
        history = {"history": str(tmp_path), "read_history": lambda path, symbol: made}
        await service(broker, Clock(), kind="kafka", **history).run()
        return broker.cluster.records(topic)

    def put(records: list[Record]) -> None:
        for r in records:
            broker.cluster.append(
                topic, r.value, partition=r.partition, key=r.key, headers=r.headers
            )

    whole = await run()
    assert await run() == whole
    broker = FakeBroker(FakeCluster(partitions=2))
    put(whole[:7])
    assert [r.value for r in await run()] == [r.value for r in whole]
    # With a bar made from ticks behind it, it is what its contexts were made of.
    broker = FakeBroker(FakeCluster(partitions=2))
    put(whole[:7])
    value, headers = encode(bar("BTCUSDT", 0), "json")
    broker.cluster.append(
        topic, value, partition=whole[0].partition, key=whole[0].key, headers=headers
    )
    assert len(await run()) == 8


async def test_the_simulated_market_opens_with_the_first_interval_that_exists() -> None:
    broker = FakeBroker(FakeCluster(partitions=1))
    opening = START_MS + 38 * 3_600_000

    def exists(symbol: str, open_time: int) -> bool:
        return symbol == "ETHUSDT" and open_time >= opening

    await service(broker, Clock(), bars=1, exists=exists).run()
    ticks, markers = split(broker.cluster.records(broker.topics.ticks))
    assert markers[0].marker_time == opening
    assert opening <= min(t.time for t in ticks) < opening + STEP_MS


async def test_a_start_after_which_no_market_opens_is_told() -> None:
    broker = FakeBroker(FakeCluster(partitions=1))
    feed = service(broker, Clock(), bars=1, exists=lambda symbol, open_time: False)
    with pytest.raises(SettingsError, match=r"feed\.start_ms: expected a time after which"):
        await feed.run()


async def test_bars_are_counted_where_there_is_an_interval() -> None:
    broker = FakeBroker(FakeCluster(partitions=1))

    def exists(symbol: str, open_time: int) -> bool:
        return open_time // STEP_MS % 4 == 0

    await service(broker, Clock(), bars=2, exists=exists).run()
    _, markers = split(broker.cluster.records(broker.topics.ticks))
    begins = min(m.marker_time for m in markers)
    last = max(m.marker_time for m in markers) - STEP_MS - BarsSettings().grace_ms
    assert (begins // STEP_MS % 4, last - begins) == (0, 4 * STEP_MS)


async def test_history_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"feed\.history"):
        await service(FakeBroker(), Clock(), kind="kafka", history="/no/such").run()


async def test_history_reaches_up_to_the_first_bar_made_from_ticks(tmp_path: Path) -> None:
    (tmp_path / "BTCUSDT.csv").write_text("")
    broker = FakeBroker(FakeCluster(partitions=1))
    for i in (3, 4):
        value, headers = encode(bar("BTCUSDT", i), "json")
        broker.cluster.append(broker.topics.bars, value, key=b"BTCUSDT", headers=headers)
    clashes = HISTORY_CLASHES._value.get()
    for _ in range(2):
        await service(
            broker,
            Clock(),
            kind="kafka",
            history=str(tmp_path),
            read_history=lambda path, symbol: [bar("BTCUSDT", i) for i in range(-30, 6)],
        ).run()
    bars = [decode(r.value, r.headers, Bar) for r in broker.cluster.records(broker.topics.bars)]
    assert [b.open_time for b in bars if b.history] == [
        bar("BTCUSDT", i).open_time for i in range(-17, 3)
    ]
    assert HISTORY_CLASHES._value.get() - clashes == 3


async def test_a_folder_without_a_symbols_history_is_told(tmp_path: Path) -> None:
    (tmp_path / "BTCUSDT.csv").write_text("")
    broker = FakeBroker(FakeCluster(partitions=1))
    with capture_logs() as logs:
        await service(broker, Clock(), kind="kafka", history=str(tmp_path)).run()
    assert [(e["event"], e.get("symbol")) for e in logs] == [("history_not_found", "ETHUSDT")]
