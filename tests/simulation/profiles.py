"""What schedules are like: which faults befall them how often, how many, when markers arrive, how events come and how much a batch takes.

Law: a profile makes what is rare frequent; nothing befalls a schedule of one profile that can't befall one of another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Arrival: TypeAlias = Literal["at once", "waited for", "held"]

BEFALLS = (
    ("crash", 4),
    ("dies", 2),
    ("lost_reply", 3),
    ("lost_commit", 3),
    ("stall", 4),
    ("joins", 1),
    ("leaves", 1),
    ("rebalance", 2),
    ("wipe", 1),
    ("rollback", 2),
    ("loses_writes", 2),
    ("redis_away", 1),
    ("broker_away", 1),
    ("time_out", 1),
)
FAULTS_MIN, FAULTS_MAX = 5, 12


@dataclass(frozen=True, slots=True)
class Profile:
    """What schedules are like. Of a tuple each schedule, or each worker, draws one."""

    name: str
    befalls: tuple[tuple[str, int], ...] = BEFALLS  # how often, against each other
    faults: tuple[int, int] = (FAULTS_MIN, FAULTS_MAX)  # the fewest and the most
    faults_from: int = 50  # the turn before which nothing befalls
    arrival: tuple[Arrival, ...] = ("at once", "waited for", "held")
    arrives: float = 0.2  # the chance that a marker under way arrives in a turn
    sends: float = 0.08  # the chance that events come in a turn
    records_max: tuple[int, ...] = (3, 10, 40)
    sweep_records: tuple[int, ...] = (1, 4, 50)
    rehashes: bool = False  # whether a Redis that comes back as it was earlier counts the cursors of its scans otherwise


USUAL = Profile("usual")
