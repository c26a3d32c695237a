"""What every Kafka client here shares: its settings, its log, and the names of what went wrong.

Law: any property of librdkafka can be set, except those that a guarantee rests on, and these are refused, not overridden in silence.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar, cast

from confluent_kafka import KafkaError, KafkaException

from streamer.core.errors import Misconfigured, StreamerError, Unavailable
from streamer.core.ports import ClientFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LOG = logging.getLogger("streamer.kafka")
POLL_S = 0.05
"""How long to wait before something is tried again."""
CALL_S_MAX = 5.0
"""How long a single question may take."""

Value = str | int | float | bool
T = TypeVar("T")

_ALIASES = {
    "metadata.broker.list": "bootstrap.servers",
    "request.required.acks": "acks",
    "auto.commit.enable": "enable.auto.commit",
}
_REMEDIES = {
    KafkaError._AUTHENTICATION: "check sasl.username, sasl.password and sasl.mechanism in `kafka.properties`",  # noqa: SLF001  # librdkafka's own codes begin so
    KafkaError._SSL: "check security.protocol and the ssl.* properties in `kafka.properties`",  # noqa: SLF001
    KafkaError.SASL_AUTHENTICATION_FAILED: "check sasl.username, sasl.password and sasl.mechanism in `kafka.properties`",
    KafkaError.UNSUPPORTED_SASL_MECHANISM: "set sasl.mechanism to one that the broker offers",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "allow this user to use the topic",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "allow this user to use the group",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "allow this user idempotent writes, and to create topics or create them beforehand",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "allow this user the transactional id",
    KafkaError.UNSUPPORTED_VERSION: "use a broker of version 2.5 or later, and 4.0 or later for group.protocol=consumer",
    KafkaError.MSG_SIZE_TOO_LARGE: "raise max.message.bytes of the topic and message.max.bytes in `kafka.properties`",
    KafkaError.RECORD_LIST_TOO_LARGE: "raise segment.bytes of the topic, or lower batch.size in `kafka.properties`",
    KafkaError.INVALID_GROUP_ID: "name the group differently",
    KafkaError.TOPIC_EXCEPTION: "name the topic differently",
    KafkaError.POLICY_VIOLATION: "the broker's policy forbids it: create the topics beforehand",
    KafkaError.INVALID_REPLICATION_FACTOR: "set `topics.replication` to at most the number of brokers",
    KafkaError.FENCED_INSTANCE_ID: "another worker uses the same group.instance.id: give each its own",
    111: "another worker uses the same group.instance.id: give each its own",  # UNRELEASED_INSTANCE_ID
}


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """Where Kafka is. `properties` are any of librdkafka's; they come before the defaults here and may hold secrets."""

    bootstrap: str
    properties: Mapping[str, Value] = field(default_factory=dict, repr=False)
    client_id: str = "segment-streamer"
    timeout_s: float = 30.0


def explain(error: KafkaError, what: str) -> StreamerError:
    """Name who must act on an error."""
    remedy = _REMEDIES.get(error.code())
    if remedy is not None:
        return Misconfigured(f"{what}: {error.str()}. To mend it, {remedy}")
    if error.fatal() or error.code() == KafkaError._FATAL:  # noqa: SLF001
        return ClientFailed(f"{what}: {error.str()}")
    return Unavailable(f"{what}: {error.str()}")


def reached(settings: KafkaSettings, call: Callable[[], T]) -> T:
    """Say where Kafka was looked for when it doesn't answer."""
    try:
        return call()
    except Unavailable as error:
        remedy = "see that it runs and that `kafka.bootstrap_servers` is right"
        message = f"Kafka at {settings.bootstrap} does not answer ({error}): {remedy}"
        raise Unavailable(message) from error


