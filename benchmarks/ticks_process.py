"""`python -m benchmarks.ticks_process bars|fetch BOOTSTRAP PREFIX TICKS`: a process to be measured.

`bars` is `kronos-stream bars`; `fetch` only reads. Prints JSON: ticks a second from the first batch
to the last tick, and for `bars` the resident memory at each quarter, MiB.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

import uvloop
from prometheus_client import REGISTRY

from kronos_stream import app, telemetry
from kronos_stream.bars.service import BATCH
from kronos_stream.kafka import Broker
from kronos_stream.settings import (
    BarsSettings,
    FeedSettings,
    KafkaSettings,
    Settings,
    TelemetrySettings,
)

POLL_S = 0.01
TICKS = "kronos_ticks_total"


def resident_mib() -> float:
    """Resident memory of this process, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def taken() -> float:
    """Ticks that the stage has decided upon. Only their counter is asked: all metrics a hundred
    times a second would take a fifth of the time."""
    counted = REGISTRY.restricted_registry([TICKS]).collect()
    return sum(s.value for metric in counted for s in metric.samples if s.name == TICKS)


async def bars(bootstrap: str, prefix: str, ticks: int) -> None:
    """Runs the stage until it has taken `ticks`, and stops it."""
    settings = Settings(
        symbols="all",
        kafka=KafkaSettings(bootstrap=bootstrap, topic_prefix=prefix),
        feed=FeedSettings(kind="replay"),
        bars=BarsSettings(max_rejected_per_s=1e6),
    )
    stage = asyncio.create_task(app.run(settings, stages=("bars",), for_s=None, bars=None))
    while not (first := taken()):
        await _beat(stage)
    began = time.perf_counter()
    memory: list[float] = []
    while (done := taken()) < ticks:
        if done >= (len(memory) + 1) * ticks / 4:
            memory.append(resident_mib())
        await _beat(stage)
    rate = (ticks - first) / (time.perf_counter() - began)
    memory.append(resident_mib())
    stage.cancel()
    await asyncio.gather(stage, return_exceptions=True)
    print(json.dumps({"ticks_per_s": rate, "memory_mib": memory}))


async def fetch(bootstrap: str, prefix: str, ticks: int) -> None:
    """Reads `ticks` records of the ticks topic."""
    app.spare_the_collector()
    settings = KafkaSettings(bootstrap=bootstrap, topic_prefix=prefix)
    broker = Broker(settings, bootstrap=bootstrap, embedded=False, interval="5m")
    await broker.start()
    subscription = broker.tail(broker.topics.ticks)
    await subscription.start()
    for partition in subscription.take_assignment() or ():
        subscription.seek(partition, 0)
    first = found = 0
    began = 0.0
    while found < ticks:
        batches = await subscription.poll(max_wait_ms=100, max_records=BATCH)
        found += sum(map(len, batches.values()))
        if found and not first:
            first, began = found, time.perf_counter()
    rate = (found - first) / (time.perf_counter() - began)
    await subscription.stop()
    await broker.close()
    print(json.dumps({"ticks_per_s": rate}))


async def _beat(stage: "asyncio.Task[int]") -> None:
    await asyncio.wait({stage}, timeout=POLL_S)
    if stage.done():
        raise RuntimeError(f"the stage ended early with {stage.result()}")


if __name__ == "__main__":
    telemetry.configure(TelemetrySettings())
    measured = {"bars": bars, "fetch": fetch}[sys.argv[1]]
    uvloop.run(measured(sys.argv[2], sys.argv[3], int(sys.argv[4])))
