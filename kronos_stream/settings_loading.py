"""Settings from a TOML file, then KRONOS_* environment variables, then flags; the last one wins.

Every value is converted by itself, so that a bad one is named by its path and its origin:
`bars.grace_ms: expected an integer >= 0, got 'x' (from environment KRONOS_BARS_GRACE_MS)`.
"""

import difflib
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct, inspect

from .errors import SettingsError
from .expected import alternatives, describe, optional
from .secrets import masked
from .settings import SECRETS, Settings

PREFIX: Final = "KRONOS_"
CONFIG_VARIABLE: Final = "KRONOS_CONFIG"
NOT_SETTINGS: Final = (CONFIG_VARIABLE, "KRONOS_TEST_")
"""Variables, and beginnings of variables, that are ours and no settings."""
TOP: Final = ("symbols",)
SECTIONS: Final[dict[str, type[Struct]]] = {
    f.name: f.type for f in msgspec.structs.fields(Settings) if f.name not in TOP
}
MAY_BE_INFINITE: Final = ("feed.speed",)
TLS_FILES: Final = ("ca_file", "cert_file", "key_file")
ADDRESSES: Final = ("kafka.bootstrap", "redis.url")


class Given(NamedTuple):
    """A value as it was written, and where: `text` says that it is a string to be parsed."""

    value: Any
    origin: str
    text: bool = True


class Loaded(NamedTuple):
    """The settings, where each value that was given came from, and what was not understood."""

    settings: Settings
    origins: dict[str, str]
    warnings: list[str]


def keys() -> dict[str, inspect.Field]:
    """Every key of the tree, as `section.name`, in its order."""
    found = {f.name: f for f in _fields(Settings) if f.name in TOP}
    for section, kind in SECTIONS.items():
        found |= {f"{section}.{f.name}": f for f in _fields(kind)}
    return found


def variable(path: str) -> str:
    """The environment variable of a key."""
    return PREFIX + path.replace(".", "_").upper()


def load(
    *,
    config: Path | None = None,
    environment: Mapping[str, str],
    flags: Mapping[str, Given] | None = None,
) -> Loaded:
    """The effective settings; `flags` by key. SettingsError names what cannot be used."""
    known = keys()
    named = environment.get(CONFIG_VARIABLE)
    if config is None and named:
        config = Path(named)
    given = _from_file(config, known) if config is not None else {}
    from_environment, warnings = _from_environment(environment, known)
    given |= from_environment
    for path, flag in (flags or {}).items():
        if path not in known:
            raise SettingsError(f"{flag.origin}: {unknown(path, known)}")
        if path.rpartition(".")[2] in SECRETS:
            raise SettingsError(
                f"{flag.origin}: everybody on this machine sees a flag; set {variable(path)} or "
                f"{path}_file"
            )
        given[path] = flag
    converted = {path: _converted(path, known[path].type, g) for path, g in given.items()}
    settings = _settings(converted)
    origins = {path: g.origin for path, g in given.items()}
    _check(settings, origins)
    return Loaded(settings, origins, [*warnings, *_idle(settings)])


