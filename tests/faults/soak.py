"""`make soak`: an hour of 50 symbols, back-pressured; memory and latency must stay flat.

`python -m tests.faults.soak --minutes 60` runs the whole pipeline on a real Kafka and Valkey, looks
at its processes and metrics, and writes build/soak.json and a plot.
"""

import argparse
import re
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from tests.services.processes import end, free_ports, guarded, server_pid

from .report import BUILD
from .world import World

ROOT: Final = Path(__file__).resolve().parents[2]
SYMBOLS: Final = 50
EVERY_S: Final = 10.0
WARM_SHARE: Final = 0.25
"""Of the time: what is filled once (contexts, slots, caches) is full by then."""
GROWTH: Final = 1.10
"""Most that the last quarter may have over the second."""
WIDTH, HEIGHT, PAD = 720, 180, 40


class Look(NamedTuple):
    """At one moment: seconds since the start, MiB of both processes, forecasts so far, and the mean
    latency of those since the last look, in ms."""

    at_s: float
    stages_mib: float
    engine_mib: float
    forecasts: int
    latency_ms: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--plot", type=Path, default=BUILD / "soak.svg")
    a = parser.parse_args()
    world = World()
    try:
        looks = _looks(world, 60 * a.minutes)
    finally:
        world.close()
    BUILD.mkdir(exist_ok=True)
    (BUILD / "soak.json").write_bytes(msgspec.json.encode([look._asdict() for look in looks]))
    a.plot.write_text(plot(looks))
    grown = growth(looks)
    for what, factor in grown.items():
        print(f"{what}: last quarter {factor:.2f} times the second")
    print(f"{looks[-1].forecasts} forecasts; {a.plot}")
    return int(any(factor > GROWTH for factor in grown.values()))


def _looks(world: World, seconds: float) -> list[Look]:
    (port,) = free_ports(1)
    symbols = ",".join(f"SOAK{i}USDT" for i in range(SYMBOLS))
    command = [
        *(sys.executable, "-m", "kronos_stream", "run", "--symbols", symbols),
        *("--kafka", world.bootstrap, "--redis", world.valkey.url, "--feed", "simulated"),
        *("--speed", "max", "--interval", "1m", "--metrics-port", str(port), "--paths", "10"),
    ]
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "soak.log").open("wb") as output:
        process = guarded(command, cwd=ROOT, output=output)
    looks: list[Look] = []
    began, last = time.monotonic(), (0.0, 0.0)
    try:
        while (now := time.monotonic() - began) < seconds:
            time.sleep(EVERY_S)
            count, total = _latency(port)
            if count > last[0]:
                pid = server_pid(process)
                mean_ms = 1000 * (total - last[1]) / (count - last[0])
                looks.append(Look(now, _mib(pid), _mib(_engine(pid)), int(count), mean_ms))
                print(
                    f"{now:6.0f} s  stages {looks[-1].stages_mib:.0f} MiB  engine "
                    f"{looks[-1].engine_mib:.0f} MiB  forecasts {int(count)}  {mean_ms:.0f} ms",
                    flush=True,
                )
                last = count, total
    finally:
        end(process)
    return looks


def growth(looks: Sequence[Look]) -> dict[str, float]:
    """The last quarter's mean over the second's, of everything that must be flat."""
    quarter = max(1, int(len(looks) * WARM_SHARE))
    found = {}
    for name in ("stages_mib", "engine_mib", "latency_ms"):
        values = [float(getattr(look, name)) for look in looks]
        second, final = values[quarter : 2 * quarter] or values, values[-quarter:]
        found[name] = (sum(final) / len(final)) / (sum(second) / len(second))
    return found


def plot(looks: Sequence[Look]) -> str:
    """Memory and latency over time, as SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{3 * HEIGHT}" '
        'font-family="sans-serif" font-size="12">'
    ]
    end_s = looks[-1].at_s
    for row, (name, title) in enumerate(
        (
            ("stages_mib", "stages, MiB"),
            ("engine_mib", "engine, MiB"),
            ("latency_ms", "latency of a forecast, ms (mean of 10 s)"),
        )
    ):
        values = [float(getattr(look, name)) for look in looks]
        top, base = max(values) * 1.1, (row + 1) * HEIGHT - PAD / 2
        points = " ".join(
            f"{PAD + (WIDTH - 2 * PAD) * look.at_s / end_s:.1f},"
            f"{base - (HEIGHT - PAD) * value / top:.1f}"
            for look, value in zip(looks, values, strict=True)
        )
        parts += [
            f'<text x="{PAD}" y="{row * HEIGHT + 14}">{title}: {values[0]:.0f} at first, '
            f"{values[-1]:.0f} after {end_s / 60:.0f} min</text>",
            f'<line x1="{PAD}" y1="{base}" x2="{WIDTH - PAD}" y2="{base}" stroke="#999"/>',
            f'<polyline points="{points}" fill="none" stroke="#1f6feb" stroke-width="1.5"/>',
        ]
    return "\n".join([*parts, "</svg>\n"])


def _latency(port: int) -> tuple[float, float]:
    """Count and sum (s) of the forecasts' latency; zeros until they come."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
            text = reply.read().decode()
    except OSError:
        return 0.0, 0.0
    name = "kronos_forecast_latency_seconds_"
    found = dict(re.findall(name + r'(count|sum)\{stage="total"\} (\S+)', text))
    return float(found.get("count", 0)), float(found.get("sum", 0))


def _engine(pid: int) -> int:
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, listed.read_text().split()):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
    raise ProcessLookupError("no engine process")


def _mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (held,) = [line for line in lines if line.startswith("VmRSS")]
    return int(held.split()[1]) / 1024


if __name__ == "__main__":
    sys.exit(main())
