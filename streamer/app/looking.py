"""What can be seen of a running job from outside: partitions, segments, a customer.

Laws: looking writes nothing, claims nothing and joins no group. What is shown is computed by the code that judges: a customer's features
are those of the fold, and segments are measured from the centroids that customers are judged by. Times are milliseconds since 1970, UTC.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from streamer.adapters.avro import codec, wire
from streamer.app.changes import CHANGE, RECONCILE
from streamer.core.declaration import DAY_MS, Transform
from streamer.core.errors import Corrupt, Misconfigured
from streamer.core.fold import CENTROID_ONE
from streamer.core.model import NEW
from streamer.core.partition import unpack_state
from streamer.core.profile import NEVER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from streamer.core.columns import F64
    from streamer.core.declaration import Declaration
    from streamer.core.model import ModelVersion
    from streamer.core.partition import PartitionData
    from streamer.core.plan import Plan
    from streamer.core.ports import LogRecord, PartitionState, StateStore

APART_MAX = 4
MARKS_MAX = 8  # offsets that are looked at, whether they hold records
PARTITIONS = "partitions"  # the name under which the input's partition count is recorded


class Log(Protocol):
    """Looks at topics, without a group."""

    def partitions(self, topic: str) -> int | None:
        """Count a topic's partitions; None where there is no such topic."""

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Read a partition's first offset and high watermark."""

    def between(self, topic: str, partition: int, first: int, end: int) -> list[LogRecord]:
        """Read the committed records from `first` to before `end`."""


@dataclass(frozen=True, slots=True)
class Place:
    """What is looked at, by the names of the configuration."""

    app: str
    namespace: str
    events: str
    changes: str


@dataclass(frozen=True, slots=True)
class Needs:
    """What the first model waits for; where `enabled` is false nobody fits one."""

    enabled: bool
    customers_min: int
    history_days_min: int


@dataclass(frozen=True, slots=True)
class Sources:
    """Where facts come from."""

    place: Place
    store: StateStore
    log: Log
    declaration: Declaration
    plan: Plan
    model: Callable[[int], ModelVersion]
    needs: Needs


@dataclass(frozen=True, slots=True)
class PartitionFacts:
    """What was read of one partition. `data` is None before its first commit."""

    partition: int
    owned: bool
    next_offset: int
    first_offset: int
    end_offset: int
    customers: int
    data: PartitionData | None


@dataclass(frozen=True, slots=True)
class Facts:
    """What was read of all of them: `partitions` is None where the topic is missing; `recorded` is their count at the first start."""

    place: Place
    needs: Needs
    feature_version: str
    recorded: int | None
    partitions: tuple[PartitionFacts, ...] | None
    versions: Mapping[int, ModelVersion]
    request: str = ""  # the latest to tell everybody's segment again

    @property
    def begun(self) -> list[PartitionData]:
        """Give what is known of the partitions that have committed."""
        return [p.data for p in self.partitions or () if p.data is not None]

    @property
    def customers(self) -> int:
        """Count the customers."""
        return sum(p.customers for p in self.partitions or ())

    @property
    def latest(self) -> PartitionData | None:
        """Give the partition that has adopted the latest epoch; None where none has a model."""
        return max((data for data in self.begun if data.model), key=lambda data: data.epoch, default=None)


@dataclass(frozen=True, slots=True)
class PartitionLook:
    """One partition. `sweep` is `none` (no model), `running` or `done`; `rebuilding` while it is behind what was published.

    `reconcile` is `none` where nobody asked to be told everybody's segment again, `waiting`, `running` or `done`; `reconciled` counts the
    customers that it has come by. `judged` counts the customers whom the version that it has adopted has judged.
    """

    partition: int
    owned: bool
    next_offset: int
    end_offset: int
    lag_records: int
    watermark_ms: int | None
    model: int
    epoch: int
    sweep: str
    customers: int
    judged: int
    reconcile: str
    reconciled: int


@dataclass(frozen=True, slots=True)
class Apart:
    """A feature that sets a segment apart: its centroid in standard deviations, and the value that stands for."""

    feature: str
    z: float
    typical: float


@dataclass(frozen=True, slots=True)
class SegmentLook:
    """One segment; `share` is of the customers that have been judged."""

    segment_id: str
    name: str
    customers: int
    share: float
    apart: tuple[Apart, ...]


@dataclass(frozen=True, slots=True)
class Waiting:
    """How far the first model is; `customers` counts all that are known, of whom `customers_min` must be eligible."""

    customers: int
    customers_min: int
    history_days: float
    history_days_min: int


