"""The commands from end to end: files, determinism, and what is told in one line."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kronos_stream.cli import main
from kronos_stream.engine import loading
from kronos_stream.evaluation import command, extra, run
from kronos_stream.evaluation.progress import progress
from kronos_stream.evaluation.series import read_series
from tests.engine.requests import tiny_pair
from tests.samples import START_MS, STEP_MS
from tests.threads import threads

from .samples import CALENDAR, SMALL, perturbed, series_of, write_series

pytestmark = pytest.mark.usefixtures("tiny_model")


def evaluate(bars: Path, out: Path, *more: str) -> dict[str, Any]:
    files = ["--bars", str(bars), "--out", str(out)]
    assert main(["evaluate", *SMALL, *files, "--origins", "75", *more]) == 0
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


@pytest.fixture(scope="module")
def whole(bars: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a report, and forecasts.csv in it."""
    out = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch, threads(1):
        patch.setattr(loading, "load_pair", lambda *args, **options: tiny_pair())
        evaluate(bars, out, "--both-joins", "--forecasts", str(out / "forecasts.csv"))
    return out


def test_the_report_holds_everyone_at_the_same_origins(whole: Path) -> None:
    report = json.loads((whole / "report.json").read_text())
    assert list(report["forecasters"]) == [
        "kronos",
        "kronos_join_none",
        "persistence",
        "random_walk",
        "garch",
        "seasonal_naive",
    ]
    counts = report["origins"]["symbols"]
    assert counts["AAA"] == {"used": 75, "skipped": {}}
    assert counts["BBB"]["used"] + sum(counts["BBB"]["skipped"].values()) == 75
    kronos = report["forecasters"]["kronos"]
    assert [scored["step"] for scored in kronos["pooled"]] == [1, 2, 3, 4]
    assert kronos["pooled"][0]["origins"] == report["origins"]["used"]
    assert set(kronos["symbols"]) == {"AAA", "BBB"}
    compared = {(c["forecaster"], c["against"], c["step"]) for c in report["comparisons"]}
    assert ("kronos", "garch", 4) in compared
    assert ("kronos", "kronos_join_none", 1) in compared
    assert "classifier_error" in report["fidelity"]
    page = (whole / "report.md").read_text()
    assert f"{report['origins']['used']} origins of 2 symbols at 75 times" in page
    seasonal = report["forecasters"]["seasonal_naive"]["pooled"][0]["origins"]
    assert seasonal < report["origins"]["used"]
    assert f"| seasonal_naive | {seasonal} | " in page
    fits = report["garch"]
    assert f"GARCH: {fits['failed']} of {fits['fits']} fits failed" in page
    assert "the 50, 80 and 90 % bands cover" in page


def test_all_files_are_there(whole: Path) -> None:
    assert {file.name for file in whole.iterdir()} == {
        "report.json",
        "report.md",
        "scores_by_step.csv",
        "scores_by_symbol.csv",
        "comparisons.csv",
        "fans.png",
        "reliability.png",
        "ic.png",
        "crps.png",
        "forecasts.csv",
    }
    by_symbol = pd.read_csv(whole / "scores_by_symbol.csv")
    assert {"forecaster", "symbol", "step", "ic", "rank_ic", "crps"} <= set(by_symbol)
    by_step = pd.read_csv(whole / "scores_by_step.csv")
    assert (by_step["crps_low"] <= by_step["crps"]).all()


def test_the_forecasts_hold_no_realised_value(whole: Path) -> None:
    frame = pd.read_csv(whole / "forecasts.csv")
    levels = ("q0.05", "q0.1", "q0.25", "q0.5", "q0.75", "q0.9", "q0.95")
    assert list(frame) == ["symbol", "origin", "step", *levels]
    report = json.loads((whole / "report.json").read_text())
    assert len(frame) == 4 * report["origins"]["used"]
    assert frame["origin"].min() == report["origins"]["first"]
    quantiles = frame[list(levels)].to_numpy()
    assert (np.diff(quantiles, axis=1) >= 0).all()
    # Coverage can be had from this file and the bars alone.
    bars = series_of("AAA", 900)
    close = pd.Series(bars.values[:, 3], bars.open_times)
    its = frame[(frame["symbol"] == "AAA") & (frame["step"] == 2)]
    y = np.log(close[its["origin"] + 600_000].to_numpy() / close[its["origin"]].to_numpy())
    within = np.mean((its["q0.05"] <= y) & (y <= its["q0.95"]))
    scored = report["forecasters"]["kronos"]["symbols"]["AAA"][1]
    assert within == pytest.approx(scored["coverage_90"])


