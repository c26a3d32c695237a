"""History: the manifest's laws, cut-offs, reading, putting together, erasing, and who else can read it."""

from __future__ import annotations

import json
import pickle
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from streamer.adapters.history import Entry, HistoryWriter, Kind, Limits, PartitionManifest, open_history, open_store
from streamer.adapters.history import manifest as manifests
from streamer.core.errors import BadInput, Corrupt, Misconfigured, Unavailable
from tests.fakes.archive import DAY_MS, JOURNAL, T0, Archive, event
from tests.fakes.history_store import Crash, CrashingStore
from tests.fakes.job import INPUT

ROOT = Path(__file__).parents[2]
TOPICS = {Kind.EVENTS: INPUT, Kind.JOURNAL: JOURNAL}


def three_days(store: Any = None) -> Archive:
    """Three days of two partitions, in small files."""
    archive = Archive()
    if store is not None:
        archive.store = store
    for number in range(90):
        archive.send(number % 2, event(number, f"customer-{number % 7}", amount=number), T0 + number // 30 * DAY_MS + number * 1000)
    archive.finish()
    return archive


def on_disk(tmp_path: Path) -> Archive:
    return three_days(open_store(str(tmp_path / "history")))


def test_a_manifest_is_read_as_it_was_written_byte_for_byte() -> None:
    archive = three_days()
    found = archive.writer().state(Kind.EVENTS, 1)
    again = manifests.read(found.to_bytes(), "here")
    assert found == again
    assert found.to_bytes() == again.to_bytes()
    assert 45 == found.rows


def altered(**changes: Any) -> bytes:
    """A manifest of three entries whose second is changed."""
    entries = [Entry(n * 10, n * 10 + 10, f"2027-01-1{n}", 5, f"{n}", 9, "", n * 10, n, n) for n in range(3)]
    entries[1] = replace(entries[1], **changes)
    return PartitionManifest(Kind.EVENTS, INPUT, 0, tuple(entries)).to_bytes()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"first": 11}, "ends at offset 10, and the next begins at 11"),
        ({"end": 19}, "ends at offset 19, and the next begins at 20"),
        ({"end": 10}, "contradicts itself"),
        ({"rows": 11}, "contradicts itself"),
        ({"rows": 0}, "contradicts itself"),
        ({"path": ""}, "contradicts itself"),
        ({"day": "2027-01-13"}, "goes back in time"),
        ({"latest_timestamp": 3}, "goes back in time"),
    ],
)
def test_a_manifest_that_breaks_a_law_is_refused(changes: dict[str, Any], why: str) -> None:
    assert 3 == len(manifests.read(altered(), "here").entries)
    with pytest.raises(Corrupt, match=why):
        manifests.read(altered(**changes), "here")


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"format": 1}', altered().replace(b'"rows"', b'"rows_"')])
def test_a_manifest_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(Corrupt, match="here can't be read"):
        manifests.read(data, "here")


def test_a_manifest_of_a_later_release_is_refused_as_such() -> None:
    with pytest.raises(Misconfigured, match="format 2"):
        manifests.read(json.dumps({"format": 2}).encode(), "here")


def test_there_is_no_history_where_nothing_was_archived(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="there is no history at"):
        open_history(str(tmp_path))


def test_a_cut_off_holds_every_record_before_the_instant() -> None:
    archive = three_days()
    manifest = archive.history().manifest()
    for as_of in (0, T0, T0 + 1, T0 + 17_000, T0 + DAY_MS, T0 + DAY_MS + 40_500, T0 + 2 * DAY_MS, T0 + 2 * DAY_MS + 60_000, 2**62):
        cutoff = manifest.cutoff(as_of)
        assert [row for row in archive.expected() if row[2] < as_of] == archive.rows(cutoff)
        assert all(row[1] >= cutoff[row[0]] for row in archive.expected() if row[2] >= as_of)


def test_a_cut_off_that_has_passed_stays_whatever_comes_later() -> None:
    archive = three_days()
    before = archive.history().manifest()
    archive.later(100)
    archive.send(0, event(1000), T0 + 5)  # a producer whose clock is late
    archive.send(1, event(1001), T0 + 3 * DAY_MS)
    archive.finish("later")
    after = archive.history().manifest()
    for as_of in (T0 + DAY_MS, T0 + DAY_MS + 40_500, T0 + 2 * DAY_MS + 5_000):
        assert before.cutoff(as_of) == after.cutoff(as_of)
    assert before.cutoff(2**62) != after.cutoff(2**62)
    assert before.digest != after.digest


