"""Everybody's segment is told again on demand, and of strays it is told that they left."""

from __future__ import annotations

import copy
import json
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest

from streamer.app import reconcile_command
from streamer.app.changes import RECONCILE
from streamer.app.looking import Place
from streamer.app.status_command import look, screen
from streamer.core.errors import Misconfigured, Unavailable
from streamer.core.ports import Topic
from tests.fakes.faults import Fault, Faults, Killed
from tests.fakes.job import INPUT, Job, shop
from tests.simulation.verdict import judge, members
from tests.unit.test_looking import sources_of, text

pytestmark = pytest.mark.compiled  # whole jobs, over and over

CUSTOMERS = 60


def settled(**settings: Any) -> Job:
    """A job that has done its work, and whose worker is gone."""
    job = Job(partitions=2, settings=settings)
    job.send(shop(600, CUSTOMERS))
    job.settle(job.worker("first"))
    job.gone("first")
    return job


def told_again(job: Job) -> list[dict[str, Any]]:
    return [change for change in job.changes() if change["status"] == "existing"]


def all_members(job: Job) -> dict[str, tuple[int, str]]:
    return {customer: at for partition in range(job.partitions) for customer, at in members(partition, job).items()}


# On demand


def test_everybody_is_told_again_once_as_they_were_told() -> None:
    job = settled()
    told = {change["customer_id"]: change for change in job.changes()}
    job.ask("r1")
    job.settle(job.worker())
    again = {change["customer_id"]: change for change in told_again(job)}
    assert (CUSTOMERS, CUSTOMERS) == (len(again), len(told_again(job)))
    assert all_members(job) == {customer: (change["version"], change["segment_id"]) for customer, change in again.items()}
    for customer, change in again.items():
        was = told[customer]
        for name in ("change_id", "version", "segment_id", "segment_name", "occurred_at", "feature_version", "model_version"):
            assert was[name] == change[name]
        assert (RECONCILE, None, None, []) == (
            change["cause"],
            change["previous_segment_id"],
            change["previous_since"],
            change["top_features"],
        )
        assert 0.0 <= change["margin"] <= 1.0
        assert (change["distance"] > 0.0) == (change["segment_id"] != "new")
    judge(job)


def test_distances_are_those_of_the_change_where_nothing_moved_since() -> None:
    job = Job(partitions=2, settings={"records_max": 10_000, "sweep_records": 1, "epoch_interval_s": 1e9})
    job.send(shop(600, CUSTOMERS))
    worker = job.worker()
    job.settle(worker)
    told = {change["customer_id"]: change for change in job.changes()}
    assert {("first_seen", 0)} == {(change["cause"], change["epoch"]) for change in told.values()}
    job.ask("r1")
    job.settle(worker)
    for change in told_again(job):
        was = told[change["customer_id"]]
        assert (was["distance"], was["margin"]) == pytest.approx((change["distance"], change["margin"]))


def test_a_request_is_met_once_and_by_partitions_without_a_customer_too() -> None:
    job = Job(partitions=3)
    job.ask("r1")
    worker = job.worker()
    job.settle(worker)
    assert [("r1", False)] * 3 == [(data.reconcile, data.reconciling) for data in job.data()]
    assert [] == job.changes()
    moved = [log.high for log in job.broker.topics[job.topics("live")[Topic.CHANGES]]]
    job.settle(worker)
    assert moved == [log.high for log in job.broker.topics[job.topics("live")[Topic.CHANGES]]]


def test_another_request_begins_anew() -> None:
    job = settled(sweep_records=1)
    worker = job.worker()
    job.settle(worker)
    job.ask("r1")
    job.step(worker, rounds=20)
    before = [data.reconciled for data in job.data()]
    assert all(data.reconciling for data in job.data())
    job.ask("r2")
    job.settle(worker)
    assert 0 < min(before)
    assert sum(before) + CUSTOMERS <= len(told_again(job)) <= sum(before) + CUSTOMERS + 6  # some until it is noticed
    assert {"r2"} == {data.reconcile for data in job.data()}
    judge(job)


