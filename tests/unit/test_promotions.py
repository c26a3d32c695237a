"""Promoted versions: read once, announced by partition 0's owner, adopted by all, swept, learned from, and gone back from."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from streamer.adapters.avro.model_records import (
    Promotion,
    decoded,
    encoded,
    key,
    on_topic,
    promoted_key,
    promotion_of,
    promotion_record,
    version_record,
)
from streamer.app.promotions import Promotions
from streamer.core.declaration import declare
from streamer.core.errors import Corrupt
from streamer.core.model import unfit
from streamer.core.partition import Announcement
from streamer.core.ports import LogRecord, Topic
from tests.corekit import version_of
from tests.fakes.broker import FakeBroker, FakeTopicReader
from tests.fakes.faults import Fault, Faults, Killed
from tests.fakes.job import FEATURES, NAME, Job, shop
from tests.fakes.promoting import promote, renewed
from tests.unit.test_worker import assert_whole

if TYPE_CHECKING:
    from streamer.core.model import ModelVersion

DECLARATION = declare(FEATURES)
EVENTS = shop(240, 24)
LEARNING = {"epoch_interval_s": 0.6, "poll_interval_s": 0.3}


def version(number: int = 1, **fields: Any) -> ModelVersion:
    return replace(version_of(DECLARATION, [[0, 0, 0], [1, 2, 3]], number), name=NAME, **fields)


# Records


def test_a_promotion_is_the_whole_version_with_its_reason_under_a_key_of_its_own() -> None:
    made = Promotion(version(3), encoded(version(3)), "better", forced=True, at=77)
    record = promotion_record(made, 9)
    assert (Topic.MODELS, b"segments:promoted") == (record.topic, record.key)
    read = promotion_of(LogRecord(5, 1, record.key, record.value, record.headers))
    assert read is not None
    assert (made.body, "better", True, 77, 3) == (read.body, read.reason, read.forced, read.at, read.version.version)
    assert made.sha256 == read.sha256
    assert decoded(made.body).record() == read.version.record()
    assert None is promotion_of(LogRecord(5, 1, record.key, None, ()))


def test_a_topic_is_read_by_model_and_the_later_of_two_records_counts() -> None:
    records = [
        version_record(version(1), b"old", 9),
        version_record(version(1), b"one", 9),
        version_record(version(2), b"two", 9),
        version_record(replace(version(7), name="segments2"), b"other", 9),
        promotion_record(Promotion(version(2), encoded(version(2)), "", forced=False, at=0), 9),
        promotion_record(Promotion(version(1), encoded(version(1)), "", forced=False, at=0), 9),
    ]
    log = [LogRecord(i, 0, record.key, record.value, record.headers) for i, record in enumerate(records)]
    found = on_topic(NAME, [*log, LogRecord(9, 0, key(NAME, 2), None, ())])
    assert {1: b"one"} == found.bodies
    assert found.promotion is not None
    assert 1 == found.promotion.version.version
    assert None is on_topic("none", log).promotion


# What is looked for


class Topics:
    """A broker with a topic of models."""

    def __init__(self) -> None:
        self.broker = FakeBroker()
        self.broker.create("models", 1)
        self.promotions = Promotions(FakeTopicReader(self.broker, {Topic.MODELS: "models"}), NAME, DECLARATION)

    def latest(self) -> int:
        found = self.promotions.latest()
        return 0 if found is None else found.version.version

    def asked(self) -> int | None:
        return self.promotions.asked


def test_the_latest_promotion_counts_and_is_read_once() -> None:
    topics = Topics()
    assert 0 == topics.latest()
    assert None is topics.asked()
    for number in (1, 2):
        promote(topics.broker, "models", version(number), 9)
    assert 2 == topics.latest()
    promote(topics.broker, "models", version(1), 9)
    assert 1 == topics.latest() == topics.asked()
    topics.broker.topics["models"][0].records.clear()
    assert 1 == topics.latest()


def test_while_the_topic_can_not_be_read_what_was_read_counts() -> None:
    topics = Topics()
    promote(topics.broker, "models", version(2), 9)
    assert 2 == topics.latest()
    promote(topics.broker, "models", version(3), 9)
    topics.broker.down = True
    assert 2 == topics.latest()
    topics.broker.down = False
    assert 3 == topics.latest()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (version(2, feature_version="other"), "is of feature version other, the declaration that is running is"),
        (version(2, eligibility=(("visits", 2),)), "its eligibility asks for visits"),
        (version(2, features=("a", "b", "c")), "its features are others"),
    ],
)
def test_what_can_not_be_judged_by_is_told_and_changes_nothing(made: ModelVersion, said: str, caplog: pytest.LogCaptureFixture) -> None:
    topics = Topics()
    promote(topics.broker, "models", made, 9)
    with caplog.at_level(logging.ERROR):
        assert 0 == topics.latest()
    assert said in caplog.text
    assert 2 == topics.asked()  # by which it is seen that another is in force
    assert said in str(unfit(made, DECLARATION))
    assert None is unfit(version(), DECLARATION)


def test_a_promotion_that_can_not_be_read_is_told_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    topics = Topics()
    topics.broker.append("models", 0, promoted_key(NAME), b"\0\0\0\0\x09nonsense", ())
    with caplog.at_level(logging.ERROR):
        assert 0 == topics.latest()
    assert "the promotion at offset 0 of the models' topic can't be read, and changes nothing" in caplog.text
    assert 0 == topics.asked()
    topics.broker.append("models", 0, promoted_key(NAME), None, ())
    assert (0, None) == (topics.latest(), topics.asked())


# Adoption


def begun(**settings: Any) -> Job:
    """Begin a job of some days, with a first model that it has learned from."""
    job = Job(settings={**LEARNING, **settings}, promotes=True)
    job.send(EVENTS[:160])
    job.settle(job.worker())
    assert {1} == {data.model for data in job.data()}
    return job


def epochs(job: Job) -> list[tuple[str, int, int]]:
    """Give partition 0's adoptions."""
    found = Counter((entry.kind, entry.model, entry.epoch) for entry in job.entries() if entry.kind in {"version", "epoch"})
    assert set(found.values()) == {job.partitions}  # by every partition, each once
    return sorted(found, key=lambda one: one[2])