def test_a_midnight_is_found_without_reading_a_file() -> None:
    archive = three_days()
    manifest = archive.history().manifest()
    for path in [path for path in archive.store.held if path.startswith("events/")]:
        archive.store.delete(path)
    assert {0: 15, 1: 15} == manifest.cutoff(T0 + DAY_MS)
    assert {0: 45, 1: 45} == manifest.cutoff(T0 + 3 * DAY_MS)
    assert {0: 0, 1: 0} == manifest.cutoff(T0)


def test_a_cut_off_beyond_history_is_refused() -> None:
    history = three_days().history()
    with pytest.raises(BadInput, match="history ends at offset 45 of partition 0, before the cut-off at 46"):
        next(history.events({0: 46}))
    with pytest.raises(BadInput, match="partition 2"):
        next(history.events({2: 0}))


def test_columns_are_given_as_asked_for_and_times_are_numbers() -> None:
    archive = three_days()
    history = archive.history()
    wanted = ["customer_id", "occurred_at", "partition"]
    batches = list(history.events({0: 7, 1: 45}, wanted, batch_rows=4))
    assert all(wanted == batch.schema.names and 0 < batch.num_rows <= 4 for batch in batches)
    assert {"int64", "string", "int32"} == {str(field.type) for field in batches[0].schema}
    expected = [(r[3]["customer_id"], r[3]["occurred_at"], r[0]) for r in archive.expected() if r[0] or r[1] < 7]
    assert expected == [tuple(row[name] for name in wanted) for batch in batches for row in batch.to_pylist()]
    with pytest.raises(ValueError, match="no column nothing"):
        next(history.events({0: 1}, ["nothing"]))


def test_history_that_is_open_stays_as_it_was_and_travels_to_other_processes(tmp_path: Path) -> None:
    archive = on_disk(tmp_path)
    opened = open_history(str(tmp_path / "history"))
    archive.send(0, event(1000))
    archive.finish("later")
    cutoff = opened.manifest().cutoff(2**62)
    again = pickle.loads(pickle.dumps(opened))
    assert {0: 45, 1: 45} == cutoff == again.manifest().cutoff(2**62)
    assert opened.manifest().digest == again.manifest().digest
    assert 90 == sum(batch.num_rows for batch in again.events(cutoff))


def test_a_file_that_is_missing_cut_or_altered_is_told(tmp_path: Path) -> None:
    on_disk(tmp_path)
    history = open_history(str(tmp_path / "history"))
    history.verify()
    cutoff = history.manifest().cutoff(2**62)
    path = tmp_path / "history" / next(history.manifest().entries).path
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"?")
    with pytest.raises(Corrupt, match="is not what was written"):
        history.verify()
    with pytest.raises(Corrupt, match="can't be read"):
        list(history.events(cutoff))
    path.write_bytes(whole[:-1])
    with pytest.raises(Corrupt, match=f"has {len(whole) - 1} bytes, not {len(whole)}"):
        list(history.events(cutoff))
    path.unlink()
    with pytest.raises(Corrupt, match="is gone"):
        list(history.events(cutoff))


def test_days_that_are_over_are_put_together_and_nothing_else_changes() -> None:
    archive = three_days()
    writer = archive.writer()
    before = archive.history().manifest()
    rows = archive.rows()
    less = sum(writer.compact(Kind.EVENTS, p, "2027-01-18", archive.clock.now_ms()) for p in (0, 1))
    after = archive.history().manifest()
    assert less == len(list(before.entries)) - len(list(after.entries)) > 0
    assert [1, 1] == [sum(e.day == f"2027-01-{16 + day}" for e in after.events[0].entries) for day in range(2)]
    last = [[e for e in one.events[0].entries if e.day == "2027-01-18"] for one in (before, after)]
    assert last[0] == last[1]
    assert len(last[0]) > 1
    assert rows == archive.rows()
    for as_of in (T0, T0 + 17_000, T0 + DAY_MS, T0 + DAY_MS + 40_500):
        assert before.cutoff(as_of) == after.cutoff(as_of)
    assert 0 == writer.compact(Kind.EVENTS, 0, "2027-01-18", archive.clock.now_ms())


def test_files_are_put_together_up_to_a_size() -> None:
    archive = three_days()
    biggest = max(entry.size_bytes for entry in archive.history().manifest().entries)
    writer = HistoryWriter(archive.store, TOPICS, Limits(compacted_bytes=2 * biggest))
    rows = archive.rows()
    writer.compact(Kind.EVENTS, 0, "2027-01-19", 0)
    assert all(entry.rows <= 20 for entry in archive.history().manifest().events[0].entries)
    assert rows == archive.rows()


