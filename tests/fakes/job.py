"""The whole job in memory: the real worker over a fake broker, Redis and clock, and what it left to compare."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

import schemas
from streamer.adapters.avro import codec, wire
from streamer.adapters.avro.model_records import MODEL, on_topic
from streamer.adapters.avro.writer_schemas import WriterSchemas
from streamer.adapters.registry import PackagedSchemas
from streamer.app import checking, journal, merging
from streamer.app.changes import CHANGE, EXISTING, RECONCILE, ChangeWriter, Origin
from streamer.app.erasing import commands
from streamer.app.first_model import FirstFit, FirstModel
from streamer.app.intake import Intake
from streamer.app.journal import ENTRY
from streamer.app.models import ModelShelf
from streamer.app.promotions import Promotions
from streamer.app.publishing import AtLeastOnce, ExactlyOnce
from streamer.app.tools import Settings, Tools
from streamer.app.worker import Worker
from streamer.core.columns import read_only
from streamer.core.declaration import Declaration, declare
from streamer.core.intake import Limits
from streamer.core.model import Decision
from streamer.core.partition import PartitionData, unpack_state
from streamer.core.plan import plan
from streamer.core.ports import Topic
from streamer.core.profile import PRESENT, unpack
from tests.fakes import promoting
from tests.fakes.broker import FakeBroker, FakeEventLog, FakePublisher, FakeTopicReader
from tests.fakes.clock import FakeClock
from tests.fakes.faults import Faults
from tests.fakes.state_store import FakeRedis, FakeStateStore, joined_with_bounds
from tests.fakes.transactions import FakeTransactions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from streamer.adapters.avro.model_records import OnTopic
    from streamer.adapters.avro.wire import SchemaId
    from streamer.app.first_model import Fitter
    from streamer.app.publishing import Publishing
    from streamer.core.columns import F64, I64, Headers
    from streamer.core.model import ModelVersion
    from streamer.core.ports import EventLog, StateStore
    from streamer.core.profile import Work

INPUT = "customer-events"
APP = "shop"
NAME = "segments"
ROUNDS_MAX = 3000
CALM_ROUNDS = 3
TIMEOUT_S = 30.0
FEATURES: dict[str, Any] = {
    "measures": {
        "events": {"lifetime_count": "any"},
        "views": {"count": "view"},
        "spend": {"sum": "amount", "of": "purchase"},
        "last_event": {"last": "any"},
    },
    "features": {
        "days_since_event": {"recency": "last_event", "cap": "30d", "transform": "log1p"},
        "views_30d": {"sum": "views", "window": "30d", "transform": "log1p"},
        "spend_30d": {"sum": "spend", "window": "30d", "transform": "log1p"},
    },
    "eligibility": {"events": 2},
}


class FakeFitter:
    """Cuts the points, in the order of their sums, into equal parts."""

    def fit(self, points: F64, k: int) -> tuple[F64, I64]:
        parts = np.array_split(points[np.lexsort([*points.T, points.sum(axis=1)])], k)
        return np.array([part.mean(axis=0) for part in parts]), np.array([len(part) for part in parts])


@cache
def intake_of(declared: str) -> Intake:
    """Make what decodes and validates; nothing of it is a worker's own."""
    return Intake(declare(json.loads(declared)), WriterSchemas(PackagedSchemas()), Limits(), 100, 10_000)


@cache
def schema_id(name: str) -> SchemaId:
    return schemas.packaged_id(name, schemas.latest(name))


