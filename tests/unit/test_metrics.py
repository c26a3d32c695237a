"""Metrics: code and page say the same, and the numbers are those of the work that was committed."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from streamer.app import archive_metrics
from streamer.app.health import Health
from streamer.app.metrics import METRICS, Histogram, Metrics, Seen, Share, _spread
from streamer.app.recording import STAGES, NoRecorder
from streamer.core.errors import Unavailable
from streamer.core.fold import CENTROID_ONE, VOTE_ONE
from streamer.core.partition import Learned, PartitionData
from streamer.core.ports import Topic
from streamer.core.profile import HELD
from tests.fakes.clock import FakeClock
from tests.fakes.faults import Fault, Faults
from tests.fakes.job import INPUT, Job, headers, shop
from tests.fakes.promoting import renewed

if TYPE_CHECKING:
    from streamer.app.recording import Recorder
    from streamer.app.worker import Worker

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(streamer_\w+)` \| (\w+) \|([^|]*)\| ([^|]*) \|", re.MULTILINE)


class Watched:
    """A job in memory whose workers are counted."""

    def __init__(self, *, promotes: bool = False, **settings: Any) -> None:
        self.job = Job(settings=settings, promotes=promotes)
        self.job.clock.wall_ms = self.job.broker.now_ms
        self.metrics: dict[str, Metrics] = {}

    def worker(self, name: str = "a", faults: Faults | None = None) -> Worker:
        worker = self.job.worker(name, faults)
        self.metrics[name] = Metrics(self.job.clock, Health(self.job.clock, 300, 30))
        given: Recorder = self.metrics[name]
        object.__setattr__(worker._tools, "recorder", given)
        return worker

    def read(self, metric: str, name: str = "a") -> dict[tuple[str, ...], float]:
        """Give a metric's samples by the values of their labels."""
        wanted = metric.removesuffix("_total")
        [family] = [f for f in self.metrics[name].collect() if f.name in {metric, wanted}]
        named = {metric, wanted, f"{wanted}_total", f"{metric}_count"}
        return {tuple(sample.labels.values()): sample.value for sample in family.samples if sample.name in named}

    def one(self, metric: str, name: str = "a") -> float:
        return self.read(metric, name)[()]


def test_the_page_and_the_code_list_the_same_metrics_in_the_same_words() -> None:
    page = [(name, sort, tuple(re.findall(r"`(\w+)`", labels)), meaning) for name, sort, labels, meaning in ROW.findall(PAGE.read_text())]
    assert [tuple(metric) for metric in (*METRICS, *archive_metrics.METRICS)] == page


def test_every_metric_is_exposed_under_its_name_and_type_and_nothing_else_is() -> None:
    clock = FakeClock()
    _, registry = Metrics.registered(clock, Health(clock, 300, 30))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    exposed = {family.name: family.type for family in families if not family.name.startswith("process_")}
    assert {metric.name.removesuffix("_total") if metric.sort == "counter" else metric.name: metric.sort for metric in METRICS} == exposed