def test_what_was_replaced_stays_for_readers_and_goes_after_a_while() -> None:
    archive = three_days()
    writer, old = archive.writer(), archive.history()
    archive.later(2 * archive.keep_s)  # files may be old when they are replaced
    writer.compact(Kind.EVENTS, 0, "2027-01-19", archive.clock.now_ms())
    assert 0 == writer.clean([0, 1], archive.clock.now_ms())
    assert 90 == sum(batch.num_rows for batch in old.events(old.manifest().cutoff(2**62)))
    archive.later(archive.keep_s + 1)
    assert 0 < writer.clean([0, 1], archive.clock.now_ms())
    assert 0 == writer.clean([0, 1], archive.clock.now_ms())
    assert archive.expected() == archive.rows()
    assert {path for p in (0, 1) for path in writer.state(Kind.EVENTS, p).paths} == {f.path for f in archive.store.files("events")}
    with pytest.raises(Corrupt, match="is gone"):
        list(old.events({0: 45}))


def test_leftovers_of_other_partitions_and_young_ones_are_left_alone() -> None:
    archive = three_days()
    leftover = f"events/day=2027-01-16/00001-{0:020d}-{5:020d}-0123456789abcdef.parquet"
    archive.store.write(leftover, b"of somebody who is just writing")
    archive.store.write("events/day=2027-01-16/.x.tmp", b"unfinished")
    writer = archive.writer()
    assert 0 == writer.clean([0, 1], archive.clock.now_ms())
    archive.later(archive.keep_s)
    assert 1 == writer.clean([0], archive.clock.now_ms())
    assert 1 == writer.clean([1], archive.clock.now_ms())
    assert archive.expected() == archive.rows()


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("at", range(8))
def test_a_crash_while_days_are_put_together_or_cleaned_changes_no_row(at: int, done: bool) -> None:
    archive = three_days()
    archive.later(archive.keep_s + 1)
    with pytest.raises(Crash):  # noqa: PT012  # whichever of them it befalls
        broken = archive.writer(CrashingStore(archive.store, at, done=done))
        for partition in (0, 1):
            broken.compact(Kind.EVENTS, partition, "2027-01-19", 0)
        broken.clean([0, 1], archive.clock.now_ms())
    assert archive.expected() == archive.rows()
    writer = archive.writer()
    for partition in (0, 1):
        writer.compact(Kind.EVENTS, partition, "2027-01-19", 0)
    archive.later(archive.keep_s + 1)
    writer.clean([0, 1], archive.clock.now_ms())
    assert archive.expected() == archive.rows()
    assert {path for p in (0, 1) for path in writer.state(Kind.EVENTS, p).paths} == {f.path for f in archive.store.files("events")}


