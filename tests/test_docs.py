"""The documents agree with the code: generated pages, examples, reasons, links, commands."""

import ast
import json
import re
import runpy
import shlex
from pathlib import Path

import click
import jsonschema
import msgspec
import pytest

from kronos_stream.cli import cli
from kronos_stream.settings_loading import keys, variable
from kronos_stream.wire.codecs import encode
from kronos_stream.wire.foreign import TickDecoder, Trade
from kronos_stream.wire.messages import SCHEMAS, Bar, Forecast, Marker, Skipped, Tick, json_schemas

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
MESSAGES = (DOCS / "messages.md").read_text()


def examples(heading: str) -> list[str]:
    """The JSON blocks of one section of messages.md."""
    section = re.split(r"^## ", MESSAGES, flags=re.MULTILINE)
    (text,) = [part for part in section if part.startswith(f"{heading}\n")]
    return re.findall(r"```json\n(.*?)```", text, flags=re.DOTALL)


def test_generated_pages_are_those_of_the_code() -> None:
    generate = runpy.run_path(str(DOCS / "generate.py"))
    assert (DOCS / "configuration.md").read_text() == generate["configuration"]()
    assert (DOCS / "metrics.md").read_text() == generate["metrics"]()
    for name, text in generate["schemas"]().items():
        assert (DOCS / "schemas" / name).read_text() == text


def test_every_setting_is_in_the_reference() -> None:
    page = (DOCS / "configuration.md").read_text()
    assert [path for path in keys() if f"`{variable(path)}`" not in page] == []


@pytest.mark.parametrize("kind", [Marker, Bar, Forecast, Skipped, Tick])
def test_the_example_of_each_record_is_one(kind: type[msgspec.Struct]) -> None:
    text = examples(kind.__name__)[1 if kind is Tick else 0]
    record = msgspec.json.decode(text, type=kind, strict=True)
    assert json.loads(encode(record)[0]) == json.loads(text)
    schema = json_schemas()[SCHEMAS[kind].split("/")[0]]
    jsonschema.Draft202012Validator(schema).validate(json.loads(text))


def test_the_ticks_of_other_producers_are_accepted() -> None:
    foreign, _, binance = examples("Tick")
    for text in (foreign, binance):
        assert isinstance(TickDecoder().decode(text.encode()), Trade)


def test_every_schema_is_a_valid_schema() -> None:
    for file in (DOCS / "schemas").glob("*.json"):
        jsonschema.Draft202012Validator.check_schema(json.loads(file.read_text()))


def test_every_reason_that_is_written_out_is_told() -> None:
    told = set(re.findall(r"`([a-z_]+)`", MESSAGES))
    found = set()
    for file in (ROOT / "kronos_stream").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            at = {"RejectedError": 0, "skip": 2, "send": 2}.get(name)
            if at is not None and len(node.args) > at:
                reason = node.args[at]
                if isinstance(reason, ast.Constant) and isinstance(reason.value, str):
                    found.add(reason.value)
    assert {"calendar_ends", "malformed_bar", "stale", "too_large", "wrong_partition"} <= found
    assert found <= told


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_are_shown_exist_with_their_flags(page: Path) -> None:
    shown = re.findall(r"kronos-stream ([a-z]+)((?: [^`\n|#]*)?)", page.read_text())
    for name, arguments in shown:
        command = cli.commands[name]
        if isinstance(command, click.Group):
            command = command.commands[arguments.split()[0]]
        known = {o for p in command.params if isinstance(p, click.Option) for o in p.opts}
        used = {word for word in shlex.split(arguments.rstrip("\\")) if word.startswith("--")}
        assert used <= known, f"{name}: {used - known}"
