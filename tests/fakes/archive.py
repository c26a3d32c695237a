"""An archiver in memory: the real one over a fake broker, clock and store, and what it left to compare."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from streamer.adapters.avro.writer_schemas import WriterSchemas
from streamer.adapters.history import HistoryWriter, Kind, Limits
from streamer.adapters.history.reading import History
from streamer.adapters.registry import PackagedSchemas
from streamer.app import journal
from streamer.app.archiver import Archiver, Settings, Tools
from streamer.app.intake import Intake
from streamer.app.journal import ENTRY
from streamer.core.declaration import declare
from streamer.core.intake import Limits as Bounds
from streamer.core.ports import Topic
from tests.fakes.broker import FakeBroker, FakeEventLog, FakeTopicReader
from tests.fakes.clock import FakeClock
from tests.fakes.history_store import MemoryStore
from tests.fakes.job import FEATURES, INPUT, encoded, schema_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamer.adapters.history.store import Store

GROUP = "shop.archive"
JOURNAL = "segment-journal"
DAY_MS = 86_400_000
T0 = 1_800_057_600_000  # a midnight
INTAKE = Intake(declare(json.loads(json.dumps(FEATURES))), WriterSchemas(PackagedSchemas()), Bounds(), 100, 10_000, whole=True)
FIELDS = ("amount", "currency", "quantity", "product_id", "category", "session_id")


def event(number: int, customer: str = "c", at: int = T0, **fields: Any) -> dict[str, Any]:
    """Make an event."""
    return {
        "event_id": f"e{number}",
        "customer_id": customer,
        "event_type": "view",
        "occurred_at": at,
        **dict.fromkeys(FIELDS),
        "properties": {},
        **fields,
    }


@dataclass
class Archive:
    """A topic of events, its journal, and history."""

    partitions: int = 2
    settings: dict[str, Any] = field(default_factory=dict)
    keep_s: int = 1_000
    broker: FakeBroker = field(default_factory=lambda: FakeBroker(now_ms=T0))
    clock: FakeClock = field(default_factory=lambda: FakeClock(wall_ms=T0))
    journal: str = JOURNAL
    sent: list[tuple[int, int, int, dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the topics that are missing."""
        for topic in {INPUT, self.journal} - self.broker.topics.keys():
            self.broker.create(topic, self.partitions)
        self.store: Any = MemoryStore(self.clock)

    def send(self, partition: int, what: Mapping[str, Any], timestamp: int | None = None) -> int:
        """Put a valid event into the log."""
        at = self.broker.now_ms if timestamp is None else timestamp
        offset = self.broker.append(INPUT, partition, b"key", encoded(what), timestamp=at)
        self.sent.append((partition, offset, at, dict(what)))
        return offset

    def send_bad(self, partition: int) -> int:
        """Put something into the log that is no event."""
        return self.broker.append(INPUT, partition, b"key", b"\0\0")

    def decide(self, partition: int, kind: str, at_offset: int, epoch: int = 0) -> None:
        """Put an entry into the journal, and leave the gap of its transaction."""
        entry = journal.Entry(kind, at_offset, T0, 1, epoch, b"\1\2")
        out = journal.record(entry, partition, f"commit-{at_offset}", T0, schema_id(ENTRY))
        self.broker.append(self.journal, partition, out.key, out.value, out.headers)
        self.broker.skip(self.journal, partition, 1)

    def archiver(self, name: str = "a", store: Store | None = None, **settings: Any) -> Archiver:
        """Make an archiver, and let it join the group."""
        how = {"file_offsets": 10, "roll_s": 60.0, "records_max": 7, "wait_s": 0.0, "gather_s": 0.0, **self.settings, **settings}
        tools = Tools(
            FakeEventLog(self.broker, INPUT, GROUP, name),
            FakeTopicReader(self.broker, {Topic.JOURNAL: self.journal}),
            lambda partition, first, end: bool(self.broker.topics[INPUT][partition].committed(first, end)),
            INTAKE,
            self.writer(store),
            self.clock,
        )
        return Archiver(Settings(**how), tools, self.partitions)

    def writer(self, store: Store | None = None) -> HistoryWriter:
        return HistoryWriter(store or self.store, {Kind.EVENTS: INPUT, Kind.JOURNAL: self.journal}, Limits(keep_s=self.keep_s))

    def gone(self, name: str) -> None:
        """Let the group know that an archiver is no more."""
        self.broker.leave(GROUP, name, self.partitions)

    def later(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.sleep(seconds)
        self.broker.now_ms += int(seconds * 1000)

    def finish(self, name: str = "last") -> None:
        """Let one more archiver write all that there is."""
        working = self.archiver(name)
        ends = working.ends()
        working.run(self._reached(working, ends))

    def _reached(self, working: Archiver, ends: dict[tuple[Kind, int], int]) -> Any:
        def reached() -> bool:
            self.later(0.5)
            return working.reached(ends)

        return reached

    def history(self) -> History:
        return History(self.store)

    def rows(self, cutoff: Mapping[int, int] | None = None) -> list[tuple[int, int, int, dict[str, Any]]]:
        """Read history as it was sent."""
        history = self.history()
        found = []
        for batch in history.events(history.manifest().cutoff(2**62) if cutoff is None else cutoff, batch_rows=3):
            for row in batch.to_pylist():
                place = row.pop("partition"), row.pop("offset"), row.pop("kafka_timestamp")
                found.append((*place, {**row, "properties": dict(row["properties"])}))
        return found

    def expected(self, without: Sequence[tuple[int, int]] = ()) -> list[tuple[int, int, int, dict[str, Any]]]:
        """Give what was sent, in the order of history."""
        return [row for row in sorted(self.sent, key=lambda row: row[:2]) if row[:2] not in without]
