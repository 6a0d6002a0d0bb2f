"""Settings: file, environment, flags; what is wrong is named by path, value and origin."""

import math
from pathlib import Path

import msgspec
import pytest

from kronos_stream.errors import SettingsError
from kronos_stream.expected import describe
from kronos_stream.secrets import masked
from kronos_stream.settings import Settings
from kronos_stream.settings_loading import (
    Given,
    Loaded,
    keys,
    load,
    resolved,
    variable,
)
from kronos_stream.settings_printing import as_toml


def loaded(text: str = "", folder: Path | None = None, **environment: str) -> Loaded:
    config = None
    if folder is not None:
        config = folder / "kronos.toml"
        config.write_text(text)
    return load(config=config, environment=environment)


def test_nothing_given_is_the_defaults() -> None:
    assert load(environment={}) == Loaded(Settings(), {}, [])


def test_a_flag_beats_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    config = tmp_path / "kronos.toml"
    config.write_text("[bars]\ngrace_ms = 1\nmax_ahead_ms = 1\nscale_digits = 1\n")
    found = load(
        config=config,
        environment={"KRONOS_BARS_GRACE_MS": "2", "KRONOS_BARS_MAX_AHEAD_MS": "2"},
        flags={"bars.grace_ms": Given("3", "flag --grace-ms")},
    )
    bars = found.settings.bars
    assert (bars.grace_ms, bars.max_ahead_ms, bars.scale_digits) == (3, 2, 1)
    assert found.origins == {
        "bars.grace_ms": "flag --grace-ms",
        "bars.max_ahead_ms": "environment KRONOS_BARS_MAX_AHEAD_MS",
        "bars.scale_digits": f"file {config}",
    }


def test_the_file_can_be_named_by_the_environment(tmp_path: Path) -> None:
    config = tmp_path / "kronos.toml"
    config.write_text('symbols = ["A"]\n')
    assert load(environment={"KRONOS_CONFIG": str(config)}).settings.symbols == ("A",)