def configuration(
    settings: KafkaSettings,
    *,
    defaults: Mapping[str, Value],
    fixed: Mapping[str, Value],
) -> dict[str, object]:
    """Merge properties: the user's come before `defaults`; one that contradicts `fixed` is refused.

    Raises:
        Misconfigured: names every property at fault.

    """
    given = {_ALIASES.get(name, name): value for name, value in settings.properties.items()}
    fixed = {"bootstrap.servers": settings.bootstrap, **fixed}
    wrong = [
        f"{name}={given[name]} (must be {value})"
        for name, value in fixed.items()
        if name in given and str(given[name]).lower() != str(value).lower()
    ]
    if wrong:
        message = f"`kafka.properties` changes what guarantees rest on: {', '.join(wrong)}. Leave them out"
        raise Misconfigured(message)
    common: dict[str, Value] = {
        "client.id": settings.client_id,
        "socket.keepalive.enable": True,
        "reconnect.backoff.max.ms": 2_000,
        "log_level": 5,
    }
    return {**common, **defaults, **given, **fixed}


class Watch:
    """Keeps what a client says of itself between two calls: the last error that somebody must know of."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._error: KafkaError | None = None

    def callbacks(self) -> dict[str, object]:
        """Give the part of the configuration that listens."""
        return {"error_cb": self.note, "logger": LOG}

    def note(self, error: KafkaError) -> None:
        """Remember an error that somebody must know of, a fatal one for good; others the client mends itself."""
        telling = error.fatal() or error.code() in _REMEDIES or error.code() == KafkaError._ALL_BROKERS_DOWN  # noqa: SLF001
        if not telling:
            LOG.info("%s: %s", self.what, error.str())
        elif self._error is None or not self._error.fatal():
            self._error = error

    def check(self) -> None:
        """Raise what was noted."""
        error = self._error
        if error is None:
            return
        if not error.fatal():
            self._error = None
        raise explain(error, self.what)


def made(kind: Callable[[dict[str, object]], T], config: dict[str, object]) -> T:
    """Make a client; a property that librdkafka doesn't know is a wrong configuration."""
    try:
        return kind(config)
    except (KafkaException, TypeError, ValueError) as error:
        message = f"`kafka.properties`: {reason(error)}"
        raise Misconfigured(message) from error


def reason(error: Exception) -> str:
    """Say what a client's exception says."""
    first = error.args[0] if error.args else error
    return first.str() if isinstance(first, KafkaError) else str(first)


def error_of(exception: BaseException) -> KafkaError:
    """Take the error out of an exception; a client whose callback was called after a fatal error hides it in a `SystemError`."""
    if isinstance(exception, SystemError) and exception.__cause__ is not None:
        exception = exception.__cause__
    first = exception.args[0] if exception.args else exception
    return first if isinstance(first, KafkaError) else KafkaError(KafkaError._FAIL, str(first))  # noqa: SLF001


def retried(what: str, timeout_s: float, call: Callable[[float], T]) -> T:
    """Call with the seconds that are left, again while the failure is one that passes, up to `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        left = max(deadline - time.monotonic(), 0.001)
        try:
            return call(left)
        except KafkaException as error:
            meaning = explain(error_of(error), what)
            if not isinstance(meaning, Unavailable) or time.monotonic() + POLL_S >= deadline:
                raise meaning from error
            time.sleep(POLL_S)


def count_partitions(client: Any, settings: KafkaSettings, topic: str) -> int | None:  # noqa: ANN401  # clients have no types
    """Count a topic's partitions with any client; None where there is no such topic.

    Raises:
        Unavailable: no answer within the settings' time-out.
        Misconfigured: this user may not look.

    """
    what = f"the topic {topic}"

    def ask() -> Any:  # noqa: ANN401  # clients have no types
        return retried(what, settings.timeout_s, lambda left: client.list_topics(topic, timeout=min(left, CALL_S_MAX)))

    found = reached(settings, ask).topics[topic]
    if found.error is None or found.error.code() == KafkaError.LEADER_NOT_AVAILABLE:
        return len(found.partitions) or None
    if found.error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):  # noqa: SLF001  # librdkafka's own codes begin so
        return None
    raise explain(found.error, what)


def answered(timeout_s: float, call: Callable[[], T]) -> T:
    """Call in a thread of its own, where the client may never return.

    Raises:
        TimeoutError: it didn't within `timeout_s`. The thread is left to itself and keeps the client, which must not be used again.

    """
    answers: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:  # noqa: BLE001  # it is raised below
            answers.put((None, error))

    Thread(target=ask, name="asking", daemon=True).start()
    try:
        answer, error = answers.get(timeout=timeout_s)
    except Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return cast("T", answer)
