"""Model versions by number: from memory, from Redis, from the topic, and nowhere."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from streamer.adapters.avro import codec, wire
from streamer.adapters.avro.model_records import encoded, key, version_record
from streamer.app.models import ModelShelf, stored_name
from streamer.core.declaration import declare
from streamer.core.errors import Corrupt
from streamer.core.ports import Topic
from tests.corekit import version_of
from tests.fakes.broker import FakeBroker, FakeTopicReader
from tests.fakes.job import FEATURES
from tests.fakes.state_store import FakeNamespace, FakeRedis, FakeStateStore

if TYPE_CHECKING:
    from streamer.core.model import ModelVersion

DECLARATION = declare(FEATURES)


def version(number: int = 1, **fields: Any) -> ModelVersion:
    return replace(version_of(DECLARATION, [[0, 0, 0], [1, 2, 3]], number), name="shop", **fields)


class World:
    """A store and a topic of two partitions to look in."""

    def __init__(self) -> None:
        self.announced: dict[str, bytes] = {}
        self.broker = FakeBroker()
        self.broker.create("models", 2)

    def publish(self, made: ModelVersion, body: bytes | None = None, partition: int = 0) -> None:
        written = version_record(made, encoded(made) if body is None else body, 9)
        self.broker.append("models", partition, written.key, written.value)

    def shelf(self) -> ModelShelf:
        store = FakeStateStore(FakeRedis({("live", "shop"): FakeNamespace(announced=self.announced)}), "live", "shop")
        return ModelShelf(store, FakeTopicReader(self.broker, {Topic.MODELS: "models"}), "shop", 2)


def same(one: ModelVersion, other: ModelVersion) -> bool:
    return one.record() == other.record()


def test_a_version_that_was_put_is_found_without_asking() -> None:
    shelf = World().shelf()
    made = version()
    shelf.put(made, encoded(made))
    assert made is shelf.get(1)
    assert {1: "segment 1", 2: "segment 2"} == shelf.names(1)
    assert encoded(made) == shelf.body(1)
    assert hashlib.sha256(encoded(made)).digest() == shelf.digest(1)


def test_rediss_copy_comes_first_and_the_topic_is_the_truth_where_there_is_none() -> None:
    world = World()
    world.announced[stored_name(1)] = encoded(version(1))
    world.publish(version(2), partition=1)
    shelf = world.shelf()
    assert same(version(1), shelf.get(1))
    assert same(version(2), shelf.get(2))
    assert {1, 2} == shelf.known.keys()


def test_of_two_records_of_a_version_the_later_one_counts() -> None:
    world = World()
    world.publish(version(1, as_of=5))
    world.publish(version(1, as_of=6))
    assert 6 == world.shelf().get(1).as_of


def test_another_models_versions_tombstones_and_other_numbers_are_passed_over() -> None:
    world = World()
    world.publish(replace(version(1), name="other"))
    world.publish(version(2))
    world.broker.append("models", 0, key("shop", 1), None)
    with pytest.raises(Corrupt, match="version 1 of model 'shop' is neither in Redis nor on the models' topic: restore the topic"):
        world.shelf().get(1)


def test_a_version_that_is_damaged_or_unsound_is_refused_by_name() -> None:
    damaged, unsound = World(), World()
    damaged.publish(version(), encoded(version())[:-4])
    wrong = version().record() | {"segments": []}
    unsound.publish(version(), codec.encode("model_version", wrong))
    with pytest.raises(Corrupt, match="version 1 of model 'shop' can't be read: "):
        damaged.shelf().get(1)
    with pytest.raises(Corrupt, match=r"version 1 of model 'shop' can't be .*every segment is retired"):
        unsound.shelf().get(1)


def test_a_record_is_keyed_by_name_and_number_and_framed() -> None:
    made = version(12)
    written = version_record(made, encoded(made), 9)
    assert (Topic.MODELS, None, b"shop:12", ()) == (written.topic, written.partition, written.key, written.headers)
    assert wire.framed(encoded(made), 9) == written.value
