"""From bars to the engine's request and from its reply to the record."""

import itertools
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest

from kronos_stream.bars.calendar import AlwaysOpen, Calendar, calendar_of
from kronos_stream.context.window import Window
from kronos_stream.engine.messages import EngineReply
from kronos_stream.forecasts.quantiles import figures
from kronos_stream.forecasts.record import Due, build_forecast, due_forecast, following
from kronos_stream.forecasts.repair import repair
from kronos_stream.wire.ids import context_digest, forecast_id, forecast_seed
from kronos_stream.wire.messages import AnchorInfo, Bar, Forecast, ForecastSpec, Timing
from tests.samples import LEVELS, SPEC, START_MS, STEP_MS, bar

from .fake_engine import HELLO

# exchange_calendars calls what newer pandas renames.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*weekday is deprecated"),
    pytest.mark.filterwarnings("ignore:Series.values returning"),
]

ALWAYS = AlwaysOpen(STEP_MS)
REVISION = "a" * 16
LOOKBACK = 8
SMALL = msgspec.structs.replace(SPEC, lookback=LOOKBACK, paths=5)
TIMING = Timing(bar_read=1, engine_start=2, engine_end=3, published=4)


def _bars(n: int, symbol: str = "BTCUSDT", **changes: Any) -> list[Bar]:
    return [bar(symbol, i, close=100.0 + i, **changes) for i in range(n)]


def _due(bars: list[Bar], spec: ForecastSpec = SMALL, calendar: Calendar = ALWAYS) -> Due:
    due = due_forecast(Window.from_bars(bars), spec, calendar, REVISION)
    assert due is not None
    return due


def _reply(due: Due, **changes: Any) -> EngineReply:
    rng = np.random.default_rng(due.request.seed)
    paths = 100 * np.exp(rng.normal(0, 0.1, (due.spec.paths, due.spec.horizon, 6)))
    reply = EngineReply(
        forecast_id=due.id,
        paths=paths.astype("<f8").tobytes(),
        anchor=AnchorInfo(open_time=START_MS, length=LOOKBACK, mean=[1.0] * 6, std=[2.0] * 6),
        clipped_share=0.5,
    )
    return msgspec.structs.replace(reply, **changes)


def _built(due: Due, *, with_paths: bool = False) -> Forecast:
    return build_forecast(
        due, _reply(due), HELLO, levels=LEVELS, with_paths=with_paths, timing=TIMING
    )


def test_the_id_and_the_seed_are_those_of_the_identity() -> None:
    bars = _bars(LOOKBACK + 1)
    identity = ("BTCUSDT", "5m", bars[-1].open_time, REVISION, SMALL)
    due = _due(bars)
    assert due.id == due.request.forecast_id == forecast_id(*identity)
    assert due.request.seed == forecast_seed(*identity)
    assert 0 <= due.request.seed < 2**63


def test_whatever_changes_the_content_changes_id_and_seed() -> None:
    bars = _bars(LOOKBACK + 2)
    settings: list[dict[str, Any]] = [
        {"horizon": 4},
        {"paths": 6},
        {"temperature": 0.6},
        {"top_k": 1},
        {"top_p": 0.9},
        {"seed": 8},
        {"join": "none"},
        {"tiny_prices": "scale"},
        {"fine_head_rotary": "none"},
        {"gaps": "skip"},
        {"calendar": "XNYS"},
        {"dtype": "bfloat16"},
        {"lookback": LOOKBACK - 1},
        {"anchor_every": 0},
    ]
    assert {name for change in settings for name in change} == set(ForecastSpec.__struct_fields__)
    dues = [_due(bars[:-1], msgspec.structs.replace(SMALL, **change)) for change in settings]
    dues += [_due(bars), _due(bars[:-1]), _due(_bars(LOOKBACK + 1, "ETHUSDT"))]
    other = due_forecast(Window.from_bars(bars), SMALL, ALWAYS, "b" * 16)
    assert other is not None
    dues.append(other)
    assert len({due.id for due in dues}) == len(dues)
    assert len({due.request.seed for due in dues}) == len(dues)


