"""Metrics: the one list of them, and who counts them.

Law: `METRICS` is all that a worker exposes beside the client library's `process_...`, and docs/metrics.md says the same of each. What
belongs to a partition is there only while the worker has the partition, so that sums over workers are right.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from math import exp
from threading import Lock
from typing import TYPE_CHECKING, Literal, NamedTuple, Self, TypeAlias

import numpy as np
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from streamer.app.error_drift import DIRECTIONS, ErrorDrift
from streamer.app.recording import STAGES, Counted, count_batch
from streamer.core.fold import CAUSES, CENTROID_ONE, VOTE_ONE
from streamer.core.model import NEW
from streamer.core.ports import Outcome
from streamer.core.profile import NEVER
from streamer.core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from streamer.app.assignment import Owned
    from streamer.app.clock import Clock
    from streamer.app.commits import Decided, FoldedBatch
    from streamer.app.health import Health
    from streamer.app.recording import Stage
    from streamer.core.columns import I64
    from streamer.core.model import ModelVersion
    from streamer.core.partition import Learned, PartitionData

Sort: TypeAlias = Literal["counter", "gauge", "histogram"]
Samples: TypeAlias = "dict[tuple[str, ...], float]"
Buckets: TypeAlias = "tuple[list[tuple[str, float]], float]"  # cumulative counts by upper bound, and the sum


class Definition(NamedTuple):
    """One metric: its name as it is scraped, its type, its labels and its meaning."""

    name: str
    sort: Sort
    labels: tuple[str, ...]
    meaning: str


METRICS = (
    Definition("streamer_events_consumed_total", "counter", (), "Records of the events topic that were taken in, refused ones too."),
    Definition("streamer_events_applied_total", "counter", (), "Events that went into a profile."),
    Definition("streamer_events_duplicate_total", "counter", (), "Events left out because their id was remembered."),
    Definition("streamer_events_late_total", "counter", (), "Events that came after a later one of the same customer."),
    Definition("streamer_erasures_total", "counter", (), "Commands to erase a customer that were carried out, in each partition anew."),
    Definition("streamer_events_erased_total", "counter", (), "Events refused because their customer was erased."),
    Definition("streamer_merges_total", "counter", (), "Profiles that joined the customer whom theirs was merged into."),
    Definition("streamer_events_redirected_total", "counter", (), "Events sent on to the customer whom theirs was merged into."),
    Definition("streamer_changes_total", "counter", ("cause",), "Segment changes that were published, by cause."),
    Definition("streamer_dead_letters_total", "counter", ("reason",), "Records refused and published as dead letters, by reason."),
    Definition("streamer_commits_total", "counter", ("outcome",), "Commits of partitions to Redis, by outcome."),
    Definition("streamer_assignments_total", "counter", (), "Partitions taken over, again after a refused commit or a lost server too."),
    Definition("streamer_rebuilds_total", "counter", (), "Partitions taken over that Redis had lost writes of."),
    Definition("streamer_unavailable_total", "counter", (), "Rounds and assignments given up because a server did not answer."),
    Definition("streamer_batch_records", "histogram", (), "Records of a batch."),
    Definition("streamer_stage_seconds", "histogram", ("stage",), "Time in a stage of a batch, without the stages within it."),
    Definition("streamer_event_to_change_seconds", "histogram", (), "From an event's Kafka timestamp to its change's acknowledgement."),
    Definition("streamer_partitions", "gauge", ("state",), "Partitions of this worker, by state."),
    Definition("streamer_next_offset", "gauge", ("partition",), "Offset of the next event to be taken in."),
    Definition("streamer_lag_records", "gauge", ("partition",), "Records between the next offset and the end of the partition."),
    Definition("streamer_lag_seconds", "gauge", ("partition",), "How far the partition is behind in time; 0 where nothing is left."),
    Definition("streamer_refused_share", "gauge", ("partition",), "Share of about the last 1,000 records that were refused."),
    Definition("streamer_watermark_seconds", "gauge", ("partition",), "The partition's event time, seconds since 1970."),
    Definition("streamer_model_version", "gauge", ("partition",), "Model version that the partition has adopted; 0 for none."),
    Definition(
        "streamer_model_epoch",
        "gauge",
        ("partition",),
        "Epoch of the version that the partition has adopted; numbered on from version to version.",
    ),
    Definition("streamer_model_promoted_version", "gauge", (), "Model version that is promoted, adopted or not; told by who leads."),
    Definition("streamer_rebuild_backlog", "gauge", ("partition",), "Records that a rebuild has still to take in; 0 where there is none."),
    Definition("streamer_sweep_backlog", "gauge", ("partition",), "Customers that the sweep has yet to come by."),
    Definition("streamer_customers", "gauge", ("segment", "name"), "Customers by segment, in this worker's partitions."),
    Definition("streamer_segment_share", "gauge", ("segment", "name"), "Share of a segment among this worker's customers."),
    Definition("streamer_votes", "gauge", (), "Customers with a vote, in this worker's partitions."),
    Definition("streamer_quantisation_error", "gauge", (), "Mean squared distance of this worker's votes from their centroids."),
    Definition("streamer_quantisation_error_window", "gauge", (), "Its mean over ADWIN's window, as a share of the variance at the fit."),
    Definition("streamer_quantisation_error_drifts_total", "counter", ("direction",), "Lasting changes of the error that ADWIN found."),
)
DEFINED: Mapping[str, Definition] = {metric.name: metric for metric in METRICS}

OUTCOMES = {Outcome.APPLIED: "applied", Outcome.OTHER_OWNER: "refused_by_owner", Outcome.OTHER_COMMIT: "refused_by_id"}
LATENCY_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 7200)
STAGE_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 30)
SHARE_RECORDS = 1_000
LEADS = 0  # the partition whose owner leads
RECORDS = (1, 5, 10, 50, 100, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)


class Histogram:
    """Counts of values at or below each bound, the last for all beyond."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """Begin empty."""
        self._bounds = tuple(bounds)
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_all(self, values: np.ndarray) -> None:
        """Count many values, with no Python per value."""
        self._counts += np.bincount(np.searchsorted(self._bounds, values, side="left"), minlength=len(self._counts))
        self._sum += float(values.sum())

    def buckets(self) -> Buckets:
        """Give cumulative counts by upper bound, and the sum."""
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        return list(zip(bounds, np.cumsum(self._counts).tolist(), strict=True)), self._sum


@dataclass(slots=True)
class Share:
    """The share of records that were refused, each record weighing less the more came after it: the last 1,000 make up 63 %.

    By records, not by time: while nothing comes, nothing changes.
    """

    records: float = 0.0
    refused: float = 0.0

    def add(self, records: int, refused: int) -> None:
        """Count some records, some of which were refused."""
        kept = exp(-records / SHARE_RECORDS)
        # Records of one batch weigh alike: as many as the weights of that many records come to.
        weight = SHARE_RECORDS * (1 - kept) / records if records else 0.0
        self.records = self.records * kept + weight * records
        self.refused = self.refused * kept + weight * refused

    @property
    def value(self) -> float | None:
        """Give the share; None before the first record."""
        return self.refused / self.records if self.records else None


@dataclass(slots=True)
class Seen:
    """One partition, as of the beginning of a round and of the last look at its end."""

    data: PartitionData
    next_offset: int
    end: int | None = None
    share: Share = field(default_factory=Share)
    caught_up_s: float | None = None  # when it was last seen with nothing left
    backlog: int | None = None
    rebuild_left: int = 0

    @property
    def lag(self) -> int | None:
        """Count the records that are left; None before the end is known."""
        return None if self.end is None else max(0, self.end - self.next_offset)

    def lag_s(self, now_s: float, age_s: float | None) -> float | None:
        """Say how far behind in time it is.

        0 where nothing is left. Else `age_s`, that of the last record taken in, but no more than the time since nothing was left: the
        first record after a quiet night is not a night late.
        """
        if self.lag is None:
            return None
        bounds = [] if age_s is None else [age_s]
        bounds += [] if self.caught_up_s is None else [now_s - self.caught_up_s]
        return 0.0 if not self.lag else min(bounds, default=None)


class _Timer(AbstractContextManager[None]):
    """Times one stage, over and over."""

    __slots__ = ("_clock", "_histogram", "_open")

    def __init__(self, clock: Clock, open_: list[list[float]], histogram: Histogram) -> None:
        self._clock = clock
        self._open = open_
        self._histogram = histogram

    def __enter__(self) -> None:
        self._open.append([self._clock.monotonic_s(), 0.0])

    def __exit__(self, *_: object) -> None:
        began, within = self._open.pop()
        took = self._clock.monotonic_s() - began
        if self._open:
            self._open[-1][1] += took
        self._histogram.add(max(0.0, took - within))


class Metrics(Collector):
    """Counts what the worker tells, and gives it to scrapes: the worker's thread writes, the server's threads read."""

    watches = True

    def __init__(self, clock: Clock, health: Health) -> None:
        """Begin at nothing."""
        self._clock = clock
        self._health = health
        self._lock = Lock()
        self._counters: defaultdict[str, Samples] = defaultdict(dict)
        self._batches = Histogram(RECORDS)
        self._latency = Histogram(LATENCY_S)
        self._stages = {stage: Histogram(STAGE_S) for stage in STAGES}
        open_: list[list[float]] = []
        self._timers = {stage: _Timer(clock, open_, histogram) for stage, histogram in self._stages.items()}
        self._published: list[I64] = []
        self._error_drift = ErrorDrift()
        self._seen: dict[int, Seen] = {}
        self._latest_ms: dict[int, int] = {}  # Kafka timestamp of the last record taken in, by partition
        self._waiting: tuple[int, ...] = ()
        self._versions: Mapping[int, ModelVersion] = {}
        self._promoted: int | None = None
        for name, labels in _zeros():
            self._counters[name][labels] = 0

    @classmethod
    def registered(cls, clock: Clock, health: Health) -> tuple[Self, CollectorRegistry]:
        """Make one and the registry to scrape it by, with the client library's figures of the process."""
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        made = cls(clock, health)
        registry.register(made)
        return made, registry

    # What the worker tells

    def turned(self, owned: Mapping[int, Owned], waiting: Iterable[int], versions: Mapping[int, ModelVersion]) -> None:
        """Take in that a round begins; what is not in hand any more is forgotten."""
        self._waiting = tuple(waiting)
        self._health.turned(tuple(owned), self._waiting)
        with self._lock:
            self._versions = versions
            self._seen = {number: seen for number, seen in self._seen.items() if number in owned}
            self._latest_ms = {number: latest for number, latest in self._latest_ms.items() if number in owned}
            for number, one in owned.items():
                seen = self._seen.get(number)
                seen = seen or self._seen.setdefault(number, Seen(one.data, one.next_offset))
                seen.data, seen.next_offset, seen.rebuild_left = one.data, one.next_offset, one.rebuild_left
        now_s = self._clock.monotonic_s()
        if self._error_drift.due(now_s):
            self._watch_error([one.data for one in owned.values()], tuple(owned), now_s)

    def stage(self, stage: Stage) -> AbstractContextManager[None]:
        """Time a stage."""
        return self._timers[stage]

    def count(self, owned: Sequence[Owned], batch: FoldedBatch, decided: Decided) -> Mapping[int, Counted]:
        """Count a batch that is not committed yet, by partition."""
        if len(batch.fetched):
            self._batches.add(len(batch.fetched))
        counted = count_batch(owned, batch, decided)
        with self._lock:
            self._latest_ms.update({number: part.latest for number, part in counted.items() if part.latest is not None})
        return counted

    def committed(self, outcome: Outcome, counted: Counted | None) -> None:
        """Take in a commit's outcome."""
        self._add("streamer_commits_total", 1, OUTCOMES[outcome])
        if outcome is not Outcome.APPLIED:
            return
        self._health.answered()
        if counted is None:
            return
        with self._lock:
            if counted.partition in self._seen:
                self._seen[counted.partition].share.add(counted.records, counted.refused)
        self._add("streamer_events_consumed_total", counted.records)
        self._add("streamer_events_applied_total", counted.applied)
        self._add("streamer_events_duplicate_total", counted.duplicates)
        self._add("streamer_events_late_total", counted.late)
        self._add("streamer_erasures_total", counted.erasures)
        self._add("streamer_events_erased_total", counted.erased)
        self._add("streamer_merges_total", counted.merges)
        self._add("streamer_events_redirected_total", counted.redirected)
        for cause in np.flatnonzero(counted.causes).tolist():
            self._add("streamer_changes_total", int(counted.causes[cause]), CAUSES[cause])
        for reason in np.flatnonzero(counted.reasons).tolist():
            self._add("streamer_dead_letters_total", int(counted.reasons[reason]), Reason(reason).name.lower())
        if len(counted.sources):
            self._published.append(counted.sources)

    def acknowledged(self) -> None:
        """Take in that all changes so far are acknowledged: their events' latencies are known now."""
        if self._published:
            taken = np.maximum(self._clock.now_ms() - np.concatenate(self._published), 0) / 1000
            self._published.clear()
            with self._lock:
                self._latency.add_all(taken)

    def taken_over(self, *, rebuilding: bool) -> None:
        """Take in that an assignment was carried out."""
        self._add("streamer_assignments_total", 1)
        self._add("streamer_rebuilds_total", int(rebuilding))

    def answered(self) -> None:
        """Take in that the servers answered."""
        self._health.answered()

    def unavailable(self) -> None:
        """Take in that a server did not answer; what was published may not have arrived, so it has no latency."""
        self._published.clear()
        self._health.unavailable()
        self._add("streamer_unavailable_total", 1)

    def looked(self, ends: Mapping[int, int], backlogs: Mapping[int, int]) -> None:
        """Take in where partitions end, and how much of sweeps is left."""
        now = self._clock.monotonic_s()
        with self._lock:
            for number, seen in self._seen.items():
                seen.end, seen.backlog = ends.get(number, seen.end), backlogs.get(number)
                if seen.lag == 0:
                    seen.caught_up_s = now

    def promoted(self, number: int | None) -> None:
        """Take in which version is promoted."""
        with self._lock:
            self._promoted = number

    def _watch_error(self, parts: Sequence[PartitionData], numbers: tuple[int, ...], now_s: float) -> None:
        """Let ADWIN see the error, where all votes are of one version and none waits for a sweep."""
        version = self._versions.get(parts[0].model) if parts else None
        if version is None or any(data.model != version.version or not data.swept for data in parts):
            return
        squares, votes = _spread(parts)
        features = int(np.count_nonzero(version.scaling.weight))
        if not votes or not features:
            return
        direction = self._error_drift.take(squares / votes / features, (version.version, numbers), now_s)
        if direction is not None:
            self._add("streamer_quantisation_error_drifts_total", 1, direction)

    def _add(self, name: str, count: int, *labels: str) -> None:
        with self._lock:
            samples = self._counters[name]
            samples[labels] = samples.get(labels, 0) + count

    # What scrapes get

    def describe(self) -> Iterable[Metric]:
        """Name the metrics, so that a registry finds clashes without collecting."""
        return [family(metric, {}) for metric in METRICS if metric.sort != "histogram"]

    def collect(self) -> Iterator[Metric]:
        """Give every metric."""
        with self._lock:
            gauges = self._gauges()
            counters = {name: dict(samples) for name, samples in self._counters.items()}
            histograms: dict[str, dict[tuple[str, ...], Buckets]] = {
                "streamer_batch_records": {(): self._batches.buckets()},
                "streamer_event_to_change_seconds": {(): self._latency.buckets()},
                "streamer_stage_seconds": {(stage,): histogram.buckets() for stage, histogram in self._stages.items()},
            }
        for metric in METRICS:
            if metric.sort == "histogram":
                found = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
                for labels, (buckets, total) in histograms[metric.name].items():
                    found.add_metric(labels, buckets, total)
                yield found
            else:
                yield family(metric, (counters if metric.sort == "counter" else gauges).get(metric.name, {}))

    def _gauges(self) -> dict[str, Samples]:
        """Compute what is true now."""
        found: defaultdict[str, Samples] = defaultdict(dict)
        now_ms, now_s = self._clock.now_ms(), self._clock.monotonic_s()
        found["streamer_partitions"] = {("owned",): len(self._seen), ("waiting",): len(self._waiting)}
        for number, seen in self._seen.items():
            data, latest_ms = seen.data, self._latest_ms.get(number)
            age_s = None if latest_ms is None else max(0.0, (now_ms - latest_ms) / 1000)
            each: dict[str, float | None] = {
                "streamer_next_offset": seen.next_offset,
                "streamer_lag_records": seen.lag,
                "streamer_lag_seconds": seen.lag_s(now_s, age_s),
                "streamer_refused_share": seen.share.value,
                "streamer_watermark_seconds": None if data.watermark == NEVER else data.watermark / 1000,
                "streamer_model_version": data.model,
                "streamer_model_epoch": data.epoch,
                "streamer_rebuild_backlog": seen.rebuild_left,
                "streamer_sweep_backlog": 0 if data.swept else seen.backlog,
            }
            for name, value in each.items():
                if value is not None:
                    found[name][str(number),] = value
        if self._promoted is not None and LEADS in self._seen:
            found["streamer_model_promoted_version"] = {(): self._promoted}
        members = _members([seen.data for seen in self._seen.values()], self._versions)
        customers = sum(members.values())
        found["streamer_customers"] = members
        if customers:
            found["streamer_segment_share"] = {labels: count / customers for labels, count in members.items()}
        squares, votes = _spread([seen.data for seen in self._seen.values()])
        found["streamer_votes"] = {(): votes}
        if votes:
            found["streamer_quantisation_error"] = {(): squares / votes}
        window = self._error_drift.mean
        if window is not None:
            found["streamer_quantisation_error_window"] = {(): window}
        return found