def test_no_byte_of_an_erased_customer_remains(tmp_path: Path) -> None:
    archive = Archive(keep_s=10_000)
    archive.store = open_store(str(tmp_path / "history"))
    plain = HistoryWriter(archive.store, TOPICS, Limits(keep_s=10_000), compression="none")
    for number in range(60):
        customer = "gone-without-trace" if number % 3 == 0 else f"customer-{number % 7}"
        archive.send(number % 2, event(number, customer, session_id=f"s-{customer}"), T0 + number // 30 * DAY_MS)
    working = archive.archiver("plain")
    object.__setattr__(working._tools, "history", plain)
    for _ in range(30):
        working.step()
    working.finish()
    plain.compact(Kind.EVENTS, 0, "2027-01-17", archive.clock.now_ms())  # what it replaced is kept for readers, and holds the customer
    leftover = next(path for path in (tmp_path / "history" / "events").rglob("*.parquet"))
    (leftover.parent / f"00009-{0:020d}-{5:020d}-0123456789abcdef.parquet").write_bytes(leftover.read_bytes())
    (leftover.parent / ".unfinished.tmp").write_bytes(b"gone-without-trace")

    def holding() -> list[Path]:
        return [path for path in tmp_path.rglob("*") if path.is_file() and b"gone-without-trace" in path.read_bytes()]

    assert len(holding()) > 6
    before = archive.history()
    cutoffs = [before.manifest().cutoff(as_of) for as_of in (T0 + DAY_MS, 2**62)]
    assert 20 == plain.erase("gone-without-trace")
    assert [] == holding()
    remaining = [row for row in archive.expected() if row[3]["customer_id"] != "gone-without-trace"]
    assert remaining == archive.rows()
    assert [row for row in remaining if row[2] < T0 + DAY_MS] == archive.rows(cutoffs[0])
    assert remaining == archive.rows(cutoffs[1])
    assert 0 == plain.erase("gone-without-trace")
    assert remaining == archive.rows()
    archive.history().verify()


@pytest.mark.parametrize("at", range(0, 24, 2))
def test_an_erasure_that_was_interrupted_is_finished_by_the_next(at: int) -> None:
    archive = three_days()
    archive.writer().compact(Kind.EVENTS, 0, "2027-01-17", archive.clock.now_ms())
    with pytest.raises(Crash):
        archive.writer(CrashingStore(archive.store, at, done=bool(at % 4))).erase("customer-3")
    archive.writer().erase("customer-3")
    assert [row for row in archive.expected() if row[3]["customer_id"] != "customer-3"] == archive.rows()
    for stored in archive.store.files("events"):
        assert not archive.writer()._holds(stored.path, "customer-3")


def test_archiving_goes_on_where_it_was_while_a_customer_is_erased() -> None:
    archive = three_days()
    working = archive.archiver("b")
    for _ in range(3):
        working.step()
    archive.send(0, event(1000, "customer-1"))
    working.step()
    archive.writer().erase("customer-3")
    working.finish()
    assert [row for row in archive.expected() if row[3]["customer_id"] != "customer-3"] == archive.rows()


def test_a_manifest_that_never_holds_still_is_given_up() -> None:
    archive = three_days()
    archive.store.replace = lambda *_: False
    with pytest.raises(Unavailable, match="changes all the time"):
        archive.writer().append(Kind.EVENTS, 0, 45, 46, [], T0)


def test_a_file_that_was_taken_for_a_leftover_is_not_named() -> None:
    archive = three_days()
    written = archive.writer()._written

    def deleted_at_once(*arguments: Any) -> Entry:
        entry = written(*arguments)
        archive.store.delete(entry.path)
        return entry

    writer = archive.writer()
    writer._written = deleted_at_once  # type: ignore[method-assign, assignment]
    with pytest.raises(Unavailable, match="was written and is not there"):
        writer.compact(Kind.EVENTS, 0, "2027-01-19", 0)
    assert archive.expected() == archive.rows()


@pytest.mark.parametrize("also", ["compact", "erase"])
def test_files_that_somebody_else_replaces_meanwhile_are_not_replaced_again(also: str) -> None:
    archive = Archive(partitions=1)
    for number in range(25):
        archive.send(0, event(number, "customer-3" if number == 13 else "another"), T0)
    archive.finish()
    writer = archive.writer()
    written = writer._written

    def before_another(*arguments: Any) -> Entry:
        entry = written(*arguments)
        if also == "compact":
            archive.writer().compact(Kind.EVENTS, 0, "2027-01-17", 0)
        else:
            archive.writer().erase("customer-3")
        return entry

    writer._written = before_another  # type: ignore[method-assign, assignment]
    with suppress(Unavailable):  # the erasure has deleted what was written, of which no manifest knew
        assert 0 == writer.compact(Kind.EVENTS, 0, "2027-01-17", 0)
    assert [row for row in archive.expected() if also == "compact" or row[3]["customer_id"] != "customer-3"] == archive.rows()
    archive.history().verify()


def test_the_same_rows_give_the_same_files_however_they_came() -> None:
    archives = [Archive(settings={"records_max": records}) for records in (1, 3, 50)]
    for archive in archives:
        for number in range(40):
            archive.send(number % 2, event(number, properties={"k": str(number)}), T0 + number // 15 * DAY_MS)
        archive.finish()
    digests = {archive.history().manifest().digest for archive in archives}
    assert 1 == len(digests)
    assert archives[0].store.held.keys() == archives[2].store.held.keys()


def test_duckdb_reads_history_by_its_manifest(tmp_path: Path) -> None:
    archive = on_disk(tmp_path)
    archive.writer().compact(Kind.EVENTS, 0, "2027-01-18", archive.clock.now_ms())  # what it replaced is still there, and must not count
    page = (ROOT / "docs" / "history.md").read_text(encoding="utf-8")
    statements = page.split("```sql\n")[1].split("```")[0].replace("/srv/history", str(tmp_path / "history"))
    base = duckdb.connect()
    for statement in filter(str.strip, statements.split(";")):
        found = base.execute(statement).fetchall()
    amounts: dict[str, list[int]] = {}
    for *_, row in archive.expected():
        amounts.setdefault(row["customer_id"], []).append(row["amount"])
    assert [(customer, len(some), sum(some)) for customer, some in sorted(amounts.items())] == found
    [(kind,)] = base.execute("select distinct typeof(occurred_at) from events").fetchall()
    assert "TIMESTAMP WITH TIME ZONE" == kind
