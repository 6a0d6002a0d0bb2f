"""`check`: what is wrong is named; on the unit level its look at partitions."""

from collections import Counter

import msgspec

from kronos_stream.checks import findings, partitioner_finding
from kronos_stream.embedded import EmbeddedBroker
from kronos_stream.kafka import Broker
from kronos_stream.settings import Settings
from kronos_stream.wire.partitioning import crc32_partition, murmur2_partition

SYMBOLS = [f"SYM{i}USDT" for i in range(20)]
TOPIC = "kronos.ticks"


def placed(rule: object, n: int = 8) -> Counter[tuple[str, int]]:
    assert callable(rule)
    return Counter({(symbol, rule(symbol.encode(), n)): 3 for symbol in SYMBOLS})


def test_ticks_in_the_partitions_of_their_symbols_are_well() -> None:
    assert partitioner_finding(TOPIC, placed(murmur2_partition), 8, "murmur2") is None
    assert partitioner_finding(TOPIC, placed(crc32_partition), 8, "crc32") is None
    assert partitioner_finding(TOPIC, Counter(), 8, "murmur2") is None


def test_any_partition_is_right_where_the_operator_says_so() -> None:
    assert partitioner_finding(TOPIC, placed(crc32_partition), 8, "any") is None


def test_the_producers_rule_is_named() -> None:
    found = partitioner_finding(TOPIC, placed(crc32_partition), 8, "murmur2")
    assert found is not None
    assert "all fit crc32 (librdkafka's default): set --partitioner crc32" in found
    found = partitioner_finding(TOPIC, placed(murmur2_partition), 8, "crc32")
    assert found is not None
    assert "all fit murmur2 (Kafka's own rule)" in found


def test_ticks_that_follow_no_rule_raise_the_question_of_the_key() -> None:
    everywhere = Counter({(symbol, i % 8): 1 for i, symbol in enumerate(SYMBOLS)})
    found = partitioner_finding(TOPIC, everywhere, 8, "murmur2")
    assert found is not None
    assert found.endswith("nor do all fit crc32: is the producer's key the symbol?")


async def test_an_embedded_broker_can_be_checked() -> None:
    broker = EmbeddedBroker()
    given = msgspec.convert({"kafka": {"bootstrap": broker.bootstrap}}, Settings)
    client = Broker(given.kafka, bootstrap=broker.bootstrap, embedded=True, interval="5m")
    await client.start()
    await client.ensure_topics()
    await client.close()
    said: list[str] = []
    assert await findings(given, said.append) == []
    broker.close()
    assert f"kafka: {broker.bootstrap} answers" in said
