"""An idempotent producer with a bounded queue, under the publisher and the producer of events.

Law: nothing fails in silence. The first failed delivery is kept and raised; after it, or after a bound, the client is thrown away with all
it holds, so that what is sent later can't follow what was never sent.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streamer.adapters.kafka.client import POLL_S, Watch, configuration, error_of, explain, made
from streamer.core.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamer.adapters.kafka.client import KafkaSettings, Value
    from streamer.core.columns import Headers
    from streamer.core.errors import StreamerError

_DEFAULTS: dict[str, Value] = {
    "partitioner": "murmur2_random",  # as Java's clients
    "linger.ms": 5,
    "retry.backoff.ms": 5,
    "queue.buffering.max.messages": 100_000,
    "queue.buffering.max.kbytes": 65_536,
    "delivery.timeout.ms": 120_000,
}
_FIXED: dict[str, Value] = {
    "enable.idempotence": True,
    "acks": "all",
    "delivery.report.only.error": True,  # a callback per delivered record would cost more than producing it
}


class Outgoing:
    """Produces to any topic."""

    def __init__(self, settings: KafkaSettings, what: str, defaults: Mapping[str, Value] | None = None) -> None:
        """Prepare; connects with the first record.

        Raises:
            Misconfigured: a property is unknown, or contradicts a guarantee.

        """
        self._timeout_s = settings.timeout_s
        self._watch = Watch(what)
        self._config = configuration(settings, defaults={**_DEFAULTS, **(defaults or {})}, fixed=_FIXED)
        self._config |= {"on_delivery": self._delivered, **self._watch.callbacks()}
        self._failed: StreamerError | None = None
        self._producer: Any = made(Producer, self._config)

    def __len__(self) -> int:
        """Count the records that are not acknowledged yet."""
        return len(self._producer)

    def produce(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        partition: int = -1,
        timestamp: int = 0,
    ) -> None:
        """Queue a record; waits while the queue is full.

        Args:
            topic: its name.
            key: decides the partition where none is given.
            value: the record's bytes; None is a tombstone.
            headers: pairs of name and bytes.
            partition: -1 where the key decides.
            timestamp: milliseconds since 1970-01-01 UTC; 0 is now.

        Raises:
            Unavailable: the queue stayed full for the settings' time-out.

        """
        carried = list(headers) if headers else None
        try:
            self._producer.produce(topic, value, key, partition, None, None, timestamp, carried)
        except BufferError:
            self._produce_later(topic, value, key, partition, timestamp, carried)
        except KafkaException as error:
            raise self._thrown_away(explain(error_of(error), self._watch.what)) from error

    def serve(self) -> None:
        """Let the client tell of failures."""
        self._producer.poll(0)

    def flush(self, timeout_s: float) -> None:
        """Return once everything queued is acknowledged.

        Raises:
            StreamerError: the first failed delivery, or `Unavailable` at the bound; either way nothing stays queued.

        """
        left = self._producer.flush(timeout_s)
        if self._failed is not None:
            raise self._thrown_away(self._failed)
        if left:
            message = f"{self._watch.what}: {left} records are not acknowledged after {timeout_s} s; each may or may not have arrived"
            raise self._thrown_away(Unavailable(message))

    def close(self) -> None:
        """End; waits for nothing."""
        self._producer.purge()
        self._producer.flush(0)

    def _produce_later(self, *record: Any) -> None:  # noqa: ANN401  # positional arguments of `Producer.produce`
        topic, value, key, partition, timestamp, headers = record
        deadline = time.monotonic() + self._timeout_s
        while time.monotonic() < deadline:
            self._producer.poll(POLL_S)
            try:
                self._producer.produce(topic, value, key, partition, None, None, timestamp, headers)
            except BufferError:
                continue
            return
        message = f"{self._watch.what}: the queue is full and nothing was acknowledged for {self._timeout_s} s"
        raise self._thrown_away(Unavailable(message))

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and self._failed is None:
            self._failed = explain(error, f"producing to {message.topic()}")

    def _thrown_away(self, why: StreamerError) -> StreamerError:
        self.close()
        self._failed = None
        self._producer = made(Producer, self._config)
        return why
