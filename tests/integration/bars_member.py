"""One process of the bars stage, for tests that kill it: `python -m tests.integration.bars_member`.

Prints `ready` when it reads and a line for each bar. `--die-at N` ends the process without any
farewell at the N-th bar, when that is handed to the producer and not yet acknowledged.
"""

import argparse
import asyncio
import os

from kronos_stream.bars.service import BarsService
from kronos_stream.kafka import Broker
from kronos_stream.settings import FeedSettings, KafkaSettings, Settings
from kronos_stream.wire.messages import Bar
from tests.tick_sessions import SYMBOLS

SESSION_MS = 6_000
PARTITIONS = 6


def member_settings(prefix: str, instance_id: str | None = None) -> Settings:
    """What all members of a test's group share."""
    return Settings(
        symbols=SYMBOLS,
        feed=FeedSettings(kind="simulated"),
        kafka=KafkaSettings(
            topic_prefix=prefix,
            partitions=PARTITIONS,
            instance_id=instance_id,
            session_timeout_ms=SESSION_MS,
            heartbeat_ms=500,
            rebalance_timeout_ms=SESSION_MS,
        ),
    )


async def run(bootstrap: str, settings: Settings, die_at: int) -> None:
    broker = Broker(
        settings.kafka, bootstrap=bootstrap, embedded=False, interval=settings.bars.interval
    )
    await broker.start()
    seen = 0

    def on_bar(bar: Bar) -> None:
        nonlocal seen
        seen += 1
        print(bar.symbol, bar.open_time, flush=True)
        if seen == die_at:
            os._exit(9)

    service = BarsService(settings, broker, on_bar=on_bar)
    async with asyncio.TaskGroup() as group:
        group.create_task(service.run())
        await service.ready.wait()
        print("ready", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("bootstrap")
    parser.add_argument("prefix")
    parser.add_argument("--instance-id")
    parser.add_argument("--die-at", type=int, default=0)
    a = parser.parse_args()
    asyncio.run(run(a.bootstrap, member_settings(a.prefix, a.instance_id), a.die_at))
