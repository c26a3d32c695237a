"""Puts the parts together as the configuration says: the one place that names concrete classes."""

from __future__ import annotations

import gc
import logging
import os
import socket
from contextlib import contextmanager, suppress
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar
from uuid import UUID

import schemas
from streamer.adapters import memory
from streamer.adapters.avro import codec, wire
from streamer.adapters.avro.model_records import MODEL
from streamer.adapters.avro.writer_schemas import WriterSchemas
from streamer.adapters.clustering import KMeansFitter
from streamer.adapters.declaration_file import load as load_declaration
from streamer.adapters.history import HistoryWriter, Kind, NoHistory, open_history, open_store
from streamer.adapters.history import Limits as HistoryLimits
from streamer.adapters.kafka import (
    EventsProducer,
    KafkaAdmin,
    KafkaEventLog,
    KafkaPublisher,
    KafkaSettings,
    KafkaTopicReader,
    KafkaTransactions,
    TopicPlan,
    topic_plans,
)
from streamer.adapters.kafka.events_producer import EventRecord
from streamer.adapters.kafka.offsets import Watermarks
from streamer.adapters.kafka.tailing import KafkaTail
from streamer.adapters.redis_state import RedisSettings, RedisStateStore
from streamer.adapters.registry import PackagedSchemas, Registry, RegistrySettings
from streamer.app import archiver as archiving
from streamer.app import checking
from streamer.app.archive_metrics import ArchiveMetrics, NoArchiveRecorder
from streamer.app.archiver import Archiver
from streamer.app.changes import CHANGE, ChangeWriter, Origin
from streamer.app.clock import SystemClock
from streamer.app.first_model import FirstFit, FirstModel
from streamer.app.health import Health
from streamer.app.intake import EVENT, Intake
from streamer.app.journal import ENTRY
from streamer.app.logs import Pseudonyms
from streamer.app.long_log import LongLog
from streamer.app.looking import Needs, Place, Sources
from streamer.app.metrics import Metrics
from streamer.app.models import ANNOUNCED, ModelShelf
from streamer.app.probes import probes
from streamer.app.promotions import Promotions
from streamer.app.publishing import AtLeastOnce, ExactlyOnce
from streamer.app.recording import NoRecorder
from streamer.app.tools import Settings, Tools
from streamer.app.warm import warm, warm_archiver
from streamer.app.worker import Worker
from streamer.core.erasure import make_rule
from streamer.core.errors import Misconfigured
from streamer.core.intake import Limits
from streamer.core.model import Decision
from streamer.core.partition import Announcement, unpack_state
from streamer.core.plan import plan
from streamer.core.ports import Topic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from prometheus_client import CollectorRegistry

    from streamer.adapters.history import History
    from streamer.adapters.registry import SchemaSource
    from streamer.app.archive_metrics import ArchiveRecorder
    from streamer.app.checking import Report
    from streamer.app.config import Config
    from streamer.app.letters import Again
    from streamer.app.publishing import Publishing
    from streamer.app.recording import Recorder
    from streamer.core.columns import Headers
    from streamer.core.declaration import Declaration
    from streamer.core.erasure import Rule
    from streamer.core.model import ModelVersion
    from streamer.core.ports import EventLog, PartitionState, StateStore

log = logging.getLogger(__name__)

Port = TypeVar("Port")
Counts = TypeVar("Counts")

SAMPLE_MAX = 200_000
READ_TIMEOUT_S = 30.0
GARBAGE_OBJECTS = 200_000


def topic_names(config: Config) -> dict[Topic, str]:
    """Name the topics that the worker writes."""
    t = config.topics
    return {Topic.CHANGES: t.changes, Topic.JOURNAL: t.journal, Topic.MODELS: t.models, Topic.DEAD_LETTERS: t.dead_letters}


def kafka_settings(config: Config, properties: Mapping[str, str]) -> KafkaSettings:
    """Say where Kafka is; `properties` are those of the configuration for a sort of client."""
    own = {name: value for name, value in properties.items() if name != "bootstrap.servers"}
    return KafkaSettings(config.kafka.bootstrap_servers, own, f"segment-streamer-{instance(config)}", config.kafka.timeout_s)