def test_the_page_names_every_stage() -> None:
    [stages] = re.findall(r"^- \*\*Stages\*\*: (.*?)\n- ", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert set(STAGES) == set(re.findall(r"`(\w+)`", stages))


@pytest.mark.compiled
def test_what_is_counted_is_what_was_sent_told_and_kept() -> None:
    watched = Watched()
    job, events = watched.job, shop(600, 60)
    worker = watched.worker()
    job.send([*events, *events[-3:]])
    job.broker.append(INPUT, 2, None, None)
    job.broker.append(INPUT, 1, b"k", b"nonsense")
    job.settle(worker)
    assert [605, 600, 3] == [watched.one(f"streamer_events_{what}_total") for what in ("consumed", "applied", "duplicate")]
    changes = Counter((change["cause"],) for change in job.changes())
    assert changes == {labels: count for labels, count in watched.read("streamer_changes_total").items() if count}
    letters = Counter(((headers(letter)["dlq.reason"] or b"").decode(),) for letter in job.records(Topic.DEAD_LETTERS))
    assert letters == {labels: count for labels, count in watched.read("streamer_dead_letters_total").items() if count}
    assert [4.0, 0.0] == list(watched.read("streamer_partitions").values())
    assert {(str(p),): float(len(log.records)) for p, log in enumerate(job.broker.topics[INPUT])} == watched.read("streamer_next_offset")
    assert [0.0] * 4 == list(watched.read("streamer_lag_records").values())
    assert [0.0] * 4 == list(watched.read("streamer_lag_seconds").values())
    assert {1.0} == set(watched.read("streamer_model_version").values())
    assert {(str(p),): d.watermark / 1000 for p, d in enumerate(job.data())} == watched.read("streamer_watermark_seconds")
    assert 60 == sum(watched.read("streamer_customers").values()) == len(job.profiles())
    assert pytest.approx(1.0) == sum(watched.read("streamer_segment_share").values())
    assert {"seg_0001", "seg_0002", "seg_0003", "new"} == {segment for segment, _ in watched.read("streamer_customers")}
    assert 605 == pytest.approx(histogram_sum(watched, "streamer_batch_records"))


def histogram_sum(watched: Watched, metric: str) -> float:
    [family] = [f for f in watched.metrics["a"].collect() if f.name == metric]
    return next(sample.value for sample in family.samples if sample.name == f"{metric}_sum")


@pytest.mark.compiled
def test_the_quantisation_error_is_that_of_the_profiles_votes() -> None:
    watched = Watched()
    job = watched.job
    job.send(shop(600, 60))
    job.settle(watched.worker())
    _, work = job.work()
    [data, *_] = job.data()
    assert data.centroids is not None
    held = work.head[:, HELD] > 0
    votes, centroids = work.vote[held] / VOTE_ONE, data.centroids / CENTROID_ONE
    distances = ((votes - centroids[work.head[held, HELD] - 1]) ** 2).sum(axis=1)
    assert len(votes) == watched.one("streamer_votes")
    assert distances.mean() == pytest.approx(watched.one("streamer_quantisation_error"))


@pytest.mark.compiled
def test_a_change_is_as_late_as_its_acknowledgement_after_its_event() -> None:
    watched = Watched()
    job = watched.job
    worker = watched.worker()
    job.send(shop(600, 60))
    job.settle(worker)
    before = watched_latency(watched)
    job.broker.now_ms = job.clock.now_ms()
    told = len(job.changes())
    job.send([{**event, "event_id": f"again {event['event_id']}", "customer_id": f"n{i:03d}"} for i, event in enumerate(shop(60, 60, 1))])
    job.step(worker)  # takes in, and commits
    job.clock.sleep(1.8)
    job.step(worker)  # acknowledged 2 s after the events, and what is left of them taken in
    job.settle(worker)
    count, total = watched_latency(watched)
    assert len(job.changes()) - told == 60 == count - before[0]
    assert total - before[1] == pytest.approx(60 * 2.0, abs=0.1)  # the last batch is not full, so it is published at once


def watched_latency(watched: Watched) -> tuple[float, float]:
    [family] = [f for f in watched.metrics["a"].collect() if f.name == "streamer_event_to_change_seconds"]
    values = {sample.name.rpartition("_")[2]: sample.value for sample in family.samples}
    return values["count"], values["sum"]


@pytest.mark.compiled
def test_partitions_that_another_worker_takes_are_gone_from_the_first_ones_metrics_so_that_sums_are_right() -> None:
    watched = Watched()
    job, events = watched.job, shop(600, 60)
    first = watched.worker("a")
    job.send(events[:400])
    job.settle(first)
    second = watched.worker("b")
    job.send(events[400:])
    job.settle(first, second)
    assert {"0", "1", "2", "3"} == {p for name in "ab" for (p,) in watched.read("streamer_next_offset", name)}
    assert 4 == sum(len(watched.read("streamer_next_offset", name)) for name in "ab")
    assert 60 == sum(sum(watched.read("streamer_customers", name).values()) for name in "ab")
    assert 600 == sum(watched.one("streamer_events_applied_total", name) for name in "ab")
    assert 6 == sum(watched.one("streamer_assignments_total", name) for name in "ab")


@pytest.mark.compiled
def test_refused_commits_rebuilds_and_absent_servers_are_counted_and_no_event_twice_for_a_refusal() -> None:
    faults = Faults()
    watched = Watched(records_max=1000)
    job, events = watched.job, shop(600, 60)
    worker = watched.worker("a", faults)
    job.send(events[:300])
    job.settle(worker)
    job.store.claim(1, "somebody")
    job.send(events[300:])
    job.settle(worker)
    assert 600 == watched.one("streamer_events_applied_total")
    outcomes = watched.read("streamer_commits_total")
    assert (1, 0) == (outcomes["refused_by_owner",], outcomes["refused_by_id",])
    assert [5, 0, 0] == [watched.one(f"streamer_{what}_total") for what in ("assignments", "rebuilds", "unavailable")]
    faults.plan["log.fetch"] = Fault()
    rounds = iter([False, False, True])
    worker.run(lambda: next(rounds))
    assert 1 == watched.one("streamer_unavailable_total")
    job.redis.namespaces.clear()
    again = watched.worker("b")
    job.settle(again)
    assert 4 == watched.one("streamer_rebuilds_total", "b")
    assert 0 == sum(watched.read("streamer_changes_total", "b").values()) or job.told()


@pytest.mark.compiled
def test_who_leads_tells_which_version_is_promoted_until_another_leads_and_whether_it_can_be_adopted() -> None:
    watched = Watched(epoch_interval_s=0.6, poll_interval_s=0.3, promotes=True)
    job = watched.job
    worker = watched.worker("a")
    job.send(shop(600, 60))
    job.settle(worker)
    assert {} == watched.read("streamer_model_promoted_version")
    second = renewed(job.version(1), 2, "a")
    job.promote(second)
    job.settle(worker)
    assert 2 == watched.one("streamer_model_promoted_version")
    assert {2.0} == set(watched.read("streamer_model_version").values())
    job.promote(replace(second, version=3, feature_version="another"))
    job.settle(worker)
    assert 3 == watched.one("streamer_model_promoted_version")
    assert {2.0} == set(watched.read("streamer_model_version").values())
    other = watched.worker("b")
    job.gone("a")
    job.settle(other)
    job.settle(worker)
    assert {} == watched.read("streamer_model_promoted_version", "a")
    assert 3 == watched.one("streamer_model_promoted_version", "b")


@pytest.mark.compiled
def test_a_sweep_shows_what_is_left_of_it() -> None:
    watched = Watched(sweep_records=1, look_s=0.0)
    job = watched.job
    worker = watched.worker()
    job.send(shop(600, 60))
    seen = set()
    for _ in range(200):
        job.step(worker)
        seen |= set(watched.read("streamer_sweep_backlog").values())
        assert sum(watched.read("streamer_sweep_backlog").values()) <= 60
    assert max(seen) > 0
    assert {0.0} == set(watched.read("streamer_sweep_backlog").values())


@pytest.mark.compiled
def test_a_rebuild_tells_what_is_left_of_it_until_it_is_settled() -> None:
    watched = Watched(records_max=10)
    job = watched.job
    job.send(shop(200, 20))
    job.settle(job.worker("before"))
    job.gone("before")
    job.redis.namespaces.clear()
    worker, left = watched.worker(), []
    for _ in range(60):
        job.step(worker)
        left.append(sum(watched.read("streamer_rebuild_backlog").values()))
    assert 150 <= max(left) <= 200
    assert 0 == left[-1]
    begun = left.index(max(left))
    assert sorted(left[begun:], reverse=True) == left[begun:]


@pytest.mark.compiled
def test_looking_at_what_is_left_never_disturbs_the_work() -> None:
    faults = Faults()
    watched = Watched(sweep_records=1, look_s=0.0)
    job = watched.job
    worker = watched.worker("a", faults)
    job.send(shop(600, 60))
    while 1 not in {data.model for data in job.data()}:
        job.step(worker)
    faults.down.add("store.count")
    asked = faults.calls.count("store.count")
    job.settle(worker)
    assert faults.calls.count("store.count") > asked
    assert [0, 4] == [watched.one(f"streamer_{what}_total") for what in ("unavailable", "assignments")]
    assert {True} == {data.swept for data in job.data()}


def test_a_worker_without_a_recorder_has_one_that_counts_nothing() -> None:
    none = NoRecorder()
    with none.stage("fold"):
        assert not none.watches
    with pytest.raises(Unavailable), none.stage("load"):
        raise Unavailable


def test_many_values_fall_into_the_buckets_that_single_ones_would() -> None:
    one, many = Histogram((1, 2, 5)), Histogram((1, 2, 5))
    values = np.array([0.5, 1.0, 1.5, 2.0, 4.9, 5.0, 5.1, 100.0])
    for value in values.tolist():
        one.add(value)
    many.add_all(values)
    assert one.buckets() == many.buckets()
    assert [("1.0", 2), ("2.0", 4), ("5.0", 6), ("+Inf", 8)] == many.buckets()[0]


def test_a_stage_does_not_have_the_time_of_the_stage_within_it() -> None:
    clock = FakeClock()
    metrics = Metrics(clock, Health(clock, 300, 30))
    with metrics.stage("fold"):
        clock.sleep(1.0)
        with metrics.stage("load"):
            clock.sleep(4.0)
        clock.sleep(2.0)
    [family] = [f for f in metrics.collect() if f.name == "streamer_stage_seconds"]
    sums = {sample.labels["stage"]: sample.value for sample in family.samples if sample.name.endswith("_sum")}
    assert (3.0, 4.0) == (sums["fold"], sums["load"])


def test_lag_in_seconds_is_none_unknown_zero_or_no_more_than_since_nothing_was_left() -> None:
    data = PartitionData("f")
    assert Seen(data, 5).lag_s(100.0, 7.0) is None
    assert 0.0 == Seen(data, 5, end=5).lag_s(100.0, 7.0)
    assert 7.0 == Seen(data, 5, end=6).lag_s(100.0, 7.0)
    assert 2.0 == Seen(data, 5, end=6, caught_up_s=98.0).lag_s(100.0, 7.0)
    assert Seen(data, 5, end=6).lag_s(100.0, None) is None


def test_the_share_of_refused_records_follows_the_latest_and_not_the_size_of_batches() -> None:
    def share(batches: int) -> float | None:
        counted = Share()
        for refused in (0, 1):
            for _ in range(batches):
                counted.add(1_000 // batches, 1_000 // batches * refused)
        counted.add(0, 0)
        return counted.value

    assert Share().value is None
    assert pytest.approx(0.731, abs=0.001) == share(1) == pytest.approx(share(1_000), rel=1e-9)


@pytest.mark.compiled
def test_a_partition_of_bad_records_is_told_from_the_others_goes_on_and_keeps_them() -> None:
    watched = Watched()
    job = watched.job
    worker = watched.worker()
    job.send(shop(600, 60))
    for _ in range(2_000):
        job.broker.append(INPUT, 2, b"k", b"nonsense")
    job.send(shop(60, 60, seed=1))
    job.settle(worker)
    share = watched.read("streamer_refused_share")
    assert [0.0, 0.0, 0.0] == [share[p,] for p in "013"]
    assert 0.75 < share["2",] < 1.0
    assert 2_000 == len(job.records(Topic.DEAD_LETTERS))
    assert 660 == watched.one("streamer_events_applied_total")


def test_votes_on_their_centroids_have_no_error() -> None:
    centroids = np.array([[CENTROID_ONE, 0]], np.int64)
    learned = Learned(np.array([2]), np.array([[2 * VOTE_ONE, 0]]), np.array([[2 * VOTE_ONE**2, 0]]), np.array([2, 0]))
    assert (0.0, 2) == _spread([PartitionData("f", model=1, centroids=centroids, learned=learned)])
