"""The retail sample through a real Kafka: what arrives, where, and in which order."""

from __future__ import annotations

import io
import time
from collections import defaultdict
from typing import TYPE_CHECKING

from confluent_kafka import Consumer, TopicPartition
from rich.console import Console

from streamer.adapters.avro import codec, wire
from streamer.adapters.files.load import load
from streamer.adapters.files.mappings import load_mapping
from streamer.adapters.registry import PackagedSchemas
from streamer.app.config import load as load_config
from streamer.app.ingest.channel import event_channel
from streamer.app.ingest_command import Request, run
from streamer.app.samples import sample_path

if TYPE_CHECKING:
    from pathlib import Path

    from confluent_kafka import Message

PARTITIONS = 3
END_S = 60.0


def murmur2(data: bytes) -> int:
    """Hash a key as Java's clients do, by their published definition."""
    mask, factor = 0xFFFFFFFF, 0x5BD1E995
    value = 0x9747B28C ^ len(data)
    whole = len(data) // 4 * 4
    for place in range(0, whole, 4):
        word = int.from_bytes(data[place : place + 4], "little") * factor & mask
        word = (word ^ word >> 24) * factor & mask
        value = (value * factor & mask) ^ word
    if rest := data[whole:]:
        value = (value ^ int.from_bytes(rest, "little")) * factor & mask
    value = (value ^ value >> 13) * factor & mask
    return (value ^ value >> 15) & 0x7FFFFFFF


def everything(bootstrap: str, topic: str, count: int) -> list[Message]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": topic, "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    found: list[Message] = []
    deadline_s = time.monotonic() + END_S
    while len(found) < count and time.monotonic() < deadline_s:
        found += consumer.consume(count, 1.0)
    found += consumer.consume(1, 1.0)
    consumer.close()
    return found


def test_the_sample_arrives_once_in_order_and_where_javas_clients_would_put_it(kafka_bootstrap: str, tmp_path: Path) -> None:
    topic = f"ingest-{time.time_ns()}"
    environment = {"KAFKA_BOOTSTRAP": kafka_bootstrap, "STREAMER_TOPICS__EVENTS": topic, "STREAMER_TOPICS__PARTITIONS": str(PARTITIONS)}
    quiet = Console(file=io.StringIO())
    begun_ms = time.time_ns() // 1_000_000
    request = Request(sample_path(), "online_retail", rejects=tmp_path / "rejects.jsonl")
    sent = run(request, load_config(None, environment), quiet, quiet, lambda config: event_channel(config, PackagedSchemas()), time.time())
    messages = everything(kafka_bootstrap, topic, sent)
    expected = {record["event_id"]: dict(record) for record in load(sample_path(), load_mapping("online_retail")).events.records()}
    values = [message.value() or b"" for message in messages]
    records = [codec.decode("behaviour_event", value[wire.opening(value).body :]) for value in values]
    assert sent == len(messages) == len(expected)
    assert expected == {record["event_id"]: record for record in records}
    times: dict[str, list[int]] = defaultdict(list)
    for message, record in zip(messages, records, strict=True):
        assert record["customer_id"].encode() == message.key()
        assert murmur2(message.key() or b"") % PARTITIONS == message.partition()
        assert message.timestamp()[1] >= begun_ms
        times[record["customer_id"]].append(record["occurred_at"])
    assert all(sorted(own) == own for own in times.values())
