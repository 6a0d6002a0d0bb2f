"""`subscribe` against an embedded broker, as a process of its own would find it."""

import asyncio
import io
import json
from collections.abc import Iterator

import msgspec
import pytest
from confluent_kafka import Producer

from kronos_stream.embedded import EmbeddedBroker
from kronos_stream.errors import BrokerError, SettingsError
from kronos_stream.kafka import Broker
from kronos_stream.settings import Settings
from kronos_stream.subscribe import follow
from kronos_stream.wire.codecs import Wire, encode
from kronos_stream.wire.messages import Forecast

from .kafka_clients import poll_for_ever
from .samples import forecast

TOPIC = "kronos.forecasts.5m"


@pytest.fixture
def bootstrap() -> Iterator[str]:
    broker = EmbeddedBroker()
    yield broker.bootstrap
    broker.close()


def publish(bootstrap: str, *forecasts: Forecast | bytes, wire: Wire = "json") -> None:
    producer = Producer({"bootstrap.servers": bootstrap})
    for i, made in enumerate(forecasts):
        value, headers = (made, ()) if isinstance(made, bytes) else encode(made, wire)
        producer.produce(TOPIC, value, partition=i % 2, headers=list(headers))
    assert producer.flush(10) == 0


def settings(bootstrap: str, **more: object) -> Settings:
    return msgspec.convert({"kafka": {"bootstrap": bootstrap}, **more}, Settings)


async def printed(bootstrap: str, count: int, *, as_json: bool = False, **more: object) -> str:
    out = io.StringIO()
    await follow(
        settings(bootstrap, **more), out, as_json=as_json, from_beginning=True, count=count
    )
    return out.getvalue()


async def test_each_forecast_is_a_readable_line(bootstrap: str) -> None:
    publish(bootstrap, forecast())
    assert await printed(bootstrap, 1) == (
        "2025-01-01 00:05  BTCUSDT  close 93,412.1  in 3 bars: median 93,412.1 (+0.00 %)  "
        "80% band 93,300.0 to 93,524.2  P(up) 60%\n"
    )


@pytest.mark.parametrize("wire", ["json", "msgpack"])
async def test_json_prints_the_records_whatever_the_wire(bootstrap: str, wire: Wire) -> None:
    publish(bootstrap, forecast(), wire=wire)
    line = await printed(bootstrap, 1, as_json=True)
    assert msgspec.convert(json.loads(line), Forecast) == forecast()


async def test_a_repeated_record_is_printed_once(bootstrap: str) -> None:
    publish(bootstrap, forecast(), forecast(), forecast(), forecast(index=1))
    lines = (await printed(bootstrap, 2, as_json=True)).splitlines()
    assert {json.loads(line)["open_time"] for line in lines} == {
        forecast().open_time,
        forecast(index=1).open_time,
    }


async def test_only_the_listed_symbols_are_printed(bootstrap: str) -> None:
    publish(bootstrap, forecast("AUSDT"), forecast("BUSDT"))
    line = await printed(bootstrap, 1, as_json=True, symbols=["BUSDT"])
    assert json.loads(line)["symbol"] == "BUSDT"


async def test_a_record_that_is_no_forecast_is_passed_over(bootstrap: str) -> None:
    empty = msgspec.structs.replace(forecast(index=3), quantiles={}, p_up=[])
    no_year = msgspec.structs.replace(forecast(index=4), close_time=10**20)
    publish(bootstrap, b"junk", b'{"symbol": "A"}', empty, no_year, no_year, forecast())
    assert "BTCUSDT" in await printed(bootstrap, 1)


async def test_without_from_beginning_only_new_forecasts_are_printed(bootstrap: str) -> None:
    publish(bootstrap, forecast(index=0), forecast(index=1))
    out = io.StringIO()
    following = asyncio.create_task(
        follow(settings(bootstrap), out, as_json=True, from_beginning=False, count=1)
    )
    # Written again and again, because nothing tells from outside when the subscriber listens.
    index = 2
    while not following.done():
        await asyncio.to_thread(publish, bootstrap, forecast(index=index))
        await asyncio.wait({following}, timeout=0.05)
        index += 1
    await following
    assert json.loads(out.getvalue())["open_time"] >= forecast(index=2).open_time


async def test_a_subscription_that_is_cancelled_leaves_nothing_behind(bootstrap: str) -> None:
    publish(bootstrap, forecast())
    out, before = _Noticed(), asyncio.all_tasks()
    following = asyncio.create_task(
        follow(settings(bootstrap), out, as_json=True, from_beginning=True, count=None)
    )
    await out.written.wait()
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
    assert asyncio.all_tasks() == before


async def test_without_a_broker_there_is_nothing_to_follow() -> None:
    with pytest.raises(SettingsError, match=r"kafka.bootstrap: expected HOST:PORT, got none"):
        await follow(Settings(), io.StringIO(), as_json=True, from_beginning=True, count=1)


async def test_a_broker_that_does_not_answer_is_named() -> None:
    with pytest.raises(BrokerError, match="expected a broker at 127"):
        await printed("127.0.0.1:1", 1)


async def test_a_broker_that_goes_away_ends_the_subscription(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kronos_stream.subscribe.SILENCE_S", 0.1)
    monkeypatch.setattr("kronos_stream.subscribe.ANSWER_S", 1.0)
    broker = EmbeddedBroker()
    publish(broker.bootstrap, forecast())
    out = _Noticed()
    following = asyncio.create_task(
        follow(settings(broker.bootstrap), out, as_json=True, from_beginning=True, count=2)
    )
    await out.written.wait()
    broker.close()
    with pytest.raises(BrokerError, match="does not answer any more"):
        await following


async def test_a_topic_that_ends_before_the_position_was_made_anew(bootstrap: str) -> None:
    publish(bootstrap, forecast())
    given = settings(bootstrap).kafka
    broker = Broker(given, bootstrap=bootstrap, embedded=False, interval="5m")
    await broker.start()
    subscription = broker.tail(TOPIC)
    await subscription.start()
    subscription.take_assignment()
    subscription.seek(0, 100)
    with pytest.raises(BrokerError, match=f"{TOPIC}/0: the topic was made anew"):
        await poll_for_ever(subscription)
    await subscription.stop()
    await broker.close()


class _Noticed(io.StringIO):
    def __init__(self) -> None:
        super().__init__()
        self.written = asyncio.Event()

    def flush(self) -> None:
        self.written.set()