@dataclass
class Job:
    """One application. `run_id` names what it writes; a job that follows reads the journal and the models of `leader`."""

    partitions: int = 4
    features: dict[str, Any] = field(default_factory=lambda: FEATURES)
    settings: dict[str, Any] = field(default_factory=dict)
    first_fit: FirstFit | None = field(default_factory=lambda: FirstFit(NAME, 3, 12, 0, 1000, Decision(dwell_ms=0)))
    fitter: Fitter = field(default_factory=FakeFitter)
    broker: FakeBroker = field(default_factory=lambda: FakeBroker(now_ms=1_800_000_000_000))
    redis: FakeRedis = field(default_factory=FakeRedis)
    clock: FakeClock = field(default_factory=FakeClock)
    run: str = "live"
    leader: str = "live"
    promotes: bool = False  # whether workers look for versions that a person promotes

    def __post_init__(self) -> None:
        """Make the topics."""
        self.asked: tuple[str, list[int]] = "", []  # the latest request, and where the changes ended then
        self.erased: list[str] = []  # customers
        self.declaration: Declaration = declare(self.features)
        self.plan = plan(self.declaration)
        if INPUT not in self.broker.topics:
            self.broker.create(INPUT, self.partitions)
        for topic, name in self.topics(self.run).items():
            if topic is Topic.EVENTS:
                continue
            self.broker.create(name, self.partitions if topic in {Topic.CHANGES, Topic.JOURNAL} else 1)

    def topics(self, run: str) -> dict[Topic, str]:
        return {topic: INPUT if topic is Topic.EVENTS else f"{run}.{topic.value}" for topic in Topic}

    def following(self, **settings: Any) -> Job:
        """The same log and journal again, beside what was kept and told the first time."""
        return replace(
            self, run=f"{self.run}-again", leader=self.run, redis=FakeRedis(), first_fit=None, settings=settings | {"follow": True}
        )

    @property
    def store(self) -> FakeStateStore:
        return FakeStateStore(self.redis, self.run, APP)

    @property
    def reader(self) -> FakeTopicReader:
        own = self.topics(self.run)
        led = self.topics(self.leader)
        return FakeTopicReader(self.broker, {**own, Topic.JOURNAL: led[Topic.JOURNAL], Topic.MODELS: led[Topic.MODELS]})

    def worker(self, name: str = "a", faults: Faults | None = None, **settings: Any) -> Worker:
        """Make a worker, and let it join the group."""
        faults = faults or Faults()
        store = faults.around("store", self.store)
        reader = faults.around("reader", self.reader)
        intake = intake_of(self.declared)
        event_log = faults.around("log", FakeEventLog(self.broker, INPUT, self.run, name))
        how: dict[str, Any] = {"records_max": 40, "sweep_records": 5, "wait_s": 0.0, "gather_s": 0.0, **self.settings, **settings}
        how |= {"journal_schema": schema_id(ENTRY), "models_schema": schema_id(MODEL), "place": placed}
        how.setdefault("sends_on", not how.get("follow", False))
        tools = Tools(
            log=event_log,
            store=store,
            publishing=self.publishing(name, faults, event_log, store, exactly_once=how.get("exactly_once", True)),
            reader=reader,
            clock=self.clock,
            intake=intake,
            changes=self.writer(),
            shelf=ModelShelf(store, reader, NAME),
            first_model=None if self.first_fit is None else FirstModel(self.declaration, self.plan, self.first_fit, self.fitter),
            promotions=Promotions(reader, NAME, self.declaration) if self.promotes else None,
            events_schema=lambda: schema_id("behaviour_event"),
        )
        return Worker(Settings(INPUT, self.partitions, **how), self.declaration, tools)

    @property
    def declared(self) -> str:
        """Give the declaration as a text."""
        return json.dumps(self.features)

    def writer(self) -> ChangeWriter:
        """Make what writes changes."""
        origin = Origin(INPUT, self.declaration.version, tuple(f.name for f in self.declaration.features))
        return ChangeWriter(origin, schema_id(CHANGE))

    def publishing(self, name: str, faults: Faults, event_log: EventLog, store: StateStore, *, exactly_once: bool) -> Publishing:
        """Make what publishes, under a transactional id of the worker's own or at least once."""
        topics = self.topics(self.run)
        if exactly_once:
            transactions = faults.around("transactions", FakeTransactions(self.broker, topics, f"{self.run}.{name}"))
            return ExactlyOnce(transactions, event_log, store, TIMEOUT_S)
        return AtLeastOnce(faults.around("publisher", FakePublisher(self.broker, topics)), event_log, TIMEOUT_S)

    def gone(self, name: str) -> None:
        """Let the group know that a member is no more."""
        self.broker.leave(self.run, name, self.partitions)

    def send(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Put events into the log, each customer's into one partition."""
        for event in events:
            partition = placed(event["customer_id"].encode(), self.partitions)
            self.broker.append(INPUT, partition, event["customer_id"].encode(), encoded(event))

    def erase(self, customer: str, at: int) -> None:
        """Send the command to erase a customer to every partition, as `streamer erase` does."""
        self.erased.append(customer)
        for record in commands(customer, self.partitions, schema_id("behaviour_event"), at):
            assert record.value is not None
            self.broker.append(INPUT, record.partition, record.key, record.value)

    def merge(self, old: str, new: str, at: int) -> None:
        """Send the command that merges a customer into another to every partition, as `streamer merge` does."""
        for record in merging.commands(old, new, self.partitions, schema_id("behaviour_event"), at):
            assert record.value is not None
            self.broker.append(INPUT, record.partition, record.key, record.value)

    def ask(self, request: str) -> None:
        """Ask to be told everybody's segment again, as `streamer reconcile` does."""
        self.asked = request, [log.high for log in self.broker.topics[self.topics(self.run)[Topic.CHANGES]]]
        self.store.ask(RECONCILE, request.encode())

    def promote(self, version: ModelVersion, reason: str = "") -> None:
        """Promote a version, as `offline models promote` does."""
        promoting.promote(self.broker, self.topics(self.run)[Topic.MODELS], version, schema_id(MODEL), reason)

    def on_topic(self) -> OnTopic:
        """Read the topic of models."""
        return on_topic(NAME, self.records(Topic.MODELS))

    def version(self, number: int) -> ModelVersion:
        """Find a version on the topic of models."""
        return ModelShelf(self.store, self.reader, NAME).get(number)

    def step(self, *workers: Worker, rounds: int = 1, seconds: float = 0.2) -> None:
        """Let workers do some rounds each, in turn."""
        for _ in range(rounds):
            for worker in workers:
                worker.step()
            self.later(seconds)

    def later(self, seconds: float) -> None:
        """Let time pass, for workers and brokers."""
        self.clock.sleep(seconds)
        self.broker.now_ms += int(seconds * 1000)

    def settle(self, *workers: Worker) -> None:
        """Let workers work until nothing changes any more, however long they wait."""
        calm = 0
        for _ in range(ROUNDS_MAX):
            before = self._moved()
            self.step(*workers)
            calm = calm + 1 if before == self._moved() else 0
            if calm:
                self.later(10.0)
                for marker in self.broker.under_way():
                    self.broker.arrive(marker)
            if calm == CALM_ROUNDS:
                return
        message = f"nothing settled in {ROUNDS_MAX} rounds"
        raise TimeoutError(message)

    def _moved(self) -> Any:
        states = self.store.read(range(self.partitions))
        return [(s.owner, s.commit_id) for s in states], [log.high for name in self.broker.topics for log in self.broker.topics[name]]

    # What it left

    def data(self) -> list[PartitionData]:
        """Read the state of each partition that has one."""
        return [unpack_state(state.state) for state in self.store.read(range(self.partitions)) if state.commit_id]

    def profiles(self) -> dict[bytes, bytes]:
        """Give every customer's packed profile."""
        namespace = self.redis.namespaces[self.run, APP]
        return {customer: body for _, held in sorted(namespace.partitions.items()) for customer, body in held.profiles.items()}

    def work(self) -> tuple[list[str], Work]:
        """Unpack all profiles."""
        profiles = self.profiles()
        values, bounds = joined_with_bounds(profiles.values())
        work = unpack(self.plan, read_only(values), bounds, np.zeros(len(profiles), np.int64))
        assert [PRESENT] * len(profiles) == work.found.tolist()
        return [customer.decode() for customer in profiles], work

    def counts(self) -> dict[str, int]:
        """Tell how many events each customer's profile has counted."""
        customers, work = self.work()
        place = [measure.name for measure in self.declaration.lifetimes].index("events")
        return dict(zip(customers, work.life[:, place].tolist(), strict=True))

    def records(self, topic: Topic) -> list[Any]:
        """Give what was published, partition by partition."""
        return [record for log in self.broker.topics[self.topics(self.run)[topic]] for record in log.committed()]

    def changes(self) -> list[dict[str, Any]]:
        """Give every change as it was told, repetitions too."""
        return [codec.decode(CHANGE, record.value[wire.ID_BYTES :]) for record in self.records(Topic.CHANGES) if record.value is not None]

    def told(self) -> dict[str, dict[str, Any]]:
        """Give the changes that were told, each once, by their ids, without what differs from run to run, and what was told on demand.

        Whatever is told twice is told alike, and each customer's versions grow.
        """
        found: dict[str, dict[str, Any]] = {}
        latest: dict[str, int] = {}
        for change in self.changes():
            if change["status"] == EXISTING:
                continue
            kept = {name: value for name, value in change.items() if name not in {"detected_at", "origin", "run_id"}}
            if change["change_id"] not in found:
                assert change["version"] > latest.get(change["customer_id"], -1)
                latest[change["customer_id"]] = change["version"]
            assert found.setdefault(change["change_id"], kept) == kept
        return found

    def entries(self) -> list[journal.Entry]:
        """Give the journal's decisions."""
        return [entry for log in self.broker.topics[self.topics(self.run)[Topic.JOURNAL]] for entry in journal.read(log.committed())]

    def journal_of(self, partition: int) -> list[journal.Entry]:
        """Give one partition's decisions."""
        return journal.read(self.broker.topics[self.topics(self.run)[Topic.JOURNAL]][partition].committed())

    def check(self) -> checking.Report:
        """Compare sums and profiles."""
        shelf = ModelShelf(self.store, self.reader, NAME)
        return checking.check(self.store, self.partitions, self.plan, self.declaration.version, shelf.get, lambda _: None)


def placed(customer: bytes, partitions: int) -> int:
    """Tell which partition a customer's events are in."""
    return int.from_bytes(customer, "big") % partitions


def encoded(event: Mapping[str, Any]) -> bytes:
    """Write an event as its producer does."""
    defaults = dict.fromkeys(("amount", "currency", "quantity", "product_id", "category", "session_id"))
    return wire.framed(codec.encode("behaviour_event", {**defaults, "properties": {}, **event}), schema_id("behaviour_event"))


def headers(record: Any) -> dict[str, bytes | None]:
    """Give a record's headers by their names."""
    found: Headers = record.headers
    return dict(found)


def shop(count: int, customers: int, seed: int = 0) -> Sequence[dict[str, Any]]:
    """Make events of customers who differ, in the order of their time, over 40 days."""
    rng = np.random.default_rng(seed)
    events = []
    for i in range(count):
        customer = int(rng.integers(customers))
        bought = rng.random() < (customer % 4) / 4
        events.append(
            {
                "event_id": f"{seed}-{i}",
                "customer_id": f"c{customer:03d}",
                "event_type": "purchase" if bought else "view",
                "occurred_at": 1_700_000_000_000 + i * 40 * 86_400_000 // count,
                "amount": int(rng.integers(100, 1000 * (1 + customer % 4))) if bought else None,
            }
        )
    return events
