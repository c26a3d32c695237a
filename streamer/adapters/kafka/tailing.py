"""Looks at topics from outside, without a group: their bounds, stretches of them, and what comes as it comes.

Laws: nothing is committed and no group is joined, so looking disturbs nobody. Only committed records are given. Every call is bounded.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from streamer.adapters.kafka.client import Watch, configuration, count_partitions, error_of, explain, made, reached
from streamer.adapters.kafka.headers import headers_of
from streamer.adapters.kafka.offsets import Watermarks, without_group
from streamer.core.errors import Unavailable
from streamer.core.ports import LogRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

    from confluent_kafka import Message

    from streamer.adapters.kafka.client import KafkaSettings, Value


POLL_S_MAX = 0.25
_DEFAULTS = {"fetch.wait.max.ms": 100, "queued.max.messages.kbytes": 32_768}
_FIXED: dict[str, Value] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "isolation.level": "read_committed",
    "auto.offset.reset": "earliest",
    "enable.partition.eof": True,
    "group.id": "unused",  # the client asks for one, and no group is ever joined
}


class Came(NamedTuple):
    """A record and the partition it came from."""

    partition: int
    record: LogRecord


class KafkaTail:
    """Looks at topics."""

    def __init__(self, settings: KafkaSettings) -> None:
        """Prepare; connects with the first look."""
        self._settings = settings
        self._watch = Watch("looking at topics")
        self._config = configuration(without_group(settings), defaults=_DEFAULTS, fixed=_FIXED) | self._watch.callbacks()
        self._watermarks = Watermarks(settings)
        self._consumer: Any = None

    def partitions(self, topic: str) -> int | None:
        """Count a topic's partitions; None where there is no such topic.

        Raises:
            Unavailable: no answer within the settings' time-out.
            Misconfigured: this user may not look.

        """
        return count_partitions(self._connected(), self._settings, topic)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Read a partition's first offset and high watermark.

        Raises:
            Unavailable: no answer within the settings' time-out.

        """
        return reached(self._settings, lambda: self._watermarks.of(topic, partition))

    def between(self, topic: str, partition: int, first: int, end: int) -> list[LogRecord]:
        """Read the committed records from `first` to before `end`, or to the first open transaction; ends what was followed.

        Raises:
            Unavailable: not within the settings' time-out.

        """
        deadline = time.monotonic() + self._settings.timeout_s
        self.follow(topic, {partition: first})
        records: list[LogRecord] = []
        position = first
        try:
            while position < end:
                if time.monotonic() >= deadline:
                    late = f"{topic}[{partition}] could not be read from {first} to {end} within {self._settings.timeout_s} s"
                    raise Unavailable(late)
                for message in self._polled(POLL_S_MAX, end - first):
                    if _at_end(message):
                        position = end
                        continue
                    record = _record(message)
                    position = max(position, record.offset + 1)
                    if record.offset < end:
                        records.append(record)
        finally:
            self._connected().unassign()
        return records

    def follow(self, topic: str, positions: Mapping[int, int]) -> None:
        """Begin to follow a topic's partitions, each from the offset given."""
        consumer = self._connected()
        wanted = [TopicPartition(topic, partition, offset) for partition, offset in positions.items()]
        reached(self._settings, lambda: consumer.assign(wanted))

    def take(self, wait_s: float, records_max: int) -> list[Came]:
        """Wait up to `wait_s` for the first record of what is followed, then take what has come, up to `records_max`.

        Raises:
            Unavailable: no broker answers.

        """
        return [Came(int(m.partition() or 0), _record(m)) for m in self._polled(wait_s, records_max) if not _at_end(m)]

    def close(self) -> None:
        """Close the connections."""
        self._watermarks.close()
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _connected(self) -> Any:  # noqa: ANN401  # the client has no types
        if self._consumer is None:
            self._consumer = made(Consumer, self._config)
        return self._consumer

    def _polled(self, wait_s: float, records_max: int) -> list[Message]:
        def poll() -> list[Message]:
            try:
                message = self._connected().poll(wait_s)
                if message is None:
                    self._watch.check()
                    return []
                return [message, *self._connected().consume(max(records_max - 1, 1), 0)]
            except KafkaException as error:
                raise explain(error_of(error), self._watch.what) from error

        return reached(self._settings, poll)


def _at_end(message: Message) -> bool:
    """Tell whether this says only that a partition's end was reached."""
    error = message.error()
    if error is None:
        return False
    if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  # librdkafka's own codes begin so
        return True
    raise explain(error, "looking at topics")


def _record(message: Message) -> LogRecord:
    _, timestamp = message.timestamp()
    return LogRecord(int(message.offset() or 0), timestamp, message.key(), message.value(), headers_of(message))
