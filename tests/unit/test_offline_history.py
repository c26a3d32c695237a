"""The re-seed out of a real history on disk: a night after another, a poisoned one refused, the same as from the events themselves."""

from __future__ import annotations

import json
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from offline import backtest_command
from offline.cli import app
from offline.events import Reading, batch_of
from offline.replaying import log_of
from offline.reseed_command import Request, run
from offline.settings import Settings
from offline.shelf import Shelf
from streamer.adapters.declaration_file import load
from streamer.adapters.history import EVENTS, HistoryWriter, Kind, day_of, open_store
from tests.offlinekit import BEGIN_DAY, DAY_MS, FakeHistory, batches, end_of, shop

if TYPE_CHECKING:
    from pathlib import Path

PARTITIONS = 3
ROWS = shop(60, 90)
LAST_DAY = "2024-12-02"
TOPICS = {Kind.EVENTS: "customer-events", Kind.JOURNAL: "segment-journal"}


def archive(place: Path, rows: list[dict[str, Any]]) -> str:
    """Archive events day by day, each customer's in one partition, as if each had been sent as it happened."""
    writer = HistoryWriter(open_store(str(place)), TOPICS)
    ends = [writer.state(Kind.EVENTS, partition).next_offset or 0 for partition in range(PARTITIONS)]
    for _, day in groupby(rows, key=lambda row: day_of(row["occurred_at"])):
        events = list(day)
        for partition in range(PARTITIONS):
            mine = [{**e, "kafka_timestamp": e["occurred_at"]} for e in events if int(e["customer_id"][1:]) % PARTITIONS == partition]
            if not mine:
                continue
            batch = batch_of(mine, partition, ends[partition])
            columns = [batch.column(f.name) if pa.types.is_map(f.type) else batch.column(f.name).cast(f.type) for f in EVENTS]
            laid = pa.RecordBatch.from_arrays(columns, schema=EVENTS)
            first, ends[partition] = ends[partition], ends[partition] + len(mine)
            writer.append(Kind.EVENTS, partition, first, ends[partition], [laid], max(e["kafka_timestamp"] for e in mine))
    return str(place)


def reseed(history: str, models: Path, *arguments: str, status: int = 0) -> Any:
    result = CliRunner().invoke(app, ["reseed", history, "--models", str(models), "--json", *arguments])
    assert status == result.exit_code, (result.output, result.exception)
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> str:
    return archive(tmp_path_factory.mktemp("history"), ROWS)


def test_a_history_on_disk_gives_the_model_of_its_events(history: str, tmp_path: Path) -> None:
    told = reseed(history, tmp_path, "--as-of", LAST_DAY, "--k", "3")
    assert told["gate"]["passed"], told["gate"]
    shelf = Shelf(str(tmp_path / "memory"), "segments")
    same = run(Request(end_of(ROWS), k=3), FakeHistory(ROWS), shelf, Settings(), lambda _s, _d, _o: None).details["version"]
    for part in ("features", "segments", "quality", "decision"):
        assert same[part] == told["version"][part]
    assert len(ROWS) == sum(json.loads(told["version"]["provenance"]["cutoff"]).values()) == told["data"]["rows"]["valid"]


def test_only_what_is_before_the_cut_off_counts_and_a_night_follows_the_other(history: str, tmp_path: Path) -> None:
    first = reseed(history, tmp_path, "--as-of", "2024-11-30", "--k", "3")
    before = [row for row in ROWS if row["occurred_at"] < end_of(ROWS) - 2 * DAY_MS]
    assert len(before) == first["data"]["rows"]["rows"]
    second = reseed(history, tmp_path, "--as-of", "2024-12-01")
    assert (2, 1, "warm, from version 1") == (
        second["version"]["version"],
        second["version"]["previous_version"],
        second["version"]["provenance"]["fit"],
    )
    assert second["sha256"] == reseed(history, tmp_path, "--as-of", "2024-12-01")["sha256"]


def test_what_is_archived_after_the_cut_off_changes_nothing(tmp_path: Path) -> None:
    place = tmp_path / "history"
    whole = archive(place, [row for row in ROWS if row["occurred_at"] < end_of(ROWS) - DAY_MS])
    first = reseed(whole, tmp_path / "a", "--as-of", "2024-11-30", "--k", "3")
    archive(place, [row for row in ROWS if row["occurred_at"] >= end_of(ROWS) - DAY_MS])
    assert first["sha256"] == reseed(whole, tmp_path / "a", "--as-of", "2024-11-30", "--k", "3")["sha256"]
    again = reseed(whole, tmp_path / "b", "--as-of", "2024-11-30", "--k", "3")
    for part in ("features", "segments", "quality"):
        assert first["version"][part] == again["version"][part]
    assert first["version"]["provenance"]["manifest"] != again["version"]["provenance"]["manifest"]


def test_a_poisoned_night_leaves_the_version_in_force(history: str, tmp_path: Path) -> None:
    good = reseed(history, tmp_path / "models", "--as-of", LAST_DAY, "--k", "3")
    without = archive(tmp_path / "poisoned", [row for row in ROWS if row["occurred_at"] // DAY_MS != BEGIN_DAY + 50])
    told = reseed(without, tmp_path / "models", "--as-of", LAST_DAY, "--again", status=1)
    assert told["refused"]
    assert any("is a part missing?" in reason for reason in told["gate"]["reasons"])
    kept = Shelf(str(tmp_path / "models"), "segments")
    assert [good["sha256"]] == [one.sha256 for one in kept.versions()]
    assert [told["sha256"]] == [one.sha256 for one in kept.refused()]


def test_there_is_an_error_where_there_is_no_history(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["reseed", str(tmp_path), "--models", str(tmp_path / "m")])
    assert "there is no history at" in str(result.exception)


def test_a_backtest_of_a_history_is_that_of_its_events(history: str) -> None:
    def played(source: str, *arguments: str) -> Any:
        words = ["backtest", source, "--k", "3", "--first-model", "2024-11-02", "--policy", "default", "--json", *arguments]
        result = CliRunner().invoke(app, words)
        assert 0 == result.exit_code, (result.output, result.exception)
        return json.loads(result.stdout)

    read, _ = backtest_command.read(history, None, None, Settings())
    known = log_of(Reading(load(None)), batches(ROWS))
    assert known.rows.time.tolist() == read.rows.time.tolist()
    assert known.spending.amount.tolist() == read.spending.amount.tolist()
    assert known.rows.slot.tolist() == read.rows.slot.tolist()
    told = played(history, "--until", "2024-11-08")
    assert ("2024-11-02", "2024-11-08") == (told["first_model"], told["until"])
    days = [(one["day"], one["customers"]) for one in told["policies"][0]["days"]]
    assert [(f"2024-11-0{n}", 90) for n in range(3, 9)] == days
    assert LAST_DAY == played(history)["until"]