def test_the_next_owner_goes_on_where_the_last_one_was() -> None:
    job = settled(sweep_records=3)
    worker = job.worker()
    job.settle(worker)
    job.ask("r1")
    job.step(worker, rounds=14)
    before = sum(data.reconciled for data in job.data())
    job.gone("a")
    job.settle(job.worker("b"))
    assert 0 < before < CUSTOMERS == len(told_again(job))
    judge(job)


def test_a_redis_that_was_started_again_counts_otherwise_and_has_the_walk_begin_anew() -> None:
    job = settled(sweep_records=3)
    worker = job.worker()
    job.settle(worker)
    job.ask("r1")
    job.step(worker, rounds=14)
    before = sum(data.reconciled for data in job.data())
    assert 0 < before < CUSTOMERS
    job.redis.hashing += 1
    job.settle(worker)
    assert before + CUSTOMERS == len(told_again(job))
    judge(job)


def test_a_walk_waits_for_a_sweep_and_live_events_do_not_wait_for_it() -> None:
    job = Job(partitions=2, settings={"sweep_records": 1})
    job.ask("r1")
    job.send(shop(600, CUSTOMERS))
    worker = job.worker()
    while not (told_again(job) and all(not data.reconciling for data in job.data())):
        before = [data.reconciled for data in job.data() if not data.swept]
        job.step(worker)
        after = [data.reconciled for data in job.data() if not data.swept]
        assert len(before) != len(after) or before == after
    job.settle(worker)
    judge(job)


def test_what_a_zombie_told_nobody_in_a_redis_that_was_rolled_back_is_told_after_the_rebuild() -> None:
    job = settled()
    zombies = copy.deepcopy(job)
    zombies.clock.names += 1000
    zombies.ask("r1")
    zombies.settle(zombies.worker("cut off"))
    job.send(shop(600, CUSTOMERS)[-20:])  # duplicates: only offsets move
    job.settle(job.worker("healthy"))
    job.gone("healthy")
    told, log = len(told_again(job)), [data.epoch for data in job.data()]
    job.redis, job.asked = zombies.redis, ("r1", [high.high for high in job.broker.topics[job.topics("live")[Topic.CHANGES]]])
    assert [("r1", False)] * 2 == [(data.reconcile, data.reconciling) for data in job.data()]
    job.settle(job.worker("heir"))
    assert (0, CUSTOMERS, log) == (told, len(told_again(job)), [data.epoch for data in job.data()])
    judge(job)


def test_whoever_dies_at_any_point_leaves_nobody_out() -> None:
    start = settled(sweep_records=8)
    start.ask("r1")
    calls = _calls(start)
    for call in range(0, calls, 13):
        for when in ("before", "midway", "after"):
            job = copy.deepcopy(start)
            _die(job, call, when)
            job.settle(job.worker("heir"))
            judge(job)


# The command


