"""What is evaluated is what is served."""

from collections.abc import Iterator

import numpy as np
import pytest

from kronos_stream.engine.core import Engine
from kronos_stream.evaluation.origins import Origin
from kronos_stream.evaluation.sampler import Sample, Sampler
from kronos_stream.evaluation.series import Series
from kronos_stream.forecasts.record import due_forecast
from kronos_stream.forecasts.repair import repair
from kronos_stream.wire.messages import ForecastSpec
from tests.engine.requests import paths_of, tiny_pair
from tests.threads import threads

from .samples import CALENDAR, perturbed, replaced, series_of, spec


@pytest.fixture(autouse=True)
def _same_threads() -> Iterator[None]:
    with threads(1):
        yield


def sampled(series: list[Series], origins: list[Origin], settings: ForecastSpec) -> list[Sample]:
    return list(Sampler(tiny_pair(), settings, CALENDAR).samples(series, origins))


@pytest.mark.parametrize("join", ["none", "last_close"])
@pytest.mark.parametrize("anchor_every", [0, 1, 4])
def test_it_is_the_streams_forecast(join: str, anchor_every: int) -> None:
    series, settings = series_of("AAA", 120), spec(join=join, anchor_every=anchor_every)
    (sample,) = sampled([series], [Origin(0, 0, 80)], settings)
    engine = Engine(*tiny_pair(), settings)
    due = due_forecast(series.window(0, 81), settings, CALENDAR, engine.revision)
    assert due is not None
    (reply,) = engine.forecast([due.request], lambda: 0)
    served = repair(paths_of(reply, settings), float(series.values[80, 3])).paths
    assert np.array_equal(sample.joined(join), served)


def test_one_set_of_paths_serves_every_join() -> None:
    series, settings = series_of("AAA", 120), spec(join="none")
    sampler = Sampler(tiny_pair(), settings, CALENDAR)
    (sample,) = sampler.samples([series], [Origin(0, 0, 80)])
    joined = Engine(*tiny_pair(), replaced(settings, join="last_close"))
    (reply,) = joined.forecast([sampler.request(series, 80)], lambda: 0)
    expected = repair(paths_of(reply, settings), sample.last_close).paths
    assert np.array_equal(sample.joined("last_close"), expected)
    assert not np.array_equal(sample.joined("none"), expected)


@pytest.mark.parametrize("anchor_every", [0, 1, 4])
def test_later_bars_change_nothing(anchor_every: int) -> None:
    series, settings = series_of("AAA", 120), spec(anchor_every=anchor_every)
    origins = [Origin(0, 0, 60), Origin(0, 1, 80)]
    made = sampled([series], origins, settings)
    again = sampled([perturbed(series, 80)], origins, settings)
    for one, other in zip(made, again):
        assert np.array_equal(one.paths, other.paths)
        assert one[3:] == other[3:]


def test_batch_mates_change_nothing() -> None:
    series = [series_of("AAA", 120), series_of("BBB", 120)]
    origins = [Origin(n, t, 60 + t) for t in range(6) for n in (0, 1)]
    together = sampled(series, origins, spec())
    (alone,) = sampled(series, origins[7:8], spec())
    assert np.array_equal(together[7].paths, alone.paths)


def test_a_refusal_keeps_its_reason() -> None:
    flat = series_of("AAA", 60)
    flat = flat._replace(values=np.ones_like(flat.values))
    (sample,) = sampled([flat], [Origin(0, 0, 50)], spec())
    assert sample.refused == "flat_anchor"
