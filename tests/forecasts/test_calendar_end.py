"""Where an exchange calendar ends."""

import pytest

from kronos_stream.bars.calendar import calendar_of
from tests.fakes import FakeBroker, FakeCluster
from tests.samples import bar

from .test_service import (
    LOOKBACK,
    SYMBOLS,
    append,
    forecasts,
    from_the_beginning,
    running,
    service_of,
    skipped,
    until,
)

pytestmark = pytest.mark.integration


async def test_where_a_calendar_ends_its_symbol_alone_is_skipped(
    redis_url: str, topic_prefix: str
) -> None:
    exchange = calendar_of("XNYS", 300_000)
    *_, last = exchange._opens  # type: ignore[attr-defined]
    cluster = FakeCluster(partitions=2)
    broker = FakeBroker(cluster)
    for partition, symbol in enumerate(SYMBOLS):
        previous = None
        for index in range(LOOKBACK + 1):
            at = last - (LOOKBACK - index) * 300_000
            one = bar(symbol, 0, open_time=at, close_time=at + 300_000, prev_open_time=previous)
            previous = at
            append(cluster, broker.topics.bars, one, partition)
    from_the_beginning(cluster)
    always = calendar_of("24/7", 300_000)
    calendars = {"AAA": exchange, "BBB": always}
    async with (
        service_of(
            broker, redis_url, topic_prefix, calendar_of=lambda symbol: calendars[symbol]
        ) as service,
        running(service) as task,
    ):
        await until(lambda: bool(skipped(cluster) and forecasts(cluster)), task)
    (said,) = skipped(cluster)
    assert (said.symbol, said.open_time, said.reason) == ("AAA", last, "calendar_ends")
    assert said.detail.startswith("bars.calendar: XNYS is known until")
    assert [f.symbol for f in forecasts(cluster)] == ["BBB"]
