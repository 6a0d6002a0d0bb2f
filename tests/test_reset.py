"""A reset that cannot go on leaves nothing behind."""

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from kronos_stream.errors import BrokerError, InputError
from kronos_stream.reset import _Reset
from kronos_stream.settings import KafkaSettings, Settings
from kronos_stream.wire.codecs import encode

from .fakes import FakeBroker
from .samples import bar


class Failing(FakeBroker):
    """Fails in the middle of a partition."""

    error: Exception

    async def read(self, *arguments: Any) -> Any:
        async for records in super().read(*arguments):
            yield records
            raise self.error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (BrokerError("gone"), (BrokerError, "gone")),
        (OSError(28, "No space left on device"), (InputError, "cannot be written: No space left")),
    ],
)
async def test_a_copy_that_fails_leaves_no_file(
    error: Exception,
    told: tuple[type[Exception], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    broker = Failing()
    broker.error = error
    value, headers = encode(bar())
    broker.cluster.append(broker.topics.bars, value, timestamp=0, headers=headers)
    settings = Settings(kafka=KafkaSettings(bootstrap="h:1"))
    kind, message = told
    with pytest.raises(kind, match=message):
        await _Reset(settings, broker, 2**50, lambda line: None)._cut(  # type: ignore[arg-type]
            broker.topics.bars, do=True
        )
    assert os.listdir(tmp_path) == []
