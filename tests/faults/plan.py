"""What a campaign does: its size, and which faults it injects, drawn from the seed."""

import random
from dataclasses import dataclass
from typing import Final

BARS: Final = ("kill", "kill", "kill", "stop_cont", "term", "burst")
FORECAST: Final = ("kill", "kill", "stop_cont", "term", "burst")
ENGINE: Final = ("engine_kill", "engine_kill_in_batch", "engine_hang", "engine_oom")
REDIS: Final = ("redis_kill", "redis_empty", "redis_old", "redis_slow", "redis_read_only")
BROKER: Final = ("broker_stop", "broker_kill", "broker_cut", "broker_delay", "broker_silence")
INPUT: Final = ("flood", "poison", "two_partitions", "clock_ahead")


@dataclass(frozen=True)
class Plan:
    """How long each lane is. The lanes run beside each other; in each the next fault comes after
    the stage has published again. `silence_s` is how long the broker says nothing."""

    bars: int = 58
    forecast: int = 22
    engine: int = 16
    redis: int = 20
    broker: int = 10
    input: int = 20
    speed: float = 30.0
    """Virtual seconds a second."""
    simulated: int = 12
    """Symbols beside the real ones and the one whose ids restart."""
    partitions: int = 6
    bars_members: int = 3
    forecast_members: int = 2
    session_ms: int = 6_000
    silence_s: float = 60.0
    bars_due: int = 2_000
    forecasts_due: int = 1_000
    recover_s: float = 60.0
    """In which a stage must have published again."""
    strict: bool = True
    """Whether a stage that takes longer fails the campaign: else only content counts."""
    sampled: int = 150
    """Forecasts that are recomputed, beside the first ones after each restart."""

    def lanes(self, seed: int) -> dict[str, list[str]]:
        """The faults of each lane in their order: each kind at least once where there is room."""
        return {
            "bars": drawn(seed, "bars", BARS, self.bars),
            "forecast": _mixed(
                seed,
                drawn(seed, "forecast", FORECAST, self.forecast),
                drawn(seed, "engine", ENGINE, self.engine),
            ),
            "redis": drawn(seed, "redis", REDIS, self.redis),
            "broker": _one_silence(drawn(seed, "broker", BROKER, self.broker)),
            "input": drawn(seed, "input", INPUT, self.input),
        }


SHORT: Final = Plan(
    bars=6,
    forecast=3,
    engine=2,
    redis=3,
    broker=2,
    input=4,
    speed=60.0,
    simulated=4,
    partitions=4,
    bars_members=2,
    session_ms=3_000,
    silence_s=4.0,
    bars_due=0,
    forecasts_due=0,
    sampled=40,
    strict=False,
)
"""What runs with every test: it fails on content only."""


def drawn(seed: int, lane: str, kinds: tuple[str, ...], count: int) -> list[str]:
    """`count` faults: round by round all kinds, each round in an order of its own."""
    rng = random.Random(f"plan/{seed}/{lane}")
    faults: list[str] = []
    while len(faults) < count:
        faults += rng.sample(kinds, len(kinds))
    return faults[:count]


def _mixed(seed: int, left: list[str], right: list[str]) -> list[str]:
    both = [*left, *right]
    random.Random(f"plan/{seed}/mixed").shuffle(both)
    return both


def _one_silence(faults: list[str]) -> list[str]:
    """A silence of a minute is long: one a campaign, the others are cuts."""
    first = faults.index("broker_silence") if "broker_silence" in faults else -1
    return [
        "broker_cut" if f == "broker_silence" and i != first else f for i, f in enumerate(faults)
    ]