def test_values_are_not_part_of_the_id_but_of_the_digest() -> None:
    bars = _bars(LOOKBACK + 1)
    corrected = [*bars[:3], msgspec.structs.replace(bars[3], volume=1.0, revision=1), *bars[4:]]
    one, other = _built(_due(bars)), _built(_due(corrected))
    assert one.id == other.id
    assert one.context.digest != other.context.digest


@pytest.mark.parametrize(("anchor_every", "needed"), [(0, LOOKBACK), (1, LOOKBACK + 1)])
def test_nothing_is_due_before_the_lookback_is_complete(anchor_every: int, needed: int) -> None:
    spec = msgspec.structs.replace(SMALL, anchor_every=anchor_every)
    short = Window.from_bars(_bars(needed - 1))
    assert due_forecast(short, spec, ALWAYS, REVISION) is None
    assert len(_due(_bars(needed), spec).window) == needed


def test_the_context_is_the_last_bars_however_many_there_are() -> None:
    long = _bars(LOOKBACK + 40)
    one, other = _due(long), _due(long[-LOOKBACK - 1 :])
    assert one.request == other.request
    assert one.window.digest() == other.window.digest()


def test_an_epochs_context_grows_from_its_anchor() -> None:
    spec = msgspec.structs.replace(SMALL, anchor_every=4)
    bars = _bars(LOOKBACK + 12)
    dues = [_due(bars[:n], spec) for n in range(LOOKBACK + 4, len(bars) + 1)]
    lengths = [len(due.window) for due in dues]
    assert set(lengths) == {LOOKBACK + i for i in (1, 2, 3, 4)}
    for before, after in itertools.pairwise(dues):
        same_epoch = len(after.window) == len(before.window) + 1
        same_start = before.window.open_times[0] == after.window.open_times[0]
        assert same_epoch == same_start
        assert same_epoch or len(after.window) == LOOKBACK + 1


def test_the_request_holds_the_context_and_the_clock_of_the_steps() -> None:
    due = _due(_bars(LOOKBACK + 1))
    asked, n = due.request, LOOKBACK + 1
    times = np.frombuffer(asked.open_times, "<i8")
    assert times.tolist() == due.window.open_times.tolist()
    assert np.frombuffer(asked.values, "<f8").reshape(n, 6).tolist() == due.window.values.tolist()
    stamps = np.frombuffer(asked.stamps, "<i8").reshape(-1, 5)
    every = np.concatenate((times, due.step_open_times))
    assert stamps.tolist() == ALWAYS.stamps(every).tolist()
    assert asked.next_open_time == due.step_open_times[0]


def test_around_the_clock_the_steps_follow_and_the_next_close_ends_it() -> None:
    bars = _bars(LOOKBACK + 1)
    due, last = _due(bars), bars[-1].open_time
    assert due.step_open_times == [last + k * STEP_MS for k in (1, 2, 3)]
    assert due.expires_at == last + 2 * STEP_MS
    assert due.missing == 0


# -- sessions ------------------------------------------------------------------------------------


def _at(text: str) -> int:
    clock = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("America/New_York"))
    return int(clock.timestamp()) * 1000


def _session_bars(first: str, n: int) -> list[Bar]:
    times = [_at(first), *following(calendar_of("XNYS", STEP_MS), _at(first), n - 1)]
    return [bar("SPY", i, open_time=t, close_time=t + STEP_MS) for i, t in enumerate(times)]


