"""The first offset and the high watermark of partitions, whatever transactions are open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, TopicPartition

from streamer.adapters.kafka.client import CALL_S_MAX, KafkaSettings, Watch, configuration, made, retried

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamer.adapters.kafka.client import Value

_FIXED: Mapping[str, Value] = {
    "isolation.level": "read_uncommitted",
    "enable.auto.commit": False,
    "group.id": "unused",  # the client asks for one, and no group is ever joined
}


class Watermarks:
    """A client of its own that only asks: a `read_committed` consumer's query gives the last stable offset for the high watermark.

    An admin client would do, but takes more than a second for its first answer (measured).
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = without_group(settings, "isolation.level", "enable.auto.commit")
        self._consumer: Any = None

    def of(self, topic: str, partition: int, timeout_s: float | None = None) -> tuple[int, int]:
        """Read (first offset, high watermark).

        Raises:
            Unavailable: no answer within `timeout_s`, or no such partition.

        """
        if self._consumer is None:
            config = configuration(self._settings, defaults={}, fixed=_FIXED)
            self._consumer = made(Consumer, config | Watch("Kafka").callbacks())
        where = TopicPartition(topic, partition)
        bound = self._settings.timeout_s if timeout_s is None else timeout_s
        first, high = retried(
            f"the offsets of {topic}[{partition}]",
            bound,
            lambda left: self._consumer.get_watermark_offsets(where, timeout=min(left, CALL_S_MAX), cached=False),
        )
        return int(first), int(high)

    def close(self) -> None:
        """Close the connections."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None


def without_group(settings: KafkaSettings, *names: str) -> KafkaSettings:
    """Leave out the properties of the group member, and `names`: they are of no use to a consumer without a group, and contradict."""
    given = {
        name: value
        for name, value in settings.properties.items()
        if name not in names and not name.startswith(("group.", "partition.assignment."))
    }
    return KafkaSettings(settings.bootstrap, given, settings.client_id, settings.timeout_s)
