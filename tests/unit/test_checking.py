"""What `streamer check` finds: nothing after a run, and whatever was altered by hand, by name where it can be told."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from streamer.app import checking
from streamer.app.checking import Finding, check
from streamer.app.models import ModelShelf
from streamer.core.partition import pack_state, unpack_state
from streamer.core.profile import HELD, SEGMENT, pack
from tests.corekit import opened
from tests.fakes.job import Job, shop
from tests.fakes.state_store import FakeStateStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.core.ports import Packed, PartitionState
    from tests.fakes.state_store import FakePartition

ROBBED = {f"the model's {name} is not what the profiles say" for name in ("count", "total", "square", "members")}


@pytest.fixture(scope="module")
def clean() -> Job:
    job = Job()
    job.send(shop(300, 30))
    job.settle(job.worker())
    return job


@pytest.fixture
def job(clean: Job) -> Job:
    return replace_redis(clean)


def replace_redis(job: Job) -> Job:
    return Job(broker=copy.deepcopy(job.broker), redis=copy.deepcopy(job.redis), clock=job.clock)


def held(job: Job, partition: int = 1) -> FakePartition:
    return job.redis.namespaces[job.run, "shop"].partitions[partition]


def one_of(job: Job) -> tuple[bytes, bytes]:
    return next(iter(held(job).profiles.items()))


def whats(job: Job) -> set[str]:
    return {finding.what for finding in job.check().findings}


def test_nothing_is_found_after_a_run(job: Job) -> None:
    report = job.check()
    assert report.clean
    assert (30, 30) == (report.customers, report.votes)


def test_a_flipped_byte_names_its_customer(job: Job) -> None:
    customer, profile = one_of(job)
    for at in range(len(profile)):
        held(job).profiles[customer] = bytes([*profile[:at], profile[at] ^ 1, *profile[at + 1 :]])
        assert customer.decode() in {finding.customer for finding in job.check().findings}
    held(job).profiles[customer] = profile
    assert job.check().clean


def test_a_profile_with_another_vote_and_a_right_checksum_differs_from_the_sums(job: Job) -> None:
    customer, profile = one_of(job)
    work = opened(job.plan, [profile])
    assert work.head[0, HELD]
    work.vote[0, 1] += 1
    held(job).profiles[customer] = pack(job.plan, work, np.arange(1))[0].tobytes()
    assert {"the model's total is not what the profiles say", "the model's square is not what the profiles say"} == whats(job)


def test_a_profile_in_another_segment_with_a_right_checksum_differs_from_the_members(job: Job) -> None:
    customer, profile = one_of(job)
    work = opened(job.plan, [profile])
    work.head[0, SEGMENT] = 1
    held(job).profiles[customer] = pack(job.plan, work, np.arange(1))[0].tobytes()
    assert {"the model's members is not what the profiles say"} == whats(job)


def test_a_profile_taken_away_is_missed(job: Job) -> None:
    del held(job).profiles[one_of(job)[0]]
    assert ROBBED == whats(job)


def test_a_profile_that_was_added_is_too_many(job: Job) -> None:
    held(job).profiles[b"somebody"] = one_of(job)[1]
    assert ROBBED == whats(job)


def test_a_profile_that_was_never_judged_is_named_once_the_sweep_is_over(job: Job) -> None:
    fresh = Job(first_fit=None)
    fresh.send(shop(20, 3))
    fresh.settle(fresh.worker())
    profile = next(iter(fresh.profiles().values()))
    held(job).profiles[b"somebody"] = profile
    found = Finding(1, "the sweep is over, but it has not been judged by the adopted model", "somebody")
    assert [found] == job.check().findings
    data = unpack_state(held(job).state)
    held(job).state = pack_state(replace(data, cursor="0"))
    assert job.check().clean


def test_another_feature_version_is_named(job: Job) -> None:
    shelf = ModelShelf(job.store, job.reader, "segments")
    report = check(job.store, job.partitions, job.plan, "another", shelf.get, lambda _: None)
    assert [f"its feature version is {job.declaration.version}, the declaration's is another"] * 4 == [f.what for f in report.findings]
    assert not report.clean


def test_profiles_of_another_feature_version_are_named(job: Job) -> None:
    other = job.plan._replace(tag=job.plan.tag ^ 1)
    shelf = ModelShelf(job.store, job.reader, "segments")
    report = check(job.store, job.partitions, other, job.declaration.version, shelf.get, lambda _: None)
    assert 30 == sum(finding.what == "its profile is of another feature version" for finding in report.findings)


def test_no_more_are_named_than_can_be_read(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "NAMED_MAX", 2)
    for customer, profile in held(job).profiles.items():
        held(job).profiles[customer] = profile[:-1]
    assert 2 == sum(finding.customer is not None for finding in job.check().findings)


def test_partitions_without_events_and_without_a_model_are_clean() -> None:
    assert Job().check().clean
    job = Job(first_fit=None)
    job.send(shop(50, 5))
    job.settle(job.worker())
    assert (True, 5, 0) == ((report := job.check()).clean, report.customers, report.votes)


class Moving(FakeStateStore):
    """A store whose partition 2 is another one each time it is looked at, for a while."""

    moves = 0

    def read(self, partitions: Sequence[int]) -> list[PartitionState]:
        found = super().read(partitions)
        if 2 in partitions and self.moves:
            self.moves -= 1
            return [replace(state, commit_id=f"moved {self.moves}") for state in found]
        return found


@pytest.mark.parametrize(("moves", "busy"), [(3, []), (1000, [2])])
def test_a_partition_that_changes_meanwhile_is_read_again_a_few_times(job: Job, moves: int, busy: list[int]) -> None:
    store = Moving(job.redis, job.run, "shop")
    store.moves = moves
    shelf = ModelShelf(job.store, job.reader, "segments")
    report = check(store, job.partitions, job.plan, job.declaration.version, shelf.get, lambda _: None)
    assert busy == report.busy
    assert report.clean == (not busy)


class TwiceOver(FakeStateStore):
    """Gives each profile twice, as a walk may."""

    def scan(self, partition: int, cursor: int, count: int, commit_id: str | None = None) -> tuple[int, Packed]:
        return (0 if cursor else 1), super().scan(partition, 0, count, commit_id)[1]


def test_a_customer_whom_the_walk_meets_twice_counts_once(job: Job) -> None:
    shelf = ModelShelf(job.store, job.reader, "segments")
    report = check(TwiceOver(job.redis, job.run, "shop"), job.partitions, job.plan, job.declaration.version, shelf.get, lambda _: None)
    assert (True, 30) == (report.clean, report.customers)


def test_retired_segments_have_no_sums(job: Job) -> None:
    """A version's sums are of the segments in use."""
    shelf = ModelShelf(job.store, job.reader, "segments")
    made = shelf.get(1)
    gone = replace(
        made, segments=(replace(made.segments[0], number=0, retired=True), *made.segments), centroids=made.centroids[[0, 0, 1, 2]]
    )
    report = check(job.store, job.partitions, job.plan, job.declaration.version, lambda _: gone, lambda _: None)
    assert report.clean
