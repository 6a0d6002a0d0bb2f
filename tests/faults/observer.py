"""What a foreign client sees of the topics while a campaign runs, and afterwards."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from confluent_kafka import Consumer, TopicPartition

POLL_S: Final = 0.2


class Seen(NamedTuple):
    """One record as read."""

    partition: int
    offset: int
    timestamp: int
    value: bytes
    headers: tuple[tuple[str, bytes], ...]

    def header(self, name: str) -> bytes:
        """The value of a header; KeyError where there is none."""
        return dict(self.headers)[name]


def _consumer(bootstrap: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "observer",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": 50,
            "log_level": 0,
        }
    )


def read_topic(bootstrap: str, topic: str) -> list[Seen]:
    """Everything that a topic holds now, partition by partition."""
    consumer = _consumer(bootstrap)
    found: list[Seen] = []
    try:
        for p in sorted(consumer.list_topics(topic, timeout=10).topics[topic].partitions):
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)
            if low == high:
                continue
            consumer.assign([TopicPartition(topic, p, low)])
            while not found or (found[-1].partition, found[-1].offset) < (p, high - 1):
                message = consumer.poll(10)
                if message is None or message.error():
                    raise RuntimeError(f"reading {topic}/{p}: {message and message.error()}")
                found.append(
                    Seen(
                        p,
                        message.offset(),
                        message.timestamp()[1],
                        message.value() or b"",
                        tuple(message.headers() or ()),
                    )
                )
    finally:
        consumer.close()
    return found


class Observer:
    """Follows the bars, forecasts and skipped topics, and remembers when what arrived."""

    def __init__(self, bootstrap: str, topics: dict[str, str], home: Callable[[str], int]) -> None:
        """`topics` by stage name; `home` is a symbol's partition."""
        self._home = home
        self._stage_of = {topic: stage for stage, topic in topics.items()}
        self._consumer = _consumer(bootstrap)
        assigned = [
            TopicPartition(topic, p, 0)
            for topic in topics.values()
            for p in self._consumer.list_topics(topic, timeout=10).topics[topic].partitions
        ]
        self._consumer.assign(assigned)
        self._stopping = threading.Event()
        self.arrivals: dict[tuple[str, str, int], float] = {}
        """When (stage, symbol, open time) was seen first, in monotonic seconds. What is skipped
        counts as forecast: the stage is at work."""
        self.latest: dict[tuple[str, int], float] = {}
        """When something arrived last, by stage and home partition of its symbol."""
        self.distinct: dict[str, int] = dict.fromkeys(topics, 0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def published_since(self, stage: str, partitions: Sequence[int], since: float) -> bool:
        """Whether a stage has published in all of these partitions after a moment."""
        return all(self.latest.get((stage, p), 0.0) > since for p in partitions)

    def close(self) -> None:
        """Stop following."""
        self._stopping.set()
        self._thread.join()
        self._consumer.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            message = self._consumer.poll(POLL_S)
            if message is None or message.error():
                continue
            stage = self._stage_of[message.topic()]
            with contextlib.suppress(ValueError, KeyError):
                self._take(stage, json.loads(message.value()))

    def _take(self, stage: str, record: dict[str, Any]) -> None:
        now = time.monotonic()
        stage = "forecast" if stage == "skipped" else stage
        identity = (stage, record["symbol"], record["open_time"])
        self.latest[stage, self._home(record["symbol"])] = now
        if identity not in self.arrivals:
            self.arrivals[identity] = now
            self.distinct[stage] += 1
