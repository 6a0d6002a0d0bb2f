"""The embedded pair: real clients talk to it, and it goes with its parent."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import unquote

import pytest
import redis
from confluent_kafka import Consumer, Producer, TopicPartition

from kronos_stream import embedded
from kronos_stream.embedded import EmbeddedBroker, EmbeddedStore
from kronos_stream.errors import StoreError


def test_a_foreign_client_writes_and_reads_the_broker() -> None:
    broker = EmbeddedBroker()
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    producer.produce("k.ticks", b"hello", key=b"S", partition=1, headers={"schema": b"tick/1"})
    assert producer.flush(10) == 0
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "foreign"})
    consumer.assign([TopicPartition("k.ticks", 1, 0)])
    message = consumer.poll(10)
    assert message is not None
    assert (message.key(), message.value()) == (b"S", b"hello")
    assert message.headers() == [("schema", b"tick/1")]
    consumer.close()
    broker.close()


def test_the_store_runs_scripts_and_stops() -> None:
    store = EmbeddedStore()
    with redis.Redis.from_url(store.url) as client:
        assert client.eval("return redis.call('incr', KEYS[1])", 1, "k") == 1
    store.close()
    assert not _answers(store.url)
    store.close()


async def test_a_store_that_ends_by_itself_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "LOOK_S", 0.01)
    store = EmbeddedStore()
    watching = asyncio.create_task(store.ended())
    with redis.Redis.from_url(store.url) as client:
        client.shutdown(nosave=True)
    async with asyncio.timeout(10):
        with pytest.raises(StoreError, match="the embedded store has ended; --redis URL"):
            await watching
    store.close()


@pytest.mark.parametrize("name", ["x" * 120, "a#b", "a?b %41"])
def test_any_temporary_folder_will_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as base:
        (Path(base) / name).mkdir()
        monkeypatch.setattr(tempfile, "tempdir", f"{base}/{name}")
        store = EmbeddedStore()
        assert _answers(store.url)
        folder = Path(unquote(store.url.removeprefix("unix://"))).parent
        assert folder.stat().st_mode & 0o077 == 0
        store.close()
        assert not folder.exists()


def test_two_stores_do_not_meet() -> None:
    one, two = EmbeddedStore(), EmbeddedStore()
    assert one.url != two.url
    one.close()
    assert _answers(two.url)
    two.close()


def test_the_store_dies_with_a_killed_parent(tmp_path: Path) -> None:
    script = (
        "import time; from kronos_stream.embedded import EmbeddedStore;"
        "s = EmbeddedStore(); print(s.url, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    url = parent.stdout.readline().strip()
    assert _answers(url)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while _answers(url):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False


def test_a_server_that_ends_at_once_is_an_error_that_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedded, "get_binary_path", lambda: Path("/bin/false"))
    with pytest.raises(StoreError, match=r"/bin/false gave no answer"):
        EmbeddedStore()
