"""Whatever befalls workers, Redis and Kafka, a job comes to what its log and journal say, and every change is told exactly once."""

from __future__ import annotations

import os

import pytest

from streamer.app import journal
from tests.simulation.profiles import BEFALLS, FAULTS_MIN
from tests.simulation.verdict import hold
from tests.simulation.world import EVENTS, PARTITIONS, WORKERS, World

pytestmark = pytest.mark.compiled  # whole jobs, over and over

QUICK = 300
LONG = int(os.environ.get("SIMULATION_SEEDS", "9700"))
PARTS = 60
"""Parts of the long run, so that processes share them, and end at about the same time."""


@pytest.mark.parametrize("part", range(4))
def test_schedules_lose_nothing_and_double_nothing(part: int) -> None:
    for seed in range(part, QUICK, 4):
        hold(seed)


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
def test_thousands_of_schedules_lose_nothing_and_double_nothing(part: int) -> None:
    for seed in range(QUICK + part, QUICK + LONG, PARTS):
        hold(seed)


def test_the_same_seed_gives_the_same_schedule_to_the_last_call() -> None:
    def told(seed: int) -> list[str]:
        lines: list[str] = []
        world = World(seed, trace=lines.append)
        world.run()
        return [*lines, *(call for process in world.processes for call in process.faults.calls)]

    assert told(7) == told(7)
    assert told(7) != told(8)


def test_schedules_are_as_hard_as_they_are_said_to_be() -> None:
    """At least 3 workers, 4 partitions, 300 events and 5 faults, learning and time on; every sort of fault befalls some of them."""
    assert (3, 4, 300, 5) == (WORKERS, PARTITIONS, EVENTS, FAULTS_MIN)
    worlds = [hold(seed) for seed in range(10_000, 10_040)]
    assert {*(name for name, _ in BEFALLS), "erasure", "merge", "expire"} == {name for world in worlds for name in world.befallen}
    assert all(EVENTS <= sum(log.high for log in world.job.broker.topics["customer-events"]) for world in worlds)
    assert all(max(data.epoch for data in world.job.data()) >= 1 for world in worlds)
    changes = [change["cause"] for world in worlds for change in world.job.changes()]
    assert {"first_seen", "behaviour", "decay", "model_drift", "expired", "erased", "merged"} <= set(changes)
    assert 40 < sum(entry.kind == journal.TICK for world in worlds for entry in world.job.entries())
    assert 20 < sum(len(world.job.changes()) for world in worlds) / len(worlds)
