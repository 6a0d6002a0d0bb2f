"""The command line: what is wrong is one line and exit status 2; nothing heavy is imported."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from kronos_stream import app
from kronos_stream.cli import main
from kronos_stream.embedded import EmbeddedBroker
from kronos_stream.errors import BrokerError
from kronos_stream.settings import Settings
from kronos_stream.wire.partitioning import murmur2_partition

from .samples import bar, forecast
from .test_subscribe import publish

COMMAND = [sys.executable, "-m", "kronos_stream"]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("KRONOS_"):
            monkeypatch.delenv(name)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Settings, dict[str, Any]]]:
    """What the services are started with, instead of starting them."""
    calls: list[tuple[Settings, dict[str, Any]]] = []

    async def run(settings: Settings, **options: Any) -> int:
        calls.append((settings, options))
        return 0

    monkeypatch.setattr(app, "run", run)
    monkeypatch.setattr("kronos_stream.telemetry.configure", lambda settings: None)
    return calls


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("nope", "No such command 'nope'"),
        ("run", "symbols: expected --symbols A,B or all, got none"),
        ("run --symbols A --nope", "No such option '--nope'"),
        ("run --symbols A B", "unexpected extra argument (B)"),
        ("run --symbols A --for soon", "expected a time above 0 such as 60s, 5m or 1h"),
        ("run --symbols A --for 0", "expected a time above 0"),
        ("run --symbols A --bars 0", "'--bars': 0 is not in the range"),
        ("run --symbols all", "the simulated feed needs names"),
        (
            "run --symbols all --feed replay:pyproject.toml --history tests",
            "--history needs names, --symbols A,B; got all",
        ),
        ("run --symbols A --interval 7m", "bars.interval: expected"),
        ("run --symbols A --kafka nowhere", "kafka.bootstrap: expected HOST:PORT"),
        ("run --symbols A --redis nowhere", "redis.url: expected redis://HOST:PORT/DB"),
        ("run --symbols A --speed fast", "feed.speed: expected a number > 0, got 'fast'"),
        ("run --symbols A --horizon -1", "forecast.horizon: expected an integer > 0"),
        ("run --symbols A --feed replay", "--feed: expected kafka, simulated or replay:FILE"),
        ("run --symbols A --feed other:x", "--feed: expected kafka, simulated or replay:FILE"),
        ("run --symbols A --feed replay:none.csv", "feed.file: expected a ticks file"),
        ("run --symbols A --history none.csv", "feed.history: expected a bars file"),
        ("run --symbols A --model ./none", "model.model: expected builtin, a folder or a hub id"),
        ("run --symbols A --tokenizer none", "model.tokenizer: expected builtin, a folder"),
        ("run --symbols A --feed kafka --bars 3", "--bars: expected --feed simulated or replay"),
        ("run --symbols A --calendar NOPE", "bars.calendar: expected 24/7 or a name of"),
        (
            "run --symbols A --set bars.symbol_calendars=A=NOPE",
            "bars.symbol_calendars: A: expected 24/7 or a name of",
        ),
        (
            "run --symbols A --set forecast.seed=9223372036854775808",
            "forecast.seed: expected an integer >= -9223372036854775808 and <= 9223372036854775807",
        ),
        ("run --symbols A --set model.threads=1025", "model.threads: expected an integer >= 0 and"),
        ("run --symbols A --set grace=1", "--set grace=1: no setting 'grace'"),
        ("run --symbols A --set grace", "--set: expected KEY=VALUE, got 'grace'"),
        ("run --symbols A --config none.toml", "config file none.toml: expected a TOML file"),
        ("bars", "kafka.bootstrap: expected --kafka HOST:PORT, or off-line --ticks FILE"),
        ("bars --out a.csv", "--out: expected --ticks FILE with it"),
        ("bars --ticks none.csv --out a.csv", "--ticks: expected a file, there is none at"),
        ("bars --horizon 3", "No such option '--horizon'"),
        ("forecast", "kafka.bootstrap: expected --kafka HOST:PORT, or off-line --bars FILE"),
        ("forecast --symbol A", "--symbol: expected --bars FILE with it"),
        ("forecast --bars none.csv", "--symbol: expected the symbol to forecast"),
        ("forecast --bars none.csv --symbol A --out a.csv", "--bars: expected a file"),
        ("feed --symbols A", "kafka.bootstrap: expected --kafka HOST:PORT"),
        ("feed --symbols A --kafka h:1", "feed.kind: expected --feed simulated"),
        ("subscribe", "the address that `kronos-stream run` prints"),
        ("subscribe --kafka 127.0.0.1:1", "expected a broker at 127.0.0.1:1"),
        ("check", "kafka.bootstrap: expected --kafka HOST:PORT"),
        ("check --trade-kind quote", "bars.trade_kind: expected aggTrade or trade, got 'quote'"),
        ("reset bars --trade-kind quote", "bars.trade_kind: expected aggTrade or trade"),
        ("topics --create", "kafka.bootstrap: expected --kafka HOST:PORT"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_2(
    arguments: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("kronos-stream: ")
    assert expected in line


def test_a_ticks_file_that_cannot_be_read_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ticks = tmp_path / "ticks.csv"
    ticks.write_text("time,symbol,price\n1735689600000,A,1\n")
    assert main(["bars", "--ticks", str(ticks), "--out", str(tmp_path / "bars.csv")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "qty" in line


def test_an_ending_that_says_nothing_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ticks = tmp_path / "ticks.csv"
    ticks.write_text("time,symbol,price,qty\n1735689600000,A,1,1\n")
    assert main(["bars", "--ticks", str(ticks), "--out", str(tmp_path / "bars.xyz")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected a name that ends in .parquet, .csv, .jsonl" in line


def test_bars_of_a_ticks_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ticks, out = tmp_path / "ticks.csv", tmp_path / "bars.jsonl"
    rows = [f"{bar().open_time + 60_000 * i},A,{10 + i}.5,1" for i in range(12)]
    ticks.write_text("\n".join(["time,symbol,price,qty", *rows]) + "\n")
    arguments = ["--gaps", "skip", "--edges", "keep"]
    assert main(["bars", "--ticks", str(ticks), "--out", str(out), *arguments]) == 0
    closes = [json.loads(line)["close"] for line in out.read_text().splitlines()]
    assert closes == [14.5, 19.5, 21.5]
    assert capsys.readouterr().err.startswith("12 ticks to 3 bars")
    assert main(["bars", "--ticks", str(ticks), "--out", str(out), "--symbols", "B"]) == 0
    assert capsys.readouterr().err == "12 ticks to 0 bars (12 unlisted)\n"


def test_a_file_that_is_not_in_order_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ticks = tmp_path / "ticks.csv"
    rows = [f"{bar().open_time - 600_000 * i},A,1,1" for i in range(3)]
    ticks.write_text("\n".join(["time,symbol,price,qty", *rows]) + "\n")
    assert main(["bars", "--ticks", str(ticks), "--out", str(tmp_path / "bars.csv")]) == 0
    assert "most ticks are late: is " in capsys.readouterr().err


def test_run_wires_all_stages(started: list[tuple[Settings, dict[str, Any]]]) -> None:
    arguments = "run --symbols BTCUSDT,ETHUSDT --for 2m --bars 3 --speed max --seed 5"
    assert main(arguments.split()) == 0
    ((settings, options),) = started
    assert options == {"stages": ("feed", "bars", "forecast"), "for_s": 120.0, "bars": 3}
    assert settings.symbols == ("BTCUSDT", "ETHUSDT")
    assert settings.feed.kind == "simulated"
    assert settings.feed.speed == float("inf")
    assert (settings.feed.seed, settings.forecast.seed) == (5, 5)


@pytest.mark.parametrize(
    ("arguments", "stage"),
    [
        ("feed --symbols A --kafka h:1 --feed simulated --seed 3", "feed"),
        ("bars --symbols all --kafka h:1 --grace-ms 5", "bars"),
        ("forecast --symbols A --kafka h:1 --redis redis://h/0 --publish-paths", "forecast"),
    ],
)
def test_each_stage_runs_alone(
    arguments: str, stage: str, started: list[tuple[Settings, dict[str, Any]]]
) -> None:
    assert main(arguments.split()) == 0
    ((_, options),) = started
    assert options == {"stages": (stage,), "for_s": None, "bars": None}


def test_a_replay_is_named_with_its_file(
    tmp_path: Path, started: list[tuple[Settings, dict[str, Any]]]
) -> None:
    ticks = tmp_path / "a:b.csv"
    ticks.touch()
    assert main(["run", "--symbols", "all", "--feed", f"replay:{ticks}"]) == 0
    ((settings, _),) = started
    assert (settings.feed.kind, settings.feed.file) == ("replay", str(ticks))


def test_an_error_of_the_user_inside_a_group_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(settings: Settings, **options: Any) -> Coroutine[Any, Any, int]:
        async def fail() -> int:
            raise ExceptionGroup("stages", [BrokerError("the\nbroker"), BrokerError("again")])

        return fail()

    monkeypatch.setattr(app, "run", run)
    assert main(["run", "--symbols", "A"]) == 2
    assert capsys.readouterr().err == "kronos-stream: the broker\n"


def test_a_bug_shows_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(settings: Settings, **options: Any) -> int:
        raise ExceptionGroup("stages", [BrokerError("the broker"), ZeroDivisionError()])

    monkeypatch.setattr(app, "run", run)
    with pytest.raises(ExceptionGroup):
        main(["run", "--symbols", "A"])


def test_config_prints_toml_and_masks_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["config", "--symbols", "A", "--redis", "redis://u:secret@h/0", "--feed", "simulated"])
        == 0
    )
    printed = capsys.readouterr().out
    assert 'symbols = ["A"]  # flag --symbols' in printed
    assert "secret" not in printed


def test_topics_are_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topics", "--topic-prefix", "mine", "--interval", "1m", "--partitions", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("mine.ticks: partitions=3, message.timestamp.type=LogAppendTime")
    assert [line.split(":")[0] for line in lines[1:]] == [
        "mine.bars.1m",
        "mine.forecasts.1m",
        "mine.ticks.rejected",
        "mine.ticks.late.1m",
        "mine.forecasts.1m.skipped",
    ]


def test_a_mistyped_variable_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KRONOS_SYMBOL", "A")
    assert main(["config"]) == 0
    assert "did you mean KRONOS_SYMBOLS?" in capsys.readouterr().err


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'pandas', 'pyarrow', 'aiokafka', 'rich', 'redis'}"
    code = f"import sys, kronos_stream.cli; print({heavy} & set(sys.modules))"
    assert python(code) == "set()\n"


def test_the_consumers_process_never_imports_torch() -> None:
    code = (
        "import sys, kronos_stream.cli, kronos_stream.app, kronos_stream.subscribe, "
        "kronos_stream.checks; print('torch' in sys.modules)"
    )
    assert python(code) == "False\n"


def test_help_and_version() -> None:
    for arguments in (["--help"], ["run", "-h"], ["--version"]):
        done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True)
        assert done.returncode == 0
        assert done.stdout
        assert not done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_subscription_ends_by_signal_with_status_0(number: signal.Signals) -> None:
    broker = EmbeddedBroker()
    publish(broker.bootstrap, forecast())
    command = [*COMMAND, "subscribe", "--kafka", broker.bootstrap, "--from-beginning"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "BTCUSDT" in process.stdout.readline()
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    broker.close()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


def test_a_reader_that_leaves_ends_a_subscription_quietly() -> None:
    broker = EmbeddedBroker()
    publish(broker.bootstrap, *(forecast(index=i) for i in range(50)))
    command = [*COMMAND, "subscribe", "--kafka", broker.bootstrap, "--from-beginning", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        publish(broker.bootstrap, *(forecast(index=i) for i in range(50, 100)))
        errors = process.stderr.read()
        process.wait(20)
    broker.close()
    assert not errors


def test_closed_standard_streams_are_taken_by_nothing_else() -> None:
    """libuv aborts where a socket of its own stands in the place of one."""
    script = (
        "import os, sys; [os.close(n) for n in range(3)]; from kronos_stream.cli import main; "
        "sys.exit(main(['config']) or not all(os.get_inheritable(n) for n in range(3)))"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=30).returncode == 0


@pytest.mark.parametrize(("more", "expected"), [((), 1), (("--trade-kind", "aggTrade"), 0)])
def test_check_looks_at_ticks_of_the_kind_that_is_named(
    more: tuple[str, ...], expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    broker = EmbeddedBroker()
    trade = {"e": "aggTrade", "s": "A", "p": "1", "q": "1", "T": 1_735_689_600_000, "a": 1}
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    producer.produce("kronos.ticks", json.dumps(trade), partition=murmur2_partition(b"A", 4))
    assert producer.flush(10) == 0
    assert main(["check", "--kafka", broker.bootstrap, *more]) == expected
    broker.close()
    assert ("rejected as mixed_trade_kind" in capsys.readouterr().out) == bool(expected)
