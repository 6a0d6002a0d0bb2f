"""Bars topics for the tests of this room, and the windows that follow from them."""

from kronos_stream.context.window import Window
from kronos_stream.wire.codecs import encode
from kronos_stream.wire.messages import Bar
from tests.fakes import FakeBroker
from tests.samples import bar

WANT, KEEP = 5, 14


def expected(log: list[Bar], offset: int, want: int) -> list[Bar]:
    """The window of the record at `offset`, from the topic alone."""
    trigger = log[offset]
    reach = next(i for i, b in enumerate(log) if (b.open_time, b.revision) == key(trigger))
    chosen: dict[int, Bar] = {}
    for seen in log[: reach + 1]:
        if seen.open_time > trigger.open_time:
            continue
        held = chosen.get(seen.open_time)
        if held is None or (held.history and not seen.history) or seen.revision > held.revision:
            chosen[seen.open_time] = seen
    return [chosen[t] for t in sorted(chosen)][-want:]


def expected_of(log: list[Bar], offset: int, want: int = WANT) -> list[Bar]:
    """The same of one symbol among others."""
    its = [(place, b) for place, b in enumerate(log) if b.symbol == log[offset].symbol]
    return expected([b for _, b in its], [place for place, _ in its].index(offset), want)


def key(one: Bar) -> tuple[int, int]:
    return one.open_time, one.revision


def chain(length: int, history: int = 0, *, session: int = 1, night: int = 0) -> list[Bar]:
    """`history` history bars and then live ones, each with values of its own; after `session` bars
    the market sleeps for `night` intervals."""
    bars = []
    for i in range(length):
        first = i in (0, history)
        bars.append(
            bar(
                index=i + night * (i // session),
                close=100.0 + i,
                history=i < history,
                prev_open_time=None if first else bars[-1].open_time,
            )
        )
    return bars


def broker_of(log: list[Bar]) -> FakeBroker:
    broker = FakeBroker()
    for one in log:
        value, headers = encode(one)
        broker.cluster.append(broker.topics.bars, value, timestamp=one.open_time, headers=headers)
    return broker


def same(window: Window | None, bars: list[Bar]) -> bool:
    assert window is not None
    other = Window.from_bars(bars)
    return window.digest() == other.digest() and bool((window.history == other.history).all())
