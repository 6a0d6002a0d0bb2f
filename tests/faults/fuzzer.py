"""Malformed messages from a seed, through the code that decodes and folds ticks in production.

`python -m tests.faults.fuzzer --count 1000000` prints what they were counted as.
"""

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Final

import msgspec

from kronos_stream.bars.batches import BatchFold
from kronos_stream.bars.dead_letters import MAX_PAYLOAD_BYTES, letter
from kronos_stream.bars.fold import BarsConfig, PartitionFold
from kronos_stream.bars.outputs import BarOut, LateOut
from kronos_stream.bars.service import BATCH, OUTCOMES
from kronos_stream.errors import RejectedError
from kronos_stream.settings import BarsSettings
from kronos_stream.wire.foreign import TickDecoder
from kronos_stream.wire.topics import Record

T0: Final = 1_735_689_600_000
ODD: Final = (
    None, True, -1, 0, 2**63, -(2**63), 2**70, 1e308, 1e-320, "", "x", "NaN", "1e5", "-1", "0x1f",
    "1." + "0" * 40, "9" * 400, "\u0000", "\ud7ff", [], {}, [[]], {"a": {}}, "٣",
)  # fmt: skip
TEMPLATES: Final = (
    {"symbol": "AAA", "price": "1.5", "qty": "2", "time": T0, "trade_id": 7},
    {"marker_time": T0},
    {"e": "trade", "E": T0, "s": "AAA", "t": 12, "p": "1.5", "q": "2", "T": T0},
    {"e": "aggTrade", "E": T0, "s": "AAA", "a": 12, "p": "1.5", "q": "2", "T": T0},
    {
        "stream": "aaa@trade",
        "data": {"e": "trade", "s": "AAA", "t": 1, "p": "1", "q": "1", "T": T0},
    },
)
HEADERS: Final = ((), (("wire", b"msgpack"),), (("wire", b"\xff"), ("schema", b"?" * 100)))


def payloads(seed: int, count: int) -> Iterator[tuple[bytes, tuple[tuple[str, bytes], ...]]]:
    """`count` payloads with headers, hardly any of them a tick."""
    rng = random.Random(f"fuzz/{seed}")
    for _ in range(count):
        headers = rng.choices(HEADERS, (8, 3, 1))[0]
        packed = headers == HEADERS[1] and rng.random() < 0.8
        message = dict(rng.choice(TEMPLATES))
        key = rng.choice(list(message))
        kind = rng.random()
        if kind < 0.4:
            message[key] = rng.choice(ODD)
        elif kind < 0.5:
            del message[key]
        encode = msgspec.msgpack.encode if packed else msgspec.json.encode
        try:
            data = bytearray(encode(message))
        except (OverflowError, ValueError):
            data = bytearray(b"%d" % 2**70)
        if kind >= 0.5:
            _damage(rng, data)
        yield bytes(data), headers


def _damage(rng: random.Random, data: bytearray) -> None:
    """Flipped, cut, repeated, nested, enlarged, or something else entirely."""
    kind = rng.random()
    if kind < 0.5:
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind < 0.7:
        del data[rng.randrange(len(data)) :]
    elif kind < 0.8:
        data[:] = rng.randbytes(rng.randrange(64))
    elif kind < 0.9:
        data[:] = bytes(data) * 2
    elif kind < 0.999:
        data[:] = rng.choice([b"[", b'{"data":', b'{"a":[', b"\x91"]) * rng.randrange(1, 300)
    else:
        data[:] = rng.choice([b"[", b'{"data":', b" ", b"\x91"]) * 70_000


def fold(seed: int, count: int) -> Counter[str]:
    """What became of them: markers, ticks by outcome, rejected by reason. AssertionError where
    one was not counted, or where what is rejected could become the next reader's poison."""
    fold_ = PartitionFold(config=BarsConfig.of(BarsSettings()), symbols=frozenset({"AAA"}))
    batches, decoder = BatchFold(fold_), TickDecoder()
    found: Counter[str] = Counter()
    batch: list[Record] = []

    def flush() -> None:
        for record, outputs in batches.apply(batch):
            for output in outputs:
                if isinstance(output, BarOut):
                    found["bars"] += 1
                    continue
                late = isinstance(output, LateOut)
                reason, detail = ("late", "") if late else (output.reason, output.detail)
                value, _ = letter(record, reason, detail)
                assert len(value) <= MAX_PAYLOAD_BYTES
                if not late:
                    found[f"rejected as {reason}"] += 1
        batch.clear()

    for offset, (value, headers) in enumerate(payloads(seed, count)):
        at = T0 + offset
        batch.append(Record("ticks", 0, offset, at, None, value, headers))
        try:
            message = decoder.decode(value, headers)
            found["markers"] += isinstance(message, int) and message - at <= 60_000
        except RejectedError:
            pass
        if len(batch) == BATCH:
            flush()
    flush()
    found |= Counter({name: fold_.counters[name] for name in OUTCOMES})
    bars = found.pop("bars", 0)
    assert found.total() == count, f"{count} messages, {found.total()} counted: {found}"
    found["(bars)"] = bars
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.fuzzer", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    a = parser.parse_args()
    began = time.monotonic()
    found = fold(a.seed, a.count)
    for what, count in found.most_common():
        print(f"{what:40} {count:9,}")
    print(f"{a.count:,} messages in {time.monotonic() - began:.0f} s, all counted, no crash")
    return 0


if __name__ == "__main__":
    sys.exit(main())
