"""Erasure in history: what a customer did is taken out, everybody else's past stays, and who was erased stays known."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from streamer.adapters.history import Kind
from streamer.adapters.history.reading import History
from streamer.app.archiver import tidy
from streamer.app.long_log import LongLog
from streamer.app.tools import REFUSE
from streamer.core.erasure import make_rule
from streamer.core.errors import Misconfigured
from tests.fakes.archive import DAY_MS, T0, Archive, event
from tests.fakes.history_store import Crash, CrashingStore
from tests.fakes.job import INPUT, Job, shop

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.compiled  # whole jobs

ACCEPT = make_rule(None, refuse=False)
WHO = "customer-1"
OTHERS = tuple(f"customer-{n}" for n in (0, 2, 3, 4))


def erase(number: int, customer: str = WHO) -> dict[str, Any]:
    return event(number, customer, event_type="$erase")


def filled(*, again: bool = True, **settings: Any) -> Archive:
    """Two partitions, in which one customer is erased, and comes again."""
    archive = Archive(settings=settings)
    for number in range(50):
        archive.send(number % 2, event(number, f"customer-{number % 5}", T0 + number * 1000))
    for partition in (0, 1):
        archive.send(partition, erase(100 + partition))
    for number in range(50, 60 if again else 50):
        archive.send(number % 2, event(number, f"customer-{number % 5}", T0 + number * 1000))
    return archive


def scrub(archive: Archive, rule: Any = REFUSE, store: Any = None) -> None:
    tidy(archive.writer(store), [0, 1], archive.clock.now_ms(), rule)


def names(archive: Archive, customer: str = WHO) -> bool:
    """Tell whether any file names a customer; files are compressed, so they are read."""
    stored = [one.path for one in archive.store.files("events")]
    held = archive.writer()._count
    return any(held(path, customer) for path in stored) or any(customer.encode() in body for body, _ in archive.store.held.values())


def of(rows: Sequence[Any], *customers: str) -> list[Any]:
    return [row for row in rows if row[3]["customer_id"] in customers]


def test_a_command_is_archived_with_its_mark_and_later_events_are_not() -> None:
    archive = filled()
    archive.finish()
    rows = archive.rows()
    assert of(archive.expected(), *OTHERS) == of(rows, *OTHERS)
    commands = [place for place, row in enumerate(archive.expected()) if row[3]["event_type"] == "$erase"]
    assert 2 == len(commands)
    assert 10 == sum(row[3]["event_type"] == "view" for row in of(rows, WHO))
    for partition in (0, 1):
        state = archive.writer().state(Kind.EVENTS, partition)
        assert ((REFUSE.mark(WHO.encode()),), 1) == (state.erased, state.unscrubbed)


def test_an_archiver_that_starts_again_still_knows_who_was_erased() -> None:
    archive = filled(again=False)
    archive.finish()
    archive.send(0, event(200, WHO))
    archive.finish("next")
    assert "e200" not in {row[3]["event_id"] for row in archive.rows()}
    scrub(archive)
    archive.send(0, event(201, WHO))
    archive.finish("third")
    assert not names(archive)


def test_who_is_accepted_again_is_archived_and_only_the_past_is_taken_out() -> None:
    archive = filled(erasure=ACCEPT)
    archive.finish()
    assert archive.expected() == archive.rows()
    scrub(archive, ACCEPT)
    later = [row for row in of(archive.expected(), WHO) if row[3]["event_id"] in {"e51", "e56"}]
    assert later == of(archive.rows(), WHO)


def test_scrubbing_takes_out_every_byte_and_changes_nothing_of_the_others() -> None:
    archive = filled()
    archive.finish()
    before = of(archive.rows(), *OTHERS)
    bounds = [archive.history().manifest().events[p].next_offset for p in (0, 1)]
    scrub(archive)
    assert not names(archive)
    assert before == of(archive.rows(), *OTHERS)
    assert bounds == [archive.history().manifest().events[p].next_offset for p in (0, 1)]
    archive.history().verify()
    assert [0, 0] == [archive.writer().state(Kind.EVENTS, p).unscrubbed for p in (0, 1)]
    held = dict(archive.store.held)
    scrub(archive)
    assert held == archive.store.held


def test_what_is_left_are_marks_and_times_that_may_have_moved_a_clock() -> None:
    archive = filled()
    archive.finish()
    scrub(archive)
    rest = [row for row in archive.rows() if row[3]["customer_id"] not in OTHERS]
    assert Counter({"$erased": 2, "$passed": 10}) == Counter(row[3]["event_type"] for row in rest)
    assert {REFUSE.mark(WHO.encode()), "$"} == {row[3]["customer_id"] for row in rest}
    assert {"$"} == {row[3]["event_id"] for row in rest}
    sent = {row[:3]: row[3]["occurred_at"] for row in archive.expected()}
    assert [sent[row[:3]] for row in rest] == [row[3]["occurred_at"] for row in rest]


def test_times_that_moved_no_clock_are_taken_out_too() -> None:
    archive = Archive(partitions=1)
    for at in (5, 1, 3, 9, 4):
        archive.send(0, event(at, WHO if at in {3, 4} else OTHERS[0], T0 + at))
    archive.send(0, erase(100))
    archive.finish()
    tidy(archive.writer(), [0], archive.clock.now_ms(), REFUSE)
    assert ["view", "view", "view", "$erased"] == [row[3]["event_type"] for row in archive.rows()]


def test_files_that_readers_still_use_and_leftovers_are_deleted_at_once() -> None:
    archive = filled()
    archive.finish()
    archive.later(2 * DAY_MS / 1000)
    for partition in (0, 1):
        archive.writer().compact(Kind.EVENTS, partition, "9999-01-01", archive.clock.now_ms())
    [some, *_] = [one.path for one in archive.store.files("events")]
    archive.store.held[some.replace("-0000000000", "-0000000009")] = archive.store.held[some]
    assert archive.writer().state(Kind.EVENTS, 0).replaced
    scrub(archive)
    assert not names(archive)


def test_files_that_are_put_together_keep_what_they_say_of_the_erased() -> None:
    archive = filled()
    archive.finish()
    before = archive.writer().state(Kind.EVENTS, 0)
    archive.writer().compact(Kind.EVENTS, 0, "9999-01-01", archive.clock.now_ms())
    after = archive.writer().state(Kind.EVENTS, 0)
    assert len(after.entries) < len(before.entries)
    assert (before.erased, before.unscrubbed) == (after.erased, after.unscrubbed)


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("at", range(16))
def test_a_crash_at_any_change_of_the_store_is_gone_on_from(at: int, done: bool) -> None:
    archive = filled()
    archive.finish()
    before = of(archive.rows(), *OTHERS)
    try:
        scrub(archive, store=CrashingStore(archive.store, at, done=done))
    except Crash:
        assert before == of(archive.rows(), *OTHERS)
    scrub(archive)
    archive.later(2 * archive.keep_s)
    scrub(archive)
    assert not names(archive)
    assert before == of(archive.rows(), *OTHERS)


def test_a_running_archiver_scrubs_by_itself() -> None:
    archive = filled(roll_s=1.0, tidy_s=10.0)
    working = archive.archiver()
    for _ in range(30):
        working.step()
        archive.later(1)
    assert not names(archive)


def test_what_an_operator_counts_is_what_is_left() -> None:
    archive = filled()
    archive.finish()
    assert [6, 6] == [archive.writer().rows_of(p, WHO) for p in (0, 1)]
    scrub(archive)
    assert [0, 0] == [archive.writer().rows_of(p, WHO) for p in (0, 1)]


def test_another_key_is_refused_by_the_archiver_too() -> None:
    archive = filled()
    archive.finish()
    archive.settings["erasure"] = make_rule("another", refuse=True)
    archive.send(0, event(200))
    with pytest.raises(Misconfigured, match=r"another `erasure\.key`"):
        archive.finish("next")


@pytest.mark.compiled
@pytest.mark.parametrize("scrubbed", [False, True])
@pytest.mark.parametrize("kept_from", [40, 10_000])
def test_a_rebuild_from_history_gives_everybody_else_the_same_and_refuses_the_erased(scrubbed: bool, kept_from: int) -> None:
    job = Job()
    events = shop(300, 30)
    job.send(events[:200])
    job.settle(first := job.worker("a"))
    job.erase("c003", events[199]["occurred_at"] + 10**9)
    job.send(events[200:])
    job.settle(first)
    archive = Archive(job.partitions, broker=job.broker, journal=f"{job.run}.journal")
    archive.finish()
    if scrubbed:
        tidy(archive.writer(), range(job.partitions), archive.clock.now_ms(), REFUSE)
        assert not names(archive, "c003")
    before, told, data = job.profiles(), job.told(), job.data()
    job.gone("a")
    for partition, log in enumerate(job.broker.topics[INPUT]):
        job.broker.expire(INPUT, partition, min(kept_from, log.high))
    job.redis.namespaces.clear()
    worker = job.worker("b")
    longer = LongLog(worker._tools.log, lambda partition: History(archive.store, [partition]), worker._tools.intake.own_id)
    object.__setattr__(worker._tools, "log", longer)
    job.settle(worker)
    assert (told, before) == (job.told(), job.profiles())
    kept = [(one.watermark, one.began, one.erased_digest) for one in data]
    assert kept == [(one.watermark, one.began, one.erased_digest) for one in job.data()]
    assert job.check().clean
    job.send([{**events[0], "customer_id": "c003", "event_id": "later"}])
    job.settle(worker)
    assert before == job.profiles()
