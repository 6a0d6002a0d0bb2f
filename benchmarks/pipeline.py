"""The whole `kronos-stream run`, as a user starts it, watched by a foreign Kafka client."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

from tests.model.peer import MINI
from tests.services.kafka import Kafka
from tests.services.valkey import Valkey

from .engine import saved_pair
from .table import Row, percentiles

ADDRESS = re.compile(r"(127\.0\.0\.1|localhost|\[::1\]):\d+")


def peak_mib(pid: int) -> float:
    """Peak resident memory of a process, MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(match.group(1)) / 1024 if match else 0.0


def children(pid: int) -> list[int]:
    """All descendants of a process."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *children(child)]
    return found


def command_of(pid: int) -> str:
    """A short name for a process of the run."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    if "valkey" in words[0]:
        return "store"
    return "engine" if any("spawn_main" in word for word in words) else "helper"


def watch(case: str, symbols: int, seconds: float, *, extra: tuple[str, ...] = ()) -> list[Row]:
    """Runs the pipeline on `symbols` simulated symbols and measures what a subscriber sees."""
    names = ["BTCUSDT", "ETHUSDT", *(f"SIM{i:02d}USDT" for i in range(symbols - 2))][:symbols]
    began = time.monotonic()
    command = [sys.executable, "-m", "kronos_stream", "run", "--symbols", ",".join(names), *extra]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        address = ADDRESS.search(process.stdout.readline().decode())
        if address is None:
            raise RuntimeError("the first line of the run names no broker")
        # Somebody must read on: a full pipe would hold the run up.
        threading.Thread(target=process.stdout.read, daemon=True).start()
        consumer = Consumer({"bootstrap.servers": address.group(0), "group.id": "benchmark"})
        topic = "kronos.forecasts.5m"
        latencies: list[float] = []
        first: dict[str, float] = {}
        partitions: list[int] = []
        while time.monotonic() - began < seconds:
            if not partitions:
                meta = consumer.list_topics(topic, timeout=5).topics[topic]
                partitions = sorted(meta.partitions)
                consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
            message = consumer.poll(0.2)
            if message is None or message.error():
                continue
            record = json.loads(message.value())
            first.setdefault(record["symbol"], time.monotonic() - began)
            timing = record["timing"]
            latencies.append(float(timing["published"] - timing["bar_read"]))
        memory = {"run": peak_mib(process.pid)}
        for pid in children(process.pid):
            memory[command_of(pid)] = max(memory.get(command_of(pid), 0.0), peak_mib(pid))
        consumer.close()
    finally:
        stopped = time.monotonic()
        process.send_signal(signal.SIGINT)
        status = process.wait(timeout=30)
    p50, p99 = percentiles(latencies)
    note = f"{len(latencies)} forecasts of {len(first)} symbols, exit {status}"
    rows = [
        Row(f"{case}: first forecast of the last symbol", max(first.values()), "s"),
        Row(f"{case}: latency p50", p50, "ms", note=note),
        Row(f"{case}: latency p99", p99, "ms"),
        Row(f"{case}: Ctrl-C to exit", time.monotonic() - stopped, "s"),
    ]
    rows += [Row(f"{case}: peak memory of {who}", mib, "MiB") for who, mib in memory.items()]
    return rows


def two_symbols() -> list[Row]:
    """Two symbols at --speed 60 for a minute."""
    return watch("pipeline-2", 2, float(os.environ.get("BENCH_SECONDS", "60")))


def twenty_symbols() -> list[Row]:
    """Twenty symbols at --speed 60 for a minute."""
    return watch("pipeline-20", 20, float(os.environ.get("BENCH_SECONDS", "60")))


def mini() -> list[Row]:
    """20 symbols × 10 paths × 12 steps with mini's shape, on a real Kafka and a real Valkey that
    share the cores with it."""
    kafka, valkey = Kafka(), Valkey()
    try:
        with tempfile.TemporaryDirectory() as folder:
            saved_pair(MINI, Path(folder))
            servers = ("--kafka", kafka.bootstrap, "--redis", valkey.url, "--feed", "simulated")
            settings = ("--model", folder, "--paths", "10", "--horizon", "12")
            seconds = float(os.environ.get("BENCH_SECONDS", "90"))
            return watch("pipeline-mini", 20, seconds, extra=servers + settings)
    finally:
        valkey.close()
        kafka.close()
