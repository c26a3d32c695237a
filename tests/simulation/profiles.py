"""What schedules are like: which faults befall them how often, how many, when markers arrive, how events come and how much a batch takes.

Law: a profile makes what is rare frequent; nothing befalls a schedule of one profile that can't befall one of another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    positions_first: bool = False  # whether the positions' markers arrive at once, and only those of records are late
    sends: float = 0.08  # the chance that events come in a turn
    records_max: tuple[int, ...] = (3, 10, 40)
    sweep_records: tuple[int, ...] = (1, 4, 50)
    forth: bool = True  # whether a rollback may bring back what an earlier one undid
    turns: int = 900  # that faults and events are spread over
    promotions: tuple[int, int] | None = None  # the fewest and the most versions that a person promotes; None: nobody looks for any
    erases: float = 0.0  # the chance that a schedule erases customers
    merges: float = 0.0  # the chance that a schedule merges customers
    rehashes: bool = True  # whether a Redis that comes back as it was earlier counts the cursors of its scans otherwise
    expires: float = 0.0  # the chance that the group's positions are deleted in a schedule
    exactly_once: bool = True  # whether workers publish in transactions


USUAL = Profile("usual", erases=0.25, merges=0.25)
EVERYTHING = replace(USUAL, name="everything", expires=0.3)
"""Usual schedules, in some of which the group's positions are deleted: by a random stream of its own, so that the others are `USUAL`'s."""
MARKERS = Profile(
    "late markers",
    befalls=(
        ("rebalance", 4),
        ("crash", 3),
        ("dies", 2),
        ("stall", 3),
        ("lost_commit", 3),
        ("joins", 1),
        ("leaves", 1),
        ("wipe", 2),
        ("rollback", 2),
        ("loses_writes", 4),
    ),
    faults=(8, 16),
    arrival=("held",),
    arrives=0.02,
    forth=False,
)
ZOMBIES = Profile(
    "zombies",
    befalls=(("stall", 8), ("rebalance", 4), ("rollback", 4), ("loses_writes", 4), ("joins", 1), ("leaves", 1)),
    faults=(10, 18),
    sends=0.12,
    records_max=(3, 10),
    forth=False,
)
LOSSES = Profile(
    "lost writes",
    befalls=(("rollback", 4), ("loses_writes", 6), ("wipe", 2), ("crash", 6), ("dies", 3), ("lost_commit", 2), ("rebalance", 1)),
    faults=(10, 18),
    records_max=(3, 10),
    sweep_records=(1, 4),
    forth=False,
)
REPLIES = Profile(
    "lost replies",
    befalls=(("lost_commit", 8), ("lost_reply", 4), ("rebalance", 2), ("joins", 1), ("leaves", 1), ("broker_away", 1)),
    faults=(10, 18),
)
FROZEN = Profile(
    "frozen",
    befalls=(("frozen", 10), ("rebalance", 2), ("loses_writes", 2), ("crash", 1)),
    faults=(12, 20),
    sends=0.12,
    records_max=(1, 3, 10),
    sweep_records=(1, 4),
    forth=False,
)
REBUILDS = Profile(
    "cut-off rebuilds",
    befalls=(("loses_writes", 6), ("rollback", 3), ("wipe", 1), ("dies_rebuilding", 14)),
    faults=(20, 36),
    faults_from=300,  # a sweep is to be lost
    sends=0.2,
    records_max=(3, 10),
    sweep_records=(1, 4),
    forth=False,
)
FORKS = Profile(
    "time cut off",
    befalls=(("frozen_passing", 10), ("rebalance", 1)),
    faults=(5, 9),
    faults_from=700,  # everybody has been judged once
    sends=0.03,
    records_max=(1, 3, 10),
    sweep_records=(1, 50),
    forth=False,
    turns=1800,  # one after the other, each with time to be told of
)
LATE_RECORDS = Profile(
    "late records",
    befalls=(("late_records", 6), ("rebalance", 1), ("loses_writes", 1)),
    faults=(4, 8),
    faults_from=400,
    arrival=("held",),
    arrives=0.4,
    positions_first=True,
    sends=0.2,
    records_max=(10, 40),
    forth=False,
)
STALLS = Profile(
    "stalls",
    befalls=(("stall", 8), ("rebalance", 4), ("joins", 1), ("leaves", 1)),
    faults=(12, 20),
    sends=0.12,
    records_max=(3, 10),
)
QUIET = Profile(
    "lost writes at the end",
    befalls=(("rollback", 4), ("loses_writes", 4), ("wipe", 1)),
    faults=(1, 3),
    faults_from=850,
    sends=0.2,
)
STARTS = Profile(
    "failing assignments",
    befalls=(("lost_start", 8), ("crash", 6), ("rebalance", 4), ("joins", 3), ("leaves", 1)),
    faults=(16, 28),
    sends=0.12,
    records_max=(3, 10),
)
ASKS = Profile(
    "reconciled",
    befalls=(
        ("asks", 8),
        ("restarts", 6),
        ("crash", 3),
        ("dies", 2),
        ("lost_commit", 2),
        ("stall", 2),
        ("rebalance", 2),
        ("rollback", 1),
        ("loses_writes", 2),
        ("wipe", 1),
    ),
    faults=(12, 24),
    faults_from=200,  # somebody is to be in a segment
    sends=0.2,
    sweep_records=(1, 2, 4),
    forth=False,
)
STRAYS = Profile(
    "logs cut short",
    befalls=(("forgets", 4), ("asks", 1), ("crash", 5), ("dies", 3), ("lost_commit", 2), ("stall", 1), ("rebalance", 1)),
    faults=(6, 14),
    faults_from=500,  # much is to be forgotten
    sends=0.25,
    records_max=(10, 40),
    sweep_records=(1, 4),
)
EXPIRY = Profile(
    "positions expire",
    befalls=(*BEFALLS, ("wipe", 2), ("rollback", 2), ("stall", 2)),
    faults=(8, 16),
    expires=1.0,
    forth=False,
)
EXPIRY_SWEEPS = replace(
    EXPIRY,
    name="positions expire amid sweeps",
    befalls=(("loses_writes", 6), ("rollback", 3), ("crash", 2), ("rebalance", 2)),
    faults_from=300,  # as for cut-off rebuilds: a sweep, whose commits are at one offset, is to be lost
    sends=0.2,
    sweep_records=(1, 4),
)
AT_LEAST_ONCE = Profile(
    "without transactions",
    befalls=(*BEFALLS, ("crash", 4), ("rollback", 4), ("loses_writes", 2)),
    faults=(8, 16),
    expires=0.2,
    merges=0.3,
    exactly_once=False,
    forth=False,
)
THERE_AND_BACK = Profile("there and back", befalls=(("rollback", 6), ("loses_writes", 2), ("rebalance", 1)), faults=(20, 36), sends=0.12)
PROMOTED = Profile(
    "promoted",
    befalls=(
        ("crash", 5),
        ("dies", 3),
        ("lost_commit", 3),
        ("lost_reply", 2),
        ("stall", 3),
        ("rebalance", 2),
        ("rollback", 2),
        ("loses_writes", 3),
        ("wipe", 1),
        ("asks", 1),
        ("redis_away", 1),
        ("broker_away", 1),
    ),
    faults=(8, 20),
    faults_from=400,
    sends=0.03,
    records_max=(10, 40),
    sweep_records=(4, 50),
    forth=False,
    turns=3600,  # so that versions are adopted, swept and learned from in the midst of it
    promotions=(3, 6),
)
ERASURES = Profile("erasures", befalls=BEFALLS, sends=0.12, erases=1.0)
MERGES = Profile("merges", befalls=BEFALLS, sends=0.12, erases=0.2, merges=1.0, expires=0.2)
MERGES_EXPIRING = Profile(
    "merges, and positions expire", befalls=(*BEFALLS, ("wipe", 4), ("rollback", 2)), faults=(8, 16), forth=False, merges=1.0, expires=1.0
)
BIASED = (
    MARKERS,
    ZOMBIES,
    LOSSES,
    REPLIES,
    FROZEN,
    REBUILDS,
    FORKS,
    LATE_RECORDS,
    STALLS,
    QUIET,
    STARTS,
    ASKS,
    STRAYS,
    EXPIRY,
    EXPIRY_SWEEPS,
    AT_LEAST_ONCE,
    THERE_AND_BACK,
    PROMOTED,
    ERASURES,
    MERGES,
    MERGES_EXPIRING,
)
