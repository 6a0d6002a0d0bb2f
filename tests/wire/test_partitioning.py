"""Partitions as Kafka's clients choose them."""

import random

import pytest
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as peer

from kronos_stream.wire.partitioning import crc32_partition, murmur2, partition_of


@pytest.mark.parametrize(
    ("key", "signed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_the_vectors_of_the_java_client(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed & 0xFFFFFFFF


def test_agrees_with_the_client_library_for_every_length() -> None:
    rng = random.Random(7)
    for length in range(65):
        key = rng.randbytes(length)
        assert murmur2(key) == peer(key)


def test_partition_of_a_symbol() -> None:
    rule = DefaultPartitioner()
    for symbol in ("BTCUSDT", "ETHUSDT", "BINANCE:BTCUSDT", "x"):
        for n in (1, 4, 8, 11):
            assert partition_of(symbol, n) == rule(symbol.encode(), list(range(n)), [])
            assert partition_of(symbol, n, "any") == partition_of(symbol, n)
            assert 0 <= partition_of(symbol, n, "crc32") < n


def test_crc32_is_the_ieee_polynomial() -> None:
    assert crc32_partition(b"123456789", 1 << 32) == 0xCBF43926
