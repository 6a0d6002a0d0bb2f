"""What the group's commits say of a ticks partition, beside the offset."""

import msgspec
import structlog
from msgspec import Struct

from ..kafka import Commit
from .restored import Gap

log = structlog.get_logger()


class Metadata(Struct, frozen=True, omit_defaults=True):
    """What a commit remembers beside the offset."""

    w: int | None
    """The watermark just before that offset, ms."""
    fed: bool = False
    """The feed writes markers in this partition."""
    gap: Gap | None = None
    lost: bool = False
    """As in Restored."""
    symbols: str | None = None
    """Digest of those that were listed."""


class Start(Struct, frozen=True):
    """Where to fold from, and what is known there."""

    offset: int
    metadata: Metadata
    reached: int | None = None
    """A time in ms, by the commit, since when a bar of each symbol may be found."""


def start_of(number: int, commit: Commit | None, begin: int, end: int) -> Start:
    """By the group's commit and what the topic still holds."""
    unknown = Start(begin, Metadata(None, lost=begin > 0))
    if commit is None:
        return unknown
    try:
        metadata = msgspec.json.decode(commit.metadata, type=Metadata)
    except (msgspec.ValidationError, msgspec.DecodeError):
        log.warning("commit_without_watermark", partition=number, offset=commit.offset)
        return unknown
    if commit.offset > end:
        log.warning("ticks_topic_recreated", partition=number, committed=commit.offset, end=end)
        return unknown
    reached = metadata.w
    if reached is None and metadata.gap is not None:
        reached = metadata.gap.begin
    if commit.offset < begin:
        log.warning("ticks_lost_to_retention", partition=number, records=begin - commit.offset)
        return Start(begin, Metadata(None, metadata.fed, lost=True), reached)
    return Start(commit.offset, metadata, reached)