@dataclass(frozen=True, slots=True)
class ReconcileLook:
    """The latest request to tell everybody's segment again, and how far it is."""

    request: str
    partitions_done: int
    partitions: int
    customers: int

    @property
    def done(self) -> bool:
        """Tell whether every partition has done it."""
        return self.partitions_done == self.partitions


@dataclass(frozen=True, slots=True)
class AdoptionLook:
    """A version that is being adopted: partitions whose customers it has all judged, and customers that it has judged."""

    model: int
    partitions_done: int
    partitions: int
    judged: int
    customers: int


@dataclass(frozen=True, slots=True)
class Status:
    """The whole job. `state` is `no_topic`, `nothing`, `no_model` or `running`; `advice` says what to do, if anything."""

    state: str
    app: str
    namespace: str
    topic: str
    partitions: tuple[PartitionLook, ...]
    customers: int
    not_judged: int
    next_offset: int
    end_offset: int
    lag_records: int
    model: int
    epoch: int
    segments: tuple[SegmentLook, ...]
    waiting: Waiting | None
    adoption: AdoptionLook | None
    reconcile: ReconcileLook | None
    advice: tuple[str, ...]


def read_facts(sources: Sources) -> Facts:
    """Read all partitions' states.

    Raises:
        Unavailable: Redis or Kafka doesn't answer.
        Corrupt: a partition's state or a model version can't be read.

    """
    place, store = sources.place, sources.store
    recorded, count = partition_counts(sources)
    if count is None:
        return Facts(place, sources.needs, sources.declaration.version, recorded, None, {})
    numbers = range(count)
    states, customers = store.read(numbers), store.count(numbers)
    found = tuple(
        PartitionFacts(p, bool(state.owner), state.next_offset, *_bounds(sources, p, state.next_offset), known, data_of(p, state))
        for p, state, known in zip(numbers, states, customers, strict=True)
    )
    versions = {number: sources.model(number) for number in {p.data.model for p in found if p.data is not None and p.data.model}}
    request = (store.announced(RECONCILE) or b"").decode()
    return Facts(place, sources.needs, sources.declaration.version, recorded, found, versions, request)


def _bounds(sources: Sources, partition: int, position: int) -> tuple[int, int]:
    """Read where a partition of the input begins and ends; marks of transactions after the position are nothing that is left."""
    first, end = sources.log.bounds(sources.place.events, partition)
    few = first <= position < end <= position + MARKS_MAX
    return first, position if few and not sources.log.between(sources.place.events, partition, position, end) else end


def partition_counts(sources: Sources) -> tuple[int | None, int | None]:
    """Count the input's partitions: on record since the first start, and now; None where there is no record or no topic.

    Redis is asked first: whether it is there shows at once, and for Kafka it takes the whole time-out.

    Raises:
        Unavailable: Redis or Kafka doesn't answer.

    """
    packed = sources.store.announced(PARTITIONS)
    return None if packed is None else int(packed), sources.log.partitions(sources.place.events)


def data_of(partition: int, state: PartitionState) -> PartitionData | None:
    """Unpack a partition's state; None before its first commit.

    Raises:
        Corrupt: it is of another layout, or damaged.

    """
    if not state.commit_id:
        return None
    try:
        return unpack_state(state.state)
    except (ValueError, TypeError, KeyError) as error:
        message = f"the state of partition {partition} can't be read: {error}: look with the release that wrote it"
        raise Corrupt(message) from error


def status_of(facts: Facts) -> Status:
    """Sum up."""
    partitions = tuple(_partition(facts.request, one) for one in facts.partitions or ())
    latest = facts.latest
    segments = segments_of(facts)
    return Status(
        state=_state(facts),
        app=facts.place.app,
        namespace=facts.place.namespace,
        topic=facts.place.events,
        partitions=partitions,
        customers=facts.customers,
        not_judged=max(0, facts.customers - sum(segment.customers for segment in segments)),
        next_offset=sum(p.next_offset for p in partitions),
        end_offset=sum(p.end_offset for p in partitions),
        lag_records=sum(p.lag_records for p in partitions),
        model=0 if latest is None else latest.model,
        epoch=0 if latest is None else latest.epoch,
        segments=segments,
        waiting=None if latest is not None else _waiting(facts),
        adoption=_adoption_look(latest, partitions),
        reconcile=_reconcile_look(facts.request, partitions),
        advice=tuple(_advice(facts)),
    )


