"""The effective settings as TOML: what one prints, the other commands read."""

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from .secrets import masked
from .settings import SECRETS, Settings
from .settings_loading import SECTIONS, TOP

ADDRESSES: Final = ("redis.url",)


def as_toml(settings: Settings, origins: Mapping[str, str]) -> str:
    """Every key; what is not set is a comment, what was given says by what."""
    defaults = Settings()
    lines = [_line(name, name, getattr(settings, name), origins) for name in TOP]
    for section in SECTIONS:
        lines += ["", f"[{section}]"]
        part = getattr(settings, section)
        for field in msgspec.structs.fields(part):
            path = f"{section}.{field.name}"
            value = getattr(part, field.name)
            follows = value != getattr(getattr(defaults, section), field.name)
            lines.append(_line(path, field.name, value, origins, follows=follows))
    return "\n".join(lines) + "\n"


def _line(
    path: str, name: str, value: Any, origins: Mapping[str, str], *, follows: bool = False
) -> str:
    if value is None:
        return f"# {name} ="
    hidden = "***" if name in SECRETS else masked(value) if path in ADDRESSES else value
    if hidden != value:
        # As a comment: read as a file, it must not set a password of three stars.
        name = f"# {name}"
    line = f"{name} = {toml_value(hidden)}"
    if path in origins:
        return f"{line}  # {origins[path]}"
    return f"{line}  # follows from other settings" if follows else line


def toml_value(value: Any) -> str:
    """One value in TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return "inf" if math.isinf(value) else repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        inner = (f"{json.dumps(key)} = {toml_value(v)}" for key, v in value.items())
        return f"{{ {', '.join(inner)} }}" if value else "{}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(toml_value(v) for v in value)}]"
    return str(value)
