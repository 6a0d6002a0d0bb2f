"""The topics of one deployment: their names, how each is created, and the groups that read them."""

from typing import Final, NamedTuple

from ..settings import KafkaSettings

_WEEK_MS: Final = 7 * 86_400_000
_YEAR_MS: Final = 365 * 86_400_000
_PARTITION_BYTES: Final = 4 * 1024**3
_ANY_TIME: Final = str(2**63 - 1)


class Record(NamedTuple):
    """One record as read; `timestamp` is the record's own, in ms. Read it by its names: what a
    broker's client hands on has these fields, but is no tuple."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


class Commit(NamedTuple):
    """A group's position in one partition, and what the stage wants to remember with it."""

    offset: int
    metadata: str = ""


class TopicSpec(NamedTuple):
    """How a topic must be; `partitions` None: as many as the ticks topic."""

    name: str
    partitions: int | None
    configs: dict[str, str]


class Topics:
    """Names from the prefix and the interval, which is part of every name but those of the
    ticks and the rejected."""

    def __init__(self, prefix: str, interval: str) -> None:
        self.ticks = f"{prefix}.ticks"
        self.rejected = f"{prefix}.ticks.rejected"
        self.late = f"{prefix}.ticks.late.{interval}"
        self.bars = f"{prefix}.bars.{interval}"
        self.forecasts = f"{prefix}.forecasts.{interval}"
        self.skipped = f"{prefix}.forecasts.{interval}.skipped"

    @property
    def all(self) -> tuple[str, ...]:
        """Every topic, the ticks topic first."""
        return (
            self.ticks,
            self.rejected,
            self.late,
            self.bars,
            self.forecasts,
            self.skipped,
        )

    def specs(self) -> list[TopicSpec]:
        """The ticks topic first: the others take its number of partitions.

        Ticks carry the broker's time, the reference against which a tick from the future is
        rejected. Bars and forecasts carry event time, so no limit in days (a replay would be
        dropped at once) and no limit on how far ahead (Kafka 4 refuses more than an hour). Bars
        are never compacted: the key is the symbol, so compaction would erase history.
        """
        by_log_time = {"message.timestamp.type": "LogAppendTime", "retention.ms": str(_WEEK_MS)}
        by_event_time = {
            "message.timestamp.type": "CreateTime",
            "message.timestamp.after.max.ms": _ANY_TIME,
            "retention.ms": "-1",
            "cleanup.policy": "delete",
        }
        by_size = {"retention.bytes": str(_PARTITION_BYTES)}
        return [
            TopicSpec(self.ticks, None, by_log_time | by_size),
            TopicSpec(self.bars, None, by_event_time | {"segment.ms": str(_YEAR_MS)}),
            TopicSpec(self.forecasts, None, by_event_time | by_size),
            TopicSpec(self.rejected, 1, by_log_time),
            TopicSpec(self.late, 1, by_log_time),
            TopicSpec(self.skipped, 1, by_log_time),
        ]


def group_name(settings: KafkaSettings, stage: str, interval: str, digest: str = "") -> str:
    """The consumer group of a stage: `{prefix}.{stage}.{interval}[.{digest}]`.

    The forecast stage passes a digest of its model revision and settings, so that two models side
    by side each see every bar.
    """
    name = f"{settings.group or settings.topic_prefix}.{stage}.{interval}"
    return f"{name}.{digest}" if digest else name