def _adoption_look(latest: PartitionData | None, partitions: tuple[PartitionLook, ...]) -> AdoptionLook | None:
    """Tell how far the latest version is with judging everybody; None where it has, or there is none."""
    if latest is None:
        return None
    judged = [min(p.judged, p.customers) if p.model == latest.model else 0 for p in partitions]
    done = [p.model == latest.model and (p.sweep != "running" or n == p.customers) for p, n in zip(partitions, judged, strict=True)]
    if all(done):
        return None
    return AdoptionLook(latest.model, sum(done), len(done), sum(judged), sum(p.customers for p in partitions))


def _reconcile_look(request: str, partitions: tuple[PartitionLook, ...]) -> ReconcileLook | None:
    if not request:
        return None
    done = sum(p.reconcile == "done" for p in partitions)
    return ReconcileLook(request, done, len(partitions), sum(p.reconciled for p in partitions))


def _reconcile(request: str, data: PartitionData | None) -> str:
    if data is not None and data.reconciling and request in {"", data.reconcile}:
        return "running"
    if not request:
        return "none"
    return "done" if data is not None and data.reconcile == request else "waiting"


def _sweep(data: PartitionData | None) -> str:
    if data is not None and data.rebuilding:
        return "rebuilding"
    return "none" if data is None or not data.model else "done" if data.swept else "running"


def _partition(request: str, facts: PartitionFacts) -> PartitionLook:
    data = facts.data
    reconcile = _reconcile(request, data)
    return PartitionLook(
        partition=facts.partition,
        owned=facts.owned,
        next_offset=facts.next_offset,
        end_offset=facts.end_offset,
        lag_records=max(0, facts.end_offset - max(facts.next_offset, facts.first_offset)),
        watermark_ms=None if data is None else _time(data.watermark),
        model=0 if data is None else data.model,
        epoch=0 if data is None else data.epoch,
        sweep=_sweep(data),
        customers=facts.customers,
        judged=0 if data is None or data.learned is None else int(data.learned.members.sum()),
        reconcile=reconcile,
        reconciled=data.reconciled if data is not None and reconcile in {"running", "done"} else 0,
    )


def _state(facts: Facts) -> str:
    if facts.partitions is None:
        return "no_topic"
    if not facts.begun:
        return "nothing"
    return "no_model" if facts.latest is None else "running"


def _waiting(facts: Facts) -> Waiting:
    latest = max((data.watermark for data in facts.begun if data.watermark != NEVER), default=0)
    began = min((data.began for data in facts.begun if data.began != -NEVER), default=latest)
    return Waiting(facts.customers, facts.needs.customers_min, max(0, latest - began) / DAY_MS, facts.needs.history_days_min)


def _advice(facts: Facts) -> Iterable[str]:
    place = facts.place
    if facts.partitions is None:
        yield f"There is no topic {place.events}: `streamer run` makes it, or send events with `streamer ingest FILE --mapping MAPPING`."
        return
    if facts.recorded is not None and facts.recorded != len(facts.partitions):
        yield (
            f"{place.events} has {len(facts.partitions)} partitions and had {facts.recorded} when this namespace began: "
            "customers have moved; begin in a new `app.namespace`."
        )
    waiting = sum(max(0, p.end_offset - p.first_offset) for p in facts.partitions)
    if not facts.begun:
        yield (
            f"Nothing is kept for the application {place.app} in the namespace {place.namespace}, and {waiting:,} events are waiting: "
            "start `streamer run`"
            + (
                ", and see that `app.name` and `app.namespace` are those of the workers."
                if waiting
                else " and send events with `streamer ingest FILE --mapping MAPPING`."
            )
        )
        return
    if any(data.feature_version != facts.feature_version for data in facts.begun):
        yield "Profiles are of another feature version than the declaration's: look with the workers' `features.declaration`."
    if not all(p.owned for p in facts.partitions):
        yield "Some partitions were never owned: start `streamer run`."
    if facts.latest is None:
        yield _first_model_advice(facts)


def _first_model_advice(facts: Facts) -> str:
    needs, so_far = facts.needs, _waiting(facts)
    if not needs.enabled:
        return "There is no model yet, and `model.first_fit.enabled` is false: publish a model version, or set it to true."
    return (
        f"There is no model yet. The first needs {needs.customers_min:,} eligible customers (known so far: {so_far.customers:,}) "
        f"and {needs.history_days_min} days of event time (so far: {so_far.history_days:.1f}): "
        "send more events, or lower `model.first_fit.customers_min` or `.history_days_min`."
    )


