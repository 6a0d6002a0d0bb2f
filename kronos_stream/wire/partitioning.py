"""The partition of a symbol: the rules by which Kafka's clients spread keys.

Records are always sent to an explicit partition, because the default partitioners of the clients
differ: the Java client (and most others) hash with murmur2, librdkafka with crc32.
"""

import zlib
from collections.abc import Callable
from typing import Final, Literal

Partitioner = Literal["murmur2", "crc32", "any"]

_MASK: Final = 0xFFFFFFFF
_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995


def murmur2(key: bytes) -> int:
    """Unsigned 32-bit MurmurHash2 (Austin Appleby) with the seed that Kafka's Java client uses."""
    length = len(key)
    whole = length - length % 4
    h = _SEED ^ length
    for i in range(0, whole, 4):
        k = int.from_bytes(key[i : i + 4], "little") * _M & _MASK
        k = (k ^ k >> 24) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    if whole < length:
        h = (h ^ int.from_bytes(key[whole:], "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15


def murmur2_partition(key: bytes, partitions: int) -> int:
    """Kafka's own rule: the hash without its sign bit, modulo the number of partitions."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def crc32_partition(key: bytes, partitions: int) -> int:
    """The `consistent` rule of librdkafka: crc32 modulo the number of partitions."""
    return zlib.crc32(key) % partitions


_RULES: Final[dict[Partitioner, Callable[[bytes, int], int]]] = {
    "murmur2": murmur2_partition,
    "crc32": crc32_partition,
    "any": murmur2_partition,
}


def partition_of(symbol: str, partitions: int, partitioner: Partitioner = "murmur2") -> int:
    """The partition that a symbol's records belong to.

    With `any` the readers accept a symbol in whatever partition its producer chose; what this
    project itself writes then still follows murmur2.
    """
    return _RULES[partitioner](symbol.encode(), partitions)
