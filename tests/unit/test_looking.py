"""What is seen of a job from outside, over the job in memory."""

from __future__ import annotations

import copy
import json
from collections import Counter
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from streamer.adapters.kafka.tailing import Came
from streamer.app.customer import find_customer, merged_into
from streamer.app.customer_command import _show
from streamer.app.looking import Needs, Place, Recent, Sources, apart, read_facts, recent_changes, segments_of, status_of, typical
from streamer.app.models import ModelShelf
from streamer.app.showing import number, segments_table, utc
from streamer.app.status_command import screen
from streamer.app.tail_command import Wanted, line, shown
from streamer.core.errors import Corrupt, Misconfigured
from streamer.core.model import features_as_of, votes
from streamer.core.partition import pack_state, unpack_state
from streamer.core.ports import LogRecord, Topic
from streamer.core.profile import CLOCK
from tests.fakes.job import INPUT, NAME, Job, shop
from tests.fakes.promoting import renewed

if TYPE_CHECKING:
    from rich.console import RenderableType

CUSTOMERS = 30
EVERYTHING = Wanted(frozenset(), frozenset(), frozenset())


class FakeLog:
    """Looks at the fake broker's topics."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.read_offsets = 0

    def partitions(self, topic: str) -> int | None:
        logs = self.job.broker.topics.get(topic)
        return None if logs is None else len(logs)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        return 0, self.job.broker.topics[topic][partition].high

    def between(self, topic: str, partition: int, first: int, end: int) -> list[LogRecord]:
        self.read_offsets += end - first
        found = [record for record in self.job.broker.topics[topic][partition].records if first <= record.offset < end]
        return [LogRecord(r.offset, r.timestamp, r.key, r.value, r.headers) for r in found]


def sources_of(job: Job, **changed: Any) -> Sources:
    """Look at a job."""
    place = Place("shop", job.run, INPUT, job.topics(job.run)[Topic.CHANGES])
    shelf = ModelShelf(job.store, job.reader, NAME)
    made = Sources(place, job.store, FakeLog(job), job.declaration, job.plan, shelf.get, Needs(True, 12, 0))
    return replace(made, **changed)


@pytest.fixture(scope="module")
def done() -> Job:
    job = Job()
    job.send(shop(300, CUSTOMERS))
    job.send([{"event_id": "x", "customer_id": "fresh", "event_type": "view", "occurred_at": 1_700_000_000_000 + 40 * 86_400_000}])
    job.settle(job.worker())
    return job


@pytest.fixture
def job(done: Job) -> Job:
    own = copy.copy(done)
    own.broker, own.redis = copy.deepcopy(done.broker), copy.deepcopy(done.redis)
    return own


def text(shown: RenderableType) -> str:
    """Draw as a terminal would."""
    from rich.console import Console  # noqa: PLC0415  # only here

    console = Console(width=250, record=True, quiet=False, file=None)
    with console.capture() as captured:
        console.print(shown)
    return captured.get()


def test_marks_of_transactions_are_no_lag(job: Job) -> None:
    job.broker.topics[INPUT][0].high += 2
    seen = status_of(read_facts(sources_of(job)))
    assert (0, 301) == (seen.lag_records, seen.end_offset)
    job.broker.append(INPUT, 0, b"k", b"v")
    assert 3 == status_of(read_facts(sources_of(job))).lag_records


def test_a_status_adds_up(job: Job) -> None:
    seen = status_of(read_facts(sources_of(job)))
    assert ("running", 0, CUSTOMERS + 1) == (seen.state, seen.lag_records, seen.customers)
    assert seen.next_offset == seen.end_offset == 301
    assert {"done"} == {p.sweep for p in seen.partitions}
    assert all(p.owned and p.model == 1 and p.watermark_ms for p in seen.partitions)
    assert seen.customers == sum(segment.customers for segment in seen.segments) + seen.not_judged
    assert (0, (), None) == (seen.not_judged, seen.advice, seen.waiting)


def test_how_far_an_adoption_is_is_told_until_everybody_is_judged(done: Job) -> None:
    job = copy.copy(done)
    job.broker, job.redis, job.promotes = copy.deepcopy(done.broker), copy.deepcopy(done.redis), True
    job.gone("a")
    worker = job.worker("b", sweep_records=1)
    job.settle(worker)
    assert None is status_of(read_facts(sources_of(job))).adoption
    job.promote(renewed(job.version(1), 2, "a"))
    looks = []
    for _ in range(400):
        job.step(worker, seconds=1.0)
        seen = status_of(read_facts(sources_of(job)))
        if seen.adoption is not None:
            looks.append(seen.adoption)
            assert f"version 2 is being adopted: {seen.adoption.partitions_done} of 4 partitions done" in text(screen(seen))
        elif looks:
            break
    assert {(2, 4, CUSTOMERS + 1)} == {(one.model, one.partitions, one.customers) for one in looks}
    judged, finished = [one.judged for one in looks], [one.partitions_done for one in looks]
    assert judged == sorted(judged)
    assert finished == sorted(finished)
    assert judged[0] < judged[-1] <= CUSTOMERS + 1
    assert {2} == {p.model for p in seen.partitions}
    assert seen.customers == sum(p.judged for p in seen.partitions)


def test_sizes_are_what_subscribers_were_told(job: Job) -> None:
    told: dict[str, str] = {}
    for change in job.changes():
        told[change["customer_id"]] = change["segment_id"]
    segments = segments_of(read_facts(sources_of(job)))
    assert Counter(told.values()) == Counter({s.segment_id: s.customers for s in segments if s.customers})
    assert "new" == segments[-1].segment_id
    assert 1 == segments[-1].customers
    assert pytest.approx(1.0) == sum(segment.share for segment in segments)


def test_lag_is_what_is_not_yet_in_the_profiles(job: Job) -> None:
    job.send(shop(20, CUSTOMERS, seed=5))
    assert 20 == status_of(read_facts(sources_of(job))).lag_records


def test_a_centroid_is_told_in_the_features_own_units(job: Job) -> None:
    version = sources_of(job).model(1)
    values = np.array([[3.0, 20.0, 1000.0]])
    values = np.clip(values, version.scaling.low, version.scaling.high)
    place = votes(version.transforms, version.scaling, values)[0] / 4096
    assert pytest.approx(values[0], rel=1e-2) == typical(version, place)
    told = apart(version, np.array([0.5, -2.0, 1.0]))
    assert ["views_30d", "spend_30d", "days_since_event"] == [a.feature for a in told]
    flat = replace(version, scaling=replace(version.scaling, weight=np.array([1.0, 0.0, 1.0])))
    assert "views_30d" not in [a.feature for a in apart(flat, np.array([0.5, -2.0, 1.0]))]


def test_without_a_topic_it_is_said_how_to_get_one(job: Job) -> None:
    place = replace(sources_of(job).place, events="nowhere")
    sources = sources_of(job, place=place)
    seen = status_of(read_facts(sources))
    assert ("no_topic", (), ()) == (seen.state, seen.partitions, seen.segments)
    assert "streamer ingest" in seen.advice[0]
    with pytest.raises(Misconfigured, match="no topic nowhere"):
        find_customer(sources, "c001")


@pytest.mark.parametrize(("events", "said"), [(0, "send events with"), (7, "7 events are waiting")])
def test_without_a_worker_it_is_said_to_start_one(events: int, said: str) -> None:
    job = Job()
    job.send(shop(events, 5) if events else [])
    seen = status_of(read_facts(sources_of(job)))
    assert ("nothing", events) == (seen.state, seen.lag_records)
    assert said in seen.advice[0]
    assert said in text(screen(seen))
    assert "streamer run" in seen.advice[0]


def test_without_a_model_it_is_said_what_the_first_one_waits_for() -> None:
    job = Job(first_fit=None)
    job.send(shop(50, 5))
    job.settle(job.worker())
    seen = status_of(read_facts(sources_of(job, needs=Needs(True, 1000, 90))))
    assert ("no_model", 5, 5) == (seen.state, seen.customers, seen.not_judged)
    assert seen.waiting is not None
    assert (5, 1000, 90) == (seen.waiting.customers, seen.waiting.customers_min, seen.waiting.history_days_min)
    assert pytest.approx(39, abs=1) == seen.waiting.history_days
    assert "1,000 eligible customers (known so far: 5)" in seen.advice[0]
    assert "first_fit.enabled" in status_of(read_facts(sources_of(job, needs=Needs(False, 1, 1)))).advice[0]
    customer = find_customer(sources_of(job), "c001")
    assert customer is not None
    assert (None, (), None) == (customer.segment_id, customer.distances, customer.vote)


def test_who_was_merged_is_told_with_whom(job: Job) -> None:
    assert merged_into(sources_of(job), "c001") is None
    at = 1_700_000_000_000 + 41 * 86_400_000
    job.gone("a")
    for old, new in (("c001", "c002"), ("c002", "c003")):
        job.merge(old, new, at)
    job.settle(job.worker("b", redirect_ms=1_000))
    sources = sources_of(job)
    assert find_customer(sources, "c001") is None
    assert [("c003", at + 1_000)] * 2 == [merged_into(sources, customer) for customer in ("c001", "c002")]
    assert merged_into(sources, "c003") is None


def test_a_topic_that_has_grown_and_another_declaration_are_told(job: Job) -> None:
    job.redis.namespaces[job.run, "shop"].announced["partitions"] = b"3"
    assert "had 3" in status_of(read_facts(sources_of(job))).advice[0]
    facts = replace(read_facts(sources_of(job)), feature_version="another", recorded=None)
    assert "another feature version" in status_of(facts).advice[0]


def test_a_state_that_cannot_be_read_is_named(job: Job) -> None:
    job.redis.namespaces[job.run, "shop"].partitions[2].state = b"?"
    with pytest.raises(Corrupt, match="the state of partition 2 can't be read"):
        read_facts(sources_of(job))


def test_customers_whom_a_sweep_has_yet_to_judge_are_counted_apart(job: Job) -> None:
    held = job.redis.namespaces[job.run, "shop"].partitions[1]
    data = unpack_state(held.state)
    assert data.learned is not None
    judged = replace(data.learned, members=np.zeros_like(data.learned.members))
    held.state = pack_state(replace(data, cursor="0", learned=judged))
    seen = status_of(read_facts(sources_of(job)))
    assert len(held.profiles) == seen.not_judged
    assert "running" == seen.partitions[1].sweep
    assert "not judged yet" in text(screen(seen))


def test_a_customer_is_shown_as_judged(job: Job) -> None:
    ids, work = job.work()
    told = {change["customer_id"]: change for change in job.changes()}
    values = {customer: features_as_of(job.plan, work, int(work.head[i, CLOCK]))[i].tolist() for i, customer in enumerate(ids)}
    for customer_id in ids:
        seen = find_customer(sources_of(job), customer_id)
        assert seen is not None
        change = told[customer_id]
        assert (change["segment_id"], change["segment_name"], change["occurred_at"]) == (seen.segment_id, seen.segment_name, seen.since_ms)
        assert values[customer_id] == [feature.value for feature in seen.features]
        assert ("clock", seen.clock_ms) == (seen.as_of, seen.as_of_ms)
        assert 3 == len(seen.distances)
        assert sorted(d.distance for d in seen.distances) == [d.distance for d in seen.distances]
        assert (seen.segment_id != "new") == seen.eligible
        assert sum(tile.measures.get("views", 0) for tile in seen.days) <= seen.rules[0].value
        json.dumps(asdict(seen))


def test_features_as_of_now_have_aged(job: Job) -> None:
    seen = find_customer(sources_of(job), "c001")
    assert seen is not None
    assert seen.clock_ms is not None
    later = find_customer(sources_of(job), "c001", seen.clock_ms + 10 * 86_400_000)
    assert later is not None
    assert ("now", "features") == (later.as_of, later.distances_of)
    assert 10.0 == pytest.approx(later.features[0].value - seen.features[0].value)
    assert seen.segment_id == later.segment_id
    assert "vote" == seen.distances_of


def test_the_vote_and_the_features_it_was_made_of_agree(job: Job) -> None:
    seen = find_customer(sources_of(job), "c003")
    assert seen is not None
    assert seen.vote is not None
    assert [feature.z for feature in seen.features] == list(seen.vote.values())
    assert seen.vote_for == seen.distances[0].segment_id


def test_nobody_is_found_under_an_unknown_id(job: Job) -> None:
    assert find_customer(sources_of(job), "nobody") is None


def test_damaged_profiles_and_those_of_another_declaration_are_refused(job: Job) -> None:
    held = next(p for p in job.redis.namespaces[job.run, "shop"].partitions.values() if b"c001" in p.profiles)
    held.profiles[b"c001"] = held.profiles[b"c001"][:-1]
    with pytest.raises(Corrupt, match="streamer check"):
        find_customer(sources_of(job), "c001")
    with pytest.raises(Misconfigured, match="another feature version"):
        find_customer(sources_of(job, plan=job.plan._replace(tag=job.plan.tag ^ 1)), "c002")
    other = Job(features={**job.features, "eligibility": {"events": 3}}).declaration
    with pytest.raises(Misconfigured, match="feature version"):
        find_customer(sources_of(job, declaration=other), "c002")


def test_recent_changes_come_latest_first_and_no_more_than_asked_for(job: Job) -> None:
    topic = job.topics(job.run)[Topic.CHANGES]
    for customer in ("c001", "c002", "c017"):
        all_of = [change["change_id"] for change in job.changes() if change["customer_id"] == customer][::-1]
        seen = find_customer(sources_of(job), customer)
        assert seen is not None
        found = recent_changes(FakeLog(job), topic, seen.partition, customer.encode(), 100, 1000, chunk=3)
        assert all_of == [change["change_id"] for change in found.changes]
        assert (0, True) == (found.first, found.complete)
        assert all_of[:1] == [
            c["change_id"] for c in recent_changes(FakeLog(job), topic, seen.partition, customer.encode(), 1, 1000).changes
        ]


def test_the_search_for_changes_is_bounded_and_says_so(job: Job) -> None:
    log, topic = FakeLog(job), job.topics(job.run)[Topic.CHANGES]
    found = recent_changes(log, topic, 0, b"nobody", 5, 4, chunk=3)
    end = log.bounds(topic, 0)[1]
    assert (Recent((), end - 4, end, complete=False), 4) == (found, log.read_offsets)


def record_of(job: Job) -> tuple[LogRecord, dict[str, Any]]:
    """Take a change as it stands on the topic."""
    found = job.records(Topic.CHANGES)[0]
    return LogRecord(found.offset, found.timestamp, found.key, found.value, found.headers), job.changes()[0]


def test_a_tail_shows_what_every_filter_lets_through(job: Job) -> None:
    record, change = record_of(job)
    came = Came(0, record)
    for kind, value in (("segments", "segment_id"), ("segments", "segment_name"), ("customers", "customer_id"), ("causes", "cause")):
        assert shown(came, replace(EVERYTHING, **{kind: frozenset({change[value]})}), as_json=False)
        assert shown(came, replace(EVERYTHING, **{kind: frozenset({"another"})}), as_json=False) is None
    assert change == json.loads(shown(came, EVERYTHING, as_json=True) or "")
    told = line(change)
    assert "\n" not in told
    for word in (change["customer_id"], change["cause"], change["segment_id"], utc(change["occurred_at"])):
        assert word in told


def test_tombstones_and_what_cannot_be_read_do_not_end_a_tail(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    record, _ = record_of(job)
    gone = Came(0, LogRecord(7, 0, b"c001", None, ()))
    assert "c001: erased" == shown(gone, EVERYTHING, as_json=False)
    assert {"customer_id": "c001", "erased": True} == json.loads(shown(gone, EVERYTHING, as_json=True) or "")
    assert shown(gone, replace(EVERYTHING, customers=frozenset({"c002"})), as_json=False) is None
    assert shown(Came(3, LogRecord(7, 0, b"c001", (record.value or b"")[:-3], record.headers)), EVERYTHING, as_json=False) is None
    assert shown(Came(3, LogRecord(8, 0, b"c001", b"\7", ())), EVERYTHING, as_json=False) is None
    told = capsys.readouterr().err
    assert "partition 3: the change at offset 7 can't be read" in told
    assert "offset 8 can't be read" in told


def test_tables_hold_what_was_seen(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console  # noqa: PLC0415  # only here

    status = status_of(read_facts(sources_of(job)))
    drawn = text(screen(status))
    assert all(segment.segment_id in drawn for segment in status.segments)
    apart_words = text(segments_table(status.segments))
    assert "too little behind them to say" in apart_words
    seen = find_customer(sources_of(job), "c001")
    assert seen is not None
    _show(Console(width=200), replace(seen, partition_expected=seen.partition + 1), Recent((record_of(job)[1],), 3, 9, complete=False))
    told = capsys.readouterr().out
    for words in ("c001", "votes here", "spend_30d", "another partitioner", "only offsets 3 to 9", "last_event"):
        assert words in told


def test_numbers_and_times_are_short() -> None:
    assert ["12,346", "0.123", "3", "-1.5"] == [number(x) for x in (12345.6, 0.12345, 3.0, -1.5)]
    assert ["-", "2023-11-14 22:13:20", "-5 ms"] == [utc(x) for x in (None, 1_700_000_000_000, -5)]
