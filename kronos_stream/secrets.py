"""Secrets: where they are read from, and how an address is shown without them."""

from pathlib import Path

from .errors import SettingsError


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
    """The address without its secrets: the password, and a user alone, who may be a token."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    credentials, at, host = rest.rpartition("@")
    if not at:
        return url
    user, colon, _ = credentials.partition(":")
    return f"{scheme}://{user + ':' if colon else ''}***@{host}"
