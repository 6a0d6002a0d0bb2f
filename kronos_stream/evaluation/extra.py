"""The optional packages of the evaluation, asked for before any work is done."""

from importlib.util import find_spec
from typing import Final

from ..errors import SettingsError

PACKAGES: Final = ("arch", "matplotlib", "scipy", "sklearn")


def require_extra() -> None:
    """SettingsError where a package of the extra `evaluation` is not installed."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise SettingsError(
            "evaluate needs the packages of the extra `evaluation`, not found: "
            f"{', '.join(missing)} (`make evaluation`, or the extra at your own installation)"
        )
