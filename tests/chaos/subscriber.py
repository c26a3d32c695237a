"""A subscriber of `segment-changes` that knows the schema and nothing else of this project.

`python subscriber.py BOOTSTRAP TOPIC SCHEMA OUT` reads every partition from its start, `read_committed`, and appends what it sees to OUT,
a line of JSON a record: partition, offset, key, and the value in hexadecimal, which is null of a tombstone; of a change change_id and
version too. Told to stop (SIGTERM), it goes on to the end of every partition first.
"""

from __future__ import annotations

import io
import json
import signal
import sys
from pathlib import Path
from typing import Any

import fastavro
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

ID_BYTES = 5  # of Confluent's wire format: a zero, then the schema's id
POLL_S = 0.2


def main(bootstrap: str, topic: str, schema_file: str, out: str) -> None:
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    schema = fastavro.parse_schema(json.loads(Path(schema_file).read_text(encoding="utf-8")))
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "no group",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "reconnect.backoff.max.ms": 1000,
            "log_level": 0,
        }
    )
    partitions = sorted(consumer.list_topics(topic, timeout=30).topics[topic].partitions)
    position = dict.fromkeys(partitions, OFFSET_BEGINNING)
    ended: set[int] | None = None  # once told to stop: the partitions whose end was seen after that
    consumer.assign([TopicPartition(topic, partition, offset) for partition, offset in position.items()])
    with Path(out).open("a", encoding="utf-8") as lines:
        while ended is None or len(ended) < len(partitions):
            if told and ended is None:
                ended = set()
                consumer.assign([TopicPartition(topic, partition, offset) for partition, offset in position.items()])
            message = consumer.poll(POLL_S)
            if message is None:
                continue
            partition, error = message.partition(), message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:  # librdkafka's own codes begin so
                    position[partition] = message.offset()
                    if ended is not None:
                        ended.add(partition)
                continue
            position[partition] = message.offset() + 1
            seen: dict[str, Any] = {"partition": partition, "offset": message.offset(), "key": message.key().decode(), "value": None}
            if message.value() is not None:  # else it is a tombstone
                change: Any = fastavro.schemaless_reader(io.BytesIO(message.value()[ID_BYTES:]), schema)
                seen |= {"change_id": change["change_id"], "version": change["version"], "value": message.value().hex()}
            lines.write(json.dumps(seen) + "\n")
    consumer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
