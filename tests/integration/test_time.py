"""Time passes on real servers: the retail data day by day, every feature and every change as somebody finds who walks each customer alone.

The walker reads the events, the journal and the model version, and shares no code with the fold: features are the oracle's, and the
decision is written again here, by docs/model.md.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import yaml

from streamer.app import journal, wiring
from streamer.core.declaration import Transform
from streamer.core.partitioning import partition_of
from streamer.core.ports import Topic
from tests import oracle
from tests.integration.kit import READ_TIMEOUT_S, Job
from tests.integration.test_retail import EACH, RETAIL_FEATURES, assert_equal_to_the_bit, declared, events_of, found

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from streamer.adapters.servers import Running
    from streamer.core.model import ModelVersion

DAY_MS = 86_400_000
PARTITIONS = 4
DAYS = 30
HISTORY_DAYS = 120
NEW = "new"
SETTINGS = {
    "STREAMER_MODEL__K": "5",
    "STREAMER_MODEL__FIRST_FIT__CUSTOMERS_MIN": "100",
    "STREAMER_MODEL__FIRST_FIT__HISTORY_DAYS_MIN": f"{HISTORY_DAYS}d",
    "STREAMER_MODEL__EPOCH_INTERVAL_S": "0.5",
}


class Instant(NamedTuple):
    """When a customer is judged: as of a time, by what was adopted last before an offset, after `events` events of the customer's own."""

    as_of: int
    entry: journal.Entry
    events: int
    is_boundary: bool


