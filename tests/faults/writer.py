"""Writes a campaign's traffic in virtual time, past the proxies and whatever else is broken."""

import queue
import threading
import time
from collections.abc import Callable
from typing import Final

from confluent_kafka import KafkaError, Message, Producer

from .traffic import GRACE_MS, MINUTE_MS, Line, Traffic

SLICE_S: Final = 0.02
PATIENCE_MS: Final = 600_000
"""How long the producer tries again, while the broker is away."""


class Writer:
    """Virtual time runs `speed` times as fast as the wall clock, and never past it."""

    def __init__(self, bootstrap: str, topic: str, traffic: Traffic, *, speed: float) -> None:
        self._topic = topic
        self._traffic = traffic
        self._speed = speed
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "message.timeout.ms": PATIENCE_MS,
                "queue.buffering.max.messages": 2_000_000,
                "queue.buffering.max.kbytes": 1_000_000,
                "linger.ms": 5,
                "log_level": 0,
            }
        )
        self._requests: queue.SimpleQueue[Callable[[int], list[Line]]] = queue.SimpleQueue()
        self._flood = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.failed: list[str] = []
        self.minutes = 0

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def write(self, lines: Callable[[int], list[Line]]) -> None:
        """Have these lines written next; they are made for the virtual time of then."""
        self._requests.put(lines)

    def flood(self) -> None:
        """Make the next minute a flood."""
        self._flood = True

    def finish(self) -> None:
        """End after the minute under way, and with a marker that closes its bars. Raises where a
        record could not be written."""
        self._stopping.set()
        self._thread.join()
        if self.failed:
            raise RuntimeError(f"the campaign could not write its ticks: {self.failed[0]}")

    def _run(self) -> None:
        try:
            zero = time.monotonic()
            while not self._stopping.is_set():
                flood, self._flood = self._flood, False
                for line in self._traffic.minute(flood=flood):
                    self._pace(zero, line.at)
                    while not self._requests.empty():
                        for extra in self._requests.get()(line.at):
                            self._send(extra)
                    self._send(line)
                self.minutes += 1
                self._producer.poll(0)
            end = self._traffic.start_ms + self.minutes * MINUTE_MS
            for line in self._traffic.marks(end + GRACE_MS):
                self._send(line)
            self._producer.flush(PATIENCE_MS / 1000)
        except Exception as error:
            self.failed.append(repr(error))
            raise

    def _pace(self, zero: float, at: int) -> None:
        due = zero + (at - self._traffic.start_ms) / 1000 / self._speed
        while (left := due - time.monotonic()) > SLICE_S and not self._stopping.is_set():
            self._producer.poll(min(left, 0.1))

    def _send(self, line: Line) -> None:
        self._producer.produce(
            self._topic,
            line.value,
            line.key,
            line.partition,
            on_delivery=self._delivered,
            headers=list(line.headers),
        )

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.failed.append(str(error))
