"""`python quixstreams_bars.py BOOTSTRAP TOPIC TICKS`: ticks into OHLCV bars with quixstreams.

Float bars by event time with a second's grace, one process, its state store and changelog as they
come. Runs in an environment of its own (`make bench` makes it). Prints JSON: ticks a second.
"""

import json
import sys
import tempfile
import time

from quixstreams import Application

bootstrap, topic, ticks = sys.argv[1], sys.argv[2], int(sys.argv[3])


def first(tick: dict) -> dict:
    price = float(tick["price"])
    bar = dict.fromkeys(("open", "high", "low", "close"), price)
    return bar | {"volume": float(tick["qty"]), "trades": 1}


def add(bar: dict, tick: dict) -> dict:
    price = float(tick["price"])
    return {
        "open": bar["open"],
        "high": max(bar["high"], price),
        "low": min(bar["low"], price),
        "close": price,
        "volume": bar["volume"] + float(tick["qty"]),
        "trades": bar["trades"] + 1,
    }


seen: list[float] = []
"""When the first tick and each one after it was read."""

with tempfile.TemporaryDirectory() as folder:
    app = Application(
        bootstrap,
        consumer_group="peer",
        auto_offset_reset="earliest",
        state_dir=folder,
        loglevel="ERROR",
    )

    def event_time(value: dict, *_: object) -> int:
        seen.append(time.perf_counter())
        if len(seen) == ticks:
            app.stop()
        return int(value["time"])

    stream = app.dataframe(
        app.topic(
            topic,
            key_deserializer="str",
            value_deserializer="json",
            timestamp_extractor=event_time,
        )
    )
    stream.tumbling_window(300_000, grace_ms=1_000).reduce(add, first).final()
    app.run()
print(json.dumps({"ticks_per_s": ticks / (seen[-1] - seen[0])}))
