"""Over a night, a weekend or a holiday nothing is done for intervals that do not exist."""

import numpy as np
import pytest

from kronos_stream.bars.fold import BarsConfig, PartitionFold
from kronos_stream.bars.outputs import BarOut
from kronos_stream.bars.restored import Restored
from kronos_stream.settings import BarsSettings
from kronos_stream.wire.foreign import Trade
from tests.samples import bar


def ms(text: str) -> int:
    return int(np.datetime64(text, "ms").astype(np.int64))


@pytest.mark.parametrize("gaps", ["fill", "skip"])
def test_a_holiday_is_one_step(gaps: str, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    close = PartitionFold._close

    def counted(self: PartitionFold, open_time: int, *more: object, **options: object) -> None:
        closed.append(open_time)
        close(self, open_time, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(PartitionFold, "_close", counted)
    settings = BarsSettings(calendar="XSHG", gaps=gaps)  # type: ignore[arg-type]
    last, opens = ms("2025-09-30T06:55"), ms("2025-10-09T01:30")
    known = {name: bar(name, 0, open_time=last, close_time=last + 300_000) for name in ("A", "B")}
    fold = PartitionFold(
        config=BarsConfig.of(settings), restored=Restored(watermark=last + 310_000, last=known)
    )
    made = fold.tick(0, Trade("A", opens + 1_000, 100, 1, 7))
    made += fold.tick(1, Trade("A", opens + 700_000, 100, 1, 8))
    bars = [out.bar for out in made if isinstance(out, BarOut)]
    first, second = opens, opens + 300_000
    filled = gaps == "fill"
    assert [(b.symbol, b.open_time, b.synthetic) for b in bars] == (
        [("A", first, False), ("B", first, True), ("A", second, True), ("B", second, True)]
        if filled
        else [("A", first, False)]
    )
    assert {b.prev_open_time for b in bars if b.open_time == first} == {last}
    assert closed == ([first, second] if filled else [first])


def test_past_the_end_of_the_known_calendar_nothing_is_due() -> None:
    settings = BarsSettings(calendar="XSHG", symbol_calendars={"B": "24/7"})
    config = BarsConfig.of(settings)
    ends = config.calendar("A")._opens[-1]  # type: ignore[attr-defined]
    known = {name: bar(name, 0, open_time=ends, close_time=ends + 300_000) for name in ("A", "B")}
    fold = PartitionFold(config=config, restored=Restored(watermark=ends + 310_000, last=known))
    made = fold.tick(0, Trade("B", ends + 1_000_000, 100, 1, 7))
    bars = [out.bar for out in made if isinstance(out, BarOut)]
    assert [(b.symbol, b.open_time) for b in bars] == [("B", ends + 300_000), ("B", ends + 600_000)]
    grace_ms = settings.grace_ms
    assert fold.next_close_ms == ends + 1_200_000 + grace_ms
    alone = PartitionFold(config=config, restored=Restored(ends + 310_000, {"A": known["A"]}))
    assert alone.next_close_ms is None
