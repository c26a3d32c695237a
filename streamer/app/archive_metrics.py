"""What an archiver tells of its work, and the list of metrics that come of it.

Law: `METRICS` is all that an archiver exposes beside the client library's `process_...`, and docs/metrics.md says the same of each. What
belongs to a partition is there only while the archiver has the partition, so that sums over archivers are right.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.registry import Collector

from streamer.adapters.history import Kind
from streamer.app.metrics import Definition, family
from streamer.core.history import NO_TIME

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client.core import Metric

    from streamer.app.clock import Clock
    from streamer.app.health import Health
    from streamer.app.metrics import Samples

METRICS = (
    Definition("streamer_archive_rows_total", "counter", ("kind",), "Rows written to history, by what they are of."),
    Definition("streamer_archive_files_total", "counter", ("kind",), "Files written to history, by what they are of."),
    Definition("streamer_archive_unavailable_total", "counter", (), "Rounds given up because Kafka or the store did not answer."),
    Definition("streamer_archive_last_file_timestamp_seconds", "gauge", (), "When the last file was written, seconds since 1970."),
    Definition("streamer_archive_partitions", "gauge", ("state",), "Partitions of this archiver, by state."),
    Definition("streamer_archive_next_offset", "gauge", ("partition",), "Offset of the first event that is not in history yet."),
    Definition("streamer_archive_lag_records", "gauge", ("partition",), "Records between the end of history and that of the partition."),
    Definition("streamer_archive_lag_seconds", "gauge", ("partition",), "How far history is behind in time; 0 where nothing is left."),
)


class Progress(NamedTuple):
    """How far one partition is: where its history ends and as of when, and where the partition ends (None before that is known)."""

    next_offset: int
    latest: int  # the latest Kafka timestamp in history, ms; `NO_TIME` before there is one
    end: int | None

    @property
    def lag(self) -> int | None:
        """Count the records that are left; None before the end is known."""
        return None if self.end is None else max(0, self.end - self.next_offset)

    def lag_s(self, now_ms: int, left_for_s: float) -> float | None:
        """Say how far history is behind in time.

        0 where nothing is left. Else the age of its latest record, but no more than `left_for_s`, the time since nothing was left: the
        first record after a quiet night is not a night late.
        """
        if self.lag is None:
            return None
        age_s = left_for_s if self.latest == NO_TIME else (now_ms - self.latest) / 1000
        return max(0.0, min(age_s, left_for_s)) if self.lag else 0.0


class ArchiveRecorder(Protocol):
    """Who counts. Every call is quick, keeps to this process and raises nothing."""

    def turned(self, held: Mapping[int, Progress], waiting: Iterable[int]) -> None:
        """Take in that a round begins, with these partitions in hand and these still to be taken over."""

    def wrote(self, kind: Kind, rows: int) -> None:
        """Take in that history goes on by so many rows; without any there was no file."""

    def unavailable(self) -> None:
        """Take in that a server did not answer, and that what was in hand is dropped."""


class NoArchiveRecorder:
    """Counts nothing."""

    def turned(self, held: Mapping[int, Progress], waiting: Iterable[int]) -> None:
        """Do nothing."""

    def wrote(self, kind: Kind, rows: int) -> None:
        """Do nothing."""

    def unavailable(self) -> None:
        """Do nothing."""


class ArchiveMetrics(Collector):
    """Counts what the archiver tells, and gives it to scrapes: the archiver's thread writes, the server's threads read."""

    def __init__(self, clock: Clock, health: Health) -> None:
        """Begin at nothing."""
        self._clock = clock
        self._health = health
        self._lock = Lock()
        self._rows = dict.fromkeys(Kind, 0)
        self._files = dict.fromkeys(Kind, 0)
        self._unavailable = 0
        self._rounds = 0  # since a server did not answer
        self._last_file_ms: int | None = None
        self._held: dict[int, Progress] = {}
        self._whole_s: dict[int, float] = {}  # when a partition was last seen with nothing left
        self._begun_s: dict[int, float] = {}  # when it was taken over
        self._waiting: tuple[int, ...] = ()

    @classmethod
    def registered(cls, clock: Clock, health: Health) -> tuple[Self, CollectorRegistry]:
        """Make one and the registry to scrape it by, with the client library's figures of the process."""
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        made = cls(clock, health)
        registry.register(made)
        return made, registry

    # What the archiver tells

    def turned(self, held: Mapping[int, Progress], waiting: Iterable[int]) -> None:
        """Take in that a round begins; what is not in hand any more is forgotten."""
        now_s, others = self._clock.monotonic_s(), tuple(waiting)
        self._health.turned(tuple(held), others)
        if self._rounds:
            self._health.answered()  # the last round came to its end
        self._rounds += 1
        with self._lock:
            self._held, self._waiting = dict(held), others
            self._begun_s = {n: self._begun_s.get(n, now_s) for n in held}
            self._whole_s = {n: at for n, at in self._whole_s.items() if n in held} | {n: now_s for n, one in held.items() if one.lag == 0}

    def wrote(self, kind: Kind, rows: int) -> None:
        """Take in that history goes on."""
        with self._lock:
            self._rows[kind] += rows
            self._files[kind] += bool(rows)
            if rows:
                self._last_file_ms = self._clock.now_ms()

    def unavailable(self) -> None:
        """Take in that a server did not answer."""
        self._health.unavailable()
        self._rounds = 0
        with self._lock:
            self._unavailable += 1

    # What scrapes get

    def describe(self) -> Iterable[Metric]:
        """Name the metrics, so that a registry finds clashes without collecting."""
        return [family(metric, {}) for metric in METRICS]

    def collect(self) -> Iterator[Metric]:
        """Give every metric."""
        with self._lock:
            samples = self._samples()
        for metric in METRICS:
            yield family(metric, samples[metric.name])

    def _samples(self) -> dict[str, Samples]:
        """Compute what is true now."""
        return {
            "streamer_archive_rows_total": {(kind.value,): count for kind, count in self._rows.items()},
            "streamer_archive_files_total": {(kind.value,): count for kind, count in self._files.items()},
            "streamer_archive_unavailable_total": {(): self._unavailable},
            "streamer_archive_last_file_timestamp_seconds": {} if self._last_file_ms is None else {(): self._last_file_ms / 1000},
            "streamer_archive_partitions": {("owned",): len(self._held), ("waiting",): len(self._waiting)},
            "streamer_archive_next_offset": {(str(n),): one.next_offset for n, one in self._held.items()},
            "streamer_archive_lag_records": {(str(n),): one.lag for n, one in self._held.items() if one.lag is not None},
            "streamer_archive_lag_seconds": {(str(n),): lag_s for n in self._held if (lag_s := self._lag_s(n)) is not None},
        }

    def _lag_s(self, number: int) -> float | None:
        one, now_ms, now_s = self._held[number], self._clock.now_ms(), self._clock.monotonic_s()
        if number in self._whole_s:
            return one.lag_s(now_ms, now_s - self._whole_s[number])
        return one.lag_s(now_ms, now_s - self._begun_s[number] if one.latest == NO_TIME else float("inf"))
