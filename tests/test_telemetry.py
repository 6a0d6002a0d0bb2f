"""Logs and metrics: what cannot be started is said."""

import socket

import pytest

from kronos_stream.errors import SettingsError
from kronos_stream.settings import TelemetrySettings
from kronos_stream.telemetry import EVENT_LAG, WATERMARK, configure, forget_partitions


def test_a_metrics_port_that_is_taken_is_named() -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"telemetry\.metrics_port: .* {port} .*in use"):
            configure(TelemetrySettings(metrics_port=port))


def test_partitions_of_others_are_forgotten() -> None:
    for partition in ("990", "991"):
        EVENT_LAG.labels("bars", partition).set(7)
        WATERMARK.labels(partition).set(7)
    forget_partitions("bars", [990, 992])
    left = {
        sample.labels["partition"]
        for metric in (EVENT_LAG, WATERMARK)
        for family in metric.collect()
        for sample in family.samples
    }
    assert "991" in left
    assert "990" not in left
