"""A ticks topic on a real Kafka: two million trades with the defects that real feeds have."""

import random
from collections.abc import Iterator
from typing import Final, NamedTuple

from confluent_kafka import Consumer, Producer, TopicPartition

from kronos_stream.wire.partitioning import partition_of

PARTITIONS: Final = 8
SYMBOLS_EACH: Final = 8
BARS: Final = 24
STEP_MS: Final = 300_000
GRACE_MS: Final = 1_000
T0: Final = 1_735_689_600_000
DUPLICATE, OUT_OF_ORDER, LATE = 0.01, 0.01, 0.001


def symbols() -> list[str]:
    """As many of each partition."""
    found: dict[int, list[str]] = {p: [] for p in range(PARTITIONS)}
    number = 0
    while any(len(names) < SYMBOLS_EACH for names in found.values()):
        name = f"SIM{number}USDT"
        names = found[partition_of(name, PARTITIONS)]
        if len(names) < SYMBOLS_EACH:
            names.append(name)
        number += 1
    return [name for names in found.values() for name in names]


def ticks(count: int, seed: int = 7) -> Iterator[tuple[int, bytes]]:
    """Partition and payload: JSON, prices and quantities as text, defects evenly spread."""
    rng = random.Random(seed)
    names = symbols()
    home = {name: partition_of(name, PARTITIONS) for name in names}
    ids = dict.fromkeys(names, 0)
    cents = {name: rng.randrange(1_000, 10_000_000) for name in names}
    last: dict[int, bytes] = {}
    span = BARS * STEP_MS
    for number in range(count):
        name = names[rng.randrange(len(names))]
        partition = home[name]
        kind = rng.random()
        if kind < DUPLICATE and partition in last:
            yield partition, last[partition]
            continue
        time = T0 + number * span // count
        if kind < DUPLICATE + OUT_OF_ORDER:
            time -= rng.randrange(1, GRACE_MS - 100)
        elif kind < DUPLICATE + OUT_OF_ORDER + LATE:
            time -= STEP_MS + 5 * GRACE_MS
        ids[name] += 1
        cents[name] = max(100, cents[name] + rng.randrange(-3, 4))
        price, qty = cents[name], rng.randrange(1, 10**7)
        last[partition] = (
            f'{{"symbol":"{name}","price":"{price // 100}.{price % 100:02d}",'
            f'"qty":"{qty // 10**5}.{qty % 10**5:05d}","time":{time},"trade_id":{ids[name]}}}'
        ).encode()
        yield partition, last[partition]


def write(bootstrap: str, topic: str, count: int) -> None:
    """The whole log, every record acknowledged."""
    producer = Producer(
        {"bootstrap.servers": bootstrap, "linger.ms": 20, "queue.buffering.max.messages": 500_000}
    )
    for partition, value in ticks(count):
        key = value[11 : value.index(b'"', 11)]
        while True:
            try:
                producer.produce(topic, value, key, partition)
                break
            except BufferError:
                producer.poll(0.1)
    if producer.flush(60):
        raise RuntimeError(f"{topic}: not every tick was acknowledged")


class Stored(NamedTuple):
    """A record as another client reads it."""

    partition: int
    offset: int
    time: int
    headers: tuple[tuple[str, bytes], ...]
    value: bytes


def read(bootstrap: str, topic: str) -> Iterator[Stored]:
    """Every record that the topic holds now."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "benchmark"})
    try:
        found = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        ends = {p: consumer.get_watermark_offsets(TopicPartition(topic, p))[1] for p in found}
        consumer.assign([TopicPartition(topic, p, 0) for p in ends if ends[p]])
        missing = sum(ends.values())
        while missing:
            messages = consumer.consume(10_000, 5.0)
            if not messages:
                raise RuntimeError(f"{topic}: {missing} records did not come")
            for m in messages:
                if m.error() is not None:
                    raise RuntimeError(f"{topic}: {m.error()}")
                headers = tuple(m.headers() or ())
                yield Stored(m.partition(), m.offset(), m.timestamp()[1], headers, m.value())
            missing -= len(messages)
    finally:
        consumer.close()
