"""What is known of one customer: profile, features, segment, distances.

Law: by default everything is as of the profile's clock, the event time that the customer was last judged as of: that of the latest event,
or of a sweep after it. As of a later time, features are what the same events come to then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamer.app.looking import data_of, partition_counts, same_features
from streamer.core.columns import read_only
from streamer.core.declaration import DAY_MS, HOUR_MS, Lifetime
from streamer.core.errors import Corrupt, Misconfigured
from streamer.core.fold import CENTROID_ONE, VOTE_ONE
from streamer.core.merging import Redirects, target
from streamer.core.model import NEW, features_as_of, votes
from streamer.core.partitioning import partition_of
from streamer.core.profile import (
    ABSENT,
    CLOCK,
    CORRUPT,
    EPOCH,
    FIRST_CODE,
    HELD,
    LAST,
    MODEL,
    NEVER,
    NEW_SEGMENT,
    NO_SEGMENT,
    OTHER_VERSION,
    SEGMENT,
    SINCE,
    VERSION,
    unpack,
)

if TYPE_CHECKING:
    from streamer.app.looking import Sources
    from streamer.core.columns import F64
    from streamer.core.declaration import Declaration
    from streamer.core.model import ModelVersion
    from streamer.core.partition import PartitionData
    from streamer.core.profile import Tiles, Work


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """A measure over all of a customer's events: `value` is a time in milliseconds where `is_time`, None where unknown."""

    name: str
    is_time: bool
    value: int | None


@dataclass(frozen=True, slots=True)
class Tile:
    """The measures of a day or an hour that begins at `begin_ms`; those that are not kept there are left out."""

    begin_ms: int
    measures: dict[str, int]


@dataclass(frozen=True, slots=True)
class FeatureLook:
    """A feature; `z` is what the model makes of it, None without a model."""

    name: str
    value: float
    z: float | None


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of eligibility."""

    measure: str
    at_least: int
    value: int


@dataclass(frozen=True, slots=True)
class Distance:
    """How far a customer is from a segment's centroid, in standard deviations."""

    segment_id: str
    name: str
    distance: float


@dataclass(frozen=True, slots=True)
class Customer:
    """One customer.

    `partition` is where the profile is, `partition_expected` where murmur2 puts the customer. `vote` (by feature, standard deviations) is
    what the customer has contributed to the segment `vote_for`. `distances`, the nearest first, are those of `distances_of`: the features
    as shown, or the vote where these are as of the clock. `model` and `epoch` are those the customer was last judged by, `partition_model`
    and `partition_epoch` those that the distances are to.
    """

    customer_id: str
    partition: int
    partition_expected: int
    clock_ms: int | None
    last_event_ms: int | None
    as_of_ms: int
    as_of: str
    change_version: int
    model: int
    epoch: int
    partition_model: int
    partition_epoch: int
    segment_id: str | None
    segment_name: str | None
    since_ms: int | None
    eligible: bool
    rules: tuple[Rule, ...]
    lifetimes: tuple[Lifetimes, ...]
    days: tuple[Tile, ...]
    hours: tuple[Tile, ...]
    distinct: dict[str, int]
    events_remembered: int
    features: tuple[FeatureLook, ...]
    vote_for: str | None
    vote: dict[str, float] | None
    distances_of: str
    distances: tuple[Distance, ...]


def find_customer(sources: Sources, customer_id: str, now_ms: int | None = None) -> Customer | None:
    """Find a customer's profile, wherever it is; None where there is none. Features are as of `now_ms`, or of the profile's clock.

    Raises:
        Misconfigured: there is no topic of events, or profiles are of another feature version.
        Corrupt: the profile is damaged.

    """
    _, count = partition_counts(sources)
    if count is None:
        message = f"there is no topic {sources.place.events}: make it, or let `streamer ingest` or `streamer run` with `topics.create`"
        raise Misconfigured(message)
    key = customer_id.encode()
    expected = partition_of(key, count)
    asked = np.frombuffer(key, np.uint8), np.array([0, len(key)], np.int64)
    order = [expected, *(p for p in range(count) if p != expected)]  # another partitioner may have put the customer elsewhere
    for partition, packed in zip(order, sources.store.load(order, [asked] * count), strict=True):
        if not len(packed.values):
            continue
        data = data_of(partition, sources.store.read([partition])[0])
        same_features(data, sources.declaration)
        work = unpack(sources.plan, read_only(packed.values), packed.bounds, np.zeros(1, np.int64))
        _readable(work, customer_id, partition)
        return customer_of(sources, work, data, Where(customer_id, partition, expected), now_ms)
    return None


def merged_into(sources: Sources, customer_id: str) -> tuple[str, int] | None:
    """Find whom a customer was merged into whose events are sent on still, and until which event time (ms); None where nobody is known."""
    _, count = partition_counts(sources)
    key = customer_id.encode()
    to = Redirects.unpack(sources.store.redirects(partition_of(key, count))).to if count else {}
    if key not in to:
        return None
    until = to[key].until
    return (target(to, key, until - 1) or to[key].customer).decode(), until


@dataclass(frozen=True, slots=True)
class Where:
    """Who, and in which partition."""

    customer_id: str
    partition: int
    expected: int


