"""What a worker works with, how it goes about it, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from streamer.app.batch import WEEK_MS
from streamer.app.logs import Pseudonyms
from streamer.app.recording import NoRecorder
from streamer.core.erasure import make_rule
from streamer.core.fold import APPLIED, DUPLICATE, LATE
from streamer.core.partitioning import partition_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from streamer.adapters.avro.wire import SchemaId
    from streamer.app.batch import Folded
    from streamer.app.changes import ChangeWriter
    from streamer.app.clock import Clock
    from streamer.app.first_model import FirstModel
    from streamer.app.intake import Intake, Taken
    from streamer.app.models import ModelShelf
    from streamer.app.promotions import Promotions
    from streamer.app.publishing import Publishing
    from streamer.app.recording import Recorder
    from streamer.core.erasure import Rule
    from streamer.core.ports import EventLog, StateStore, Topic, TopicReader


REFUSE = make_rule(None, refuse=True)


@dataclass(frozen=True, slots=True)
class Settings:
    """How a worker goes about it; times in seconds."""

    topic: str
    partitions: int
    records_max: int = 5000
    wait_s: float = 0.1
    gather_s: float = 0.005
    publish_timeout_s: float = 30.0
    poll_interval_s: float = 1.0
    epoch_interval_s: float = 5.0
    idle_check_s: float = 5.0
    look_s: float = 1.0
    sweep_records: int = 1000  # of one partition's sweep, between two batches
    tick_after_s: float | None = 60.0  # an idle partition's clock goes on so long after a boundary; None: it never does
    tick_within_s: float = 172_800.0  # while the job's data are no older
    era: int = 0
    follow: bool = False  # take decisions from an earlier run's journal alone
    exactly_once: bool = True
    deaths_max: int = 5
    erasure: Rule = REFUSE  # how later events of erased customers are treated
    redirect_ms: int = WEEK_MS  # how long after a merge a customer's events are sent on, in event time
    sends_on: bool = True  # else somebody else sends on what merges take away and redirect
    place: Callable[[bytes, int], int] = partition_of  # where a customer's events are, of so many partitions
    topic_partitions: Mapping[Topic, int] = field(default_factory=dict)  # of the topics whose records the key places
    journal_schema: int = 0
    models_schema: int = 0


@dataclass(frozen=True, slots=True)
class Tools:
    """All that a worker works with."""

    log: EventLog
    store: StateStore
    publishing: Publishing
    reader: TopicReader
    clock: Clock
    intake: Intake
    changes: ChangeWriter
    shelf: ModelShelf
    first_model: FirstModel | None
    recorder: Recorder = field(default_factory=NoRecorder)
    pseudonyms: Pseudonyms = field(default_factory=Pseudonyms)
    promotions: Promotions | None = None  # None: nobody promotes
    events_schema: Callable[[], SchemaId] = int  # the id of what we write of events; asked for when there is something to write


@dataclass(slots=True)
class Totals:
    """What a worker has done since it started."""

    events: int = 0
    applied: int = 0
    duplicates: int = 0
    late: int = 0
    letters: int = 0
    changes: int = 0
    batches: int = 0

    def add(self, taken: Taken, folded: Folded) -> None:
        """Count a batch."""
        tally = folded.tally.sum(axis=0)
        self.batches += 1
        self.events += len(taken.status)
        self.applied += int(tally[APPLIED])
        self.duplicates += int(tally[DUPLICATE])
        self.late += int(tally[LATE])
        self.letters += int(np.count_nonzero(taken.status))
        self.changes += folded.changed
