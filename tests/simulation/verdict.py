"""What a schedule is held to once it is at rest: nothing lost, nothing twice, everything as the log and the journal say."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from streamer.app import journal
from streamer.app.changes import EXISTING, EXITED, RECONCILE
from streamer.app.letters import source_partition
from streamer.app.merging import SOURCE
from streamer.app.models import ModelShelf
from streamer.core.columns import read_only
from streamer.core.model import NEW, segment_id_of
from streamer.core.partition import unpack_state
from streamer.core.ports import Topic
from streamer.core.profile import FIRST_CODE, MODEL, NEW_SEGMENT, NO_SEGMENT, SEGMENT, VERSION, unpack
from tests.fakes.job import APP, INPUT, NAME, headers, intake_of, schema_id
from tests.fakes.state_store import joined_with_bounds
from tests.simulation.oracle import Replay, Rules, Said, plain
from tests.simulation.profiles import EVERYTHING
from tests.simulation.world import World

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from streamer.core.partition import PartitionData
    from streamer.core.ports import LogRecord
    from tests.fakes.broker import FakePartitionLog
    from tests.fakes.job import Job
    from tests.simulation.oracle import Expected


class Violated(AssertionError):  # noqa: N818  # says what happened
    """A schedule that does not come to what it must."""


def hold(seed: int) -> World:
    """Run a schedule and compare; a failure says how to repeat it."""
    world = World(seed, profile=EVERYTHING)
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
    tombstones: list[bytes]
    sent: list[tuple[bytes, bytes]]


def judge(job: Job) -> None:
    """Compare a job at rest with its replay; where the log was cut short, what subscribers know with what Redis holds.

    Raises:
        Violated: names the partition and what differs.

    """
    topics = {topic: job.broker.topics[name] for topic, name in job.topics(job.run).items()}
    for partition, changes in enumerate(topics[Topic.CHANGES]):
        told_again(partition, _changes(changes), job)
    if any(log.first for log in job.broker.topics[INPUT]):
        for partition, changes in enumerate(topics[Topic.CHANGES]):
            agree(partition, [plain(record.value) for record in _changes(changes)], job)
    else:
        _replayed(job, topics)
    _in_force(job)
    unforgotten(job)
    if not job.check().clean:
        message = f"sums and profiles disagree: {job.check().findings}"
        raise Violated(message)


def _in_force(job: Job) -> None:
    """Hold every partition to the version that was promoted last, and every customer to have been judged by it."""
    promotion = job.on_topic().promotion
    if promotion is None:
        return
    _, work = job.work()
    found = {data.model for data in job.data()}, set(work.head[:, MODEL].tolist())
    if any(models - {promotion.version.version} for models in found):
        message = f"version {promotion.version.version} is promoted, partitions and customers are judged by {found}"
        raise Violated(message)


def first_told(told: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out what is told again, as it may be without transactions.

    Raises:
        Violated: it says something else than the first time.

    """
    first: dict[str, dict[str, Any]] = {}
    for change in told:
        if first.setdefault(change["change_id"], change) != change:
            message = f"{change['customer_id']} was told otherwise the second time"
            raise Violated(message)
    return [*first.values()]


def _replayed(job: Job, topics: Mapping[Topic, list[FakePartitionLog]]) -> None:
    shelf = ModelShelf(job.store, job.reader, NAME)
    rules = Rules(job.declaration, job.plan, intake_of(job.declared), shelf, job.writer(), events_schema=schema_id("behaviour_event"))
    sent = sent_on([record for log in job.broker.topics[INPUT] for record in log.committed()], job.partitions)
    for partition in range(job.partitions):
        log = job.broker.topics[INPUT][partition]
        said = Said(log.records, log.high, journal.read(topics[Topic.JOURNAL][partition].committed()))
        letters = [record for record in job.records(Topic.DEAD_LETTERS) if source_partition(record.headers) == partition]
        found = Found(
            [change for change in map(_plain, _changes(topics[Topic.CHANGES][partition])) if change["status"] != EXISTING],
            job.redis.namespaces[job.run, APP].partitions[partition].profiles,
            job.data()[partition],
            [source_offset(headers(letter)) for letter in letters],
            [record.key for record in topics[Topic.CHANGES][partition].committed() if record.value is None and record.key is not None],
            sent[partition],
        )
        expected = Replay(rules, partition).run(said)
        if not job.settings.get("exactly_once", True):
            letters, sent_once = [*dict.fromkeys(found.letters)], [*dict.fromkeys(found.sent)]
            found = found._replace(told=first_told(found.told), letters=letters, sent=sent_once)
            expected = expected._replace(sent=[*dict.fromkeys(expected.sent)])
        compare(partition, expected, found)


def sent_on(records: Iterable[LogRecord], partitions: int) -> list[list[tuple[bytes, bytes]]]:
    """Give what each partition's owners sent on because of merges, among the records of the input."""
    found: list[list[tuple[bytes, bytes]]] = [[] for _ in range(partitions)]
    for record in records:
        source = headers(record).get(SOURCE)
        if source is not None:
            found[int(source)].append((record.key or b"", record.value or b""))
    return found


