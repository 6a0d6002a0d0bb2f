"""Topics are made, and made anew as they were."""

from collections.abc import Sequence
from typing import Any, Final

import structlog
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAlreadyExistsError, for_code

from ..errors import BrokerError
from .clients import retried

log = structlog.get_logger()

OF_THE_TOPIC: Final = 1
"""The protocol's number for a setting that was made for the topic itself."""


async def create_topics(admin: Any, new: Sequence[NewTopic]) -> None:
    """BrokerError where the broker refuses; a topic that is there already is none."""
    response = await retried(lambda: admin.create_topics(list(new)), "creating topics")
    for name, code, message in response.topic_errors:
        kind = for_code(code)
        if code and kind is not TopicAlreadyExistsError:
            raise BrokerError(
                f"topic {name} is missing and the broker refused to create it: "
                f"{kind.__name__} {message or ''}".rstrip()
            )
    log.info("topics_created", topics=[topic.name for topic in new])


async def topic_as_it_is(admin: Any, topic: str) -> NewTopic:
    """Its partitions, replicas and own settings, to make it anew."""
    what = f"reading {topic}"
    (found,) = await retried(lambda: admin.describe_topics([topic]), what)
    partitions = found["partitions"]
    resource = ConfigResource(ConfigResourceType.TOPIC, topic)
    own: dict[str, str] = {}
    for response in await retried(lambda: admin.describe_configs([resource]), what):
        for code, message, *_, entries in response.resources:
            if code:
                raise BrokerError(f"{what}: {for_code(code).__name__} {message or ''}".rstrip())
            for name, value, _read_only, source, *_ in entries:
                # The oldest brokers say only whether it is the default.
                if source == OF_THE_TOPIC if response.API_VERSION else not source:
                    own[name] = value
    replicas = max(len(partition["replicas"]) for partition in partitions)
    return NewTopic(topic, len(partitions), replicas, None, own)


async def members_of(admin: Any, groups: list[str]) -> dict[str, int]:
    """How many members each group has. A coordinator that is loading, or that we may not ask, says
    so in its answer, beside a list of none."""
    found: dict[str, int] = {}
    for response in await admin.describe_consumer_groups(groups):
        for code, name, _, _, _, members, *_ in response.groups:
            if code:
                raise for_code(code)(f"group {name}")
            found[name] = len(members)
    return found
