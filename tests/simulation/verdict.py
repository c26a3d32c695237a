"""What a schedule is held to once it is at rest: nothing lost, nothing twice, everything as the log and the journal say."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from streamer.app import journal
from streamer.app.letters import source_partition
from streamer.app.models import ModelShelf
from streamer.core.ports import Topic
from tests.fakes.job import APP, INPUT, NAME, headers, intake_of
from tests.simulation.oracle import Replay, Rules, Said, plain
from tests.simulation.world import World

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from streamer.core.partition import PartitionData
    from tests.fakes.job import Job
    from tests.simulation.oracle import Expected


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


class Found(NamedTuple):
    """What a partition came to, as its subscribers and Redis have it; `letters` are the offsets that dead letters speak of, each time."""

    told: list[dict[str, Any]]
    profiles: Mapping[bytes, bytes]
    data: PartitionData
    letters: list[int]


def judge(job: Job) -> None:
    """Compare a job at rest with its replay.

    Raises:
        Violated: names the partition and what differs.

    """
    rules = Rules(job.declaration, job.plan, intake_of(job.declared), ModelShelf(job.store, job.reader, NAME), job.writer())
    topics = {topic: job.broker.topics[name] for topic, name in job.topics(job.run).items()}
    for partition in range(job.partitions):
        log = job.broker.topics[INPUT][partition]
        said = Said(log.records, log.high, journal.read(topics[Topic.JOURNAL][partition].committed()))
        letters = [record for record in job.records(Topic.DEAD_LETTERS) if source_partition(record.headers) == partition]
        found = Found(
            [plain(record.value) for record in topics[Topic.CHANGES][partition].committed()],
            job.redis.namespaces[job.run, APP].partitions[partition].profiles,
            job.data()[partition],
            [source_offset(headers(letter)) for letter in letters],
        )
        compare(partition, Replay(rules, partition).run(said), found)
    if not job.check().clean:
        message = f"sums and profiles disagree: {job.check().findings}"
        raise Violated(message)


def compare(partition: int, expected: Expected, came: Found) -> None:
    """Compare what a partition came to with what it must.

    Raises:
        Violated: says what differs.

    """
    _twice(partition, [change["change_id"] for change in came.told], "change")
    versions_grow(partition, came.told)
    wanted = {change["change_id"]: change for change in expected.changes}
    found = {change["change_id"]: change for change in came.told}
    if wanted != found:
        lost, invented = wanted.keys() - found.keys(), found.keys() - wanted.keys()
        other = [change for change in wanted.keys() & found.keys() if wanted[change] != found[change]]
        counts = f"{len(lost)} lost, {len(invented)} invented, {len(other)} told otherwise"
        message = f"partition {partition}: of {len(wanted)} changes {counts}"
        raise Violated(message)
    if came.profiles != expected.profiles:
        differing = sum(came.profiles.get(c) != expected.profiles.get(c) for c in came.profiles.keys() | expected.profiles.keys())
        message = f"partition {partition}: {differing} of {len(expected.profiles)} profiles differ"
        raise Violated(message)
    _state(partition, came.data, expected.data)
    if sorted(came.letters) != expected.letters:
        counts = f"{len(came.letters)} dead letters, {len(set(came.letters))} of them different"
        message = f"partition {partition}: {len(expected.letters)} records refused, {counts}"
        raise Violated(message)


def source_offset(headers: Mapping[str, bytes | None]) -> int:
    """Read which offset a dead letter is of."""
    offset: int = json.loads(headers["dlq.source"] or b"")["offset"]
    return offset


def _twice(partition: int, told: list[Any], what: str) -> None:
    repeated = [one for one, count in Counter(told).items() if count > 1]
    if repeated:
        message = f"partition {partition}: {len(repeated)} {what}s told twice"
        raise Violated(message)


def versions_grow(partition: int, told: Iterable[Mapping[str, Any]]) -> None:
    """Raise `Violated` where a customer's versions do not grow strictly."""
    latest: dict[str, int] = {}
    for change in told:
        if change["version"] <= latest.get(change["customer_id"], -1):
            message = f"partition {partition}: versions of {change['customer_id']} do not grow"
            raise Violated(message)
        latest[change["customer_id"]] = change["version"]


def _state(partition: int, found: PartitionData, expected: PartitionData) -> None:
    plain_names = ("watermark", "began", "model", "epoch", "as_of", "at_offset", "ticked")
    same = all(getattr(found, name) == getattr(expected, name) for name in plain_names)
    same &= (found.learned is None) == (expected.learned is None)
    if found.learned is not None and expected.learned is not None:
        mine, theirs = found.learned, expected.learned
        same &= all(np.array_equal(getattr(mine, name), getattr(theirs, name)) for name in ("count", "total", "square", "members"))
    if not same or found.rebuilding or not found.swept:
        message = f"partition {partition}: clock, model or sums differ"
        raise Violated(message)