def test_the_same_seed_gives_the_same_report(
    bars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "write_plots", lambda *args: None)
    small = ("--origins", "8", "--symbol", "BBB")
    reports = [evaluate(bars, tmp_path / name, *small) for name in "ab"]
    assert reports[0] == reports[1]
    assert list(reports[0]["bars"]) == ["BBB"]
    other = evaluate(bars, tmp_path / "c", *small, "--seed", "8")
    pooled = [r["forecasters"]["kronos"]["pooled"][0]["crps"] for r in (reports[0], other)]
    assert pooled[0] != pooled[1]


def test_later_bars_change_no_earlier_forecast(
    bars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "write_plots", lambda *args: None)
    row = 500
    after = perturbed(series_of("AAA", 900), row)
    made = []
    for number, folder in enumerate((bars, write_series(tmp_path / "after", after))):
        file = tmp_path / f"{number}.jsonl"
        small = ("--origins", "9", "--symbol", "AAA", "--forecasts", str(file))
        evaluate(folder, tmp_path / "out", *small)
        made.append(pd.read_json(file, lines=True, precise_float=True))
    early = made[0]["origin"] <= START_MS + row * STEP_MS
    assert 4 * 4 <= early.sum() < len(early)
    pd.testing.assert_frame_equal(made[0][early], made[1][early], check_exact=True)
    assert not made[0][~early].equals(made[1][~early])


def test_forecasts_go_to_the_folder_that_is_made_for_the_report(
    bars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "write_plots", lambda *args: None)
    out = tmp_path / "new" / "report"
    evaluate(bars, out, "--origins", "4", "--forecasts", str(out / "forecasts.parquet"))
    assert (out / "forecasts.parquet").is_file()


def test_symbols_with_few_origins_are_named_unless_their_number_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "write_plots", lambda *args: None)
    monkeypatch.setattr(run, "TIMES", 20)
    monkeypatch.setattr(run, "LEAST", 18)
    late = series_of("BBB", 40, first=160)
    few = write_series(tmp_path / "few", series_of("AAA", 200, without=(100,)), late)
    words = ["evaluate", *SMALL, "--bars", str(few), "--out", str(tmp_path / "o")]
    assert main(words) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("origins:")]
    assert told == [
        "origins: 23 times instead of 20, for 18 a symbol: 22 forecasts (--origins sets another "
        "number)",
        "origins: expected 18 or more a symbol, got 2 of BBB (its bars allow 12)",
    ]
    assert main([*words, "--origins", "20"]) == 0
    assert "origins:" not in capsys.readouterr().err
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert report["origins"]["times"] == 20


@pytest.mark.parametrize(
    ("own", "setting", "told"),
    [
        (
            "trained",
            "upstream",
            "expected trained, for which builtin was trained (its config.json)",
        ),
        ("upstream", "trained", "got trained"),
        ("trained", "trained", None),
        ("upstream", "none", None),
        ("none", "upstream", None),
    ],
)
def test_a_fine_head_that_was_trained_otherwise_is_told(
    own: str,
    setting: str,
    told: str | None,
    bars: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pair = tiny_pair(fine_head_rotary=own)
    monkeypatch.setattr(loading, "load_pair", lambda *args, **options: pair)
    words = ["generate", *SMALL, "--bars", str(bars), "--count", "2"]
    assert main([*words, "--out", str(tmp_path / "g.csv"), "--fine-head-rotary", setting]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("forecast.")]
    assert len(lines) == (told is not None)
    assert told is None or told in lines[0]


def test_what_else_lies_in_a_folder_is_not_read(bars: Path, tmp_path: Path) -> None:
    shutil.copy(bars / "AAA.parquet", tmp_path)
    (tmp_path / "data.json").write_text('{"what": "notes"}')
    (read,) = read_series([tmp_path], [], "5m", CALENDAR)
    assert (read.symbol, len(read.places)) == ("AAA", 900)


@pytest.fixture
def of_holed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[range, int], Any]:
    """The report on one symbol without some of its 900 bars, at so many times."""
    monkeypatch.setattr(command, "write_plots", lambda *args: None)

    def report(without: range, origins: int) -> Any:
        holed = write_series(tmp_path / "holed", series_of("AAA", 900, without=tuple(without)))
        return evaluate(holed, tmp_path / "o", "--origins", str(origins))

    return report


