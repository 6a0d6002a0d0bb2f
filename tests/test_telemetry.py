"""Logs and metrics: what cannot be started is said."""

import socket

import pytest

from kronos_stream.errors import SettingsError
from kronos_stream.settings import TelemetrySettings
from kronos_stream.telemetry import configure


def test_a_metrics_port_that_is_taken_is_named() -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"telemetry\.metrics_port: .* {port} .*in use"):
            configure(TelemetrySettings(metrics_port=port))