def _zeros() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Give the counters that are there from the start, so that the first increase can be seen."""
    reasons = tuple(r.name.lower() for r in Reason if r is not Reason.OK)
    known = {"cause": CAUSES, "direction": DIRECTIONS, "outcome": tuple(OUTCOMES.values()), "reason": reasons}
    for metric in METRICS:
        if metric.sort == "counter":
            yield from ((metric.name, (value,)) for value in known[metric.labels[0]]) if metric.labels else [(metric.name, ())]


def family(metric: Definition, samples: Samples) -> Metric:
    """Give a counter or gauge as it is scraped."""
    make = CounterMetricFamily if metric.sort == "counter" else GaugeMetricFamily
    found = make(metric.name, metric.meaning, labels=metric.labels)
    for labels, value in samples.items():
        found.add_metric(labels, value)
    return found


def _members(parts: Sequence[PartitionData], versions: Mapping[int, ModelVersion]) -> Samples:
    """Add up customers by segment; the label is the segment's id as in changes."""
    found: Samples = {}
    for data in parts:
        version = versions.get(data.model)
        if version is None or data.learned is None:
            continue
        names = [*((segment.segment_id, segment.name) for segment in version.active), (NEW, NEW)]
        for labels, count in zip(names, data.learned.members.tolist(), strict=True):
            found[labels] = found.get(labels, 0) + count
    return found


def _spread(parts: Sequence[PartitionData]) -> tuple[float, int]:
    """Give the sum of squared distances of votes from their centroids, in standardised space, and the number of votes.

    Of votes v with centroid c, the sum of (v - c)^2 is that of v^2, less 2 c times that of v, and n c^2.
    """
    squares, votes = 0.0, 0
    for data in parts:
        if data.centroids is None or data.learned is None:
            continue
        learned: Learned = data.learned
        centroid = data.centroids / CENTROID_ONE
        count = learned.count[:, None]
        distance = learned.square / VOTE_ONE**2 - 2 * centroid * (learned.total / VOTE_ONE) + count * centroid**2
        squares += max(0.0, float(distance.sum()))
        votes += int(learned.count.sum())
    return squares, votes
