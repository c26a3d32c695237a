"""The nightly job's command line: quick help, versions looked at, errors of one line."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from offline import models_command
from offline.cli import app, main
from offline.reseed_command import Request, run
from offline.settings import Settings
from offline.shelf import Shelf, body_of
from streamer.adapters.avro.model_records import OnTopic, Promotion
from streamer.core.errors import Unavailable
from streamer.core.model import digest
from tests.offlinekit import FakeHistory, end_of, shop

if TYPE_CHECKING:
    from pathlib import Path

HEAVY = {"confluent_kafka", "numba", "numpy", "openpyxl", "pandas", "pyarrow", "redis", "river", "scipy", "sklearn", "yaml"}


def said(*arguments: object, kafka: str = "") -> str:
    env = {"COLUMNS": "200", "KAFKA_BOOTSTRAP": kafka, "STREAMER_KAFKA__BOOTSTRAP_SERVERS": ""}
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env=env)
    assert 0 == result.exit_code, (result.output, result.exception)
    return str(result.output)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep two versions and a refused candidate."""
    found = tmp_path_factory.mktemp("models")
    shelf, rows = Shelf(str(found), "segments"), shop(60, 60)

    def night(k: Any, digest: str, **request: Any) -> None:
        run(Request(end_of(rows), k=k, **request), FakeHistory(rows, digest), shelf, Settings(), lambda _s, _d, _o: None)

    night(3, "1" * 64)
    night(12, "2" * 64)
    night("auto", "3" * 64, forced="k was asked for")
    return found


def test_help_lists_the_commands_and_imports_nothing_heavy() -> None:
    shown = said("--help")
    assert all(name in shown for name in ("segment", "reseed", "backtest", "models"))
    code = "import sys, offline.cli, typer.testing as t; t.CliRunner().invoke(offline.cli.app, ['--help']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set() == HEAVY & set(loaded)


@pytest.mark.parametrize(
    "command", [("segment",), ("reseed",), ("backtest",), ("models",), ("models", "list"), ("models", "show"), ("models", "diff")]
)
def test_every_command_shows_its_help(command: tuple[str, ...]) -> None:
    assert "Usage" in said(*command, "--help")


def test_versions_are_listed_shown_and_compared(place: Path) -> None:
    listed = json.loads(said("models", "list", "--models", place, "--json"))
    versions = [one["version"] for one in listed]
    assert versions[:1] == [1]
    assert {"passed", "refused"} <= {one["gate"] for one in listed}
    assert "2024-12-02" in said("models", "list", "--models", place)
    shown = said("models", "show", 1, "--models", place)
    assert "The gate passes it." in shown
    assert "provenance.manifest: " + "1" * 64 in shown
    assert 1 == json.loads(said("models", "show", 1, "--models", place, "--json"))["version"]["version"]
    last = max(one["version"] for one in listed if one["gate"] != "refused")
    assert {"seg_0001"} <= {row["segment_id"] for row in json.loads(said("models", "diff", 1, last, "--models", place, "--json"))}
    assert "goes on" in said("models", "diff", 1, 1, "--models", place)


def test_the_version_in_force_is_marked_where_the_topic_can_be_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def listed(kafka: str = "") -> tuple[list[bool | None], str]:
        found = json.loads(said("models", "list", "--models", place, "--json", kafka=kafka))
        return [one["in_force"] for one in found], said("models", "list", "--models", place, kafka=kafka)

    kept = [*Shelf(str(place), "segments").versions(), *Shelf(str(place), "segments").refused()]
    unknown: list[bool | None] = [None] * len(kept)
    marks, shown = listed()
    assert unknown == marks
    assert "Which one is in force can't be told: say where Kafka is" in shown
    bodies = [body_of(one.version) for one in kept]
    first, last = kept[0].version, kept[1].version
    topic = OnTopic({first.version: bodies[0], last.version: bodies[1]}, None)
    for present, which in [(topic, 0), (replace(topic, promotion=Promotion(last, bodies[1])), 1)]:
        monkeypatch.setattr(models_command, "on_topic_of", lambda _stream, _name, present=present: present)
        marks, shown = listed("kafka:9092")
        assert [n == which for n in range(len(kept))] == marks
        [row] = [line for line in shown.splitlines() if " yes " in line]
        assert kept[which].sha256[:12] in row
    other = body_of(replace(first, as_of=1))
    monkeypatch.setattr(models_command, "on_topic_of", lambda _stream, _name: OnTopic({1: other}, None))
    marks, shown = listed("kafka:9092")
    assert not any(marks)
    assert f"What is in force (SHA-256 {digest(other).hex()[:12]}) is not in {place}" in "".join(shown.splitlines())
    monkeypatch.setattr(models_command, "on_topic_of", lambda _stream, _name: OnTopic({}, None))
    assert (unknown, True) == ((found := listed("kafka:9092"))[0], "no version of segments is on the topic yet" in found[1])

    def away(_stream: object, _name: str) -> OnTopic:
        message = "kafka:9092 does not answer"
        raise Unavailable(message)

    monkeypatch.setattr(models_command, "on_topic_of", away)
    assert (unknown, True) == ((found := listed("kafka:9092"))[0], "can't be told: kafka:9092 does not answer" in found[1])


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (("models", "show", "9", "--models", "nowhere"), 78, "offline: there is no version 9 of segments in nowhere: there are none\n"),
        (("--settings", "none.yaml", "segment", "x.csv", "--k", "3"), 78, "offline: none.yaml: the settings can't be read"),
        (("reseed", "history", "--models", "m", "--force", " "), 78, "offline: --force: give the reason"),
        (("reseed", "history", "--models", "m", "--as-of", "2026-13-01"), 78, "offline: --as-of: '2026-13-01' is no day"),
        (("reseed", "history", "--models", "m", "--k", "many"), 78, "offline: --k: 'many' is neither `auto` nor"),
        (("segment", "none.csv", "--k", "3"), 65, "offline: none.csv: there is no such file\n"),
    ],
)
def test_an_error_is_one_line_and_a_status(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: tuple[str, ...],
    status: int,
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for debug in ((), ("--debug",)):
        monkeypatch.setattr(sys, "argv", ["offline", *debug, *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert status == stopped.value.code
        err = capsys.readouterr().err
        assert reason in err
        assert ("Traceback" in err) == bool(debug)