@pytest.mark.parametrize(
    ("name", "text", "path", "value"),
    [
        ("KRONOS_SYMBOLS", "BTCUSDT, BINANCE:ETHUSDT", "symbols", ("BTCUSDT", "BINANCE:ETHUSDT")),
        ("KRONOS_SYMBOLS", "all", "symbols", "all"),
        ("KRONOS_FEED_SPEED", "max", "feed.speed", math.inf),
        ("KRONOS_FEED_SPEED", "2.5", "feed.speed", 2.5),
        ("KRONOS_PUBLISH_PATHS", "true", "publish.paths", True),
        ("KRONOS_FORECAST_LOOKBACK", "", "forecast.lookback", None),
        ("KRONOS_FORECAST_QUANTILE_LEVELS", "0.1,0.9", "forecast.quantile_levels", (0.1, 0.9)),
        ("KRONOS_BARS_SYMBOL_SCALES", "A=2,B=3", "bars.symbol_scales", {"A": 2, "B": 3}),
        ("KRONOS_BARS_SYMBOL_CALENDARS", "X=XNYS", "bars.symbol_calendars", {"X": "XNYS"}),
        ("KRONOS_REDIS_URL", "redis://h/0", "redis.url", "redis://h/0"),
    ],
)
def test_text_is_parsed_by_the_kind_of_the_key(
    name: str, text: str, path: str, value: object
) -> None:
    settings: object = loaded(**{name: text}).settings
    for part in path.split("."):
        settings = getattr(settings, part)
    assert settings == value


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "KRONOS_BARS_GRACE_MS",
            "x",
            "bars.grace_ms: expected an integer >= 0, got 'x' "
            "(from environment KRONOS_BARS_GRACE_MS)",
        ),
        ("KRONOS_BARS_GRACE_MS", "-1", "bars.grace_ms: expected an integer >= 0, got '-1'"),
        ("KRONOS_FEED_SPEED", "nan", "feed.speed: expected a number > 0"),
        ("KRONOS_FORECAST_TEMPERATURE", "inf", "forecast.temperature: expected a number >= 1e-06"),
        ("KRONOS_BARS_INTERVAL", "7m", "bars.interval: expected 15m or 1h or 1m or 5m, got '7m'"),
        ("KRONOS_SYMBOLS", "A B", "symbols: expected a list A,B of symbols"),
        ("KRONOS_SYMBOLS", "A,A", "symbols: expected each value once"),
        ("KRONOS_PUBLISH_PATHS", "perhaps", "publish.paths: expected true or false"),
        ("KRONOS_FORECAST_SEED", "null", "forecast.seed: expected an integer"),
        ("KRONOS_FORECAST_QUANTILE_LEVELS", "0.9,0.1", "expected increasing levels"),
        ("KRONOS_FORECAST_QUANTILE_LEVELS", "0.5,2", "each a number > 0 and < 1"),
        ("KRONOS_BARS_SYMBOL_SCALES", "A=99", "expected 0 to 18 digits for A, got 99"),
        ("KRONOS_KAFKA_BOOTSTRAP", "localhost", "kafka.bootstrap: expected HOST:PORT"),
        ("KRONOS_KAFKA_BOOTSTRAP", "h:99999", "kafka.bootstrap: expected HOST:PORT"),
        ("KRONOS_KAFKA_BOOTSTRAP", "h:0", "kafka.bootstrap: expected HOST:PORT"),
        ("KRONOS_BARS_SYMBOL_SCALES", "A=2,A=3", "each name once, got 'A=2,A=3'"),
        ("KRONOS_BARS_SYMBOL_CALENDARS", "=XNYS", "bars.symbol_calendars: expected a table NAME="),
        ("KRONOS_BARS_SYMBOL_CALENDARS", "XNYS", "bars.symbol_calendars: expected a table NAME="),
        ("KRONOS_BARS_SYMBOL_CALENDARS", "A B=XNYS", "expected a table NAME="),
        ("KRONOS_KAFKA_HEARTBEAT_MS", "30000", "at most a third of kafka.session_timeout_ms"),
        (
            "KRONOS_KAFKA_TOPIC_PREFIX",
            "a b",
            "characters that matches ^[a-zA-Z0-9._-]+$, got 'a b'",
        ),
        ("KRONOS_KAFKA_TOPIC_PREFIX", "a" * 201, "expected a string of 1 to 200 characters"),
    ],
)
def test_a_bad_value_names_path_expectation_value_and_origin(
    name: str, text: str, message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        loaded(**{name: text})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        {"KRONOS_REDIS_URL": "http://user:secret@host"},
        {"KRONOS_REDIS_URL": "user:secret@host:6379/0"},
        {"KRONOS_REDIS_URL": "redis:/:secret@host/0"},
        {"KRONOS_KAFKA_BOOTSTRAP": "user:secret@host"},
    ],
)
def test_a_password_is_not_in_the_error(given: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as caught:
        loaded(**given)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "toml", ['redis = "redis://:secret@h/0"', '[redis]\nurl = ["redis://:secret@h/0"]']
)
def test_a_password_in_the_wrong_place_of_a_file_is_not_in_the_error(
    toml: str, tmp_path: Path
) -> None:
    (tmp_path / "k.toml").write_text(toml)
    with pytest.raises(SettingsError) as caught:
        loaded(KRONOS_CONFIG=str(tmp_path / "k.toml"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"KRONOS_KAFKA_PASSWORD": "x"},
            "kafka.password has no effect without kafka.security sasl*",
        ),
        ({"KRONOS_KAFKA_CA_FILE": "x"}, "kafka.ca_file has no effect without kafka.security *tls"),
        (
            {"KRONOS_REDIS_URL": "redis://h/0", "KRONOS_REDIS_CA_FILE": "x"},
            "redis.ca_file has no effect without redis.url rediss:",
        ),
    ],
)
def test_what_protects_nothing_is_told(given: dict[str, str], message: str) -> None:
    assert loaded(**given).warnings == [message]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[bars]\ngrace = 1\n", "no setting 'bars.grace'; did you mean 'bars.grace_ms'?"),
        ("[bar]\ngrace_ms = 1\n", "no setting 'bar'; did you mean 'bars'?"),
        ("bars = 1\n", "bars: expected a table [bars], got 1"),
        ("[bars\n", "expected TOML"),
        ("[bars]\ngrace_ms = '5'\n", "bars.grace_ms: expected an integer >= 0, got '5' (from file"),
        ("[feed]\nspeed = true\n", "feed.speed: expected a number > 0, got True"),
    ],
)
def test_a_bad_file_says_what_was_expected(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        loaded(text, tmp_path)
    assert message in str(caught.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(SettingsError, match="expected a TOML file"):
        load(config=Path("nowhere.toml"), environment={})


def test_a_mistyped_variable_is_told_and_foreign_ones_are_not() -> None:
    found = loaded(KRONOS_BARS_GRACEMS="1", KRONOS_TEST_KAFKA="h:1", KRONOS_CONFIG="", PATH="x")
    assert found.warnings == [
        "environment variable KRONOS_BARS_GRACEMS is no setting; did you mean KRONOS_BARS_GRACE_MS?"
    ]


def test_every_key_has_a_variable_of_its_own_and_a_description() -> None:
    names = {variable(path) for path in keys()}
    assert len(names) == len(keys())
    assert all(describe(field.type) for field in keys().values())


def test_what_is_printed_is_what_is_read(tmp_path: Path) -> None:
    first = loaded(
        KRONOS_SYMBOLS="A,B",
        KRONOS_FEED_SPEED="max",
        KRONOS_BARS_SYMBOL_SCALES="A=2",
        KRONOS_KAFKA_GROUP='odd "name" é',
        KRONOS_FORECAST_TOP_P="0.9",
    )
    settings = resolved(first.settings)
    printed = as_toml(settings, first.origins)
    assert loaded(printed, tmp_path).settings == settings
    assert "grace_ms = 1000\n" in printed
    assert 'symbols = ["A", "B"]  # environment KRONOS_SYMBOLS' in printed
    assert 'kind = "simulated"  # follows from other settings' in printed


def test_secrets_are_not_printed() -> None:
    found = loaded(
        KRONOS_REDIS_URL="redis://user:secret@host:6379/0",
        KRONOS_KAFKA_SECURITY="sasl_tls",
        KRONOS_KAFKA_USER="me",
        KRONOS_KAFKA_PASSWORD="secret",
    )
    printed = as_toml(found.settings, found.origins)
    assert "secret" not in printed
    # Comments: read as a file, they must not set passwords of three stars.
    assert '# url = "redis://user:***@host:6379/0"' in printed
    assert '# password = "***"' in printed


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://:p@h", "redis://:***@h"),
        ("redis://token@h", "redis://***@h"),
        ("rediss://u:p@ss@h/0", "rediss://u:***@h/0"),
        ("plain", "plain"),
        (
            "redis://h/0?password=p&db=1&ssl_password=q",
            "redis://h/0?password=***&db=1&ssl_password=***",
        ),
        ("user:p@h:1/0", "***@h:1/0"),
        ("redis:/:p@h/0", "***@h/0"),
    ],
)
def test_masking(url: str, shown: str) -> None:
    assert masked(url) == shown


@pytest.mark.parametrize(
    ("bootstrap", "kind", "resolved_as"),
    [
        (None, None, ("simulated", "feed", "off")),
        ("h:1", None, ("kafka", "owner", "on")),
        ("h:1", "replay", ("replay", "feed", "off")),
        (None, "kafka", ("kafka", "owner", "on")),
    ],
)
def test_who_writes_the_ticks_decides_markers_and_shedding(
    bootstrap: str | None, kind: str | None, resolved_as: tuple[str, str, str]
) -> None:
    given = {"kafka": {"bootstrap": bootstrap}, "feed": {"kind": kind}}
    settings = resolved(msgspec.convert(given, Settings))
    found = (settings.feed.kind, settings.bars.markers, settings.forecast.shed)
    assert found == resolved_as


def test_what_was_said_is_not_resolved() -> None:
    given = {"feed": {"kind": "kafka"}, "bars": {"markers": "feed"}, "forecast": {"shed": "off"}}
    settings = resolved(msgspec.convert(given, Settings))
    assert (settings.bars.markers, settings.forecast.shed) == ("feed", "off")
