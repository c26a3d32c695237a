"""Topics: which there must be, and making those that are missing.

Law: a topic that exists is never changed. Changes and journal have as many partitions as the input, since partition i of each is written by
the owner of input partition i alone.
"""

from __future__ import annotations

import time
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from streamer.adapters.kafka.client import POLL_S, Watch, configuration, count_partitions, error_of, made, retried
from streamer.core.errors import Misconfigured, Unavailable
from streamer.core.ports import Topic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamer.adapters.kafka.client import KafkaSettings

DAY_MS = 86_400_000

_CONFIG: dict[Topic, dict[str, str]] = {
    Topic.CHANGES: {"cleanup.policy": "compact", "min.compaction.lag.ms": str(7 * DAY_MS)},
    Topic.JOURNAL: {"cleanup.policy": "delete", "retention.ms": "-1"},
    Topic.MODELS: {"cleanup.policy": "compact"},
    Topic.DEAD_LETTERS: {"cleanup.policy": "delete", "retention.ms": str(30 * DAY_MS)},
}


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """A topic that must be there. `partitions` is also its required count where `exact`; `replication` -1 is the broker's default."""

    name: str
    partitions: int
    exact: bool = False
    replication: int = -1
    config: Mapping[str, str] = field(default_factory=dict)


def topic_plans(
    topics: Mapping[Topic, str],
    partitions: int,
    replication: int = -1,
    config: Mapping[Topic, Mapping[str, str]] | None = None,
) -> list[TopicPlan]:
    """Plan the topics that the worker writes.

    Args:
        topics: each topic's name.
        partitions: how many the input topic has.
        replication: of topics that are made; -1 is the broker's default.
        config: settings of topics that are made, before those here.

    """
    exact = (Topic.CHANGES, Topic.JOURNAL)
    return [
        TopicPlan(
            name, partitions if topic in exact else 1, topic in exact, replication, {**_CONFIG[topic], **(config or {}).get(topic, {})}
        )
        for topic, name in topics.items()
    ]


class KafkaAdmin:
    """Looks at topics and makes them."""

    def __init__(self, settings: KafkaSettings) -> None:
        """Prepare."""
        self._settings = settings
        self._timeout_s = settings.timeout_s
        self._admin = made(AdminClient, configuration(settings, defaults={}, fixed={}) | Watch("Kafka").callbacks())

    def partitions(self, topic: str) -> int | None:
        """Count a topic's partitions; None where there is no such topic.

        Raises:
            Unavailable: no answer within the settings' time-out.
            Misconfigured: this user may not look.

        """
        return count_partitions(self._admin, self._settings, topic)

    def ensure(self, plans: Sequence[TopicPlan]) -> list[str]:
        """Make the topics that are missing and wait until they can be seen; returns the names of those made.

        Raises:
            Misconfigured: a topic has another number of partitions than it must have.
            Unavailable: not within the settings' time-out.

        """
        counts = {plan.name: self.partitions(plan.name) for plan in plans}
        wrong = [
            f"{plan.name} has {counts[plan.name]} partitions and needs {plan.partitions}"
            for plan in plans
            if plan.exact and counts[plan.name] not in (None, plan.partitions)
        ]
        if wrong:
            message = f"{'; '.join(wrong)}, as many as the input: name another topic, or delete it if nothing in it is needed"
            raise Misconfigured(message)
        missing = [plan for plan in plans if counts[plan.name] is None]
        if missing:
            self._create(missing)
            self._wait_for(missing)
        return [plan.name for plan in missing]

    def _create(self, plans: Sequence[TopicPlan]) -> None:
        left_over = {plan.name: plan for plan in plans}

        def ask(left_s: float) -> None:
            asked = [NewTopic(plan.name, plan.partitions, plan.replication, config=dict(plan.config)) for plan in left_over.values()]
            failed: KafkaException | None = None
            for name, future in self._admin.create_topics(asked, operation_timeout=left_s, request_timeout=left_s).items():
                try:
                    future.result(left_s + 1)
                except KafkaException as error:
                    if error_of(error).code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another worker was first
                        failed = error
                        continue
                except FutureTimeoutError as error:
                    message = f"creating the topic {name}: no answer within {self._timeout_s} s"
                    raise Unavailable(message) from error
                del left_over[name]
            if failed is not None:
                raise failed

        retried(f"creating {', '.join(left_over)}", self._timeout_s, ask)

    def _wait_for(self, plans: Sequence[TopicPlan]) -> None:
        deadline = time.monotonic() + self._timeout_s
        for plan in plans:
            while self.partitions(plan.name) is None:
                if time.monotonic() >= deadline:
                    message = f"the topic {plan.name} was made and can't be seen after {self._timeout_s} s"
                    raise Unavailable(message)
                time.sleep(POLL_S)