def unknown(name: str, known: Iterable[str]) -> str:
    """Says that there is no key of this name, and which is nearest."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"no setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def _fields(kind: type[Struct]) -> tuple[inspect.Field, ...]:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    return info.fields


def _from_file(config: Path, known: Mapping[str, inspect.Field]) -> dict[str, Given]:
    try:
        table = tomllib.loads(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"config file {config}: expected a TOML file that can be read: {error.strerror}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"config file {config}: expected TOML: {error}") from error
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if name not in SECTIONS:
            flat[name] = value
        elif isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            shown = masked(str(value))
            raise SettingsError(f"{name}: expected a table [{name}], got {shown} (from {config})")
    for path in flat:
        if path not in known:
            raise SettingsError(f"config file {config}: {unknown(path, [*known, *SECTIONS])}")
    return {path: Given(value, f"file {config}", text=False) for path, value in flat.items()}


def _from_environment(
    environment: Mapping[str, str], known: Mapping[str, inspect.Field]
) -> tuple[dict[str, Given], list[str]]:
    """An unknown variable is told, not refused: orchestrators inject ones that begin like ours."""
    by_variable = {variable(path): path for path in known}
    given: dict[str, Given] = {}
    warnings: list[str] = []
    for name, text in sorted(environment.items()):
        if name in by_variable:
            given[by_variable[name]] = Given(text, f"environment {name}")
        elif name.startswith(PREFIX) and not name.startswith(NOT_SETTINGS):
            near = difflib.get_close_matches(name, list(by_variable), n=1, cutoff=0.8)
            hint = f"; did you mean {near[0]}?" if near else ""
            warnings.append(f"environment variable {name} is no setting{hint}")
    return given, warnings


def _converted(path: str, kind: inspect.Type, given: Given) -> Any:
    value = given.value
    if isinstance(value, str):
        value = _parsed(path, kind, value)
    try:
        converted = msgspec.convert(value, _annotation(path), strict=not given.text)
    except msgspec.ValidationError:
        converted = None
        if value is not None or not optional(kind):
            raise _expected(path, kind, given) from None
    finite = not isinstance(converted, float) or math.isfinite(converted)
    if not finite and not (converted == math.inf and path in MAY_BE_INFINITE):
        raise _expected(path, kind, given)
    if isinstance(converted, tuple) and len(set(converted)) < len(converted):
        raise SettingsError(
            f"{path}: expected each value once, got {given.value!r} (from {given.origin})"
        )
    return converted


def _parsed(path: str, kind: inspect.Type, text: str) -> Any:
    """What a string stands for: lists are A,B, tables A=1,B=2, an empty string is none."""
    kinds = alternatives(kind)
    text = text.strip()
    if not text and optional(kind):
        return None
    if any(isinstance(k, inspect.LiteralType) and text in k.values for k in kinds):
        return text
    if any(isinstance(k, inspect.VarTupleType) for k in kinds):
        return [part.strip() for part in text.split(",") if part.strip()]
    if any(isinstance(k, inspect.DictType) for k in kinds):
        pairs = [part.rpartition("=") for part in text.split(",") if part.strip()]
        table = {name.strip(): value.strip() for name, _, value in pairs}
        return table if len(table) == len(pairs) else text
    if path in MAY_BE_INFINITE and text == "max":
        return math.inf
    return text


def _annotation(path: str) -> Any:
    section, _, name = path.rpartition(".")
    kind = SECTIONS[section] if section else Settings
    return next(f.type for f in msgspec.structs.fields(kind) if f.name == name)


def _settings(converted: Mapping[str, Any]) -> Settings:
    given: dict[str, Any] = {path: value for path, value in converted.items() if path in TOP}
    for section, kind in SECTIONS.items():
        beginning = f"{section}."
        own = [path for path in converted if path.startswith(beginning)]
        given[section] = kind(**{path.removeprefix(beginning): converted[path] for path in own})
    return Settings(**given)


def _check(settings: Settings, origins: Mapping[str, str]) -> None:
    """What no single value can show."""
    levels = settings.forecast.quantile_levels
    if not levels or list(levels) != sorted(levels):
        raise SettingsError(
            f"forecast.quantile_levels: expected increasing levels, got {list(levels)}"
            + _from(origins, "forecast.quantile_levels")
        )
    kafka = settings.kafka
    if 3 * kafka.heartbeat_ms > kafka.session_timeout_ms:
        raise SettingsError(
            f"kafka.heartbeat_ms: expected at most a third of kafka.session_timeout_ms "
            f"({kafka.session_timeout_ms}), got {kafka.heartbeat_ms}"
        )
    if kafka.bootstrap is not None:
        for address in kafka.bootstrap.split(","):
            host, _, port = address.strip().rpartition(":")
            number = int(port) if port.isascii() and port.isdigit() else 0
            if not host or not 0 < number <= 65_535:
                shown = masked(kafka.bootstrap)
                raise SettingsError(
                    f"kafka.bootstrap: expected HOST:PORT[,HOST:PORT], got {shown!r}"
                    + _from(origins, "kafka.bootstrap")
                )
    for section in ("kafka", "redis"):
        part = getattr(settings, section)
        if part.password is not None and part.password_file is not None:
            raise SettingsError(
                f"{section}.password_file: expected none beside {section}.password"
                + _from(origins, f"{section}.password_file")
            )
        if part.key_file is not None and part.cert_file is None:
            raise SettingsError(f"{section}.key_file: expected {section}.cert_file with it")
    named = kafka.user is not None and (kafka.password or kafka.password_file) is not None
    if kafka.security.startswith("sasl") and not named:
        raise SettingsError(
            f"kafka.security: expected kafka.user and a password with {kafka.security}"
            + _from(origins, "kafka.security")
        )
    url = settings.redis.url
    if url is not None and not url.startswith(("redis://", "rediss://", "unix://")):
        raise SettingsError(
            f"redis.url: expected redis://HOST:PORT/DB, got {masked(url)!r}"
            + _from(origins, "redis.url")
        )
    for symbol, digits in settings.bars.symbol_scales.items():
        if not 0 <= digits <= 18:
            raise SettingsError(
                f"bars.symbol_scales: expected 0 to 18 digits for {symbol}, got {digits}"
                + _from(origins, "bars.symbol_scales")
            )


def _idle(settings: Settings) -> Iterator[str]:
    """What protects nothing, for want of another setting."""
    kafka, redis = settings.kafka, settings.redis
    who = ("user", "password", "password_file")
    for part, section, names, works, needed in (
        (kafka, "kafka", who, kafka.security.startswith("sasl"), "kafka.security sasl*"),
        (kafka, "kafka", TLS_FILES, kafka.security.endswith("tls"), "kafka.security *tls"),
        (redis, "redis", TLS_FILES, (redis.url or "").startswith("rediss://"), "redis.url rediss:"),
    ):
        for name in names:
            if not works and getattr(part, name) is not None:
                yield f"{section}.{name} has no effect without {needed}"


def resolved(settings: Settings) -> Settings:
    """The settings with the defaults that hang on other settings: the feed on whether a broker is
    named, and markers and shedding on who writes the ticks."""
    named = settings.kafka.bootstrap is not None
    kind = settings.feed.kind or ("kafka" if named else "simulated")
    others = kind == "kafka"
    replace = msgspec.structs.replace
    return replace(
        settings,
        feed=replace(settings.feed, kind=kind),
        bars=replace(
            settings.bars, markers=settings.bars.markers or ("owner" if others else "feed")
        ),
        forecast=replace(
            settings.forecast, shed=settings.forecast.shed or ("on" if others else "off")
        ),
    )


def _from(origins: Mapping[str, str], path: str) -> str:
    return f" (from {origins[path]})" if path in origins else ""


def _expected(path: str, kind: inspect.Type, given: Given) -> SettingsError:
    shown = masked(given.value) if isinstance(given.value, str) else given.value
    is_text = isinstance(given.value, str)
    if path.rpartition(".")[2] in SECRETS or (path in ADDRESSES and not is_text):
        shown = "***"
    return SettingsError(f"{path}: expected {describe(kind)}, got {shown!r} (from {given.origin})")