def unforgotten(job: Job) -> None:
    """Search all that Redis holds for who was erased.

    Raises:
        Violated: somebody is named.

    """
    for namespace in job.redis.namespaces.values():
        for partition, held in namespace.partitions.items():
            texts = [
                _without_digests(held.state),
                held.outbox,
                held.erased,
                held.redirects,
                held.attempts,
                *held.profiles,
                *held.profiles.values(),
            ]
            left = [customer for customer in job.erased if any(customer.encode() in text for text in texts)]
            if left:
                message = f"partition {partition}: Redis still names {', '.join(left)}, who was erased"
                raise Violated(message)


def _without_digests(state: bytes) -> bytes:
    """Leave the digests out of a packed state: c022 is an id here, and four hexadecimal digits there."""
    if not state:
        return state
    data = unpack_state(state)
    for digest in (data.erased_digest, data.redirects_digest, data.erased_key):
        state = state.replace(digest.encode(), b"")
    return state


def _changes(log: FakePartitionLog) -> list[LogRecord]:
    """Give the changes of a partition, without tombstones."""
    return [record for record in log.committed() if record.value is not None]


def told_again(partition: int, records: Sequence[LogRecord], job: Job) -> None:
    """Hold what was told on demand to what was told before, and the latest request to have been met.

    Raises:
        Violated: it says something else, or leaves somebody out.

    """
    request, ends = job.asked
    latest: dict[str, tuple[Any, ...]] = {}
    since: set[str] = set()
    for record in records:
        change = _plain(record)
        said = change["change_id"], change["version"], change["segment_id"]
        if change["status"] != EXISTING:
            latest[change["customer_id"]] = said
        elif latest.get(change["customer_id"]) != said:
            message = f"partition {partition}: {change['customer_id']} was told again of something else than before"
            raise Violated(message)
        if request and record.offset >= ends[partition]:
            since.add(change["customer_id"])
    if not request or job.store.announced(RECONCILE) != request.encode():
        return  # nobody asked, or Redis has forgotten it
    data = job.data()[partition]
    left_out = members(partition, job).keys() - since
    if data.reconcile != request or data.reconciling or left_out:
        message = f"partition {partition}: request {request} is not met: {len(left_out)} of its customers were left out"
        raise Violated(message)


def members(partition: int, job: Job) -> dict[str, tuple[int, str]]:
    """Give the version and the segment of each customer of a partition who is in one, as Redis has them."""
    profiles = job.redis.namespaces[job.run, APP].partitions[partition].profiles
    values, bounds = joined_with_bounds(profiles.values())
    work = unpack(job.plan, read_only(values), bounds, np.zeros(len(profiles), np.int64))
    heads = zip(profiles, work.head[:, VERSION].tolist(), work.head[:, SEGMENT].tolist(), strict=True)
    return {
        customer.decode(): (version, NEW if segment == NEW_SEGMENT else segment_id_of(segment - FIRST_CODE))
        for customer, version, segment in heads
        if segment != NO_SEGMENT
    }


def agree(partition: int, told: Sequence[Mapping[str, Any]], job: Job) -> None:
    """Hold what subscribers know of a partition to what Redis holds of it.

    Raises:
        Violated: somebody is elsewhere, or something was told twice.

    """
    changes = [change for change in told if change["status"] != EXISTING]
    _twice(partition, [change["change_id"] for change in changes], "change")
    versions_grow(partition, changes)
    known = {change["customer_id"]: change for change in changes}
    table = {customer: (change["version"], change["segment_id"]) for customer, change in known.items() if change["status"] != EXITED}
    kept, data = members(partition, job), job.data()[partition]
    if table != kept or data.strays or data.rebuilding or not data.swept:
        differing = sum(table.get(customer) != kept.get(customer) for customer in table.keys() | kept.keys())
        message = f"partition {partition}: {differing} customers are not where subscribers believe them to be"
        raise Violated(message)


def _plain(record: LogRecord) -> dict[str, Any]:
    return plain(record.value)


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
    if came.tombstones != expected.tombstones:
        message = f"partition {partition}: {len(came.tombstones)} tombstones, not {len(expected.tombstones)}, or of others"
        raise Violated(message)
    if came.profiles != expected.profiles:
        differing = sum(came.profiles.get(c) != expected.profiles.get(c) for c in came.profiles.keys() | expected.profiles.keys())
        message = f"partition {partition}: {differing} of {len(expected.profiles)} profiles differ"
        raise Violated(message)
    if sorted(came.sent) != sorted(expected.sent):
        message = f"partition {partition}: {len(came.sent)} events were sent on, not {len(expected.sent)}, or others"
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
    plain_names = (
        "watermark",
        "began",
        "model",
        "epoch",
        "as_of",
        "at_offset",
        "ticked",
        "erased_key",
        "erased_digest",
        "redirects_digest",
    )
    same = all(getattr(found, name) == getattr(expected, name) for name in plain_names)
    same &= (found.learned is None) == (expected.learned is None)
    if found.learned is not None and expected.learned is not None:
        mine, theirs = found.learned, expected.learned
        same &= all(np.array_equal(getattr(mine, name), getattr(theirs, name)) for name in ("count", "total", "square", "members"))
    if not same or found.rebuilding or not found.swept:
        message = f"partition {partition}: clock, model or sums differ"
        raise Violated(message)
