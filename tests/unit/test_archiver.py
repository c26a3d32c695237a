"""The archiver: what it takes in, where files end, and whatever stops it."""

from __future__ import annotations

from typing import Any

import pytest

from streamer.adapters.history import Kind
from streamer.app.journal import EPOCH, QUARANTINE
from streamer.core.errors import Misconfigured, Unavailable
from tests.fakes.archive import DAY_MS, GROUP, JOURNAL, T0, Archive, event
from tests.fakes.history_store import Crash, CrashingStore
from tests.fakes.job import INPUT


def filled(events: int = 25, **settings: object) -> Archive:
    """A log of two partitions, and nothing of it in history."""
    archive = Archive(settings=dict(settings))
    for number in range(events):
        archive.send(number % 2, event(number, f"c{number % 5}", amount=number, properties={"k": f"v{number}", "": "ü"}))
    return archive


def test_history_says_of_every_event_all_that_its_record_said() -> None:
    archive = Archive()
    full: dict[str, Any] = {
        "amount": -5,
        "currency": "EUR",
        "quantity": 2,
        "product_id": "p",
        "category": "",
        "session_id": "s",
        "properties": {"a": "b"},
    }
    archive.send(0, event(1, "Zoë", **full))
    archive.send(1, event(2, "d", T0 - 1))
    archive.finish()
    assert archive.expected() == archive.rows()


def test_what_is_refused_is_not_in_history_and_its_offset_is_accounted_for() -> None:
    archive = filled(4)
    archive.send_bad(0)
    archive.broker.skip(INPUT, 0, 3)  # as the ends of transactions do
    archive.finish()
    assert archive.expected() == archive.rows()
    assert [3, 2] == [archive.history().manifest().events[p].next_offset for p in (0, 1)]
    archive.send_bad(0)
    archive.send_bad(0)
    archive.finish()
    [*_, last] = archive.history().manifest().events[0].entries
    assert (3, 8, 0, "") == (last.first, last.end, last.rows, last.path)
    assert archive.expected() == archive.rows()


def test_files_end_at_multiples_of_the_range_and_where_the_log_day_ends() -> None:
    archive = Archive(partitions=1)
    days = [0, 0, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2]  # one producer's clock is behind: the log's day does not go back
    for number, day in enumerate(days):
        archive.send(0, event(number), T0 + day * DAY_MS + number)
    archive.finish()
    entries = archive.history().manifest().events[0].entries
    assert [(0, 2), (2, 10), (10, 12), (12, 13)] == [(e.first, e.end) for e in entries]
    assert ["2027-01-16", "2027-01-17", "2027-01-17", "2027-01-18"] == [e.day for e in entries]


def test_rows_wait_for_their_file_no_longer_than_the_roll_interval() -> None:
    archive = filled(4)
    working = archive.archiver()
    for _ in range(3):
        working.step()
    assert not archive.store.files("events")
    archive.later(61)
    working.step()
    assert archive.expected() == archive.rows()


def test_memory_is_bounded_by_writing_the_largest_part_early() -> None:
    archive = filled(20, buffer_bytes_max=1, file_offsets=1000)
    working = archive.archiver()
    for _ in range(6):
        working.step()
        assert not any(held.size_bytes for held in working._held.values())
    assert archive.expected() == archive.rows()