def _readable(work: Work, customer_id: str, partition: int) -> None:
    found = int(work.found[0])
    if found in (CORRUPT, ABSENT):
        message = f"the profile of customer {customer_id} in partition {partition} is damaged or was altered: run `streamer check`"
        raise Corrupt(message)
    if found == OTHER_VERSION:
        message = f"the profile of customer {customer_id} is of another feature version: look with the workers' `features.declaration`"
        raise Misconfigured(message)


def customer_of(sources: Sources, work: Work, data: PartitionData | None, where: Where, now_ms: int | None) -> Customer:
    """Describe the one customer of `work`."""
    declaration, head = sources.declaration, work.head[0]
    clock = int(head[CLOCK])
    as_of = now_ms if now_ms is not None else max(clock, 0)
    version = sources.model(data.model) if data is not None and data.model else None
    judged = sources.model(int(head[MODEL])) if head[MODEL] else None
    values = features_as_of(sources.plan, work, as_of)
    vector = None if version is None else votes(version.transforms, version.scaling, values)[0] / VOTE_ONE
    held = work.vote[0] / VOTE_ONE if head[HELD] and judged is not None else None
    of_vote = held is not None and now_ms is None and version is judged
    code = int(head[SEGMENT])
    segment_id, name = (None, None) if code == NO_SEGMENT else (NEW, NEW) if code == NEW_SEGMENT else _named(code - FIRST_CODE, judged)
    rules = _rules(declaration, version, work)
    return Customer(
        customer_id=where.customer_id,
        partition=where.partition,
        partition_expected=where.expected,
        clock_ms=None if clock == NEVER else clock,
        last_event_ms=None if head[LAST] == NEVER else int(head[LAST]),
        as_of_ms=as_of,
        as_of="clock" if now_ms is None else "now",
        change_version=int(head[VERSION]),
        model=int(head[MODEL]),
        epoch=int(head[EPOCH]),
        partition_model=0 if data is None else data.model,
        partition_epoch=0 if data is None else data.epoch,
        segment_id=segment_id,
        segment_name=name,
        since_ms=int(head[SINCE]) if code != NO_SEGMENT else None,
        eligible=all(rule.value >= rule.at_least for rule in rules),
        rules=rules,
        lifetimes=_lifetimes(declaration, work),
        days=_tiles(declaration, work.days, DAY_MS),
        hours=_tiles(declaration, work.hours, HOUR_MS),
        distinct={measure.name: int(np.count_nonzero(work.seen[0, i] >= 0)) for i, measure in enumerate(declaration.distincts)},
        events_remembered=int(work.id_count[0]),
        features=tuple(
            FeatureLook(feature.name, float(values[0, f]), None if vector is None else float(vector[f]))
            for f, feature in enumerate(declaration.features)
        ),
        vote_for=None if held is None or judged is None else judged.active[int(head[HELD]) - 1].segment_id,
        vote=None if held is None or judged is None else dict(zip(judged.features, held.tolist(), strict=True)),
        distances_of="vote" if of_vote else "features",
        distances=_distances(data, version, held if of_vote else vector),
    )


def _named(number: int, version: ModelVersion | None) -> tuple[str, str]:
    segment_id = f"seg_{number:04d}"
    known = {} if version is None else {segment.number: segment.name for segment in version.segments}
    return segment_id, known.get(number, segment_id)


def _rules(declaration: Declaration, version: ModelVersion | None, work: Work) -> tuple[Rule, ...]:
    place = {measure.name: i for i, measure in enumerate(declaration.lifetimes)}
    rules = declaration.eligibility if version is None else version.eligibility
    return tuple(Rule(measure, least, int(work.life[0, place[measure]])) for measure, least in rules)


def _lifetimes(declaration: Declaration, work: Work) -> tuple[Lifetimes, ...]:
    found = []
    for measure, value in zip(declaration.lifetimes, work.life[0].tolist(), strict=True):
        found.append(Lifetimes(measure.name, measure.lifetime in (Lifetime.FIRST, Lifetime.LAST), None if value == NEVER else value))
    return tuple(found)


def _tiles(declaration: Declaration, tiles: Tiles, length_ms: int) -> tuple[Tile, ...]:
    """List a customer's tiles, the latest first."""
    begin, count = int(tiles.start[0]), int(tiles.count[0])
    found = []
    for row in range(begin + count - 1, begin - 1, -1):
        mask = int(tiles.mask[row])
        measures = {m.name: int(tiles.value[row, i]) for i, m in enumerate(declaration.tiles) if mask >> i & 1}
        found.append(Tile(int(tiles.index[row]) * length_ms, measures))
    return tuple(found)


def _distances(data: PartitionData | None, version: ModelVersion | None, vector: F64 | None) -> tuple[Distance, ...]:
    if data is None or version is None or data.centroids is None or vector is None:
        return ()
    far = np.sqrt(((data.centroids / CENTROID_ONE - vector) ** 2).sum(axis=1))
    order = np.argsort(far, kind="stable")
    return tuple(Distance(version.active[k].segment_id, version.active[k].name, float(far[k])) for k in order)