@dataclass
class Walker:
    """One customer after another, through their own events and midnights."""

    events: Sequence[Mapping[str, Any]]
    declaration: Mapping[str, Any]
    model: ModelVersion
    entries: Mapping[int, Sequence[journal.Entry]]  # by partition
    own: dict[str, list[Mapping[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    log: dict[int, list[Mapping[str, Any]]] = field(default_factory=lambda: defaultdict(list))  # by partition
    offset: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        """Lay the events out as the log has them."""
        for event in self.events:
            log = self.log[partition_of(event["customer_id"].encode(), PARTITIONS)]
            self.own[event["customer_id"]].append(event)
            self.offset[event["customer_id"]].append(len(log))
            log.append(event)

    def changes(self) -> dict[str, list[tuple[str, int, bool]]]:
        """Find each customer's changes: the segment, since when, and whether a midnight brought it."""
        instants = {customer: list(self._instants(customer)) for customer in self.own}
        values = self._values(instants)
        return {customer: list(self._walk(customer, of, values)) for customer, of in instants.items()}

    def _instants(self, customer: str) -> Iterator[Instant]:
        partition = partition_of(customer.encode(), PARTITIONS)
        log, entries = self.log[partition], self.entries[partition]
        adopted = entries[0]
        times = np.maximum.accumulate([event["occurred_at"] for event in log])
        clock = -1
        own = list(zip(self.offset[customer], self.own[customer], strict=True))
        steps = [(offset, n, event["occurred_at"]) for n, (offset, event) in enumerate(own)]
        before = sum(offset < adopted.at_offset for offset, _, _ in steps)
        if before:
            clock = max(steps[before - 1][2], adopted.as_of)
            yield Instant(clock, adopted, before, is_boundary=False)
        for offset, n, time in [*steps[before:], (len(log), len(steps), int(times[-1]))]:
            now = max(int(times[min(offset, len(log) - 1)]), time) if offset < len(log) else int(times[-1])
            while clock >= 0 and (boundary := (clock // DAY_MS + 1) * DAY_MS) <= now:
                crossed = bisect_left(times.tolist(), boundary)
                yield Instant(boundary, _in_force(entries, crossed), n, is_boundary=True)
                clock = boundary
            if offset < len(log):
                clock = max(clock, time)
                yield Instant(clock, _in_force(entries, offset), n + 1, is_boundary=False)

    def _values(self, instants: Mapping[str, Sequence[Instant]]) -> dict[tuple[str, int, int], np.ndarray]:
        """Compute all features by the oracle: everybody's at once where instant and events allow it."""
        wanted: dict[int, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
        for customer, of in instants.items():
            for one in of:
                wanted[one.as_of if one.is_boundary else -one.events][one.as_of].append(customer)
        found: dict[tuple[str, int, int], np.ndarray] = {}
        for key, by_time in wanted.items():
            as_of = {customer: time for time, customers in by_time.items() for customer in customers}
            if len(as_of) == sum(map(len, by_time.values())):
                self._evaluate(as_of, key, found)
            else:  # the same customer twice: after adoption and at the event itself
                for time, customers in by_time.items():
                    self._evaluate(dict.fromkeys(customers, time), key, found)
        return found

    def _evaluate(self, as_of: Mapping[str, int], key: int, found: dict[tuple[str, int, int], np.ndarray]) -> None:
        rows = []
        counted = {}
        for customer, time in as_of.items():
            kept = self.own[customer][:-key] if key < 0 else [e for e in self.own[customer] if e["occurred_at"] < time]
            counted[customer] = len(kept)
            rows += kept
        frame = oracle.features(oracle.frame(rows), self.declaration, as_of)
        for customer, row in zip(frame.index, frame.to_numpy(np.float64), strict=True):
            found[str(customer), as_of[str(customer)], counted[str(customer)]] = row

    def _walk(self, customer: str, instants: Sequence[Instant], values: Mapping[Any, np.ndarray]) -> Iterator[tuple[str, int, bool]]:
        segments, since = "", 0
        numbers = [segment.segment_id for segment in self.model.active]
        for one in instants:
            vote = self._vote(values[customer, one.as_of, one.events])
            centroids = self.model.fixed_centroids() if one.entry.kind == "version" else one.entry.centroids((len(numbers), len(vote)))
            distance = ((vote * 256 - centroids) ** 2).sum(axis=1)
            eligible = all(self._count(customer, one.events, measure) >= least for measure, least in self.model.eligibility)
            after = NEW if not eligible else self._decide(numbers, distance, segments, one.as_of - since)
            if after != segments:
                segments, since = after, one.as_of
                yield after, one.as_of, one.is_boundary

    def _vote(self, values: np.ndarray) -> np.ndarray:
        s = self.model.scaling
        clipped = np.clip(values, s.low, s.high)
        log = np.array([transform is Transform.LOG1P for transform in self.model.transforms])
        shaped = np.where(log, np.copysign(np.log1p(np.abs(clipped)), clipped), clipped)
        return np.floor(np.clip((shaped - s.mean) / s.scale * s.weight * 4096, -32767, 32767) + 0.5).astype(np.int64)

    def _count(self, customer: str, events: int, measure: str) -> int:
        of = self.declaration["measures"][measure]["lifetime_count"]
        types = [of] if isinstance(of, str) else of
        return sum(types == ["any"] or event["event_type"] in types for event in self.own[customer][:events])

    def _decide(self, numbers: Sequence[str], distance: np.ndarray, current: str, stayed_ms: int) -> str:
        near = int(distance.argmin())
        if current in ("", NEW) or numbers[near] == current:
            return numbers[near]
        here, there = float(distance[near]), float(distance[numbers.index(current)])
        rule = self.model.decision
        if here >= there or here > there * (1 - rule.margin) ** 2:
            return current
        if stayed_ms < rule.dwell_ms and here > there * (1 - rule.margin_large) ** 2:
            return current
        return numbers[near]


def _in_force(entries: Sequence[journal.Entry], offset: int) -> journal.Entry:
    """Give what was adopted last before the event at an offset."""
    return [entry for entry in entries if entry.at_offset <= offset][-1]


def pulses(at_ms: int) -> list[dict[str, Any]]:
    """Make one event in each partition, of customers who do nothing else."""
    names: dict[int, str] = {}
    n = 0
    while len(names) < PARTITIONS:
        names.setdefault(partition_of(f"pulse-{n}".encode(), PARTITIONS), f"pulse-{n}")
        n += 1
    blank: dict[str, Any] = dict.fromkeys(("amount", "currency", "quantity", "product_id", "category", "session_id"))
    made = {**blank, "event_type": "view", "occurred_at": at_ms, "properties": {}}
    return [{**made, "customer_id": name, "event_id": f"pulse-{at_ms}"} for _, name in sorted(names.items())]


@EACH
def test_on_each_of_thirty_midnights_everything_is_as_time_alone_makes_it(data: str, servers: Running, tmp_path: Path) -> None:
    events = sorted(events_of(found(data)), key=lambda event: event["occurred_at"])
    declaration = declared(tmp_path, RETAIL_FEATURES)
    tree = yaml.safe_load(declaration.read_text())
    first, last = events[0]["occurred_at"] // DAY_MS, events[-1]["occurred_at"] // DAY_MS
    midnights = [int(day) * DAY_MS for day in np.linspace(first + HISTORY_DAYS + 10, last, DAYS).round()]
    job = Job(servers.kafka_bootstrap, servers.redis_url, tmp_path, PARTITIONS, SETTINGS, declaration=declaration).create()
    sent: list[dict[str, Any]] = []
    with job.worker("one"), job.worker("two"), wiring.Watcher(job.config) as watcher:
        for midnight in midnights:
            due = [event for event in events[len(sent) - PARTITIONS * midnights.index(midnight) :] if event["occurred_at"] < midnight]
            sent += [*due, *pulses(midnight)]
            job.send(sent[-len(due) - PARTITIONS :])
            job.wait_done()
            job.wait("the first model, and everybody judged", lambda: watcher.settled(watcher.states(), least=1))
            assert_equal_to_the_bit(oracle.features(oracle.frame(sent), tree, midnight), job.features(midnight))
    clocks = job.clocks()
    assert set(clocks.values()) == {midnights[-1]}
    model = wiring.current_model(job.config)
    assert model is not None
    reader = wiring.topic_reader(job.config)
    entries = {p: journal.read(reader.read(Topic.JOURNAL, p, 0, READ_TIMEOUT_S)) for p in range(PARTITIONS)}
    assert max(entry.epoch for of in entries.values() for entry in of) >= 5
    walked = Walker(sent, tree, model, entries).changes()
    told: dict[str, list[tuple[str, int, bool]]] = defaultdict(list)
    causes: Counter[str] = Counter()
    for change in job.changes():
        causes[change["cause"]] += 1
        told[change["customer_id"]].append((change["segment_id"], change["occurred_at"], change["cause"] == "decay"))
    assert {customer: [one[:2] for one in path] for customer, path in walked.items()} == {
        c: [one[:2] for one in path] for c, path in told.items()
    }
    assert all(mine[2] or not theirs[2] for customer, path in told.items() for mine, theirs in zip(walked[customer], path, strict=True))
    assert causes["decay"] > causes["behaviour"] / 10
