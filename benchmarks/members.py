"""How many forecasts a second one, two and three members of the forecast stage make."""

import json
import tempfile
from pathlib import Path
from typing import Final

from tests.faults.deployment import Deployment, share, until
from tests.faults.observer import read_topic
from tests.services.kafka import Kafka
from tests.services.valkey import Valkey

from .table import Row

PARTITIONS: Final = 8
BARS: Final = 100


def scaled() -> list[Row]:
    """8 symbols in 8 partitions, 10 paths × 12 steps, one thread a member: more members than cores
    can add nothing but their share of waiting."""
    kafka, valkey = Kafka(), Valkey()
    try:
        rates = [_rate(kafka, valkey, members) for members in (1, 2, 3)]
    finally:
        valkey.close()
        kafka.close()
    return [
        Row(f"members: {i + 1}", rate, "forecasts/s", peer=rates[0], ratio=rate / rates[0])
        for i, rate in enumerate(rates)
    ]


def _rate(kafka: Kafka, valkey: Valkey, members: int) -> float:
    prefix = f"members{members}"
    engine = ("--paths", "10", "--threads", "1", "--shed", "off", "--feed", "simulated")
    with tempfile.TemporaryDirectory() as folder:
        deployment = Deployment(
            kafka.bootstrap, valkey.url, prefix, Path(folder), partitions=PARTITIONS
        )
        try:
            deployment.start("bars", "bars", "--feed", "simulated")
            stage = [
                deployment.start(f"forecast-{i}", "forecast", "--redis", valkey.url, *engine)
                for i in range(members)
            ]
            until(lambda: sum(map(share, stage)) == PARTITIONS, deployment.members)
            deployment.feed(BARS)
            due = PARTITIONS * BARS
            topic = f"{prefix}.forecasts.1m"
            until(lambda: len(deployment.told("forecasts.1m")) == due, deployment.members)
        finally:
            deployment.close()
        timings = [json.loads(seen.value)["timing"] for seen in read_topic(kafka.bootstrap, topic)]
    # The first close finds nothing prepared; from the second on each is as in service.
    first = sorted(timing["bar_read"] for timing in timings)[PARTITIONS]
    last = max(timing["published"] for timing in timings)
    return 1000 * (due - PARTITIONS) / (last - first)
