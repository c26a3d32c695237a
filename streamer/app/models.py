"""Model versions by number: from memory, from the topic, which is the truth, or from Redis where partition 0's owner put a copy.

Law: a version that is not published yet is known only until partition 0 changes hands: its commit may be lost, and another version be made
under its number.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from streamer.adapters.avro import codec, wire
from streamer.adapters.avro.model_records import body_of, decoded, key
from streamer.core.errors import Corrupt
from streamer.core.model import digest
from streamer.core.ports import Topic

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from streamer.core.model import ModelVersion
    from streamer.core.ports import OutRecord, StateStore, TopicReader

ANNOUNCED = "model"  # the name under which partition 0's owner tells which epoch to judge by
READ_TIMEOUT_S = 30.0
NO_NAMES: Mapping[int, str] = MappingProxyType({})


def stored_name(version: int) -> str:
    """Name Redis's copy of a version."""
    return f"version:{version}"


class ModelShelf:
    """Versions met so far."""

    def __init__(self, store: StateStore, reader: TopicReader, name: str, partitions: int = 1, *, copy_first: bool = False) -> None:
        """Look for versions of the model `name` in the `partitions` of the topic, then in Redis; to be quick, in Redis first."""
        self._store = store
        self._reader = reader
        self._name = name
        self._partitions = partitions
        self.known: dict[int, ModelVersion] = {}
        self._names: dict[int, Mapping[int, str]] = {}
        self._bodies: dict[int, bytes] = {}
        self._copy_first = copy_first
        self._unpublished: set[int] = set()

    def put(self, version: ModelVersion, body: bytes, *, published: bool = True) -> None:
        """Remember a version."""
        self.known[version.version] = version
        if not published:
            self._unpublished.add(version.version)
        self._bodies[version.version] = body
        self._names[version.version] = {segment.number: segment.name for segment in version.segments}

    def names(self, version: int) -> Mapping[int, str]:
        """Give a version's names of its segments by their numbers; none for 0."""
        if not version:
            return NO_NAMES
        self.get(version)
        return self._names[version]

    def learn(self, records: Iterable[OutRecord]) -> None:
        """Remember the versions in an outbox that may not be published yet."""
        for one in records:
            if one.topic is Topic.MODELS and one.value is not None:
                body = one.value[wire.opening(one.value, one.headers).body :]
                self.put(decoded(body), body, published=False)

    def published(self, version: int) -> None:
        """Take in that a version is on the topic."""
        self._unpublished.discard(version)

    def forget_unpublished(self) -> None:
        """Forget what may never be published."""
        for version in self._unpublished:
            self.known.pop(version, None)
            self._bodies.pop(version, None)
            self._names.pop(version, None)
        self._unpublished.clear()

    def body(self, version: int) -> bytes:
        """Give a version's body, as it was published."""
        self.get(version)
        return self._bodies[version]

    def digest(self, version: int) -> bytes:
        """Give the SHA-256 of a version's body."""
        return digest(self.body(version))

    def get(self, version: int) -> ModelVersion:
        """Find a version.

        Raises:
            Corrupt: it is nowhere, or can't be used.

        """
        if version not in self.known:
            copy = self._store.announced(stored_name(version)) if self._copy_first else None
            body = copy or self._on_topic(version)
            published = body is not None
            body = body or self._store.announced(stored_name(version))
            if body is None:
                message = (
                    f"version {version} of model {self._name!r} is neither in Redis nor on the models' topic: restore the topic, "
                    "or begin in a new namespace"
                )
                raise Corrupt(message)
            try:
                self.put(decoded(body), body, published=published)
            except (codec.BodyRefused, ValueError) as error:
                message = f"version {version} of model {self._name!r} can't be read: {error}"
                raise Corrupt(message) from error
        return self.known[version]

    def _on_topic(self, version: int) -> bytes | None:
        wanted = key(self._name, version)
        for partition in range(self._partitions):
            for found in reversed(self._reader.read(Topic.MODELS, partition, 0, READ_TIMEOUT_S)):
                if found.key == wanted and found.value is not None:
                    return body_of(found)
        return None
