"""Kafka: the only room that imports aiokafka.

`Broker` stands for one cluster, `Publisher` writes to it, `Subscription` reads one topic.
"""

from ..wire.topics import Commit, Record, Topics
from .broker import Broker
from .publisher import Publisher
from .subscription import Subscription

__all__ = ["Broker", "Commit", "Publisher", "Record", "Subscription", "Topics"]
