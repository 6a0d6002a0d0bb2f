"""Which intervals exist, and the clock by which a market reads its time of day."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from kronos_stream.bars.calendar import ALWAYS, AlwaysOpen, Calendar, calendar_of
from kronos_stream.bars.fold import BarsConfig, PartitionFold
from kronos_stream.bars.outputs import BarOut
from kronos_stream.errors import SettingsError
from kronos_stream.settings import BarsSettings
from kronos_stream.wire.foreign import Trade
from kronos_stream.wire.messages import Bar

# exchange_calendars calls what newer pandas renames.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*weekday is deprecated"),
    pytest.mark.filterwarnings("ignore:Series.values returning"),
]

STEP = 300_000
MINUTE = 60_000
NEW_YORK, TOKYO, HONG_KONG = "America/New_York", "Asia/Tokyo", "Asia/Hong_Kong"


def at(zone: str, text: str) -> int:
    """Milliseconds of a wall clock."""
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 1000


def opens(calendar: Calendar, day: str, zone: str) -> list[int]:
    """All open intervals of a local day."""
    begin = at(zone, day)
    end = begin + 25 * 3_600_000
    date = datetime.fromisoformat(day).date()
    return [
        t
        for t in range(begin, end, STEP)
        if calendar.is_open(t) and datetime.fromtimestamp(t / 1000, ZoneInfo(zone)).date() == date
    ]


@pytest.fixture(scope="module")
def xnys() -> Calendar:
    return calendar_of("XNYS", STEP)


def test_around_the_clock_every_interval_follows_the_one_before() -> None:
    calendar = calendar_of(ALWAYS, STEP)
    assert isinstance(calendar, AlwaysOpen)
    saturday = at("UTC", "2024-08-10T00:00")
    assert calendar.is_open(saturday)
    assert calendar.next_open(saturday) == saturday + STEP
    assert calendar.next_open(saturday + 1) == saturday + STEP
    assert calendar.count_between(saturday, saturday + 10 * STEP) == 10
    assert calendar.count_between(saturday, saturday - STEP) == 0


@pytest.mark.parametrize(
    ("last", "following"),
    [
        ("2024-08-07T15:55", "2024-08-08T09:30"),  # a night
        ("2024-08-09T15:55", "2024-08-12T09:30"),  # a weekend
        ("2024-03-08T15:55", "2024-03-11T09:30"),  # summer time begins on Sunday
        ("2024-11-01T15:55", "2024-11-04T09:30"),  # and ends
        ("2024-11-27T15:55", "2024-11-29T09:30"),  # Thanksgiving
        ("2024-11-29T12:55", "2024-12-02T09:30"),  # a half day, then a weekend
        ("2024-08-07T09:30", "2024-08-07T09:35"),
    ],
)
def test_what_follows_a_bar_of_new_york(xnys: Calendar, last: str, following: str) -> None:
    begin, end = at(NEW_YORK, last), at(NEW_YORK, following)
    assert xnys.is_open(begin)
    assert xnys.next_open(begin) == end
    first, second = xnys.places(np.array([begin, end]))
    assert second == first + 1 > 0
    assert xnys.next_open(end - 1) == end
    assert xnys.count_between(begin, end) == 1
    assert not any(xnys.is_open(t) for t in range(begin + STEP, end, STEP))


def test_what_does_not_exist_has_no_place(xnys: Calendar) -> None:
    times = [at(NEW_YORK, t) for t in ("2024-08-07T16:00", "2024-08-10T10:00", "1980-01-07T10:00")]
    assert xnys.places(np.array(times)).tolist() == [-1, -1, -1]
    assert xnys.places(np.array([2**52])).tolist() == [-1]
    assert calendar_of(ALWAYS, STEP).places(np.array([7 * STEP])).tolist() == [7]


@pytest.mark.parametrize(
    ("day", "first", "last"),
    [
        ("2024-03-08", "09:30", "15:55"),
        ("2024-03-11", "09:30", "15:55"),
        ("2024-11-01", "09:30", "15:55"),
        ("2024-11-04", "09:30", "15:55"),
        ("2024-11-29", "09:30", "12:55"),
    ],
)
def test_a_session_of_new_york_by_its_own_clock(
    xnys: Calendar, day: str, first: str, last: str
) -> None:
    begin, end = at(NEW_YORK, f"{day}T{first}"), at(NEW_YORK, f"{day}T{last}")
    assert opens(xnys, day, NEW_YORK) == list(range(begin, end + STEP, STEP))
    assert xnys.count_between(begin, end + STEP) == (end - begin) // STEP + 1


def test_summer_time_moves_the_session_by_an_hour_of_utc(xnys: Calendar) -> None:
    hours = [
        datetime.fromtimestamp(opens(xnys, day, NEW_YORK)[0] / 1000, ZoneInfo("UTC")).hour
        for day in ("2024-03-08", "2024-03-11", "2024-11-01", "2024-11-04")
    ]
    assert hours == [14, 13, 13, 14]


@pytest.mark.parametrize("day", ["2024-08-10", "2024-08-11", "2024-11-28", "2024-12-25"])
def test_weekends_and_holidays_have_no_interval(xnys: Calendar, day: str) -> None:
    assert opens(xnys, day, NEW_YORK) == []


def test_a_lunch_break_has_no_intervals() -> None:
    calendar = calendar_of("XTKS", STEP)
    noon, again = at(TOKYO, "2024-08-07T11:30"), at(TOKYO, "2024-08-07T12:30")
    intervals = opens(calendar, "2024-08-07", TOKYO)
    assert len(intervals) == 60
    assert not any(noon <= t < again for t in intervals)
    assert calendar.next_open(noon - STEP) == again
    assert calendar.count_between(noon - STEP, again + STEP) == 2


def test_an_interval_that_the_session_does_not_fill_is_still_the_sessions() -> None:
    hourly = calendar_of("XHKG", 3_600_000)
    # The session begins at 9:30, so its first hour is named 9:00; lunch is from 12 to 13.
    assert hourly.is_open(at(HONG_KONG, "2024-08-07T09:00"))
    assert not hourly.is_open(at(HONG_KONG, "2024-08-07T12:00"))
    assert not hourly.is_open(at(HONG_KONG, "2024-08-07T16:00"))


def _stamp(zone: str, ms: int) -> tuple[int, ...]:
    local = datetime.fromtimestamp(ms / 1000, ZoneInfo(zone))
    return local.minute, local.hour, local.weekday(), local.day, local.month


@pytest.mark.parametrize(("name", "zone"), [(ALWAYS, "UTC"), ("XNYS", NEW_YORK), ("XTKS", TOKYO)])
def test_time_features_are_read_from_the_markets_own_clock(name: str, zone: str) -> None:
    year = at("UTC", "2024-01-01")
    times = np.arange(year, year + timedelta(days=366).total_seconds() * 1000, 47 * STEP, np.int64)
    stamps = calendar_of(name, STEP).stamps(times)
    assert stamps.dtype == np.int64
    assert list(map(tuple, stamps.tolist())) == [_stamp(zone, int(t)) for t in times]


def test_summer_time_is_in_the_features(xnys: Calendar) -> None:
    times = np.array([at(NEW_YORK, f"2024-{d}T09:30") for d in ("03-08", "03-11", "11-04")])
    assert xnys.stamps(times).tolist() == [[30, 9, 4, 8, 3], [30, 9, 0, 11, 3], [30, 9, 0, 4, 11]]


@pytest.mark.parametrize("name", ["NYSE-by-another-name", "", "xnys ", "UTC"])
def test_an_unknown_name_is_told_with_what_is_known(name: str) -> None:
    with pytest.raises(SettingsError, match=r"^bars\.calendar: expected 24/7 or a name of .*, got"):
        calendar_of(name, STEP)


def test_a_calendar_ends_somewhere(xnys: Calendar) -> None:
    with pytest.raises(SettingsError, match=r"XNYS is known until .* follows 2999-"):
        xnys.next_open(at("UTC", "2999-01-01"))


def _folded(name: str, trades: list[int], until: int) -> list[Bar]:
    """The bars of trades of one symbol, one each at these times; the first makes it known."""
    fold = PartitionFold(config=BarsConfig.of(BarsSettings(calendar=name, edges="keep")))
    bars: list[Bar] = []
    for offset, time in enumerate(trades):
        outputs = fold.tick(offset, Trade("AAA", time, 10**8, 10**8, None))
        bars += [o.bar for o in outputs if isinstance(o, BarOut)]
    outputs = fold.tick(len(trades), Trade("ZZZ", until, 10**8, 10**8, None))
    return bars + [o.bar for o in outputs if isinstance(o, BarOut) and o.bar.symbol == "AAA"]


@pytest.mark.parametrize(
    ("name", "zone", "last", "again"),
    [
        ("XNYS", NEW_YORK, "2024-11-29T12:50", "2024-12-02T09:40"),
        ("XNYS", NEW_YORK, "2024-03-08T15:50", "2024-03-11T09:40"),
        ("XTKS", TOKYO, "2024-08-07T11:20", "2024-08-07T12:40"),
    ],
)
def test_nothing_is_filled_outside_a_session_and_the_chain_steps_over_it(
    name: str, zone: str, last: str, again: str
) -> None:
    begin, end = at(zone, last), at(zone, again)
    bars = _folded(name, [begin, begin + 30 * MINUTE, end], end + STEP + 1_000)
    times = [bar.open_time for bar in bars]
    # A print after the close belongs to no interval.
    assert times == [begin, begin + STEP, end - 2 * STEP, end - STEP, end]
    assert [bar.synthetic for bar in bars] == [False, True, True, True, False]
    assert [bar.prev_open_time for bar in bars] == [None, *times[:-1]]


def test_a_calendar_is_known_as_far_as_its_holidays_are() -> None:
    """Those of Shanghai are published year by year."""
    shanghai = calendar_of("XSHG", STEP)
    assert shanghai.is_open(int(datetime(2024, 6, 18, 3, 15, tzinfo=UTC).timestamp() * 1000))


def test_a_calendar_that_the_package_cannot_make_is_told() -> None:
    with pytest.raises(SettingsError, match=r"^bars\.calendar: exchange_calendars has no sessions"):
        calendar_of("ASEX", STEP)
