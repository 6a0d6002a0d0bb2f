"""What a broker's answers about groups say, as aiokafka hands them on."""

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import (
    CoordinatorLoadInProgressError,
    GroupAuthorizationFailedError,
    KafkaError,
)

from kronos_stream.kafka.topic_admin import members_of


class _Admin:
    def __init__(self, *groups: tuple[Any, ...]) -> None:
        self._groups = list(groups)

    async def describe_consumer_groups(self, groups: list[str]) -> list[Any]:
        return [SimpleNamespace(groups=[group]) for group in self._groups]


async def test_members_are_counted() -> None:
    admin = _Admin(
        (0, "a", "Stable", "consumer", "range", [object(), object()]),
        (0, "b", "Empty", "consumer", "", []),
    )
    assert await members_of(admin, ["a", "b"]) == {"a": 2, "b": 0}


@pytest.mark.parametrize("error", [CoordinatorLoadInProgressError, GroupAuthorizationFailedError])
async def test_an_error_is_no_group_without_members(error: type[KafkaError]) -> None:
    with pytest.raises(error):
        await members_of(_Admin((error.errno, "a", "", "", "", [])), ["a"])