def ensure_topics(config: Config) -> int:
    """Make the topics that are missing, if the configuration lets us; returns how many partitions the input has."""
    t = config.topics
    admin = KafkaAdmin(kafka_settings(config, config.kafka.client_properties()))
    replication = t.replication_factor
    if t.create:
        admin.ensure([TopicPlan(t.events, t.partitions, replication=replication)])
    partitions = input_partitions(config, admin)
    if t.create:
        retention = -1 if t.journal_retention_s is None else t.journal_retention_s * 1000
        own = {
            Topic.CHANGES: {"min.compaction.lag.ms": str(t.change_compaction_lag_s * 1000)},
            Topic.JOURNAL: {"retention.ms": str(retention)},
        }
        admin.ensure(topic_plans(topic_names(config), partitions, replication, own))
    return partitions


def input_partitions(config: Config, admin: KafkaAdmin | None = None) -> int:
    """Count the input's partitions."""
    admin = admin or KafkaAdmin(kafka_settings(config, config.kafka.client_properties()))
    partitions = admin.partitions(config.topics.events)
    if partitions is None:
        message = f"there is no topic {config.topics.events}: make it, or let `streamer ingest` or `streamer run` with `topics.create`"
        raise Misconfigured(message)
    return partitions


def event_producer(config: Config) -> EventsProducer:
    """Connect a producer of events."""
    return EventsProducer(kafka_settings(config, config.kafka.producer_properties()), config.topics.events)


def topic_reader(config: Config) -> KafkaTopicReader:
    """Connect a reader of the worker's topics."""
    return KafkaTopicReader(kafka_settings(config, config.kafka.consumer_properties()), topic_names(config))


def state_store(config: Config, *, patient: bool = True) -> RedisStateStore:
    """Connect to Redis; without patience nothing is tried again, so that one time-out is all that a person waits."""
    r = config.redis
    name = f"segment-streamer-{instance(config)}"
    retries = r.retries_max if patient else 0
    settings = RedisSettings(
        r.url, r.cluster, r.connection_options(), name, r.timeout_s, retries_max=retries, require_noeviction=r.require_noeviction
    )
    return RedisStateStore(settings, config.app.namespace, config.app.name)


def instance(config: Config) -> str:
    """Name this process among the workers."""
    return config.app.instance or f"{socket.gethostname()}-{os.getpid()}"


def schema_source(config: Config) -> SchemaSource:
    """Give the registry where one is configured, else the packaged schemas and the allowed ones."""
    if config.schema_registry.url is not None:
        properties = config.schema_registry.client_properties()
        return Registry(RegistrySettings(url=config.schema_registry.url, timeout_s=config.schema_registry.timeout_s, properties=properties))
    return PackagedSchemas({_schema_id(key): path for key, path in config.schemas.allowed.items()})


def _schema_id(key: str) -> int | UUID:
    try:
        return int(key) if key.isdigit() else UUID(key)
    except ValueError as error:
        message = f"`schemas.allowed` has the key {key!r}: it must be a schema id or a GUID"
        raise Misconfigured(message) from error


def schema_ids(config: Config, source: SchemaSource) -> dict[str, int]:
    """Register what we publish, or take the packaged ids."""
    subjects = {CHANGE: f"{config.topics.changes}-value", ENTRY: f"{config.topics.journal}-value", MODEL: f"{config.topics.models}-value"}
    return {name: source.register(subject, schemas.text(name, schemas.latest(name))) for name, subject in subjects.items()}


def events_schema(config: Config, source: SchemaSource) -> int:
    """Register what we write of events, or take the packaged id."""
    return source.register(f"{config.topics.events}-value", schemas.text(EVENT, schemas.latest(EVENT)))


class Around(Protocol):
    """Stands between a worker and a port of its: who wants to see its calls, or to hurt it at one of them."""

    def __call__(self, name: str, port: Port) -> Port:
        """Give what the worker is to call in the port's place."""


def _nothing_around(name: str, port: Port) -> Port:  # noqa: ARG001  # as `Around` has it
    return port


