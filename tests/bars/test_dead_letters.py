"""Records that cannot be used, told of and bounded."""

import hashlib

from kronos_stream.bars.dead_letters import MAX_PAYLOAD_BYTES, DeadLetters, letter
from kronos_stream.wire.topics import Record
from tests.fakes import FakeBroker


def _record(value: bytes, *headers: tuple[str, bytes], key: bytes | None = b"S") -> Record:
    return Record("k.ticks", 3, 17, 1_000, key, value, headers)


def test_identity_and_reason_are_headers_and_the_encoding_is_kept() -> None:
    record = _record(b"{", ("schema", b"tick/1"), ("wire", b"msgpack"), ("other", b"x"))
    value, headers = letter(record, "not_json", "unexpected end")
    assert value == b"{"
    assert dict(headers) == {
        "source_topic": b"k.ticks",
        "source_partition": b"3",
        "source_offset": b"17",
        "reason": b"not_json",
        "detail": b"unexpected end",
        "schema": b"tick/1",
        "wire": b"msgpack",
    }


def test_a_megabyte_is_cut_and_described() -> None:
    junk = bytes(range(256)) * 4096
    value, headers = letter(_record(junk), "too_large")
    assert value == junk[:MAX_PAYLOAD_BYTES]
    assert dict(headers)["original_size"] == b"1048576"
    digest = hashlib.blake2b(junk, digest_size=16).hexdigest()
    assert dict(headers)["original_digest"] == digest.encode()


def test_long_details_and_headers_stay_bounded() -> None:
    _, headers = letter(_record(b"x", ("schema", b"s" * 10_000)), "not_json", "d" * 10_000)
    assert sum(len(v) for _, v in headers) < 1_000


async def test_above_the_rate_they_are_only_counted() -> None:
    broker, now = FakeBroker(), [0.0]
    publisher = broker.publisher()
    letters = DeadLetters(publisher, max_per_s=2, monotonic=lambda: now[0])  # type: ignore[arg-type]
    topic = broker.topics.rejected
    sent = [await letters.send(topic, _record(b"x"), "not_json") for _ in range(5)]
    assert sent == [True, True, False, False, False]
    now[0] = 0.5
    assert await letters.send(topic, _record(b"y", key=b"k" * 2_000), "not_json")
    assert not await letters.send(topic, _record(b"y"), "not_json")
    assert letters.suppressed == 4
    await publisher.flush()
    assert [r.value for r in broker.cluster.records(topic)] == [b"x", b"x", b"y"]
    assert {r.partition for r in broker.cluster.records(topic)} == {0}
    assert broker.cluster.records(topic)[-1].key is None
