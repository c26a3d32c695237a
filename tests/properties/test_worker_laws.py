"""Laws of the worker, over fakes and seeds: whatever befalls workers and servers, events count once, and log and journal say the rest.

`tests/simulation` goes further: there workers run at once, call by call, and thousands of seeds are tried.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.core.errors import Unavailable
from streamer.core.ports import Topic
from tests.fakes.faults import Fault, Faults, Killed
from tests.fakes.job import Job, shop
from tests.simulation.verdict import told_again

if TYPE_CHECKING:
    from streamer.app.worker import Worker

pytestmark = pytest.mark.compiled  # whole jobs, over and over
LEARNING = {"epoch_interval_s": 0.6, "poll_interval_s": 0.3}
seeds = st.integers(0, 2**32)


def assert_equal(one: Job, other: Job) -> None:
    """Hold two runs to the same changes, profiles and sums, to the byte."""
    assert one.told() == other.told()
    assert one.profiles() == other.profiles()
    for mine, theirs in zip(one.data(), other.data(), strict=True):
        assert (mine.model, mine.epoch, mine.watermark) == (theirs.model, theirs.epoch, theirs.watermark)
        if mine.learned is not None:
            assert theirs.learned is not None
            for name in ("count", "total", "square", "members"):
                assert np.array_equal(getattr(mine.learned, name), getattr(theirs.learned, name))


@given(seeds, st.integers(1, 60), st.integers(1, 200), st.integers(1, 9), st.integers(1, 4))
@settings(max_examples=15, derandomize=True)
def test_a_run_that_follows_the_journal_repeats_changes_profiles_and_sums(
    seed: int, few: int, many: int, slices: int, workers: int
) -> None:
    job = Job(settings={**LEARNING, "records_max": few})
    events = shop(300, 30, seed)
    rng = random.Random(seed)
    group = [job.worker(name) for name in "abcd"[:workers]]
    at = 0
    while at < len(events):
        size = rng.randint(1, 60)
        job.send(events[at : at + size])
        job.step(*group, rounds=rng.randint(1, 6))
        at += size
    job.settle(*group)
    assert Counter(event["customer_id"] for event in events) == job.counts()
    assert len(job.told()) == len(job.changes())
    again = job.following(records_max=many, sweep_records=slices)
    again.settle(again.worker())
    assert_equal(job, again)
    assert len(again.told()) == len(again.changes())
    assert not again.records(Topic.JOURNAL)
    assert job.store.announced("model") == again.store.announced("model")


@dataclass
class Chaos:
    """Workers that come, go and die, and servers whose replies are lost, under a seed."""

    job: Job
    rng: random.Random
    workers: dict[str, tuple[Worker, Faults]] = field(default_factory=dict)
    zombies: list[tuple[str, Worker]] = field(default_factory=list)
    made: int = 0

    def start(self) -> None:
        name = f"w{self.made}"
        self.made += 1
        faults = Faults()
        settings = {"records_max": self.rng.choice([3, 20, 80]), "sweep_records": self.rng.choice([1, 4, 50])}
        self.workers[name] = self.job.worker(name, faults, **settings), faults

    def gone(self, name: str) -> None:
        del self.workers[name]
        self.job.gone(name)

    def round(self, *, wipes: bool, asks: bool = False) -> None:
        """Let something befall somebody, then let everybody work."""
        rng = self.rng
        if asks and rng.random() < 0.1:
            self.job.ask(f"request {len(self.job.changes())}")
        if asks and rng.random() < 0.1:
            self.job.redis.hashing += 1  # as of a server that was started again
        if self.workers and rng.random() < 0.3:
            _, faults = rng.choice(list(self.workers.values()))
            call = len(faults.calls) + rng.randint(0, 12)
            faults.plan[call] = Fault(rng.choice([Killed, Unavailable]), rng.choice(["before", "midway", "after"]))
        if len(self.workers) < 3 and rng.random() < 0.2:
            self.start()
        # A zombie's session ended and it does not know yet. Without transactions, what it tells and what its successor does can't be told
        # apart, so where Redis is lost as well nothing can be promised.
        if self.workers and rng.random() < 0.1 and not wipes:
            self.job.gone(rng.choice(list(self.workers)))
        if wipes and rng.random() < 0.06 and self.positions_are_known():
            self.job.redis.namespaces.clear()
        for name, (worker, _) in list(self.workers.items()):
            self.step(name, worker)
        self.job.later(0.2)

    def positions_are_known(self) -> bool:
        """Tell whether Kafka's positions cover all that was told.

        What was told beyond them is told again in another way where Redis is lost as well, unless both are one transaction.
        """
        committed = self.job.broker.groups[self.job.run].committed if self.made else {}
        states = self.job.store.read(range(self.job.partitions))
        return all(not s.commit_id or (p in committed and committed[p].commit_id == s.commit_id) for p, s in enumerate(states))

    def step(self, name: str, worker: Worker) -> None:
        try:
            try:
                worker.step()
            except Unavailable:
                worker._drop_all()
        except Killed:
            self.gone(name)

    def end(self) -> None:
        """Let no more befall anybody."""
        for name, (worker, faults) in list(self.workers.items()):
            faults.plan.clear()
            self.step(name, worker)
        if not self.workers:
            self.start()
        self.job.settle(*(worker for worker, _ in self.workers.values()))


def through_chaos(seed: int, *, wipes: bool, asks: bool = False) -> tuple[Job, list[dict[str, Any]]]:
    rng = random.Random(seed)
    job, events = Job(settings=LEARNING), list(shop(300, 30, seed))
    chaos = Chaos(job, rng)
    at = 0
    while at < len(events):
        size = rng.randint(0, 30)
        job.send(events[at : at + size])
        chaos.round(wipes=wipes, asks=asks)
        at += size
    for _ in range(10):
        chaos.round(wipes=wipes, asks=asks)
    chaos.end()
    return job, events


def assert_kept(job: Job, events: list[dict[str, Any]]) -> None:
    """Hold a job to its guarantees: events counted once, sums as profiles say, and all told that log and journal lead to."""
    assert Counter(event["customer_id"] for event in events) == job.counts()
    assert job.check().clean
    again = job.following(records_max=17)
    again.settle(again.worker())
    assert_equal(job, again)


@given(seeds)
@settings(max_examples=40, derandomize=True)
def test_whatever_befalls_workers_and_replies_every_event_counts_once_and_every_change_is_told(seed: int) -> None:
    assert_kept(*through_chaos(seed, wipes=False))


@given(seeds)
@settings(max_examples=40, derandomize=True)
def test_a_redis_that_is_lost_at_any_time_is_rebuilt_to_what_log_and_journal_say(seed: int) -> None:
    assert_kept(*through_chaos(seed, wipes=True))


@given(seeds, st.booleans())
@settings(max_examples=40, derandomize=True)
def test_everybody_is_told_again_of_what_they_were_told_and_nothing_else_changes(seed: int, wipes: bool) -> None:
    job, events = through_chaos(seed, wipes=wipes, asks=True)
    assert_kept(job, events)
    for name in [*job.broker.groups[job.run].members]:
        job.gone(name)
    job.ask("the last")
    job.settle(job.worker("late"))
    for partition, log in enumerate(job.broker.topics[job.topics(job.run)[Topic.CHANGES]]):
        told_again(partition, log.committed(), job)
