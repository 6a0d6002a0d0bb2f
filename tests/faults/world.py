"""Kafka and Valkey behind proxies: what a campaign takes away and gives back."""

from typing import Final

import redis

from tests.services.kafka import Kafka, Listener
from tests.services.processes import free_ports
from tests.services.valkey import Valkey

from .proxy import Proxy

BIG_MESSAGE: Final = 1_000_000


class World:
    """The servers of one campaign. Members reach them through the proxies; the campaign itself,
    which writes the ticks and reads the verdict, goes past them."""

    def __init__(self) -> None:
        (inner,) = free_ports(1)
        self.broker_proxy = Proxy(inner)
        self.kafka = Kafka(listeners=[Listener("PROXIED", inner, self.broker_proxy.port)])
        self.valkey = Valkey()
        self.store_proxy = Proxy(self.valkey.port)
        self.bootstrap = self.kafka.bootstrap
        self.members_bootstrap = f"127.0.0.1:{self.broker_proxy.port}"
        self.members_redis = f"redis://127.0.0.1:{self.store_proxy.port}/0"

    def save_store(self) -> None:
        """Keep what the store holds now, for `restart_store(old=True)`."""
        with redis.Redis.from_url(self.valkey.url) as client:
            client.save()

    def restart_store(self, *, old: bool) -> None:
        """Kill the store; start it with what was last saved, or empty."""
        self.valkey.kill()
        if not old:
            self.valkey.snapshot.unlink(missing_ok=True)
        self.valkey.start()

    def make_store_read_only(self) -> None:
        """As a replica whose primary is away: reads are answered, writes refused."""
        with redis.Redis.from_url(self.valkey.url) as client:
            client.replicaof("127.0.0.1", 1)

    def make_store_writable(self) -> None:
        """A primary again."""
        with redis.Redis.from_url(self.valkey.url) as client:
            client.replicaof("NO", "ONE")

    def close(self) -> None:
        """End everything."""
        self.broker_proxy.close()
        self.store_proxy.close()
        self.kafka.close()
        self.valkey.close()
