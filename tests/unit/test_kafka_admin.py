"""What a broker refuses for a moment is asked again, within the time that there is; what will not pass is told at once."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from streamer.adapters.kafka import KafkaAdmin, KafkaSettings
from streamer.adapters.kafka.admin import TopicPlan
from streamer.core.errors import Misconfigured, Unavailable


class FakeAdminClient:
    """A broker's admin that refuses with the `errors` given, one a request of a topic, and then makes the topic."""

    def __init__(self, errors: dict[str, list[int]]) -> None:
        self.errors = errors
        self.asked: list[list[str]] = []

    def create_topics(self, topics: list[Any], **_: float) -> dict[str, Future[None]]:
        self.asked.append([topic.topic for topic in topics])
        return {topic.topic: self._answer(topic.topic) for topic in topics}

    def _answer(self, topic: str) -> Future[None]:
        answer: Future[None] = Future()
        left = self.errors.get(topic, [])
        if left:
            answer.set_exception(KafkaException(KafkaError(left.pop(0))))
        else:
            answer.set_result(None)
        return answer


def admin(errors: dict[str, list[int]], timeout_s: float = 5.0) -> tuple[KafkaAdmin, FakeAdminClient]:
    made, client = KafkaAdmin(KafkaSettings("localhost:1", timeout_s=timeout_s)), FakeAdminClient(errors)
    made._admin = client
    return made, client


PLANS = [TopicPlan("a", 1), TopicPlan("b", 1), TopicPlan("c", 1)]


def test_only_topics_that_were_refused_are_asked_for_again() -> None:
    there, passing = KafkaError.TOPIC_ALREADY_EXISTS, [KafkaError.NOT_CONTROLLER, KafkaError.REQUEST_TIMED_OUT]
    made, client = admin({"b": passing, "c": [there]})
    made._create(PLANS)
    assert [["a", "b", "c"], ["b"], ["b"]] == client.asked


def test_what_does_not_pass_is_told_at_once() -> None:
    made, client = admin({"a": [KafkaError.INVALID_REPLICATION_FACTOR]})
    with pytest.raises(Misconfigured, match="replication"):
        made._create(PLANS)
    assert 1 == len(client.asked)


def test_asking_again_has_an_end() -> None:
    made, client = admin({"a": [KafkaError.NOT_CONTROLLER] * 100}, timeout_s=0.3)
    with pytest.raises(Unavailable):
        made._create(PLANS)
    assert 1 < len(client.asked) < 100
