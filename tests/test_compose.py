"""docker-compose.yml and the Dockerfile, without an engine: against the Compose Specification's
schema, and against our own command line and settings."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from kronos_stream.cli import cli
from kronos_stream.settings_loading import keys, load, variable

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = ROOT / "docker-compose.yml"
STAGES = ("topics", "bars", "forecast", "feed")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def test_it_fits_the_schema_of_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema"]
    done = subprocess.run(
        [*command, "--builtin-schema", "vendor.compose-spec", str(COMPOSE)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_service_that_stays_has_a_health_check(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert (name == "topics") == bool(service["healthcheck"].get("disable"))


def test_what_a_service_waits_for_is_there(services: dict[str, Any]) -> None:
    for service in services.values():
        for name, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert services[name]["healthcheck"].get("test")
            else:
                assert how["condition"] == "service_completed_successfully"


def test_the_image_is_built_once_and_never_pulled(services: dict[str, Any]) -> None:
    """Services that build one tag side by side fail where images are stored by content."""
    ours = {name: s for name, s in services.items() if s["image"] == "kronos-stream"}
    assert set(ours) == set(STAGES)
    assert {name: s["pull_policy"] for name, s in ours.items()} == {
        name: "build" if "build" in s else "never" for name, s in ours.items()
    }
    assert [name for name, s in ours.items() if "build" in s] == ["topics"]


@pytest.mark.parametrize("name", STAGES)
def test_the_commands_are_ours(services: dict[str, Any], name: str) -> None:
    command, *arguments = services[name]["command"]
    known = {o for p in cli.commands[command].params if isinstance(p, click.Option) for o in p.opts}
    assert {a for a in arguments if a.startswith("--")} <= known


@pytest.mark.parametrize("name", STAGES)
def test_the_environment_is_made_of_settings(services: dict[str, Any], name: str) -> None:
    environment = {
        key: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)
        for key, value in services[name]["environment"].items()
    }
    settings = load(environment=environment)
    assert not settings.warnings
    assert settings.settings.kafka.bootstrap == "kafka:9092"
    assert settings.settings.symbols == ("BTCUSDT", "ETHUSDT")


def test_what_the_image_copies_and_sets_is_there() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, flags=re.MULTILINE):
        for source in line.split():
            assert (ROOT / source).exists(), source
            assert f"!{source}" in (ROOT / ".dockerignore").read_text().splitlines()
    variables = set(re.findall(r"KRONOS_[A-Z_]+", text))
    assert variables <= {variable(path) for path in keys()}