def test_a_promoted_version_is_adopted_by_every_partition_swept_and_learned_from() -> None:
    job = begun()
    before = max(data.epoch for data in job.data())
    second = renewed(job.version(1), 2, "a")
    job.promote(second)
    job.gone("a")
    job.settle(job.worker("b"))
    assert {(2, True)} == {(data.model, data.swept) for data in job.data()}
    adopted = epochs(job)
    assert ("version", 2, before + 1) in adopted
    assert ("epoch", 2, before + 2) in adopted
    assert sorted({epoch for _, _, epoch in adopted}) == list(range(len(adopted)))  # numbered on, from version to version
    causes = Counter(change["cause"] for change in job.told().values() if change["model_version"] == 2)
    assert causes["model_reseed"] > 0
    assert not causes["first_seen"]
    names = {segment.segment_id: segment.name for segment in second.segments} | {"new": "new"}
    assert all(names[change["segment_id"]] == change["segment_name"] for change in job.told().values() if change["model_version"] == 2)
    assert_whole(job, EVENTS[:160])
    announced = Announcement.unpack(job.store.announced("model") or b"")
    assert (2, before + 1) == (announced.model, announced.first_epoch)
    assert encoded(second) == job.store.announced("version:2")


def test_a_rollback_is_the_adoption_of_an_older_version_and_its_epochs_go_on() -> None:
    job = begun()
    first = job.version(1)
    worker = job.worker("b")
    job.gone("a")
    for number, promoted in enumerate((renewed(first, 2, "a"), first, renewed(first, 3, "b"), first)):
        job.send(EVENTS[160 + 20 * number : 180 + 20 * number])
        job.promote(promoted)
        job.settle(worker)
        assert {promoted.version} == {data.model for data in job.data()}
    assert [1, 2, 1, 3, 1] == [model for kind, model, _ in epochs(job) if kind == "version"]
    assert_whole(job, EVENTS)


def test_a_version_promoted_twice_or_while_it_is_in_force_changes_nothing() -> None:
    job = begun()
    second = renewed(job.version(1), 2, "a")
    worker = job.worker("b")
    job.gone("a")
    job.promote(second)
    job.settle(worker)
    told, entries = job.told(), job.entries()
    job.promote(second)
    job.promote(second)
    job.settle(worker)
    assert (told, entries) == (job.told(), job.entries())


