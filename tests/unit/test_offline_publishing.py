"""Publishing: a version is promoted once, whoever else promotes at the time, and never under a number that has other bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from offline import models_command
from offline.publishing import ModelTopic, Wish, back, decided, in_force
from offline.shelf import Shelf, body_of
from offline.stream import Stream, load
from streamer.adapters.avro.model_records import OnTopic, Promotion, encoded, key, promoted_key
from streamer.core.declaration import declare
from streamer.core.errors import Misconfigured, Unavailable
from streamer.core.ports import MustAbort, Topic, Unclear
from tests.corekit import version_of
from tests.fakes.broker import FakeBroker, FakeTopicReader
from tests.fakes.faults import Fault, Faults
from tests.fakes.job import FEATURES
from tests.fakes.transactions import FakeTransactions

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.core.model import ModelVersion
    from streamer.core.ports import Transactions

DECLARATION = declare(FEATURES)
TOPICS = {Topic.MODELS: "models"}


def version(number: int = 1, **fields: Any) -> ModelVersion:
    return replace(version_of(DECLARATION, [[0, 0, 0], [1, 2, 3]], number), name="segments", **fields)


def wish(made: ModelVersion, **fields: Any) -> Wish:
    return Wish(made, encoded(made), **fields)


def present(*versions: ModelVersion, promoted: ModelVersion | None = None, **fields: Any) -> OnTopic:
    promotion = None if promoted is None else Promotion(promoted, encoded(promoted), **fields)
    return OnTopic({one.version: encoded(one) for one in versions}, promotion)


class World:
    """A broker with a topic of models, and who publishes on it."""

    def __init__(self, partitions: int = 2) -> None:
        self.broker = FakeBroker()
        self.broker.create("models", partitions)
        self.partitions = partitions

    def topic(self, faults: Faults | None = None) -> ModelTopic:
        transactions: Transactions = (faults or Faults()).around("transactions", FakeTransactions(self.broker, TOPICS, "offline"))
        return ModelTopic("segments", transactions, FakeTopicReader(self.broker, TOPICS), self.partitions, 9, 1.0)

    def records(self) -> list[Any]:
        return [record for log in self.broker.topics["models"] for record in log.committed()]

    def promote(self, made: ModelVersion, topic: ModelTopic | None = None) -> bool:
        return (topic or self.topic()).publish(lambda _: wish(made), DECLARATION, 5).changed


# What is decided


def test_a_version_goes_to_the_topic_with_its_promotion() -> None:
    records, published = decided("segments", wish(version(2), reason="better"), present(version(1)), DECLARATION, 9, 77)
    assert [key("segments", 2), promoted_key("segments")] == [record.key for record in records]
    assert (True, None, 1, 77, "better") == (
        published.changed,
        published.before,
        published.promotion.before,
        published.promotion.at,
        published.promotion.reason,
    )


def test_what_is_promoted_already_is_left_as_it_is() -> None:
    there = present(version(1), version(2), promoted=version(2), reason="before")
    records, published = decided("segments", wish(version(2), reason="again"), there, DECLARATION, 9, 77)
    assert ((), False, "before") == (records, published.changed, published.promotion.reason)


def test_a_version_that_is_there_is_not_written_again() -> None:
    records, _ = decided("segments", wish(version(1), back=True), present(version(1), version(2), promoted=version(2)), DECLARATION, 9, 7)
    assert [promoted_key("segments")] == [record.key for record in records]


@pytest.mark.parametrize(
    ("made", "there", "said"),
    [
        (version(1, as_of=5), present(version(1)), "version 1 of segments on the topic of models has the SHA-256"),
        (version(2, feature_version="old"), present(version(1)), "is of feature version old, the declaration that is running is"),
        (version(2), present(version(1, feature_version="new")), r"the stream runs by new \(version 1 is in force\)"),
    ],
)
def test_what_can_not_be_in_force_is_refused_with_the_remedy(made: ModelVersion, there: OnTopic, said: str) -> None:
    with pytest.raises(Misconfigured, match=said):
        decided("segments", wish(made), there, DECLARATION, 9, 7)


def test_what_is_in_force_is_what_was_promoted_or_the_streams_own_first_version() -> None:
    assert None is in_force(present())
    for there, number in ((present(version(1)), 1), (present(version(1), version(3), promoted=version(3)), 3)):
        found = in_force(there)
        assert found is not None
        assert number == found.version


def never(number: int) -> bytes:
    pytest.fail(f"version {number} is on the topic")


def test_a_rollback_goes_to_what_was_in_force_before_once() -> None:
    there = present(version(1), version(2), promoted=version(2), before=1)
    found = back(there, None, "worse", never)
    assert found is not None
    assert (1, "worse", True) == (found.version.version, found.reason, found.back)
    assert None is back(present(version(1), version(2), promoted=version(1), before=2, back=True), None, "", never)
    assert None is back(present(version(1)), None, "", never)
    lineage = back(present(version(1), version(2), promoted=version(2, previous_version=1)), None, "", never)
    assert lineage is not None
    assert 1 == lineage.version.version
    with pytest.raises(Misconfigured, match="version 1 is the first of segments: there is none to go back to"):
        back(present(version(1), promoted=version(1)), None, "", never)


def test_a_rollback_to_a_version_that_is_not_on_the_topic_takes_it_from_the_directory() -> None:
    found = back(present(version(5), promoted=version(5)), 3, "", lambda number: encoded(version(number)))
    assert found is not None
    assert 3 == found.version.version


# What is published


def test_promoted_twice_or_at_once_comes_to_the_same() -> None:
    once, twice = World(), World()
    assert once.promote(version(2))
    assert twice.promote(version(2))
    assert not twice.promote(version(2))
    assert [r.key for r in once.records()] == [r.key for r in twice.records()]


class Interrupted(Faults):
    """Lets another one publish before a call."""

    def __init__(self, call: str, world: World, made: ModelVersion) -> None:
        super().__init__()
        self._call, self._world, self._made, self.done = call, world, made, False

    def call(self, name: str, method: str, port: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if f"{name}.{method}" == self._call and not self.done:
            self.done = True
            assert self._world.promote(self._made)
        return super().call(name, method, port, args, kwargs)


@pytest.mark.parametrize("call", ["transactions.settle", "transactions.begin", "transactions.send", "transactions.commit"])
def test_of_two_at_once_one_sees_what_the_other_wrote(call: str) -> None:
    same = World()
    assert not same.promote(version(2), same.topic(Interrupted(call, same, version(2))))
    assert 2 == len(same.records())
    others = World()
    with pytest.raises(Misconfigured, match="version 2 of segments on the topic of models has the SHA-256"):
        others.promote(version(2, as_of=5), others.topic(Interrupted(call, others, version(2))))
    assert 2 == len(others.records())


@pytest.mark.parametrize("when", ["before", "midway", "after"])
def test_a_lost_reply_is_looked_up_and_nothing_is_written_twice(when: Any) -> None:
    world, faults = World(), Faults()
    faults.plan["transactions.commit"] = Fault(Unclear, when)
    world.promote(version(2), world.topic(faults))
    assert [1, 1] == sorted([r.key for r in world.records()].count(k) for k in (key("segments", 2), promoted_key("segments")))


def test_who_is_refused_for_ever_says_so() -> None:
    world, faults = World(), Faults()

    def refused(name: str, method: str, port: Any, args: Any, kwargs: Any) -> Any:
        if method == "commit":
            message = "no"
            raise MustAbort(message)
        return Faults.call(faults, name, method, port, args, kwargs)

    faults.call = refused  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="segments could not be published in 5 attempts: no"):
        world.promote(version(2), world.topic(faults))
    assert [] == world.records()


def test_nothing_to_go_back_from_is_told() -> None:
    world = World()
    with pytest.raises(Misconfigured, match="nothing of segments was promoted yet"):
        world.topic().publish(lambda there: back(there, None, "", never), DECLARATION, 5)


# The directory


def shelf(tmp_path: Path, *versions: ModelVersion) -> Shelf:
    made = Shelf(str(tmp_path / "models"), "segments")
    for one in versions:
        made.fetch(encoded(one))
    return made


def refused(tmp_path: Path, *versions: ModelVersion) -> None:
    folder = tmp_path / "models" / "refused"
    folder.mkdir(parents=True, exist_ok=True)
    for i, one in enumerate(versions):
        stem = folder / f"segments-{one.version:06d}-{i}"
        stem.with_suffix(".avro").write_bytes(encoded(one))
        stem.with_suffix(".json").write_text(json.dumps({"gate": {"passed": False, "reasons": ["it moves too many"], "forced": None}}))


def test_a_version_is_found_by_its_number_its_digits_or_as_the_latest(tmp_path: Path) -> None:
    place = shelf(tmp_path, version(1), version(2))
    refused(tmp_path, version(3), version(3, as_of=9))
    last = place.get(2)
    assert [2, 2, 2] == [models_command.chosen(place, wanted).version.version for wanted in ("2", "latest", last.sha256[:8])]
    with pytest.raises(Misconfigured, match=r"the gate refused 2 candidates for version 3 \(.*\): name one by its SHA-256"):
        models_command.chosen(place, "3")
    with pytest.raises(Misconfigured, match=r"there is no version 7 in .*: there are 1, 2"):
        models_command.chosen(place, "7")
    with pytest.raises(Misconfigured, match=r"there is no version in .* yet"):
        models_command.chosen(Shelf(str(tmp_path / "none"), "segments"), "latest")


def test_what_the_gate_refused_is_a_version_only_for_a_reason_that_is_kept(tmp_path: Path) -> None:
    place = shelf(tmp_path, version(1))
    refused(tmp_path, version(2))
    candidate = models_command.chosen(place, "2")
    assert candidate.refused
    with pytest.raises(Misconfigured, match=r"the gate refused version 2 \(it moves too many\): promote it with `--force REASON`"):
        models_command.accepted(place, candidate, None)
    kept = models_command.accepted(place, candidate, "a holiday")
    assert (False, "a holiday", ["it moves too many"]) == (kept.refused, kept.details["gate"]["forced"], kept.details["gate"]["reasons"])
    assert "forced" == models_command.summary(place.get(2))["gate"]
    assert encoded(version(2)) == body_of(place.get(2).version)
    models_command.accepted(place, candidate, "a holiday")  # twice is once


def test_what_is_fetched_is_kept_once_and_never_over_another_version(tmp_path: Path) -> None:
    place = shelf(tmp_path)
    assert place.fetch(encoded(version(1))) is not None
    assert None is place.fetch(encoded(version(1)))
    assert "not judged" == models_command.summary(place.get(1))["gate"]
    with pytest.raises(Misconfigured, match="is another version under this number"):
        place.fetch(encoded(version(1, as_of=3)))


# Where the stream is


def test_the_streams_own_settings_say_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    file = tmp_path / "settings.yaml"
    file.write_text(
        "kafka:\n  bootstrap_servers: a:1\n  properties: {sasl.password: !file secret, sasl.username: u, enable.x: true}\n"
        "topics: {models: m}\nschema_registry: {url: 'http://r'}\nredis: {password_file: x}\noffline: {}\n"
    )
    found = load(file, {"KAFKA_BOOTSTRAP": "c:3"})
    assert ("a:1", "m", "http://r") == (found.bootstrap, found.topic, found.registry)
    assert {"sasl.password": "s3cret", "sasl.username": "u", "enable.x": "true"} == found.properties
    assert "b:2" == load(file, {"STREAMER_KAFKA__BOOTSTRAP_SERVERS": "b:2"}).bootstrap
    assert "c:3" == load(None, {"KAFKA_BOOTSTRAP": "c:3"}).bootstrap
    assert Stream() == load(None, {})
    assert [True, False] == [load(None, environment).named for environment in ({"KAFKA_BOOTSTRAP": "localhost:9092"}, {})]
    assert "s3cret" not in repr(found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kafka: [a]", "kafka: must be a mapping"),
        ("topics: {models: 3}", "topics.models: is 3: give a text"),
        ("kafka: {properties: {p: !file none}}", "none, which can't be read"),
        ("kafka: {", "not YAML"),
    ],
)
def test_settings_that_can_not_be_are_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(Misconfigured, match=said):
        load(file, {})
    with pytest.raises(Misconfigured, match="the settings can't be read"):
        load(tmp_path / "missing.yaml", {})
