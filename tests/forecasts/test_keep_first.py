"""A repeated record is dropped; one that says something else is counted apart."""

import msgspec
import pytest

from kronos_stream.forecasts.keep_first import KeepFirst, comparable
from kronos_stream.telemetry import NUMERIC_VARIANTS
from kronos_stream.wire.messages import Forecast, Timing
from tests.samples import forecast


def _variants() -> float:
    (metric,) = NUMERIC_VARIANTS.collect()
    return next(s.value for s in metric.samples if s.name.endswith("_total"))


def _nudged(record: Forecast) -> Forecast:
    """The last digit of one quantile is another."""
    close = [list(row) for row in record.quantiles["close"]]
    close[1][2] *= 1 + 2**-50
    quantiles = record.quantiles | {"close": close}
    return msgspec.structs.replace(record, quantiles=quantiles)


def test_the_first_counts_and_repeats_are_dropped() -> None:
    keep, before = KeepFirst(), _variants()
    records = [forecast(index=0), forecast(index=0), forecast(index=1), forecast(index=0)]
    assert [keep.is_first(record) for record in records] == [True, False, True, False]
    assert (keep.repeated, keep.variants) == (2, 0)
    assert _variants() == before


def test_symbols_do_not_meet() -> None:
    keep = KeepFirst()
    assert keep.is_first(forecast("BTCUSDT"))
    assert keep.is_first(forecast("ETHUSDT"))


def test_a_differing_second_is_dropped_too_and_counted() -> None:
    keep, before = KeepFirst(), _variants()
    record = forecast()
    assert keep.is_first(record)
    assert not keep.is_first(_nudged(record))
    assert not keep.is_first(record)
    assert (keep.repeated, keep.variants) == (2, 1)
    assert _variants() == before + 1


@pytest.mark.parametrize("field", ["mean", "context"])
def test_the_mean_path_and_what_was_seen_are_compared_too(field: str) -> None:
    keep, record = KeepFirst(), forecast()
    changed = {
        "mean": record.mean | {"open": [1.0, 2.0, 3.0]},
        "context": msgspec.structs.replace(record.context, digest="1" * 32),
    }[field]
    keep.is_first(record)
    assert not keep.is_first(msgspec.structs.replace(record, **{field: changed}))
    assert keep.variants == 1


def test_the_clock_and_the_place_make_no_variant() -> None:
    keep, record = KeepFirst(), forecast()
    timing = Timing(bar_read=9, engine_start=9, engine_end=9, published=9)
    keep.is_first(record)
    assert not keep.is_first(msgspec.structs.replace(record, timing=timing, device="cuda"))
    assert keep.variants == 0


def test_it_remembers_the_last_ones_only() -> None:
    keep = KeepFirst(size=2)
    assert [keep.is_first(forecast(index=i)) for i in (0, 1, 2, 2, 1, 0)] == [
        True,
        True,
        True,
        False,
        False,
        True,
    ]


def test_comparable_forgets_the_clock_alone() -> None:
    record = forecast()
    timing = Timing(bar_read=5, engine_start=6, engine_end=7, published=8)
    later = msgspec.structs.replace(record, timing=timing)
    assert later != record
    assert comparable(later) == comparable(record)
    assert comparable(_nudged(record)) != comparable(record)