def test_times_without_an_origin_are_not_drawn(of_holed: Callable[[range, int], Any]) -> None:
    report = of_holed(range(300, 700), 90)
    drawn = report["bootstrap"]
    assert report["origins"]["times"] == 90
    assert drawn["times"] == report["origins"]["used"] < 60
    assert drawn["resamples"] == 1_000
    assert report["forecasters"]["kronos"]["pooled"][0]["interval_95"]["crps"] is not None


def test_times_far_apart_do_not_make_neighbours_independent(
    of_holed: Callable[[range, int], Any],
) -> None:
    """Unused times lie together, as before a symbol is listed: those used are neighbours."""
    report = of_holed(range(5, 800), 900)
    assert report["bootstrap"]["block"] == 8
    assert report["bootstrap"]["times"] == 72


def test_what_a_model_was_trained_on_is_told(
    bars: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command, "write_plots", lambda *args: None)
    model = tmp_path / "run" / "best"
    model.mkdir(parents=True)
    for until, told in ((START_MS + 900 * STEP_MS, True), (START_MS, False)):
        (tmp_path / "run" / "data.json").write_text(json.dumps({"train_until": until}))
        words = ["--symbol", "AAA", "--origins", "4", "--model", str(model)]
        evaluate(bars, tmp_path / "o", *words)
        assert ("was trained on bars up to 2025-01-04T03:00" in capsys.readouterr().err) == told


def test_so_is_what_the_built_in_model_was_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "write_plots", lambda *args: None)
    early = series_of("AAA", 100)
    early = early._replace(open_times=early.open_times - (START_MS - 1_609_459_200_000))
    evaluate(write_series(tmp_path / "bars", early), tmp_path / "o")
    told = "builtin was trained on bars up to 2021-06-12T14:05 (its data.json); the first origin"
    assert told in capsys.readouterr().err


def test_a_grid_that_sees_the_same_hours_every_day_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "write_plots", lambda *args: None)
    bars = write_series(tmp_path / "bars", series_of("AAA", 288 * 30))
    for origins, told in (("31", "31 times fall into 4 of the 24 hours of a day"), ("27", None)):
        evaluate(bars, tmp_path / "o", "--origins", origins)
        lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("origins: ")]
        assert [line.startswith(f"origins: {told}") for line in lines] == [True] * bool(told)


