"""Log lines: for people or for machines, and never a customer in clear."""

from __future__ import annotations

import ast
import json
import logging
import re
from pathlib import Path

import pytest

from streamer.app.config_schema import Log
from streamer.app.logs import JsonLines, Pseudonyms, set_up

SOURCES = sorted((Path(__file__).parents[2] / "streamer").rglob("*.py"))
NAMING = {"customer", "customer_id", "customer_ids", "id", "ids", "key", "keys"}
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


def revealing(source: str) -> list[str]:
    """Find what the log calls of a source say that may name a customer."""
    calls = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in LEVELS
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id.lower() in {"log", "logger", "logging"}
    ]
    said = [part for call in calls for argument in call.args for part in ast.walk(argument)]
    names = [part.id for part in said if isinstance(part, ast.Name)] + [part.attr for part in said if isinstance(part, ast.Attribute)]
    return [name for name in names if name in NAMING]


@pytest.mark.parametrize("path", SOURCES, ids=[path.stem for path in SOURCES])
def test_no_log_call_is_given_what_may_name_a_customer(path: Path) -> None:
    assert [] == revealing(path.read_text(encoding="utf-8"))


def test_a_log_call_that_names_a_customer_is_found() -> None:
    assert ["customer_id"] == revealing("log.info('of %s', event.customer_id)")


def test_a_pseudonym_is_the_same_for_the_same_customer_and_key_and_says_nothing_else() -> None:
    key = Pseudonyms("a secret")
    assert "customer#21553a6fb98a52bc" == key.of(b"customer 7") == Pseudonyms("a secret").of(b"customer 7")
    assert key.of(b"customer 7") != key.of(b"customer 8")
    assert Pseudonyms().of(b"customer 7") != Pseudonyms().of(b"customer 7")
    assert re.fullmatch(r"customer#[0-9a-f]{16}", Pseudonyms().of("jürgen".encode()))
    assert "a secret" not in repr(key)


def test_a_line_for_machines_is_one_json_object() -> None:
    record = logging.LogRecord("streamer.app", logging.WARNING, "", 1, "partition %d:\n%s", (3, "ü"), None)
    line = JsonLines().format(record)
    assert "\n" not in line
    said = json.loads(line)
    assert ("warning", "streamer.app", "partition 3:\nü") == (said["level"], said["logger"], said["message"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", said["time"])


def test_lines_go_to_standard_error_once_from_the_level_that_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger("streamer")
    before = root.handlers[:], root.level, root.propagate
    try:
        for _ in range(2):
            set_up(Log(format="json", level="warning"))
        logging.getLogger("streamer.app.worker").info("not this")
        logging.getLogger("streamer.app.worker").warning("this")
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        root.propagate = before[2]
    [line] = capsys.readouterr().err.splitlines()
    assert "this" == json.loads(line)["message"]
