"""Where a ticks topic ends: a feed reads this before it writes, so that a second run on the same
broker goes on instead of starting over."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from ..errors import RejectedError
from ..kafka import Broker
from ..wire.foreign import TickDecoder, Trade
from .simulated import Resume

LOOK_BACK: Final = 5_000
"""Records of a partition that are read first; all of them where a symbol is not among these."""


@dataclass
class TopicEnd:
    """The watermark of the whole topic (ms; None: empty), and each symbol's last id and price."""

    watermark: int | None = None
    symbols: dict[str, Resume] = field(default_factory=dict)


async def topic_end(
    broker: Broker, decoder: TickDecoder, homes: dict[int, Collection[str]]
) -> TopicEnd:
    """Reads the ends of the ticks partitions; `homes` says which symbols live in which."""
    topic = broker.topics.ticks
    partitions = range(await broker.partitions(topic))
    begins = await broker.begin_offsets(topic, partitions)
    ends = await broker.end_offsets(topic, partitions)
    result = TopicEnd()
    for partition in partitions:
        begin, end = begins[partition], ends[partition]
        start = max(begin, end - LOOK_BACK)
        while start < end:
            await _read(broker, decoder, partition, start, end, result)
            if start == begin or all(s in result.symbols for s in homes.get(partition, ())):
                break
            start = begin
    return result


async def _read(
    broker: Broker,
    decoder: TickDecoder,
    partition: int,
    start: int,
    end: int,
    result: TopicEnd,
) -> None:
    async for records in broker.read(broker.topics.ticks, partition, start, end):
        for record in records:
            try:
                message = decoder.decode(record.value, record.headers)
            except RejectedError:
                continue
            time = message.time if isinstance(message, Trade) else message
            result.watermark = max(time, result.watermark or 0)
            if isinstance(message, Trade) and message.trade_id is not None:
                known = result.symbols.get(message.symbol)
                if known is None or message.trade_id > known.last_id:
                    price = message.price / 10 ** decoder.digits_of(message.symbol)
                    result.symbols[message.symbol] = Resume(message.trade_id, price)
