"""What a flag's text means."""

import pytest

from kronos_stream.errors import SettingsError
from kronos_stream.flags import time_ms

DAY = 1_735_862_400_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-01-03", DAY),
        ("20250103", DAY),
        ("2025-01-03T00:00", DAY),
        ("2025-01-03T01:00+01:00", DAY),
        (str(DAY), DAY),
        ("0", 0),
    ],
)
def test_times(text: str, expected: int) -> None:
    assert time_ms("--since", text) == expected


@pytest.mark.parametrize("text", [None, "", "2025", "1735862400", "soon", "-5", "9" * 5_000])
def test_what_is_no_time_is_told(text: str | None) -> None:
    with pytest.raises(SettingsError, match=r"--since: expected a time such as .* or millis"):
        time_ms("--since", text)
