"""What is cut and what is dropped."""

import numpy as np

from kronos_stream.training.quality import clean
from kronos_stream.training.settings import Cleaning
from tests.training.markets import frame

RULES = Cleaning(min_segment=5)


def table(n: int) -> np.ndarray:
    bars = frame(n)
    bars["amount"] = bars["volume"] * bars["close"]
    return bars.drop(columns="open_time").to_numpy()


def test_whole_bars_are_one_segment() -> None:
    cleaned = clean(np.arange(40), table(40), RULES)
    assert cleaned.spans.tolist() == [[0, 40]]
    assert cleaned.dropped.kept == cleaned.dropped.bars == 40


def test_cut_at_gaps_and_jumps_and_short_ones_are_dropped() -> None:
    places = np.concatenate((np.arange(10), np.arange(11, 41)))
    values = table(40)
    values[20:, :4] *= 1.2
    values[23:, :4] /= 1.4
    cleaned = clean(places, values, RULES)
    assert cleaned.spans.tolist() == [[0, 10], [10, 20], [23, 40]]
    d = cleaned.dropped
    assert (d.gaps, d.jumps, d.short, d.kept, d.segments) == (1, 2, 3, 37, 3)


def test_a_jump_is_measured_from_close_to_next_open() -> None:
    values = table(40)
    values[20, 3] = values[21, 0] = values[20, 0] * 1.3  # Within a bar it is no jump.
    values[21, 3] = values[22, 0]
    assert clean(np.arange(40), values, RULES).spans.tolist() == [[0, 40]]


def test_long_illiquid_runs_are_dropped() -> None:
    values = table(40)
    values[10:13, 4] = 0  # Three are kept, four are not.
    values[20:24, 4] = 0
    cleaned = clean(np.arange(40), values, RULES)
    assert cleaned.spans.tolist() == [[0, 20], [24, 40]]
    assert cleaned.dropped.illiquid == 4


def test_a_symbol_without_any_volume_is_not_illiquid() -> None:
    values = table(40)
    values[:, 4:] = 0
    assert clean(np.arange(40), values, RULES).spans.tolist() == [[0, 40]]


def test_long_stagnant_runs_are_dropped() -> None:
    values = table(60)
    values[10:20, 3] = 100.0
    values[30:41, 3] = 100.0
    cleaned = clean(np.arange(60), values, RULES)
    assert cleaned.spans.tolist() == [[0, 30], [41, 60]]
    assert cleaned.dropped.stagnant == 11


def test_a_gap_ends_a_run() -> None:
    values = table(40)
    values[10:16, 4] = 0
    places = np.arange(40) + (np.arange(40) >= 13)
    assert clean(places, values, RULES).dropped.illiquid == 0