def test_the_command_shows_how_far_each_partition_is_until_all_are_done(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    job = settled(sweep_records=7)
    worker = job.worker()
    job.settle(worker)
    found = sources_of(job)
    assert ({"none"}, None) == ({p.reconcile for p in look(found).partitions}, look(found).reconcile)
    monkeypatch.setattr("streamer.app.reconcile_command.time.sleep", lambda _: job.step(worker))
    request = reconcile_command.ask(found)
    assert reconcile_command._show(request, reconcile_command.looks(found, request, 0.0), as_json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) > CUSTOMERS / 7
    assert [{"waiting"}, {"done"}] == [{p["state"] for p in line["partitions"]} for line in (lines[0], lines[-1])]
    assert any(p["state"] == "running" and 0 < p["reconciled"] < p["customers"] for line in lines for p in line["partitions"])
    assert [*[False] * (len(lines) - 1), True] == [line["done"] for line in lines]
    assert CUSTOMERS == sum(p["reconciled"] for p in lines[-1]["partitions"])
    assert f"(request {request}): done, {CUSTOMERS} customers so far" in text(screen(look(found)))
    assert f"(request {request}): done" in text(reconcile_command.screen(look(found)))


def test_the_command_ends_where_another_request_takes_its_place_or_redis_loses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    job = settled()
    found = sources_of(job)
    for lose in (lambda: job.ask("another"), job.redis.namespaces.clear):
        request = reconcile_command.ask(found)
        monkeypatch.setattr("streamer.app.reconcile_command.time.sleep", lambda _, lose=lose: lose())
        assert not reconcile_command._show(request, reconcile_command.looks(found, request, 0.0), as_json=False)


def test_nobody_is_asked_where_there_is_no_topic() -> None:
    job = settled()
    with pytest.raises(Misconfigured, match="there is no topic nowhere"):
        reconcile_command.ask(sources_of(job, place=Place("shop", "live", "nowhere", "nothing")))


# Strays


def cut_short(job: Job) -> Job:
    """Lose Redis, and the first half of each partition's log."""
    for partition, log in enumerate(job.broker.topics[INPUT]):
        job.broker.expire(INPUT, partition, 2 * log.high // 3)
    job.redis.namespaces.clear()
    return job


def only_early(count: int) -> list[dict[str, Any]]:
    """Events of customers of whom nothing is heard later."""
    return [{**event, "customer_id": f"early-{i % 7}"} for i, event in enumerate(shop(count, 7, seed=3))]


def with_strays(**settings: Any) -> Job:
    job = Job(partitions=2, settings=settings)
    job.send(only_early(60))
    job.send(shop(600, CUSTOMERS))
    job.settle(job.worker("first"))
    job.gone("first")
    assert {f"early-{i}" for i in range(7)} <= all_members(job).keys()
    return cut_short(job)


def left(job: Job) -> list[dict[str, Any]]:
    return [change for change in job.changes() if change["status"] == "exited"]


def test_of_whom_a_rebuild_does_not_find_it_is_told_that_they_left() -> None:
    job = with_strays()
    told = {change["customer_id"]: change for change in job.changes()}
    job.settle(job.worker())
    gone = left(job)
    assert {f"early-{i}" for i in range(7)} <= {change["customer_id"] for change in gone}
    for change in gone:
        was = told[change["customer_id"]]
        assert (was["version"] + 1, RECONCILE) == (change["version"], change["cause"])
        assert was["segment_id"] == change["segment_id"] == change["previous_segment_id"]
        assert was["segment_name"] == change["segment_name"]
        assert was["occurred_at"] == change["previous_since"] <= change["occurred_at"]
        assert was["change_id"] != change["change_id"]
    assert Counter(change["customer_id"] for change in gone).most_common(1)[0][1] == 1
    judge(job)


def test_a_stray_that_comes_again_is_told_of_after_it_left() -> None:
    job = with_strays(sweep_records=1)
    job.send([{**event, "event_id": f"again-{i}"} for i, event in enumerate(only_early(60))])
    job.settle(job.worker())
    last = {change["customer_id"]: change for change in job.changes()}
    assert {"entered"} == {last[f"early-{i}"]["status"] for i in range(7)}
    assert {f"early-{i}" for i in range(7)} <= {change["customer_id"] for change in left(job)}
    judge(job)


def test_strays_are_told_of_once_whoever_dies_at_any_point() -> None:
    start = with_strays(sweep_records=3)
    calls = _calls(start)
    counts = set()
    for call in range(0, calls, 7):
        for when in ("before", "midway", "after"):
            job = copy.deepcopy(start)
            _die(job, call, when)
            job.settle(job.worker("heir"))
            judge(job)
            counts.add(len(left(job)))
    assert 1 == len(counts)


def test_a_rebuild_of_a_whole_log_has_no_strays() -> None:
    job = settled()
    job.redis.namespaces.clear()
    job.settle(job.worker())
    assert [] == left(job)
    judge(job)


def _calls(start: Job) -> int:
    """Count the calls until all is done."""
    job, faults = copy.deepcopy(start), Faults()
    job.settle(job.worker("counts", faults))
    return len(faults.calls) - 30  # the last rounds are calm


def _die(job: Job, call: int, when: Any) -> None:
    worker = job.worker("dies", Faults({call: Fault(Killed, when)}))
    with suppress(Killed, Unavailable):
        job.settle(worker)
    job.gone("dies")