@pytest.mark.parametrize(
    ("first", "last", "steps"),
    [
        # The last bar but one of a half day, before a weekend.
        (
            "2024-11-29T12:10",
            "2024-11-29T12:50",
            ["2024-11-29T12:55", "2024-12-02T09:30", "2024-12-02T09:35"],
        ),
        # A context over the weekend in which summer time begins.
        (
            "2024-03-08T15:40",
            "2024-03-11T09:50",
            ["2024-03-11T09:55", "2024-03-11T10:00", "2024-03-11T10:05"],
        ),
        # The very last bar of a week: fresh until Monday's first close.
        (
            "2024-11-01T15:15",
            "2024-11-01T15:55",
            ["2024-11-04T09:30", "2024-11-04T09:35", "2024-11-04T09:40"],
        ),
    ],
)
def test_steps_are_the_intervals_that_follow_in_the_session(
    first: str, last: str, steps: list[str]
) -> None:
    calendar = calendar_of("XNYS", STEP_MS)
    bars = _session_bars(first, LOOKBACK + 1)
    assert bars[-1].open_time == _at(last)
    due = _due(bars, SMALL, calendar)
    assert due.step_open_times == [_at(step) for step in steps]
    assert due.expires_at == _at(steps[0]) + STEP_MS
    assert due.missing == 0
    clocks = np.frombuffer(due.request.stamps, "<i8").reshape(-1, 5)[-3:]
    assert clocks[:, 1].tolist() == [int(step[11:13]) for step in steps]


def test_missing_intervals_are_the_calendars_and_not_the_nights() -> None:
    bars = _session_bars("2024-03-08T15:40", LOOKBACK + 3)
    with_hole = [*bars[:2], *bars[4:]]
    assert _due(with_hole, SMALL, calendar_of("XNYS", STEP_MS)).missing == 2
    # The same bars around the clock lack a whole weekend.
    assert _due(with_hole).missing > 700


# -- the record ----------------------------------------------------------------------------------


def test_the_record_says_what_was_seen() -> None:
    bars = _bars(LOOKBACK + 1)
    bars[2] = msgspec.structs.replace(bars[2], synthetic=True)
    bars[4] = msgspec.structs.replace(bars[4], complete=False)
    bars[5] = msgspec.structs.replace(bars[5], complete=False)
    bars[:3] = [msgspec.structs.replace(b, history=True) for b in bars[:3]]
    due = _due(bars)
    made = _built(due)
    window = due.window
    assert msgspec.structs.asdict(made.context) == {
        "first_open_time": bars[0].open_time,
        "last_open_time": bars[-1].open_time,
        "length": LOOKBACK + 1,
        "digest": context_digest(window.open_times, window.revisions, window.values),
        "synthetic": 1,
        "incomplete": 2,
        "missing": 0,
        "history": 3,
        "clipped_share": 0.5,
    }
    assert (made.open_time, made.close_time) == (bars[-1].open_time, bars[-1].close_time)
    assert (made.last_close, made.expires_at) == (bars[-1].close, due.expires_at)
    assert (made.seed, made.id, made.spec) == (due.request.seed, due.id, SMALL)
    assert (made.model, made.device, made.dtype) == (HELLO.model, HELLO.device, HELLO.dtype)
    assert made.anchor == _reply(due).anchor
    assert made.timing == TIMING


def test_its_figures_are_those_of_the_repaired_paths() -> None:
    due = _due(_bars(LOOKBACK + 1))
    sampled = np.frombuffer(_reply(due).paths, "<f8").reshape(SMALL.paths, SMALL.horizon, 6)
    repaired = repair(sampled, due.window.values[-1, 3])
    expected = figures(repaired.paths, due.window.values[-1, 3], LEVELS)
    made = _built(due)
    assert {name: getattr(made, name) for name in expected._fields} == expected._asdict()
    assert made.repaired_share == repaired.share > 0


def test_paths_are_published_only_where_they_are_wanted() -> None:
    due = _due(_bars(LOOKBACK + 1))
    assert _built(due).paths is None
    paths = np.array(_built(due, with_paths=True).paths)
    assert paths.shape == (SMALL.paths, SMALL.horizon, 6)
    assert (paths[..., 1] >= paths[..., [0, 3]].max(-1)).all()
