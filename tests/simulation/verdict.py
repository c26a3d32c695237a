"""What a schedule is held to once it is at rest: nothing lost, nothing twice, everything as the log and the journal say."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from streamer.app.letters import source_partition
from streamer.core.ports import Topic
from tests.fakes.job import APP, headers
from tests.simulation.oracle import Replay, plain
from tests.simulation.world import World

if TYPE_CHECKING:
    from streamer.core.partition import PartitionData
    from tests.fakes.job import Job


class Violated(AssertionError):  # noqa: N818  # says what happened
    """A schedule that does not come to what it must."""


def hold(seed: int) -> World:
    """Run a schedule and compare; a failure says how to repeat it."""
    world = World(seed)
    try:
        world.run()
        judge(world.job)
    except BaseException as error:
        error.add_note(f"repeat it with: python -m tests.simulation {seed}")
        raise
    return world


def judge(job: Job) -> None:
    """Compare a job at rest with its replay.

    Raises:
        Violated: names the partition and what differs.

    """
    for partition in range(job.partitions):
        expected = Replay(job, partition).run()
        told = [plain(record.value) for record in job.broker.topics[job.topics(job.run)[Topic.CHANGES]][partition].committed()]
        _twice(partition, [change["change_id"] for change in told], "change")
        _versions(partition, told)
        wanted = {change["change_id"]: change for change in expected.changes}
        found = {change["change_id"]: change for change in told}
        if wanted != found:
            lost, invented = wanted.keys() - found.keys(), found.keys() - wanted.keys()
            other = [change for change in wanted.keys() & found.keys() if wanted[change] != found[change]]
            counts = f"{len(lost)} lost, {len(invented)} invented, {len(other)} told otherwise"
            message = f"partition {partition}: of {len(wanted)} changes {counts}"
            raise Violated(message)
        held = job.redis.namespaces[job.run, APP].partitions[partition].profiles
        if held != expected.profiles:
            differing = sum(held.get(c) != expected.profiles.get(c) for c in held.keys() | expected.profiles.keys())
            message = f"partition {partition}: {differing} of {len(expected.profiles)} profiles differ"
            raise Violated(message)
        _state(partition, job.data()[partition], expected.data)
        _letters(job, partition, expected.letters)
    if not job.check().clean:
        message = f"sums and profiles disagree: {job.check().findings}"
        raise Violated(message)


def _twice(partition: int, told: list[Any], what: str) -> None:
    repeated = [one for one, count in Counter(told).items() if count > 1]
    if repeated:
        message = f"partition {partition}: {len(repeated)} {what}s told twice"
        raise Violated(message)


def _versions(partition: int, told: list[dict[str, Any]]) -> None:
    latest: dict[str, int] = {}
    for change in told:
        if change["version"] <= latest.get(change["customer_id"], -1):
            message = f"partition {partition}: versions of {change['customer_id']} do not grow"
            raise Violated(message)
        latest[change["customer_id"]] = change["version"]


def _state(partition: int, found: PartitionData, expected: PartitionData) -> None:
    plain_names = ("watermark", "began", "model", "epoch", "as_of", "at_offset")
    same = all(getattr(found, name) == getattr(expected, name) for name in plain_names)
    same &= (found.learned is None) == (expected.learned is None)
    if found.learned is not None and expected.learned is not None:
        mine, theirs = found.learned, expected.learned
        same &= all(np.array_equal(getattr(mine, name), getattr(theirs, name)) for name in ("count", "total", "square", "members"))
    if not same or found.rebuilding or not found.swept:
        message = f"partition {partition}: clock, model or sums differ"
        raise Violated(message)


def _letters(job: Job, partition: int, expected: list[int]) -> None:
    letters = [record for record in job.records(Topic.DEAD_LETTERS) if source_partition(record.headers) == partition]
    found = sorted(int(headers(record)["dlq.source"].split(b'"offset": ')[1].split(b",")[0]) for record in letters)  # type: ignore[union-attr]
    if found != expected:
        message = f"partition {partition}: {len(expected)} records refused, {len(found)} dead letters, {len(set(found))} of them different"
        raise Violated(message)
