"""The schemas of the topics: what is published stays as it is, and every version reads every other."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import fastavro
import pytest
from typer.testing import CliRunner

import schemas
from schemas.compatibility import Finding, check, check_all, faults
from streamer.app.schemas_command import app

if TYPE_CHECKING:
    from pathlib import Path

PUBLISHED = {
    ("behaviour_event", 1): "03fe003ef32b006e12839569625eebc6f5dd6b70a5e497e7d69b7fdde230c555",
    ("segment_change", 1): "13ab943e6b5f458e8d90d0cb4950920594435361a534679fae52814f86abc602",
    ("segment_change", 2): "e1f849b8d1d6c973a74cb04a2fb20e022461e3d2868ff1568e6314b2401d709a",
    ("model_version", 1): "7c931818ab470653e4679dddcf4fd65715654e299d15e2c5aeba1405c9953e56",
    ("model_version", 2): "a09f380747a303892925c0e8a8fa3d37ceb85faf1e5b254bee548ac4cd524443",
    ("journal_entry", 1): "4fb89b3278ffdae921fb781eaf64f6b27958e52c8cf39f4b3ca2926b966c5c4e",
}
"""SHA-256 of every published version. Add a line with each release; never change one: subscribers and rebuilds read with that schema."""


def test_every_version_reads_every_other_and_every_field_is_documented() -> None:
    assert [] == check_all()


def test_published_versions_never_change() -> None:
    digests = {
        (name, version): hashlib.sha256(schemas.text(name, version).encode()).hexdigest()
        for name in schemas.NAMES
        for version in schemas.versions(name)
    }
    assert digests == PUBLISHED


@pytest.mark.parametrize("name", schemas.NAMES)
def test_a_working_copy_is_the_latest_published_version(name: str) -> None:
    assert schemas.load(name, schemas.latest(name)) == schemas.load(name)


@pytest.mark.parametrize("name", schemas.NAMES)
def test_no_schema_has_an_enum_or_a_fixed_since_they_cannot_grow(name: str) -> None:
    names: dict[str, Any] = {}
    fastavro.parse_schema(schemas.load(name), names)
    assert {"record"} == {definition["type"] for definition in names.values()}


def test_ids_without_a_registry_are_told_apart_and_stay() -> None:
    ids = [schemas.packaged_id(name, version) for name in schemas.NAMES for version in (1, schemas.VERSIONS_MAX)]
    assert [1, 999, 1001, 1999, 2001, 2999, 3001, 3999] == ids


@pytest.mark.parametrize(("name", "version"), [("no_such", None), ("behaviour_event", 998), ("../behaviour_event", None)])
def test_what_the_package_does_not_have_is_said(name: str, version: int | None) -> None:
    with pytest.raises(schemas.NoSuchSchema, match=r"there is no schema|has no version"):
        schemas.text(name, version)


def copy(to: Path) -> Path:
    shutil.copytree(schemas.DIRECTORY, to / "schemas", ignore=shutil.ignore_patterns("__pycache__"))
    return to / "schemas"


def test_a_field_without_a_default_in_the_working_copy_is_found(tmp_path: Path) -> None:
    directory = copy(tmp_path)
    schema = schemas.load("journal_entry")
    schema["fields"].append({"name": "reason", "type": "string", "doc": "New."})
    (directory / "journal_entry.avsc").write_text(json.dumps(schema), encoding="utf-8")
    reason = "the writer does not have the field and the reader's has no default"
    assert [Finding("journal_entry", "working copy", "version 1", "$.reason", reason)] == check_all(directory)


def test_a_gap_in_the_published_versions_is_found(tmp_path: Path) -> None:
    directory = copy(tmp_path)
    published = directory / "published" / "journal_entry"
    shutil.copy(published / "1.avsc", published / "3.avsc")
    assert ["they must count from 1 without a gap, and are [1, 3]"] == [finding.reason for finding in check_all(directory)]


def test_a_later_version_is_checked_against_all_earlier_ones() -> None:
    def with_field(*extra: dict[str, Any]) -> dict[str, Any]:
        return {"type": "record", "name": "R", "doc": "R.", "fields": [{"name": "a", "type": "int", "doc": "A."}, *extra]}

    optional = {"name": "b", "type": "int", "default": 0, "doc": "B."}
    required = {"name": "b", "type": "int", "doc": "B."}
    found = check("r", [("1", with_field()), ("2", with_field(optional)), ("3", with_field(required))])
    assert [("3", "1")] == [(finding.reader, finding.writer) for finding in found]


BAD_ENUM = {"type": "enum", "name": "E", "symbols": ["x"], "default": "y"}


@pytest.mark.parametrize(
    "schema", [{"type": "nothing"}, {"type": "record", "name": "R", "fields": [{}]}, {"no": "type"}, "Unknown", {"type": []}, BAD_ENUM]
)
def test_what_is_not_avro_is_a_finding(schema: Any) -> None:
    found = check("r", [("1", schema)])
    assert [("r", "1", "", "$")] == [(finding.schema, finding.reader, finding.writer, finding.path) for finding in found]
    assert "not an Avro schema" in str(found[0])


def record(*fields: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "record", "name": "R", "doc": "R.", "fields": [{"doc": "F.", **item} for item in fields], **more}


@pytest.mark.parametrize(
    ("schema", "path", "reason"),
    [
        (record(doc=""), "$", "the record has no doc"),
        (record({"name": "a", "type": "int", "doc": ""}), "$.a", "the field has no doc"),
        (record({"name": "a", "type": {"type": "array", "items": record(name="S", doc="")}}), "$.a[]", "the record has no doc"),
        (record({"name": "a", "type": {"type": "map", "values": record(name="S", doc="")}}), "$.a{}", "the record has no doc"),
        (record({"name": "a", "type": ["null", record(name="S", doc="")]}), "$.a|S", "the record has no doc"),
        (record({"name": "a", "type": "int", "default": 1 << 31}), "$.a", "does not fit int"),
        (record({"name": "a", "type": "long", "default": True}), "$.a", "does not fit long"),
        (record({"name": "a", "type": ["null", "long"], "default": 1}), "$.a", "does not fit union"),
        (record({"name": "a", "type": "double", "default": "1.0"}), "$.a", "does not fit double"),
        (record({"name": "a", "type": "bytes", "default": "\u0100"}), "$.a", "does not fit bytes"),
        (record({"name": "a", "type": {"type": "fixed", "name": "X", "size": 2}, "default": "a"}), "$.a", "does not fit X"),
        (record({"name": "a", "type": {"type": "array", "items": "int"}, "default": ["x"]}), "$.a", "does not fit array"),
        (record({"name": "a", "type": {"type": "map", "values": "int"}, "default": {"x": None}}), "$.a", "does not fit map"),
        (record({"name": "a", "type": {"type": "enum", "name": "E", "symbols": ["x"]}, "default": "y"}), "$.a", "does not fit E"),
        (record({"name": "a", "type": record({"name": "b", "type": "int"}, name="S"), "default": {}}), "$.a", "does not fit S"),
    ],
)
def test_each_fault_of_a_schema_alone_is_found(schema: dict[str, Any], path: str, reason: str) -> None:
    found = faults(schema)
    assert [path] == [fault.path for fault in found]
    assert reason in found[0].reason


def test_defaults_that_fit_are_no_faults() -> None:
    schema = record(
        {"name": "a", "type": "null", "default": None},
        {"name": "b", "type": "boolean", "default": True},
        {"name": "c", "type": "float", "default": 1},
        {"name": "d", "type": "string", "default": ""},
        {"name": "e", "type": "bytes", "default": "\u00ff"},
        {"name": "f", "type": {"type": "fixed", "name": "X", "size": 2}, "default": "\u0000\u00ff"},
        {"name": "g", "type": {"type": "enum", "name": "E", "symbols": ["x"], "default": "x"}, "default": "x"},
        {"name": "h", "type": {"type": "array", "items": "E"}, "default": ["x"]},
        {"name": "i", "type": record({"name": "b", "type": "int", "default": 1}, {"name": "c", "type": "R"}, name="S"), "doc": "S."},
        {"name": "j", "type": ["long", "null"], "default": -1},
    )
    assert [] == faults(schema)


def test_the_check_runs_as_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "schemas.compatibility"], capture_output=True, text=True, check=False, timeout=60)
    assert (0, "4 schemas, every version reads every other\n", "") == (done.returncode, done.stdout, done.stderr)


def test_the_command_checks() -> None:
    result = CliRunner().invoke(app, ["check"])
    assert (0, "4 schemas, every version reads every other\n") == (result.exit_code, result.output)


def test_the_command_exits_with_1_and_says_each_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = Finding("s", "version 2", "version 1", "$.a", "because")
    monkeypatch.setattr("schemas.compatibility.check_all", lambda: [finding])
    result = CliRunner().invoke(app, ["check"])
    assert (1, "s: version 2 cannot read version 1: $.a: because\n") == (result.exit_code, result.output)


def test_the_command_lists_every_schema() -> None:
    lines = CliRunner().invoke(app, ["list"]).output.splitlines()
    assert "segment_change: version 1 = id 1001, version 2 = id 1002" == lines[1]
    assert list(schemas.NAMES) == [line.partition(":")[0] for line in lines]


@pytest.mark.parametrize("version", [[], ["--version", "1"]])
def test_the_command_shows_a_schema_as_it_is(version: list[str]) -> None:
    result = CliRunner().invoke(app, ["show", "journal_entry", *version])
    assert schemas.text("journal_entry") == result.output


def test_the_command_says_which_schemas_there_are() -> None:
    result = CliRunner().invoke(app, ["show", "no_such"])
    assert 2 == result.exit_code
    assert "behaviour_event" in result.output
