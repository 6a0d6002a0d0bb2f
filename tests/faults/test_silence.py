"""A consumer that falls silent without an error, as aiokafka's were seen to."""

from pathlib import Path

import pytest

from tests.faults.deployment import Deployment, until
from tests.faults.member import SILENCE_VARIABLE

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


def test_a_silent_member_is_ended_by_its_watchdog_and_its_successor_loses_nothing(
    kafka_bootstrap: str,
    redis_url: str,
    topic_prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    silence = tmp_path / "silence"
    monkeypatch.setenv(SILENCE_VARIABLE, str(silence))
    deployment = Deployment(kafka_bootstrap, redis_url, topic_prefix, tmp_path, partitions=1)
    try:
        watched = ("--feed", "simulated", "--set", "kafka.watchdog_s=2")
        member = deployment.start("bars", "bars", *watched)
        deployment.feed(2)
        until(lambda: len(deployment.live_bars()) == 2, [member])
        silence.touch()
        while not member.ended():
            deployment.feed(1)
        assert "stands still at" in member.log.read_text()
        silence.unlink()
        member.revive()
        until(lambda: len(deployment.live_bars()) >= 5, [member])
        assert member.exits == {2: 1}
    finally:
        deployment.close()
