"""Secrets: where they are read from, and how an address is shown without them."""

import re
from pathlib import Path
from typing import Final

from .errors import SettingsError

_IN_QUERY: Final = re.compile(r"([?&](?:[a-z_]*password|username|token)=)[^&]*", re.IGNORECASE)


def secret(section: str, value: str | None, file: str | None) -> str | None:
    """A password as it is set, or from its file, without the newline that an editor leaves.

    SettingsError names the file, never what is in it.
    """
    if value is not None or file is None:
        return value
    try:
        return Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise SettingsError(
            f"{section}.password_file: expected a file that can be read, got {file!r}: {why}"
        ) from None


def masked(url: str) -> str:
    """The address without its secrets: the password, a user alone, who may be a token, and what
    the query says of either. Of what is no address, all that stands before the last @."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    rest = _IN_QUERY.sub(r"\1***", rest)
    credentials, at, host = rest.rpartition("@")
    if not at:
        return scheme + separator + rest
    user, colon, _ = credentials.partition(":")
    shown = f"{user}:***" if colon and separator else "***"
    return f"{scheme}{separator}{shown}@{host}"
