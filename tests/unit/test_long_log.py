"""An input that reaches back beyond what Kafka keeps."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from streamer.adapters.history import NoHistory
from streamer.adapters.history.reading import History
from streamer.app.intake import EVENT
from streamer.app.long_log import EVENT as WRITTEN
from streamer.app.long_log import LongLog, joined
from streamer.core.columns import select
from streamer.core.history import event_columns
from streamer.core.ports import Committed, OffsetOutOfRange, Rebalanced
from tests.fakes.archive import INTAKE, Archive, event
from tests.fakes.broker import FakeEventLog, as_fetched
from tests.fakes.job import INPUT, Job, shop
from tests.unit.test_core_history import as_events

if TYPE_CHECKING:
    from streamer.core.columns import Fetched


def long_log(archive: Archive, name: str = "w", schema_id: Any = None, group: str = "shop") -> LongLog:
    def opened(partition: int) -> History | None:
        try:
            return History(archive.store, [partition])
        except NoHistory:
            return None

    return LongLog(FakeEventLog(archive.broker, INPUT, group, name), opened, schema_id or INTAKE.own_id)


def filled(events: int = 40, kept_from: int = 12) -> Archive:
    """Two partitions in history, of which Kafka has forgotten the beginning."""
    archive = Archive()
    for number in range(events):
        archive.send(
            number % 2, event(number, f"c{number % 5}", amount=number, category=None if number % 3 else "k", properties={"p": "ü"})
        )
        if number == 7:
            archive.send_bad(0)
            archive.broker.skip(INPUT, 1, 2)
    archive.finish()
    for partition in (0, 1):
        archive.broker.expire(INPUT, partition, kept_from)
    return archive


def started(log: LongLog, *offsets: int) -> None:
    log.fetch(100, 0, 0)
    assert {0, 1} == set(log.rebalanced().assigned)
    for partition, offset in enumerate(offsets):
        log.start(partition, offset)


def read(log: LongLog, records_max: int = 7) -> list[tuple[int, int, int, dict[str, Any]]]:
    """Fetch until nothing comes, and decode what is valid."""
    found = []
    nothing = 0
    while nothing < 3:
        fetched: Fetched = log.fetch(records_max, 0, 0)
        assert len(fetched) <= records_max
        nothing = 0 if len(fetched) else nothing + 1
        taken, decoded = INTAKE.read(fetched, np.zeros(len(fetched), np.int32))
        where = fetched.partition, fetched.offset, fetched.timestamp
        columns = event_columns(INTAKE.columns, decoded, taken.values, taken.record, *where)
        places = zip(columns.partition.tolist(), columns.offset.tolist(), columns.timestamp.tolist(), strict=True)
        found += [(*place, one) for place, one in zip(places, as_events(columns), strict=True)]
    return found


def in_order(rows: list[Any]) -> list[Any]:
    """Sort by partition alone: within one the order must be right already."""
    return sorted(rows, key=lambda row: row[0])


@pytest.mark.parametrize("begin", [0, 5, 11, 12, 15])
@pytest.mark.parametrize("records_max", [1, 7, 1000])
def test_every_event_from_an_offset_on_comes_once_and_in_order(begin: int, records_max: int) -> None:
    archive = filled()
    log = long_log(archive)
    started(log, begin, begin)
    expected = [row for row in archive.expected() if row[1] >= begin]
    assert expected == in_order(read(log, records_max))
    archive.send(1, event(99))
    [row] = read(log)
    assert archive.sent[-1] == row


def test_bounds_reach_back_as_far_as_there_is_no_hole() -> None:
    archive = filled()
    log = long_log(archive)
    assert [(0, 21), (0, 22)] == [log.bounds(0), log.bounds(1)]
    archive.broker.expire(INPUT, 0, 21)
    assert (0, 21) == log.bounds(0)
    archive.send(0, event(100))
    archive.broker.expire(INPUT, 0, 22)  # gone before it was archived
    assert (22, 22) == log.bounds(0)


def test_what_neither_holds_is_out_of_range() -> None:
    archive = filled()
    archive.send(0, event(100))
    archive.broker.expire(INPUT, 0, 22)
    log = long_log(archive)
    started(log, 3)
    with pytest.raises(OffsetOutOfRange):
        log.fetch(10, 0, 0)


def test_without_history_it_is_the_inner_log() -> None:
    archive = Archive()
    sent = [archive.send(0, event(number)) for number in range(9)]
    archive.broker.expire(INPUT, 0, 4)
    log = long_log(archive)
    assert (4, 9) == log.bounds(0)
    started(log, 4)
    assert sent[4:] == [row[1] for row in read(log)]
    log.commit({0: Committed(9, "id")})
    assert {0: Committed(9, "id")} == log.committed([0, 1])
    assert 9 == log.end(0)
    log.pause([0])
    archive.send(0, event(10))
    assert [] == read(log)


def test_what_retention_takes_while_it_is_read_comes_from_history() -> None:
    archive = filled(40, 0)
    log = long_log(archive)
    started(log, 0, 0)
    first = log.fetch(4, 0, 0)
    for partition in (0, 1):
        archive.broker.expire(INPUT, partition, 15)
    already = set(zip(first.partition.tolist(), first.offset.tolist(), strict=True))
    assert [row for row in archive.expected() if row[:2] not in already] == in_order(read(log))


def test_history_that_grows_while_it_is_read_is_read_on() -> None:
    archive = filled()
    log = long_log(archive)
    started(log, 0)
    rows = log.fetch(3, 0, 0)
    for number in range(50, 60):
        archive.send(0, event(number))
    archive.finish("later")
    archive.broker.expire(INPUT, 0, 28)
    assert [row for row in archive.expected() if row[0] == 0][len(rows) :] == read(log)


def test_what_is_paused_or_given_up_is_not_read_on() -> None:
    archive = filled()
    log = long_log(archive)
    started(log, 0, 0)
    log.pause([0])
    assert {1} == {row[0] for row in read(log)}
    log.start(0, 0)
    archive.broker.leave("shop", "w", 2)  # its session is over
    other = long_log(archive, "other")
    assert len(log.fetch(5, 0, 0)) == 0
    told = log.rebalanced()
    assert {0, 1} == {*told.revoked, *told.lost}
    assert Rebalanced((), (), ()) == log.rebalanced()
    other.close()


def test_batches_are_joined_record_by_record() -> None:
    archive = filled(6, 0)
    records = [(p, record) for p in (0, 1) for record in archive.broker.topics[INPUT][p].records]
    whole = as_fetched(records)
    for cut in (0, 2, len(records)):
        parts = [select(whole, np.arange(cut)), select(whole, np.arange(cut, len(records)))]
        again = joined(parts)
        assert (whole.values, whole.keys, dict(whole.headers)) == (again.values, again.keys, dict(again.headers))
        for name in ("partition", "offset", "timestamp", "bounds", "empty"):
            assert getattr(whole, name).tolist() == getattr(again, name).tolist()


def test_nobody_else_can_send_what_bears_the_schema_id_of_history() -> None:
    assert EVENT == WRITTEN
    archive = filled()
    log = long_log(archive, schema_id=Job().worker("x")._tools.intake.own_id)
    started(log, 0)
    fetched = log.fetch(3, 0, 0)
    assert not len(INTAKE.take(fetched, np.zeros(len(fetched), np.int32)).record)


@pytest.mark.compiled
@pytest.mark.parametrize("kept_from", [5, 40, 10_000])
def test_a_rebuild_that_needs_more_than_kafka_keeps_ends_where_the_lost_state_was(kept_from: int) -> None:
    job = Job()
    job.send(shop(300, 30))
    job.settle(job.worker("a"))
    archive = Archive(job.partitions, broker=job.broker, journal=f"{job.run}.journal")
    archive.finish()
    before, told = job.profiles(), job.changes()
    assert len(told) > 30
    job.gone("a")
    for partition, log in enumerate(job.broker.topics[INPUT]):
        job.broker.expire(INPUT, partition, min(kept_from, log.high))
    job.redis.namespaces.clear()
    worker = job.worker("b")
    longer = LongLog(worker._tools.log, lambda partition: History(archive.store, [partition]), worker._tools.intake.own_id)
    object.__setattr__(worker._tools, "log", longer)
    job.settle(worker)
    assert told == job.changes()
    assert before == job.profiles()
    assert job.check().clean
    job.send(shop(60, 30, seed=1))
    job.settle(worker)
    assert Counter(one["customer_id"] for seed, count in ((0, 300), (1, 60)) for one in shop(count, 30, seed)) == job.counts()
    assert len(job.told()) == len(job.changes()) >= len(told)
    assert job.check().clean
