"""Ticks through a real Kafka into bars, beside the peers and beside fetching alone.

What our stage published is compared with the oracle, bar by bar and late tick by late tick, before
anything is said about its speed.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from kronos_stream.kafka import Broker
from kronos_stream.settings import KafkaSettings
from kronos_stream.wire.codecs import decode
from kronos_stream.wire.messages import Bar
from tests.oracle import entries, truth
from tests.services.kafka import Kafka

from . import ticks_log
from .table import Row

TICKS = 2_000_000
QUIX_TICKS = 200_000
"""quixstreams reads the first part only: its rate does not depend on how much follows."""
PREFIX = "bench"
FLAT = 1.1
"""Memory may grow by this factor between a quarter of the ticks and all of them."""
PEERS = Path(__file__).parent / "peers"
PEERS_PYTHON = Path(".venv-peers/bin/python")


def streamed() -> list[Row]:
    """Ours beside bytewax and beside quixstreams; the limit is fetching without doing anything."""
    kafka = Kafka()
    try:
        broker = _broker(kafka.bootstrap)
        asyncio.run(_create_topics(broker))
        ticks_log.write(kafka.bootstrap, broker.topics.ticks, TICKS)
        fetched = _stage("fetch", kafka.bootstrap)["ticks_per_s"]
        ours = _stage("bars", kafka.bootstrap)
        bars, late = _compared(kafka.bootstrap, broker)
        first, last = ours["memory_mib"][0], ours["memory_mib"][-1]
        if last > first * FLAT:
            raise RuntimeError(f"memory is not flat: {first:.0f} MiB, then {last:.0f} MiB")
        peers = [
            _peer(name, kafka.bootstrap, broker.topics.ticks, ticks)
            for name, ticks in (("bytewax", TICKS), ("quixstreams", QUIX_TICKS))
        ]
    finally:
        kafka.close()
    rate = ours["ticks_per_s"]
    note = f"{bars:,} bars, {late:,} late, as the oracle's; {first:.0f} to {last:.0f} MiB"
    return [
        _row("ticks", rate, fetched, peers[0], f"peer: bytewax, limit: fetch alone; {note}"),
        _row("ticks: beside quixstreams", rate, fetched, peers[1]),
    ]


def _row(case: str, ours: float, limit: float, peer: float | None, note: str = "") -> Row:
    ratio = None if peer is None else ours / peer
    return Row(case, ours, "ticks/s", peer, ratio, ours / limit, note)


def _broker(bootstrap: str) -> Broker:
    settings = KafkaSettings(
        bootstrap=bootstrap, topic_prefix=PREFIX, partitions=ticks_log.PARTITIONS
    )
    return Broker(settings, bootstrap=bootstrap, embedded=False, interval="5m")


async def _create_topics(broker: Broker) -> None:
    await broker.start()
    await broker.ensure_topics()
    await broker.close()


def _stage(name: str, bootstrap: str) -> Any:
    return _measured(sys.executable, "-m", "benchmarks.ticks_process", name, bootstrap, PREFIX)


def _measured(*command: str, ticks: int = TICKS) -> Any:
    done = subprocess.run([*command, str(ticks)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _peer(name: str, bootstrap: str, topic: str, ticks: int) -> float | None:
    """None where its environment is not there."""
    if not PEERS_PYTHON.exists():
        return None
    script = str(PEERS / f"{name}_bars.py")
    measured = _measured(str(PEERS_PYTHON), script, bootstrap, topic, ticks=ticks)
    return float(measured["ticks_per_s"])


def _compared(bootstrap: str, broker: Broker) -> tuple[int, int]:
    """How many bars and late ticks; RuntimeError where they are not the oracle's."""
    logs: dict[int, list[tuple[int, int, bytes]]] = {}
    for record in ticks_log.read(bootstrap, broker.topics.ticks):
        logs.setdefault(record.partition, []).append((record.offset, record.time, record.value))
    bars: dict[int, list[Bar]] = {}
    for record in ticks_log.read(bootstrap, broker.topics.bars):
        bar = decode(record.value, record.headers, Bar)
        bars.setdefault(record.partition, []).append(bar)
    late: dict[int, list[int]] = {}
    for record in ticks_log.read(bootstrap, broker.topics.late):
        headers = dict(record.headers)
        late.setdefault(int(headers["source_partition"]), []).append(int(headers["source_offset"]))
    for partition, log in logs.items():
        expected = truth(entries(log))
        if bars.get(partition, []) != expected.bars or late.get(partition, []) != expected.late:
            raise RuntimeError(f"partition {partition}: bars or late ticks differ from the oracle")
    return sum(map(len, bars.values())), sum(map(len, late.values()))
