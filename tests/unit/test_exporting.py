"""Segments as tables: who is in which, and what changed, as Parquet and CSV."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from schemas import text
from streamer.adapters.exports import exported
from streamer.app.export_command import _time
from streamer.app.exporting import CHANGES, MEMBERSHIP, changes, membership
from streamer.core.errors import Corrupt, Misconfigured
from streamer.core.ports import Topic
from tests.fakes.job import Job, shop
from tests.unit.test_looking import CUSTOMERS, FakeLog, sources_of

if TYPE_CHECKING:
    from pathlib import Path

FROM, TO = -(2**62), 2**62


@pytest.fixture(scope="module")
def job() -> Job:
    made = Job()
    made.send(shop(300, CUSTOMERS))
    made.send([{"event_id": "x", "customer_id": "fresh", "event_type": "view", "occurred_at": 1_700_000_000_000 + 40 * 86_400_000}])
    made.settle(made.worker())
    return made


def told(job: Job, begin: int = FROM, end: int = TO) -> list[dict[str, Any]]:
    return [row for part in changes(FakeLog(job), job.topics(job.run)[Topic.CHANGES], begin, end) for row in part]


def test_everybody_is_in_the_segment_that_subscribers_were_told_last(job: Job) -> None:
    rows = [row for part in membership(sources_of(job)) for row in part]
    latest = {change["customer_id"]: change for change in job.changes()}
    assert CUSTOMERS + 1 == len(rows) == len({row["customer_id"] for row in rows})
    for row in rows:
        change = latest[row["customer_id"]]
        same = ("segment_id", "segment_name", "model_version")
        assert [change[name] for name in same] == [row[name] for name in same]
        assert (change["version"], change["occurred_at"]) == (row["change_version"], row["since"])
    assert [("new", "new")] == [(row["segment_id"], row["segment_name"]) for row in rows if row["customer_id"] == "fresh"]


def test_before_the_first_model_nobody_is_in_a_segment() -> None:
    early = Job()
    early.send([{"event_id": "x", "customer_id": "a", "event_type": "view", "occurred_at": 1_700_000_000_000}])
    early.settle(early.worker())
    [row] = [row for part in membership(sources_of(early)) for row in part]
    assert ("a", None, None, None) == (row["customer_id"], row["segment_id"], row["segment_name"], row["since"])


def test_a_damaged_profile_is_told_and_not_left_out() -> None:
    broken = Job()
    broken.send(shop(60, 10))
    broken.settle(broken.worker())
    hurt = sources_of(broken)

    class Damaged:
        def __getattr__(self, name: str) -> Any:
            return getattr(hurt.store, name)

        def scan(self, *arguments: Any) -> Any:
            cursor, packed = hurt.store.scan(*arguments)
            return cursor, replace(packed, values=packed.values ^ np.uint8(255))

    with pytest.raises(Corrupt, match="run `streamer check`"):
        list(membership(sources_of(broken, store=Damaged())))


def test_the_changes_of_a_period_are_those_that_occurred_in_it(job: Job) -> None:
    every = job.changes()
    assert [change["change_id"] for change in every] == [row["change_id"] for row in told(job)]
    times = sorted(change["occurred_at"] for change in every)
    middle = times[len(times) // 2]
    assert {c["change_id"] for c in every if c["occurred_at"] >= middle} == {row["change_id"] for row in told(job, begin=middle)}
    assert {c["change_id"] for c in every if c["occurred_at"] < middle} == {row["change_id"] for row in told(job, end=middle)}


def test_where_there_is_no_topic_it_is_told(job: Job) -> None:
    with pytest.raises(Misconfigured, match="there is no topic nowhere"):
        list(changes(FakeLog(job), "nowhere", FROM, TO))


def test_the_table_of_changes_has_every_field_of_the_schema() -> None:
    fields = {field["name"] for field in json.loads(text("segment_change"))["fields"]}
    assert fields - {"source"} | {"source_topic", "source_partition", "source_offset"} == set(CHANGES)


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_table_is_written_whole_and_read_back(job: Job, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"changes.{ending}"
    rows = told(job)
    with exported(path, CHANGES) as take:
        take(rows[:2])
        take([])
        assert not path.exists()
        take(rows[2:])
    assert [path] == list(tmp_path.iterdir())
    found = (pq.read_table(path) if ending == "parquet" else pa_csv.read_csv(path)).to_pylist()
    assert list(CHANGES) == list(found[0])
    features = [row["top_features"] if ending == "parquet" else json.loads(row["top_features"]) for row in found]
    assert [row["top_features"] for row in rows] == features
    for name in ("customer_id", "version", "cause", "margin", "source_offset"):
        assert [row[name] for row in rows] == [row[name] for row in found]
    assert [row["occurred_at"] for row in rows] == [round(row["occurred_at"].timestamp() * 1000) for row in found]


def test_a_table_that_fails_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "members.csv"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), exported(path, MEMBERSHIP):
        raise ZeroDivisionError
    assert "old" == path.read_text()
    assert [path] == list(tmp_path.iterdir())


def test_a_file_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "a.xlsx", "must end in .parquet or .csv"), (tmp_path / "nowhere" / "a.csv", "can't be written")):
        with pytest.raises(Misconfigured, match=why), exported(path, MEMBERSHIP):
            pass


def test_times_are_those_of_utc_unless_they_say_otherwise() -> None:
    assert 1_793_491_200_000 == _time("2026-11-01", 0) == _time("2026-11-01T02:00+02:00", 0)
    assert 7 == _time(None, 7)
    with pytest.raises(Misconfigured, match="'soon' is no time"):
        _time("soon", 0)
