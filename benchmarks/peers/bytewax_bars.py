"""`python bytewax_bars.py BOOTSTRAP TOPIC TICKS`: the same ticks into OHLCV bars with bytewax.

Float bars by event time with a second's grace, one process; no de-duplication, no output topic.
Runs in an environment of its own (`make bench` makes it). Prints JSON: ticks a second.
"""

import json
import sys
import time
from datetime import UTC, datetime, timedelta

import bytewax.operators as op
import bytewax.operators.windowing as win
import msgspec
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.operators.windowing import EventClock, TumblingWindower
from bytewax.testing import TestingSink, run_main

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
decode = msgspec.json.Decoder().decode


def add(bar: list, tick: dict) -> list:
    price, qty = float(tick["price"]), float(tick["qty"])
    if not bar:
        return [price, price, price, price, qty, 1]
    bar[1] = max(bar[1], price)
    bar[2] = min(bar[2], price)
    bar[3] = price
    bar[4] += qty
    bar[5] += 1
    return bar


def merge(left: list, right: list) -> list:
    return [
        left[0],
        max(left[1], right[1]),
        min(left[2], right[2]),
        right[3],
        left[4] + right[4],
        left[5] + right[5],
    ]


bootstrap, topic, ticks = sys.argv[1], sys.argv[2], int(sys.argv[3])
bars: list = []
flow = Dataflow("bars")
source = KafkaSource([bootstrap], [topic], tail=False, batch_size=10_000)
messages = op.input("ticks", flow, source)
keyed = op.map("decode", messages, lambda m: (m.key.decode(), decode(m.value)))
clock = EventClock(
    lambda tick: EPOCH + timedelta(milliseconds=tick["time"]),
    wait_for_system_duration=timedelta(seconds=1),
)
windower = TumblingWindower(length=timedelta(minutes=5), align_to=EPOCH)
folded = win.fold_window("bars", keyed, clock, windower, list, add, merge)
op.output("out", folded.down, TestingSink(bars))
began = time.perf_counter()
run_main(flow)
seconds = time.perf_counter() - began
print(json.dumps({"ticks_per_s": ticks / seconds, "bars": len(bars)}))