def segments_of(facts: Facts) -> tuple[SegmentLook, ...]:
    """Size the segments, the largest first, those with too little behind them last; none before the first model."""
    latest = facts.latest
    if latest is None:
        return ()
    sizes: Counter[int] = Counter()
    new = 0
    for data in facts.begun:
        if data.learned is None:
            continue
        members = data.learned.members.tolist()
        for segment, size in zip(facts.versions[data.model].active, members[:-1], strict=True):
            sizes[segment.number] += size
        new += members[-1]
    version = facts.versions[latest.model]
    whole = max(1, sum(sizes.values()) + new)
    names = {s.number: s for older in sorted(facts.versions) for s in facts.versions[older].active}
    places = {segment.number: k for k, segment in enumerate(version.active)}
    centroids = np.zeros((0, 0)) if latest.centroids is None else latest.centroids / CENTROID_ONE
    looks = [
        SegmentLook(
            segment.segment_id,
            segment.name,
            sizes[number],
            sizes[number] / whole,
            apart(version, centroids[places[number]]) if number in places else (),
        )
        for number, segment in names.items()
        if number in places or sizes[number]
    ]
    looks.sort(key=lambda look: (-look.customers, look.segment_id))
    return (*looks, SegmentLook(NEW, NEW, new, new / whole, ()))


def apart(version: ModelVersion, centroid: F64, most: int = APART_MAX) -> tuple[Apart, ...]:
    """Name the features in which a centroid (f,) differs most from the average customer."""
    order = np.argsort(-np.abs(centroid), kind="stable")
    chosen = [int(f) for f in order if version.scaling.weight[f] != 0.0][:most]
    values = typical(version, centroid)
    return tuple(Apart(version.features[f], float(centroid[f]), float(values[f])) for f in chosen)


def typical(version: ModelVersion, centroid: F64) -> F64:
    """Give the features (f,) that a place in standardised space stands for: scaled back, and `log1p` undone."""
    s = version.scaling
    weight = np.where(s.weight == 0.0, 1.0, s.weight)
    shaped = centroid / weight * s.scale + s.mean
    log = np.array([transform is Transform.LOG1P for transform in version.transforms])
    # What learning has moved beyond the clip is told as the clip: no customer's feature counts for more.
    return np.clip(np.where(log, np.copysign(np.expm1(np.abs(shaped)), shaped), shaped), s.low, s.high)


def readable(record: LogRecord) -> dict[str, Any] | None:
    """Decode a change; None for a tombstone.

    Raises:
        Corrupt: it can't be read.

    """
    if record.value is None:
        return None
    try:
        return codec.decode(CHANGE, record.value[wire.opening(record.value, record.headers).body :])
    except codec.BodyRefused as error:
        message = f"the change at offset {record.offset} can't be read: {error}"
        raise Corrupt(message) from error


@dataclass(frozen=True, slots=True)
class Recent:
    """The last changes of a customer, the latest first; the partition's offsets from `first` to before `end` were looked through.

    `complete` tells that nothing older is on the topic, or that as many were found as were asked for.
    """

    changes: tuple[dict[str, Any], ...]
    first: int
    end: int
    complete: bool


def recent_changes(log: Log, topic: str, partition: int, customer: bytes, count: int, scan_max: int, chunk: int = 5000) -> Recent:
    """Look backwards through a partition of changes for the last `count` of a customer, over at most `scan_max` offsets."""
    earliest, end = log.bounds(topic, partition)
    floor = max(earliest, end - scan_max)
    found: list[dict[str, Any]] = []
    first = end
    while first > floor and len(found) < count:
        begin = max(floor, first - chunk)
        records = [record for record in log.between(topic, partition, begin, first) if record.key == customer]
        found += [change for record in reversed(records) if (change := readable(record)) is not None]
        first = begin
    return Recent(tuple(found[:count]), first, end, len(found) >= count or first <= earliest)


def same_features(data: PartitionData | None, declaration: Declaration) -> None:
    """Refuse to read profiles of another feature version.

    Raises:
        Misconfigured: they are of another one.

    """
    if data is not None and data.feature_version != declaration.version:
        message = (
            f"profiles are of feature version {data.feature_version}, the declaration's is {declaration.version}: "
            "look with the workers' `features.declaration`"
        )
        raise Misconfigured(message)


def _time(time_ms: int) -> int | None:
    return None if abs(time_ms) >= -NEVER else time_ms
