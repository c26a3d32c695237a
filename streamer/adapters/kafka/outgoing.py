"""An idempotent producer with a bounded queue, under the publisher, the transactions and the producer of events.

Law: nothing fails in silence. The first failed delivery is kept and raised; after it, or after a bound, the client is thrown away with all
it holds, so that what is sent later can't follow what was never sent. A transactional client keeps no failed delivery: the end of its
transaction tells of it.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streamer.adapters.kafka.client import POLL_S, Watch, configuration, error_of, explain, made
from streamer.core.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from streamer.adapters.kafka.client import KafkaSettings, Value
    from streamer.core.columns import Headers
    from streamer.core.errors import StreamerError
    from streamer.core.ports import OutRecord, Topic

_DEFAULTS: dict[str, Value] = {
    "partitioner": "murmur2_random",  # as Java's clients
    "linger.ms": 5,
    "retry.backoff.ms": 5,
    "queue.buffering.max.messages": 100_000,
    "queue.buffering.max.kbytes": 65_536,
}
_DELIVERY: dict[str, Value] = {"delivery.timeout.ms": 120_000}
_FIXED: dict[str, Value] = {
    "enable.idempotence": True,
    "acks": "all",
    "delivery.report.only.error": True,  # a callback per delivered record would cost more than producing it
}


class Outgoing:
    """Produces to any topic."""

    def __init__(
        self,
        settings: KafkaSettings,
        what: str,
        defaults: Mapping[str, Value] | None = None,
        transactional: Mapping[str, Value] | None = None,
    ) -> None:
        """Prepare; connects with the first record.

        Args:
            settings: the brokers, and properties for the producer.
            what: says in errors what was being done.
            defaults: properties, before those here.
            transactional: properties that make the client a transactional one, and that can't be changed.

        Raises:
            Misconfigured: a property is unknown, or contradicts a guarantee.

        """
        self._timeout_s = settings.timeout_s
        self._watch = Watch(what)
        given = {**_DEFAULTS, **({} if transactional else _DELIVERY), **(defaults or {})}
        self._config = configuration(settings, defaults=given, fixed={**_FIXED, **(transactional or {})}) | self._watch.callbacks()
        if not transactional:
            self._config["on_delivery"] = self._delivered
        self._failed: StreamerError | None = None
        self._producer: Any = made(Producer, self._config)

    @property
    def client(self) -> Any:  # noqa: ANN401  # the client has no types
        """The client that is in use now."""
        return self._producer

    def __len__(self) -> int:
        """Count the records that are not acknowledged yet."""
        return len(self._producer)

    def send(self, records: Iterable[OutRecord], topics: Mapping[Topic, str]) -> None:
        """Queue records of an outbox, in order; raises as `produce` does."""
        produce = self.produce
        last, name = None, ""
        for topic, partition, key, value, headers in records:
            if topic is not last:  # a look-up costs an enumeration's hash, in Python
                last, name = topic, topics[topic]
            produce(name, key, value, headers, -1 if partition is None else partition)
        self.serve()

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
        self._served(lambda: self._producer.poll(0))

    def flush(self, timeout_s: float) -> None:
        """Return once everything queued is acknowledged.

        Raises:
            StreamerError: the first failed delivery, or `Unavailable` at the bound; either way nothing stays queued.

        """
        left = self._served(lambda: self._producer.flush(timeout_s))
        if self._failed is not None:
            raise self._thrown_away(self._failed)
        if left:
            message = f"{self._watch.what}: {left} records are not acknowledged after {timeout_s} s; each may or may not have arrived"
            raise self._thrown_away(Unavailable(message))

    def renew(self) -> None:
        """Throw the client away with all it holds, and make a new one."""
        self.close()
        self._failed = None
        self._producer = made(Producer, self._config)

    def close(self) -> None:
        """End; waits for nothing."""
        self._producer.purge()
        with suppress(KafkaException, SystemError):  # as in `_served`; there is nobody left to tell
            self._producer.flush(0)

    def _served(self, call: Callable[[], int]) -> int:
        """Call what serves callbacks: after a fatal error the client raises it there, hidden where a callback is called first."""
        try:
            return call()
        except (KafkaException, SystemError) as raised:
            raise self._thrown_away(explain(error_of(raised), self._watch.what)) from raised

    def _produce_later(self, *record: Any) -> None:  # noqa: ANN401  # positional arguments of `Producer.produce`
        topic, value, key, partition, timestamp, headers = record
        deadline = time.monotonic() + self._timeout_s
        while time.monotonic() < deadline:
            self._served(lambda: self._producer.poll(POLL_S))
            try:
                self._producer.produce(topic, value, key, partition, None, None, timestamp, headers)
            except BufferError:
                continue
            except KafkaException as error:
                raise self._thrown_away(explain(error_of(error), self._watch.what)) from error
            return
        message = f"{self._watch.what}: the queue is full and nothing was acknowledged for {self._timeout_s} s"
        raise self._thrown_away(Unavailable(message))

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and self._failed is None:
            self._failed = explain(error, f"producing to {message.topic()}")

    def _thrown_away(self, why: StreamerError) -> StreamerError:
        self.renew()
        return why
