"""The channel of events to Kafka: an idempotent producer that partitions by customer, and the topic made where it is missing."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from streamer.adapters.kafka import EventsProducer, KafkaAdmin, KafkaSettings, TopicPlan
from streamer.app.ingest.encoding import encoder
from streamer.app.ingest.sending import Channel
from streamer.core.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamer.adapters.registry import SchemaSource
    from streamer.app.config import Config


@contextmanager
def event_channel(config: Config, source: SchemaSource) -> Iterator[Channel]:
    """Open a channel to the topic of events, and close it.

    Raises `Misconfigured` where the topic is missing and may not be made, or a property is wrong; `Unavailable` where Kafka is silent.
    """
    kafka, topics = config.kafka, config.topics
    shared = {name: value for name, value in kafka.client_properties().items() if name != "bootstrap.servers"}
    admin = KafkaAdmin(KafkaSettings(kafka.bootstrap_servers, shared, timeout_s=kafka.timeout_s))
    if topics.create:
        admin.ensure([TopicPlan(topics.events, topics.partitions, replication=topics.replication_factor)])
    elif admin.partitions(topics.events) is None:
        message = f"there is no topic {topics.events}: create it, set `topics.create`, or name another in `topics.events`"
        raise Misconfigured(message)
    encode = encoder(source, topics.events)
    properties = {name: value for name, value in kafka.producer_properties().items() if name != "bootstrap.servers"}
    producer = EventsProducer(KafkaSettings(kafka.bootstrap_servers, properties, timeout_s=kafka.timeout_s), topics.events)
    try:
        yield Channel(producer, encode)
    finally:
        producer.close()
