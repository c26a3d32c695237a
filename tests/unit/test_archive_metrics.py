"""An archiver's metrics: what was written, what is left, and for how long, whatever the end of the log and the store do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from streamer.adapters.history import Kind
from streamer.app.archive_metrics import METRICS, ArchiveMetrics, Progress
from streamer.app.health import Health
from streamer.core.history import NO_TIME
from tests.fakes.archive import T0, Archive, event
from tests.fakes.clock import FakeClock

if TYPE_CHECKING:
    from streamer.app.archive_metrics import ArchiveRecorder
    from streamer.app.archiver import Archiver

pytestmark = pytest.mark.compiled


class Watched:
    """Archivers of one log, each of them counted."""

    def __init__(self) -> None:
        self.archive = Archive()
        self.metrics: dict[str, ArchiveMetrics] = {}
        self.health: dict[str, Health] = {}

    def archiver(self, name: str = "a") -> Archiver:
        made = self.archive.archiver(name)
        self.health[name] = Health(self.archive.clock, 300, 30)
        self.metrics[name] = ArchiveMetrics(self.archive.clock, self.health[name])
        given: ArchiveRecorder = self.metrics[name]
        object.__setattr__(made._tools, "recorder", given)
        return made

    def read(self, metric: str, name: str = "a") -> dict[tuple[str, ...], float]:
        """Give a metric's samples by the values of their labels."""
        [family] = [f for f in self.metrics[name].collect() if f"streamer_archive_{metric}".removesuffix("_total") == f.name]
        return {tuple(sample.labels.values()): sample.value for sample in family.samples}


def rounds(working: Archiver, count: int = 6) -> None:
    for _ in range(count):
        working._attempt(working.step)


def test_every_metric_is_exposed_under_its_name_and_type_and_nothing_else_is() -> None:
    clock = FakeClock()
    _, registry = ArchiveMetrics.registered(clock, Health(clock, 300, 30))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    exposed = {family.name: family.type for family in families if not family.name.startswith("process_")}
    assert {metric.name.removesuffix("_total") if metric.sort == "counter" else metric.name: metric.sort for metric in METRICS} == exposed


def test_what_is_counted_is_what_history_has_and_what_it_lacks() -> None:
    watched = Watched()
    archive = watched.archive
    for number in range(8):
        archive.send(number % 2, event(number))
    archive.decide(0, "epoch", 3, 1)
    working = watched.archiver()
    rounds(working)
    assert {(): 0.0} == watched.read("unavailable_total")
    assert {("events",): 0.0, ("journal",): 1.0} == watched.read("files_total")  # the journal comes first
    assert {("0",): 0.0, ("1",): 0.0} == watched.read("next_offset")
    assert {("0",): 4.0, ("1",): 4.0} == watched.read("lag_records")
    archive.later(61)
    rounds(working)
    assert {("events",): 8.0, ("journal",): 1.0} == watched.read("rows_total")
    assert {("events",): 2.0, ("journal",): 1.0} == watched.read("files_total")
    assert len([path for path in archive.store.held if path.endswith(".parquet")]) == sum(watched.read("files_total").values())
    assert {(): (T0 + 61_000) / 1000} == watched.read("last_file_timestamp_seconds")
    assert {("0",): 4.0, ("1",): 4.0} == watched.read("next_offset")
    assert {("0",): 0.0, ("1",): 0.0} == watched.read("lag_records") == watched.read("lag_seconds")
    assert {("owned",): 2.0, ("waiting",): 0.0} == watched.read("partitions")
    assert [] == watched.health["a"].unready()


def test_a_history_that_is_behind_tells_for_how_long_and_again_nothing_once_it_has_caught_up() -> None:
    watched = Watched()
    archive = watched.archive
    archive.send(0, event(0))
    working = watched.archiver()
    rounds(working)
    archive.later(61)
    rounds(working)
    archive.later(36_000)  # a quiet night
    rounds(working)
    assert {("0",): 0.0, ("1",): 0.0} == watched.read("lag_seconds")
    archive.send(0, event(1))
    rounds(working)
    archive.later(40)
    rounds(working)
    assert {("0",): 1.0, ("1",): 0.0} == watched.read("lag_records")
    assert {("0",): 40.0, ("1",): 0.0} == watched.read("lag_seconds")
    archive.broker.down = True
    archive.later(100)
    rounds(working)
    assert watched.read("unavailable_total")[()] >= 1
    assert "a server did not answer when it was last asked: the log says which" in watched.health["a"].unready()
    archive.broker.down = False
    for _ in range(40):
        archive.later(5)
        rounds(working)
    assert {("0",): 0.0, ("1",): 0.0} == watched.read("lag_records") == watched.read("lag_seconds")
    assert [] == watched.health["a"].unready()


def test_partitions_that_another_archiver_takes_are_gone_from_the_first_ones_metrics() -> None:
    watched = Watched()
    archive = watched.archive
    archive.send(0, event(0))
    archive.send(1, event(1))
    first = watched.archiver("a")
    rounds(first)
    second = watched.archiver("b")
    for _ in range(6):
        first.step()
        second.step()
        archive.later(1)
    held = [{partition for (partition,) in watched.read("next_offset", name)} for name in "ab"]
    assert [1, 1] == [len(one) for one in held]
    assert {"0", "1"} == held[0] | held[1]
    assert 2 == sum(watched.read("partitions", name)["owned",] for name in "ab")


@pytest.mark.parametrize(
    ("progress", "left_for_s", "lag_s"),
    [
        (Progress(5, T0, None), 10.0, None),  # the end is not known yet
        (Progress(5, T0, 5), 10.0, 0.0),
        (Progress(5, T0, 4), 10.0, 0.0),  # the log was cut off
        (Progress(5, T0, 9), 10.0, 10.0),  # no more than since nothing was left
        (Progress(5, T0 + 57_000, 9), 10.0, 3.0),
        (Progress(0, NO_TIME, 9), 10.0, 10.0),  # history has nothing yet
        (Progress(5, T0 + 61_000, 9), 10.0, 0.0),  # a producer's clock runs ahead
    ],
)
def test_lag_in_seconds_is_unknown_zero_or_the_age_of_what_history_has(progress: Progress, left_for_s: float, lag_s: float | None) -> None:
    assert lag_s == progress.lag_s(T0 + 60_000, left_for_s)


def test_an_archiver_that_takes_over_a_history_that_is_behind_says_so_at_once() -> None:
    clock = FakeClock(wall_ms=T0 + 7_200_000)
    metrics = ArchiveMetrics(clock, Health(clock, 300, 30))
    metrics.turned({0: Progress(5, T0, 9)}, [])
    [family] = [f for f in metrics.collect() if f.name == "streamer_archive_lag_seconds"]
    assert [7_200.0] == [sample.value for sample in family.samples]
    metrics.wrote(Kind.EVENTS, 0)
    assert [0.0, 0.0] == [s.value for f in metrics.collect() if f.name == "streamer_archive_files" for s in f.samples]
