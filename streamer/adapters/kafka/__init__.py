"""Kafka: the event log, the publisher, transactions, the reader of topics, topics' upkeep and a producer of events.

Each client is made of a `KafkaSettings`, and none speaks to a broker when this is imported.
"""

from __future__ import annotations

from streamer.adapters.kafka.admin import KafkaAdmin, TopicPlan, topic_plans
from streamer.adapters.kafka.client import KafkaSettings
from streamer.adapters.kafka.event_log import KafkaEventLog
from streamer.adapters.kafka.events_producer import EventsProducer
from streamer.adapters.kafka.publisher import KafkaPublisher
from streamer.adapters.kafka.topic_reader import KafkaTopicReader
from streamer.adapters.kafka.transactions import KafkaTransactions

__all__ = [
    "EventsProducer",
    "KafkaAdmin",
    "KafkaEventLog",
    "KafkaPublisher",
    "KafkaSettings",
    "KafkaTopicReader",
    "KafkaTransactions",
    "TopicPlan",
    "topic_plans",
]