def test_the_groups_position_follows_the_manifest_and_is_not_what_counts() -> None:
    archive = filled()
    archive.finish()
    committed = archive.broker.groups[GROUP].committed
    assert [13, 12] == [committed[p].next_offset for p in (0, 1)]
    for position in (0, 2**40):  # somebody moves it
        archive.broker.groups[GROUP].committed = {p: at._replace(next_offset=position) for p, at in committed.items()}
        archive.finish(f"after {position}")
        assert archive.expected() == archive.rows()


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("at", range(12))
def test_a_crash_at_any_change_of_the_store_leaves_each_row_once(at: int, done: bool) -> None:
    archive = filled(45)
    archive.decide(0, EPOCH, 5, 1)
    working = archive.archiver("crashing", CrashingStore(archive.store, at, done=done))
    try:
        for _ in range(20):
            working.step()
        working.finish()
    except Crash:
        pass
    archive.gone("crashing")
    archive.finish()
    assert archive.expected() == archive.rows()
    archive.history().verify()
    archive.later(2 * archive.keep_s)
    archive.writer().clean([0, 1], archive.clock.now_ms())
    manifest = archive.history().manifest()
    named = {e.path for found in (manifest.events, manifest.journal) for one in found.values() for e in one.entries}
    assert named - {""} == {stored.path for kind in Kind for stored in archive.store.files(kind.value)}


def test_of_two_archivers_that_believe_to_own_a_partition_one_writes() -> None:
    archive = filled()
    slow = archive.archiver("slow")
    for _ in range(3):
        slow.step()  # it holds rows that it has not written
    archive.gone("slow")  # its session is over, and it does not know
    archive.finish("quick")
    slow.finish()
    assert archive.expected() == archive.rows()
    archive.send(0, event(99))
    for _ in range(5):
        archive.later(10)
        slow.step()
    slow.finish()
    assert archive.expected() == archive.rows()


def test_partitions_are_shared_among_archivers_and_come_back() -> None:
    archive = filled(40)
    both = [archive.archiver("a"), archive.archiver("b")]
    for _ in range(10):
        for working in both:
            working.step()
    assert [1, 1] == [len(working._held) for working in both]
    both[0].finish()
    both[0]._tools.log.close()
    for _ in range(10):
        archive.later(1)
        both[1].step()
    both[1].finish()
    assert archive.expected() == archive.rows()


def test_the_journal_is_archived_and_says_which_records_are_passed_over() -> None:
    archive = filled(10)
    archive.decide(0, EPOCH, 2, 1)
    archive.decide(0, QUARANTINE, 3)
    archive.finish()
    told = archive.history().journal(0)
    assert [("epoch", 2, 1, b"\1\2", 0), ("quarantine", 3, 0, b"\1\2", 2)] == [
        (r.kind, r.at_offset, r.epoch, r.payload, r.offset) for r in told
    ]
    assert [] == archive.history().journal(1)
    assert (3,) == archive.history().manifest().journal[0].entries[0].quarantined
    assert 4 == archive.history().manifest().journal[0].next_offset
    assert archive.expected(without=[(0, 3)]) == archive.rows()


def test_a_record_that_the_journal_passes_over_later_is_left_out_by_readers() -> None:
    archive = filled(10)
    archive.finish()
    assert archive.expected() == archive.rows()
    archive.decide(1, QUARANTINE, 2)
    archive.finish("again")
    assert archive.expected(without=[(1, 2)]) == archive.rows()