def test_what_cannot_be_written_at_the_end_is_one_line(
    bars: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "o" / "fans.png").mkdir(parents=True)
    full = tmp_path / "full.csv"
    full.symlink_to("/dev/full")
    words = ["evaluate", *SMALL, "--bars", str(bars), "--origins", "4"]
    assert main([*words, "--out", str(tmp_path / "o")]) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].endswith("fans.png: cannot be written: Is a directory")
    assert (tmp_path / "o" / "report.md").exists()
    monkeypatch.setattr(command, "write_plots", lambda *args: None)
    assert main([*words, "--out", str(tmp_path / "p"), "--forecasts", str(full)]) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].endswith("full.csv: cannot be written: No space left on device")
    report = json.loads((tmp_path / "p" / "report.json").read_text())
    # Blocks of all the times there are would be the same sample a thousand times.
    assert report["bootstrap"]["resamples"] == 0
    assert "No intervals: 4 times are too few" in (tmp_path / "p" / "report.md").read_text()
    assert all(c["interval_95"] is None for c in report["comparisons"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("evaluate --out {tmp}/o", "--bars: expected a FILE or a FOLDER"),
        ("evaluate --bars nowhere --out {tmp}/o", "there is none at 'nowhere'"),
        ("evaluate --bars {bars}", "--out: expected a DIR"),
        ("evaluate --bars {bars} --out {bars}/AAA.parquet", "--out: expected a folder"),
        ("evaluate --bars {bars} --out {tmp}/o --forecasts {tmp}/f.txt", "expected a name that"),
        ("evaluate --bars {bars} --out {tmp}/o --symbol CCC", "symbol: expected bars of CCC in"),
        ("evaluate --bars {bars} --out {tmp}/o --since soon", "--since: expected a time such as"),
        (
            "evaluate --bars {bars} --out {tmp}/o --since 2025-01-03 --until 2025-01-02",
            "--until: expected a time after --since 2025-01-03, got 2025-01-02",
        ),
        ("evaluate --bars {bars} --out {tmp}/o --since 2030-01-01", "--since: expected 202"),
        ("evaluate --bars {bars} --out {tmp}/o --since 2021", "--since: expected a time such as"),
        ("evaluate --bars {bars} --out {tmp}/o --since 20300101", "got 2030-01-01T00:00"),
        ("evaluate --bars {bars} --out {tmp}/o --interval 1m", "bars of 1m without a gap"),
        ("evaluate --bars {bars} --out /proc/o", "/proc/o: cannot be written: No such file"),
        ("evaluate --bars {bars} --out {tmp}/o --forecasts /proc/f.csv", "/proc/f.csv: cannot be"),
        ("evaluate --bars {bars} --out {tmp}/o --horizon 126", "forecast.horizon: horizon 126"),
        ("evaluate --bars {bars} --out {tmp}/o --calendar XNOWHERE", "bars.calendar: expected"),
        ("evaluate --bars {bars} --out {tmp}/o --join some", "forecast.join: expected"),
        ("evaluate --bars {bars} --out {tmp}/o --origins 1", "--origins"),
        ("evaluate --bars {tmp} --out {tmp}/o", "expected files ending in .parquet, .csv, .csv.gz"),
        ("generate --bars {bars} --out {tmp}/g.csv", "--count: expected the number of series"),
        ("generate --bars {bars} --count 2", "--out: expected a FILE ending in"),
        ("generate --bars {bars} --count 2 --out {tmp}/g.txt", "expected a name that ends in"),
        ("generate --bars {bars} --count 0 --out {tmp}/g.csv", "--count"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: str, told: str, bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments.format(bars=bars, tmp=tmp_path).split()) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line


def test_a_missing_extra_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(extra, "find_spec", lambda name: None if name == "arch" else object())
    assert main(["evaluate", "--bars", str(tmp_path), "--out", str(tmp_path / "o")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "extra `evaluation`, not found: arch (`make evaluation`" in line


def test_a_bar_in_two_files_is_told(
    bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "--bars", str(bars), "--bars", str(bars), "--out", str(tmp_path)]
    assert main(words) == 2
    assert f"AAA: open_time {START_MS} stands in two files" in capsys.readouterr().err


def test_a_symbol_may_lie_in_several_files(bars: Path, tmp_path: Path) -> None:
    whole = pd.read_parquet(bars / "AAA.parquet").assign(symbol="AAA")
    whole[500:].to_parquet(tmp_path / "a.parquet")
    whole[:500].to_parquet(tmp_path / "b.parquet")
    (joined,) = read_series([tmp_path], [], "5m", CALENDAR)
    (one,) = read_series([bars], ["AAA"], "5m", CALENDAR)
    assert np.array_equal(joined.open_times, one.open_times)
    assert np.array_equal(joined.values, one.values)


def test_flat_bars_give_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flat = series_of("AAA", 60)
    folder = write_series(tmp_path / "flat", flat._replace(values=np.ones_like(flat.values)))
    words = ["evaluate", *SMALL, "--bars", str(folder), "--out", str(tmp_path / "o")]
    assert main(words) == 2
    assert "got none (flat_anchor)" in capsys.readouterr().err


def test_an_interruption_ends_it(bars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loading, "load_pair", interrupted)
    assert main(["evaluate", "--bars", str(bars), "--out", str(bars / "o")]) == 130


def test_progress_is_plain_lines_without_a_terminal() -> None:
    out = io.StringIO()
    with progress("forecasts", 3, out) as advance:
        for _ in range(3):
            advance()
    assert out.getvalue() == "forecasts: 3/3, 0 s\n"