@contextmanager
def worker(config: Config, recorder: Recorder | None = None, around: Around = _nothing_around) -> Iterator[Worker]:
    """Make a worker from the configuration, which tells `recorder` of its work.

    It calls its ports, and its clock, through what `around` gives.

    Raises:
        Misconfigured: the servers are not as they must be.
        Unavailable: one of them doesn't answer.

    """
    declaration = load_declaration(config.features.declaration)
    store = around("store", state_store(config))
    for warning in store.check():
        log.warning("%s", warning)
    partitions = ensure_topics(config)
    recorded = store.record_partitions(partitions)
    if recorded != partitions:
        message = (
            f"{config.topics.events} has {partitions} partitions and had {recorded} when this namespace began: customers have moved; "
            "begin in a new `app.namespace`"
        )
        raise Misconfigured(message)
    source = schema_source(config)
    ids = schema_ids(config, source)
    reader = around("reader", topic_reader(config))
    intake = make_intake(config, declaration, source)
    follow, own_partitions = config.journal.follow, _own_partitions(config)
    changes = change_writer(config, declaration, ids[CHANGE])
    warm(declaration, intake, changes)  # before the group counts on this worker
    event_log: EventLog = KafkaEventLog(
        kafka_settings(config, {"queued.max.messages.kbytes": ahead(config), **config.kafka.consumer_properties()}),
        config.topics.events,
        config.group_id,
        instance_id=config.app.instance,
    )
    event_log = around("log", reaching_back(config, event_log, intake))
    tools = Tools(
        log=event_log,
        store=store,
        publishing=_publishing(config, event_log, store, around),
        reader=reader,
        clock=around("clock", SystemClock()),
        intake=intake,
        changes=changes,
        shelf=ModelShelf(store, reader, config.model.name, own_partitions[Topic.MODELS]),
        first_model=FirstModel(declaration, intake.plan, _first_fit(config), KMeansFitter())
        if config.model.first_fit.enabled and not follow
        else None,
        recorder=recorder or NoRecorder(),
        pseudonyms=Pseudonyms(None if config.log.customer_key is None else config.log.customer_key.reveal()),
        promotions=None if follow else Promotions(reader, config.model.name, declaration, own_partitions[Topic.MODELS]),
        events_schema=cache(partial(events_schema, config, source)),
    )
    settings = Settings(
        topic=config.topics.events,
        partitions=partitions,
        records_max=config.batch.records_max,
        gather_s=config.batch.wait_ms / 1000,
        publish_timeout_s=config.kafka.timeout_s,
        poll_interval_s=min(1.0, config.model.epoch_interval_s),
        epoch_interval_s=config.model.epoch_interval_s,
        tick_after_s=config.time.tick_after_s,
        tick_within_s=config.time.tick_within_s,
        era=config.app.era,
        follow=follow,
        exactly_once=config.transactions == "on",
        deaths_max=config.limits.deaths_max,
        erasure=erasure_rule(config),
        redirect_ms=config.merge.redirect_s * 1000,
        sends_on=config.merge.sends and not follow,
        topic_partitions=own_partitions,
        journal_schema=ids[ENTRY],
        models_schema=ids[MODEL],
    )
    memory.keep()
    with _seldom_collecting():
        yield Worker(settings, declaration, tools)


def erasure_rule(config: Config) -> Rule:
    """Say how later events of erased customers are treated."""
    secret = None if config.erasure.key is None else config.erasure.key.reveal()
    return make_rule(secret, refuse=config.erasure.later_events == "refuse")