def test_a_number_that_is_promoted_with_other_bytes_than_it_had_is_not_adopted(caplog: pytest.LogCaptureFixture) -> None:
    job = begun()
    worker = job.worker("b")
    job.gone("a")
    first = job.version(1)
    job.promote(renewed(first, 2, "a"))
    job.settle(worker)
    job.promote(replace(first, as_of=1))
    with caplog.at_level(logging.ERROR):
        job.settle(worker)
    assert "version 1 is promoted with other bytes than it had" in caplog.text
    assert {2} == {data.model for data in job.data()}


def test_a_version_can_be_promoted_before_there_is_any() -> None:
    first = begun().version(1)
    job = Job(settings=LEARNING, promotes=True, first_fit=None)
    job.promote(replace(first, version=4))
    job.send(EVENTS)
    job.settle(job.worker())
    assert {4} == {data.model for data in job.data()}
    assert ("version", 4, 0) == epochs(job)[0]
    assert {"first_seen"} == {one["cause"] for one in job.told().values() if one["previous_segment_id"] is None}
    assert_whole(job, EVENTS)


def test_a_partition_that_was_away_adopts_on_return_and_nobody_learns_until_then() -> None:
    job = begun()
    both = job.worker("b"), job.worker("c")
    job.gone("a")
    job.settle(*both)
    away = set(both[1].owned)
    assert 0 < len(away) < job.partitions
    if 0 in away:
        both = both[1], both[0]
        away = set(both[1].owned)
    job.send(EVENTS[160:])
    job.promote(renewed(job.version(1), 2, "a"))
    job.settle(both[0])  # the other one is stalled, and still a member
    here = {number: data for number, data in enumerate(job.data()) if number not in away}
    assert {2} == {data.model for data in here.values()}
    assert {1} == {job.data()[number].model for number in away}
    assert all(data.epoch == data.first_epoch for data in here.values())
    job.settle(*both)
    assert {2} == {data.model for data in job.data()}
    assert all(data.epoch > data.first_epoch for data in job.data())
    assert_whole(job, EVENTS)


def test_a_partition_that_was_away_for_two_versions_takes_the_second_or_the_way_back_alone() -> None:
    for back in (False, True):
        job = begun()
        both = job.worker("b"), job.worker("c")
        job.gone("a")
        job.settle(*both)
        if 0 in both[1].owned:
            both = both[1], both[0]
        away = set(both[1].owned)
        first = job.version(1)
        job.promote(renewed(first, 2, "a"))
        job.settle(both[0])
        job.promote(first if back else renewed(first, 3, "b"))
        job.settle(both[0])
        job.send(EVENTS[160:])
        job.settle(*both)
        assert {1 if back else 3} == {data.model for data in job.data()}
        assert 1 == len({data.epoch for data in job.data()})
        seen = {entry.model for number in away for entry in job.journal_of(number) if entry.kind == "version"}
        assert ({1} if back else {1, 3}) == seen
        assert_whole(job, EVENTS)


@pytest.mark.parametrize("call", range(0, 60, 3))
def test_a_worker_that_dies_at_any_call_while_a_version_is_adopted_leaves_what_another_needs(call: int) -> None:
    job = begun()
    job.gone("a")
    job.promote(renewed(job.version(1), 2, "a"))
    faults = Faults()
    dying = job.worker("b", faults, records_max=5, sweep_records=2)
    faults.plan[20 + call] = Fault(Killed, "after")
    job.send(EVENTS[160:])
    with suppress(Killed):
        job.settle(dying)
    job.gone("b")
    job.settle(job.worker("c"))
    assert {2} == {data.model for data in job.data()}
    assert_whole(job, EVENTS)


def test_a_redis_that_is_lost_after_two_versions_and_a_rollback_is_rebuilt_along_the_journal() -> None:
    job = begun()
    worker = job.worker("b")
    job.gone("a")
    first = job.version(1)
    for promoted in (renewed(first, 2, "a"), first):
        job.promote(promoted)
        job.settle(worker)
    job.send(EVENTS[160:])
    job.settle(worker)
    told, profiles, announced = job.told(), job.profiles(), job.store.announced("model")
    job.redis.namespaces.clear()
    job.settle(worker)
    assert (told, profiles, announced) == (job.told(), job.profiles(), job.store.announced("model"))
    assert_whole(job, EVENTS)


def test_a_journal_that_names_other_bytes_than_the_topic_has_stops_who_follows() -> None:
    job = begun()
    job.promote(replace(job.version(1), as_of=1))
    again = job.following()
    with pytest.raises(Corrupt, match=r"names version 1 by the SHA-256 .*, and the models' topic has another one"):
        again.settle(again.worker())
