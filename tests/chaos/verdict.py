"""What a run on real servers is held to: what an independent subscriber saw, and what Redis holds, is what the log and the journal say.

The events, the journal, the models and the dead letters are read back from Kafka; nothing that the run remembers of itself counts.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import redis
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from streamer.adapters.avro.model_records import on_topic
from streamer.adapters.declaration_file import load as load_declaration
from streamer.adapters.kafka import KafkaAdmin
from streamer.app import journal, wiring
from streamer.app.letters import source_partition
from streamer.app.models import ModelShelf
from streamer.core.partition import PartitionData, unpack_state
from streamer.core.plan import plan
from streamer.core.ports import LogRecord, Topic
from tests.fakes.state_store import cut
from tests.simulation.oracle import Replay, Rules, Said, plain
from tests.simulation.verdict import Found, Violated, compare, sent_on, source_offset

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from streamer.adapters.avro.model_records import OnTopic
    from streamer.core.ports import StateStore, TopicReader
    from tests.integration.kit import Job

READ_S = 60.0


class Verdict(NamedTuple):
    """What was compared."""

    events: int
    changes: int
    letters: int
    customers: int
    epochs: int
    ticks: int  # of idle partitions' clocks
    decayed: int  # changes of customers for whom only time had passed
    expired: int  # changes of those who were silent for too long
    sent: int  # events that merges sent on
    versions: int  # of the model


def judge(job: Job, seen_file: Path, erased: Collection[str] = ()) -> Verdict:
    """Compare a job at rest with its replay; nothing in Redis may name who was `erased`.

    Raises:
        Violated: says what differs.

    """
    came = [json.loads(line) for line in seen_file.read_text(encoding="utf-8").splitlines()]
    seen = [one for one in came if one["value"] is not None]
    once_and_in_order(seen)
    config = job.config
    declaration = load_declaration(config.features.declaration)
    store, reader = wiring.state_store(config), wiring.topic_reader(config)
    source = wiring.schema_source(config)
    intake = wiring.make_intake(config, declaration, source)
    shelf = ModelShelf(store, reader, config.model.name)
    writer, schema_id = wiring.change_writer(config, declaration, 0), wiring.events_schema(config, source)
    rules = Rules(declaration, plan(declaration), intake, shelf, writer, events_schema=schema_id)
    letters = [letter for place in range(_partitions_of_letters(job)) for letter in reader.read(Topic.DEAD_LETTERS, place, 0, READ_S)]
    events = [_events(job, partition) for partition in range(job.partitions)]
    sent = sent_on([record for records, _ in events for record in records], job.partitions)
    models = models_of(job, reader)
    verdict = Verdict(0, len(seen), len(letters), 0, 0, 0, 0, 0, sum(map(len, sent)), len(models.bodies))
    for partition, (records, high) in enumerate(events):
        entries = journal.read(reader.read(Topic.JOURNAL, partition, 0, READ_S))
        expected = Replay(rules, partition).run(Said(records, high, entries))
        found = Found(
            [plain(bytes.fromhex(one["value"])) for one in seen if one["partition"] == partition],
            _profiles(store, partition),
            _data(store, partition, records[-1].offset + 1 if records else 0),
            [source_offset(dict(letter.headers)) for letter in letters if source_partition(letter.headers) == partition],
            [one["key"].encode() for one in came if one["partition"] == partition and one["value"] is None],
            sent[partition],
        )
        compare(partition, expected, found)
        if models.promotion is not None and found.data.model != models.promotion.version.version:
            message = f"version {models.promotion.version.version} is promoted, partition {partition} is judged by {found.data.model}"
            raise Violated(message)
        causes = Counter(change["cause"] for change in found.told)
        verdict = verdict._replace(
            ticks=verdict.ticks + sum(entry.kind == journal.TICK for entry in entries),
            decayed=verdict.decayed + causes["decay"],
            expired=verdict.expired + causes["expired"],
            events=verdict.events + len(records),
            customers=verdict.customers + len(expected.profiles),
            epochs=max(verdict.epochs, expected.data.epoch),
        )
    report = wiring.check_all(config, lambda _: None)
    if not report.clean:
        message = f"sums and profiles disagree: {report.findings}"
        raise Violated(message)
    _unforgotten(config.redis.url, erased)
    reader.close()
    store.close()
    return verdict


def models_of(job: Job, reader: TopicReader) -> OnTopic:
    """Read the topic of models."""
    admin = KafkaAdmin(wiring.kafka_settings(job.config, job.config.kafka.client_properties()))
    places = range(admin.partitions(job.config.topics.models) or 1)
    return on_topic(job.config.model.name, [one for p in places for one in reader.read(Topic.MODELS, p, 0, READ_S)])


def _unforgotten(redis_url: str, erased: Collection[str]) -> None:
    """Search every key of Redis for who was erased."""
    client: Any = redis.Redis.from_url(redis_url)
    for key in client.scan_iter():
        texts = [key, *(text for pair in client.hgetall(key).items() for text in pair)]
        left = [customer for customer in erased if any(customer.encode() in text for text in texts)]
        if left:
            message = f"{key} of Redis still names {', '.join(left)}, who was erased"
            raise Violated(message)
    client.close()


def once_and_in_order(seen: list[dict[str, Any]]) -> None:
    """Hold what the subscriber saw to what it can know itself: offsets, keys, change ids and versions."""
    ids = [one["change_id"] for one in seen]
    if len(set(ids)) != len(ids):
        message = f"the subscriber saw {len(ids) - len(set(ids))} changes twice"
        raise Violated(message)
    latest: dict[str, tuple[int, int, int]] = {}
    for one in seen:
        partition, offset, version = one["partition"], one["offset"], one["version"]
        before = latest.get(one["key"], (partition, -1, -1))
        if partition != before[0] or offset <= before[1] or version <= before[2]:
            message = f"the subscriber saw {one['key']} at {partition}:{offset} in version {version} after {before}"
            raise Violated(message)
        latest[one["key"]] = partition, offset, version


def _events(job: Job, partition: int) -> tuple[list[LogRecord], int]:
    """Read a partition of the input to its end; returns its records and the offset after the last."""
    consumer = Consumer(
        {
            "bootstrap.servers": job.bootstrap,
            "group.id": "no group",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
    )
    consumer.assign([TopicPartition(job.config.topics.events, partition, OFFSET_BEGINNING)])
    records: list[LogRecord] = []
    while True:
        for message in consumer.consume(5000, 1.0):
            error = message.error()
            if error is None:
                said = message.timestamp()[1], message.key(), message.value(), tuple(message.headers() or ())
                records.append(LogRecord(message.offset(), *said))
            elif error.code() == KafkaError._PARTITION_EOF:  # librdkafka's own codes begin so
                consumer.close()
                return records, int(message.offset())


def _profiles(store: StateStore, partition: int) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    cursor, first = 0, True
    while cursor or first:
        first = False
        cursor, packed = store.scan(partition, cursor, 1000)
        found |= dict(zip(cut(packed.ids, packed.id_bounds), cut(packed.values, packed.bounds), strict=True))
    return found


def _data(store: StateStore, partition: int, end: int) -> PartitionData:
    [state] = store.read([partition])
    if state.next_offset != end:
        message = f"partition {partition}: at offset {state.next_offset} of {end}"
        raise Violated(message)
    return unpack_state(state.state)


def _partitions_of_letters(job: Job) -> int:
    return wiring._own_partitions(job.config)[Topic.DEAD_LETTERS]