def ahead(config: Config) -> str:
    """Say how many KiB a consumer may fetch ahead."""
    return str(max(1, config.batch.bytes_max // 1024))


def _publishing(config: Config, event_log: EventLog, store: StateStore, around: Around) -> Publishing:
    """Make what publishes, in transactions under an id of this instance's own unless they are off."""
    settings = kafka_settings(config, config.kafka.producer_properties())
    names = {**topic_names(config), Topic.EVENTS: config.topics.events}
    if config.transactions == "off":
        return AtLeastOnce(around("publisher", KafkaPublisher(settings, names)), event_log, config.kafka.timeout_s)
    transactional_id = f"{config.app.namespace}.{config.app.name}.{instance(config)}"
    transactions = around("transactions", KafkaTransactions(settings, names, config.topics.events, transactional_id))
    return ExactlyOnce(transactions, event_log, store, config.kafka.timeout_s)


def _own_partitions(config: Config) -> dict[Topic, int]:
    """Count the partitions of the topics whose records the key places."""
    admin, names = KafkaAdmin(kafka_settings(config, config.kafka.client_properties())), topic_names(config)
    return {topic: admin.partitions(names[topic]) or 1 for topic in (Topic.MODELS, Topic.DEAD_LETTERS)}


@contextmanager
def _seldom_collecting() -> Iterator[None]:
    """Let Python look for cycles once in many batches: a batch makes ten thousands of tuples and messages, and no cycles."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@contextmanager
def watched(config: Config) -> Iterator[Recorder]:
    """Give what a worker tells of its work, to be scraped and probed for the length of the block."""
    with _watched(config, Metrics.registered) as metrics:
        yield metrics or NoRecorder()


@contextmanager
def watched_archiver(config: Config) -> Iterator[ArchiveRecorder]:
    """Give what an archiver tells of its work, likewise."""
    with _watched(config, ArchiveMetrics.registered) as metrics:
        yield metrics or NoArchiveRecorder()


@contextmanager
def _watched(config: Config, registered: Callable[[SystemClock, Health], tuple[Counts, CollectorRegistry]]) -> Iterator[Counts | None]:
    """Serve what counts, and the probes; None where the configuration wants neither."""
    how = config.metrics
    if not how.enabled:
        yield None
        return
    clock = SystemClock()
    health = Health(clock, how.live_within_s, how.ready_within_s)
    metrics, registry = registered(clock, health)
    with probes(how.host, how.port, health, registry):
        yield metrics


@contextmanager
def archiver(config: Config) -> Iterator[Archiver]:
    """Make an archiver from the configuration, in a group of its own.

    Raises:
        Misconfigured: there is no `history.url`, or the servers are not as they must be.
        Unavailable: one of them doesn't answer.

    """
    history = history_writer(config)
    partitions = ensure_topics(config)
    intake = make_intake(config, load_declaration(config.features.declaration), schema_source(config), whole=True)
    warm_archiver(intake)  # before the group counts on this archiver
    tail, reader = kafka_tail(config), topic_reader(config)
    how = config.history
    settings = archiving.Settings(
        how.file_rows, how.buffer_bytes_max, how.roll_s, records_max=config.batch.records_max, erasure=erasure_rule(config)
    )
    settings_of_kafka = kafka_settings(config, {"queued.max.messages.kbytes": ahead(config), **config.kafka.consumer_properties()})
    log_of_events = KafkaEventLog(settings_of_kafka, config.topics.events, archive_group(config), instance_id=config.app.instance)

    def left(partition: int, first: int, end: int) -> bool:
        return bool(tail.between(config.topics.events, partition, first, end))

    try:
        with watched_archiver(config) as recorder:
            yield Archiver(settings, archiving.Tools(log_of_events, reader, left, intake, history, SystemClock(), recorder), partitions)
    finally:
        reader.close()
        tail.close()


def reaching_back(config: Config, event_log: EventLog, intake: Intake) -> EventLog:
    """Let the input reach back as far as history, where there is one."""
    url = config.history.url
    if url is None:
        return event_log

    def opened(partition: int) -> History | None:
        with suppress(NoHistory):
            return open_history(url, [partition])
        return None

    return LongLog(event_log, opened, intake.own_id)


def archive_group(config: Config) -> str:
    """Name the consumer group of archivers."""
    return f"{config.group_id}.archive"


def history_url(config: Config) -> str:
    """Give the place of history.

    Raises:
        Misconfigured: there is none.

    """
    if config.history.url is None:
        message = "there is no `history.url`: set it to a directory or an object store"
        raise Misconfigured(message)
    return config.history.url


def history_writer(config: Config) -> HistoryWriter:
    """Connect what writes history."""
    topics = {Kind.EVENTS: config.topics.events, Kind.JOURNAL: config.topics.journal}
    limits = HistoryLimits(config.history.compacted_bytes, config.history.keep_s)
    return HistoryWriter(open_store(history_url(config)), topics, limits)


def make_intake(config: Config, declaration: Declaration, source: SchemaSource, *, whole: bool = False) -> Intake:
    """Make what decodes and validates, all fields of an event if `whole`."""
    limits = config.limits
    bounds = Limits(limits.event_id_bytes_max, limits.customer_id_bytes_max, limits.event_type_bytes_max, limits.future_s_max * 1000)
    return Intake(declaration, WriterSchemas(source), bounds, limits.items_max, limits.value_bytes_max, whole=whole)


def change_writer(config: Config, declaration: Declaration, schema_id: int) -> ChangeWriter:
    """Make what writes changes."""
    return ChangeWriter(Origin(config.topics.events, declaration.version, tuple(f.name for f in declaration.features)), schema_id)


def compile_all(config: Config) -> None:
    """Compile what a worker needs, with no server."""
    declaration = load_declaration(config.features.declaration)
    warm(declaration, make_intake(config, declaration, PackagedSchemas()), change_writer(config, declaration, 0))


def _first_fit(config: Config) -> FirstFit:
    model = config.model
    decision = Decision(model.margin, model.margin_large, model.dwell_s * 1000, model.retention_s * 1000)
    return FirstFit(model.name, model.k, model.first_fit.customers_min, model.first_fit.history_days_min, SAMPLE_MAX, decision)


def shelf(config: Config, store: RedisStateStore) -> ModelShelf:
    """Connect to the model versions."""
    return ModelShelf(store, topic_reader(config), config.model.name, copy_first=True)


def check_all(config: Config, progress: Callable[[int], None]) -> Report:
    """Compare every partition's sums with its profiles."""
    declaration: Declaration = load_declaration(config.features.declaration)
    store = state_store(config)
    partitions = input_partitions(config)
    return checking.check(store, partitions, plan(declaration), declaration.version, shelf(config, store).get, progress)


def current_model(config: Config) -> ModelVersion | None:
    """Find the version that is judged by."""
    store = state_store(config)
    packed = store.announced(ANNOUNCED)
    return None if packed is None else shelf(config, store).get(Announcement.unpack(packed).model)


def kafka_tail(config: Config) -> KafkaTail:
    """Connect what looks at topics without a group."""
    return KafkaTail(kafka_settings(config, config.kafka.consumer_properties()))


class LetterSender:
    """Sends dead letters' records to the events' topic, and notes on theirs that it did."""

    def __init__(self, config: Config) -> None:
        """Connect."""
        settings = kafka_settings(config, config.kafka.producer_properties())
        self._timeout_s = config.kafka.timeout_s
        self._events = EventsProducer(settings, config.topics.events)
        self._letters = EventsProducer(settings, config.topics.dead_letters)

    def send(self, records: Sequence[Again]) -> None:
        """Send records; returns once all are acknowledged."""
        self._events.send(EventRecord(record.key, record.value, record.headers, partition=record.partition) for record in records)
        self._events.wait(self._timeout_s)

    def note(self, partition: int, headers: Headers) -> None:
        """Write a note; returns once it is acknowledged."""
        self._letters.send([EventRecord(None, None, headers, partition=partition)])
        self._letters.wait(self._timeout_s)

    def close(self) -> None:
        """Disconnect; waits for nothing."""
        self._events.close()
        self._letters.close()


@contextmanager
def letter_sender(config: Config) -> Iterator[LetterSender]:
    """Connect what sends dead letters round again; disconnects with the block."""
    sender = LetterSender(config)
    try:
        yield sender
    finally:
        sender.close()


@contextmanager
def sources(config: Config) -> Iterator[Sources]:
    """Connect what looks at a job from outside; disconnects with the block."""
    declaration = load_declaration(config.features.declaration)
    store, tail, reader = state_store(config, patient=False), kafka_tail(config), topic_reader(config)
    fit = config.model.first_fit
    try:
        yield Sources(
            Place(config.app.name, config.app.namespace, config.topics.events, config.topics.changes),
            store,
            tail,
            declaration,
            plan(declaration),
            ModelShelf(store, reader, config.model.name, copy_first=True).get,
            Needs(fit.enabled and not config.journal.follow, fit.customers_min, fit.history_days_min),
        )
    finally:
        reader.close()
        tail.close()
        store.close()


class Watcher:
    """Looks on: partitions' states, and changes as they come."""

    def __init__(self, config: Config) -> None:
        """Connect."""
        self._store = state_store(config)
        self._reader = topic_reader(config)
        self._watermarks = Watermarks(kafka_settings(config, config.kafka.client_properties()))
        self._topic = config.topics.events
        self.partitions = input_partitions(config)

    def __enter__(self) -> Self:
        """Look on for the length of a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnect."""
        self._reader.close()

    def states(self) -> list[PartitionState]:
        """Read every partition's state."""
        return self._store.read(range(self.partitions))

    def ends(self) -> list[int]:
        """Read the input's high watermarks."""
        return [self._watermarks.of(self._topic, partition)[1] for partition in range(self.partitions)]

    def customers(self) -> int:
        """Count the customers."""
        return sum(self._store.count(range(self.partitions)))

    def settled(self, states: Sequence[PartitionState], least: int = 0) -> bool:
        """Tell whether every customer has been judged by the version that is announced, which must be `least` or later."""
        packed = self._store.announced(ANNOUNCED)
        data = [unpack_state(state.state) for state in states if state.commit_id]
        # Who follows a journal announces nothing.
        model = max((d.model for d in data), default=0) if packed is None else Announcement.unpack(packed).model
        return model >= least and all(d.model == model and d.swept for d in data)

    def changes(self, partition: int, first: int) -> tuple[int, list[dict[str, Any]]]:
        """Read a partition's changes from an offset on: the next offset, and the changes."""
        records = self._reader.read(Topic.CHANGES, partition, first, READ_TIMEOUT_S)
        decoded = [codec.decode(CHANGE, r.value[wire.opening(r.value, r.headers).body :]) for r in records if r.value is not None]
        return (records[-1].offset + 1 if records else first), decoded