def test_a_long_journal_is_read_in_parts_and_cut_by_days(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.app.archiver.JOURNAL_OFFSETS", 5)
    archive = Archive(partitions=1)
    for number in range(9):
        archive.broker.now_ms = T0 + (number // 4) * DAY_MS
        archive.decide(0, EPOCH, number, number)
    archive.finish()
    found = archive.writer().state(Kind.JOURNAL, 0)
    assert 18 == found.next_offset
    assert ["2027-01-16", "2027-01-17", "2027-01-18"] == list(dict.fromkeys(e.day for e in found.entries))
    assert 9 == found.rows


def test_what_kafka_no_longer_holds_stops_the_archiver_and_is_never_skipped() -> None:
    archive = filled()
    archive.finish()
    archive.broker.expire(INPUT, 1, 15)
    with pytest.raises(Misconfigured, match="partition 1 ends at offset 12, and Kafka holds 15 to 15: it would have a hole"):
        archive.finish("late")
    assert archive.expected() == archive.rows()


def test_what_kafka_deletes_while_it_is_read_stops_the_archiver_too() -> None:
    archive = filled()
    working = archive.archiver()
    working.step()
    working.step()
    for number in range(30):
        archive.send(1, event(100 + number))
    archive.broker.expire(INPUT, 1, 20)
    with pytest.raises(Misconfigured, match="a hole"):
        working.run(lambda: False)


def test_a_topic_that_was_made_anew_is_not_mixed_with_the_old_one() -> None:
    archive = filled()
    archive.finish()
    archive.broker.create(INPUT, 2)
    archive.send(0, event(1))
    with pytest.raises(Misconfigured, match="begin a new history"):
        archive.finish("again")


def test_history_of_another_topic_is_refused() -> None:
    archive = filled()
    archive.finish()
    writer = archive.writer()
    writer._topics = {Kind.EVENTS: "other", Kind.JOURNAL: JOURNAL}
    with pytest.raises(Misconfigured, match="holds the history of customer-events, not of other"):
        writer.state(Kind.EVENTS, 0)


def test_a_server_that_is_away_for_a_while_costs_nothing_but_time() -> None:
    archive = filled(40)
    working = archive.archiver()
    for round_ in range(30):
        archive.broker.down = 3 <= round_ < 9
        archive.later(2)
        working._attempt(working.step)
    working.finish()
    assert archive.expected() == archive.rows()


def test_once_is_not_over_while_what_was_in_hand_was_lost_again() -> None:
    archive = filled(30)
    working = archive.archiver(records_max=4)
    ends = working.ends()
    while working._held.get(0) is None or working._held[0].position < 15:
        assert not working.reached(ends)
        working.step()
    working._attempt(unavailable)  # what is in hand is forgotten
    assert working.run(archive._reached(working, ends))
    assert archive.expected() == archive.rows()


def unavailable() -> None:
    message = "the store is away"
    raise Unavailable(message)


def test_a_store_that_is_away_at_the_end_is_told() -> None:
    archive = filled()
    working = archive.archiver()
    for _ in range(4):
        working.step()
    working._tools.history._store.write = lambda *_: unavailable()  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="the store is away"):
        working.run(lambda: True)


def test_who_lost_a_partition_at_the_end_knows() -> None:
    archive = filled()
    slow = archive.archiver("slow")
    for _ in range(4):
        slow.step()
    archive.gone("slow")
    archive.finish("quick")
    assert not slow.run(lambda: True)
    assert archive.expected() == archive.rows()


def test_trailing_offsets_without_records_are_no_reason_to_wait() -> None:
    archive = filled(4)
    archive.broker.skip(INPUT, 0, 5)
    archive.finish()
    assert archive.expected() == archive.rows()


def test_days_that_are_over_are_put_together_by_the_archiver_itself() -> None:
    archive = Archive(partitions=1)
    for number in range(60):
        archive.send(0, event(number), T0 + number // 50 * DAY_MS)
    archive.finish()
    assert [(10, 5), (10, 1)] == [(10, sum(e.day == day for e in archive.history().manifest().events[0].entries)) for day in days(archive)]
    archive.later(86_400)
    before = archive.history()
    cutoff = before.manifest().cutoff(T0 + DAY_MS)
    rows = archive.rows(cutoff)
    working = archive.archiver("next day")
    for _ in range(5):
        working.step()
    assert [1, 1] == [sum(e.day == day for e in archive.history().manifest().events[0].entries) for day in days(archive)]
    assert cutoff == archive.history().manifest().cutoff(T0 + DAY_MS)
    assert rows == archive.rows(cutoff)
    assert archive.expected() == archive.rows()
    assert 60 == sum(batch.num_rows for batch in before.events(before.manifest().cutoff(2**62)))  # who reads by the old manifest still can


def days(archive: Archive) -> list[str]:
    return sorted({entry.day for entry in archive.history().manifest().entries})
