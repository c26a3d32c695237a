"""Model versions by number: from memory, from Redis where partition 0's owner put a copy, else from the topic, which is the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamer.adapters.avro import codec, wire
from streamer.core.errors import Corrupt
from streamer.core.model import ModelVersion, digest, from_record
from streamer.core.ports import OutRecord, Topic

if TYPE_CHECKING:
    from streamer.core.ports import StateStore, TopicReader

MODEL = "model_version"
ANNOUNCED = "model"  # the name under which partition 0's owner tells which epoch to judge by
READ_TIMEOUT_S = 30.0


def stored_name(version: int) -> str:
    """Name Redis's copy of a version."""
    return f"version:{version}"


def encoded(version: ModelVersion) -> bytes:
    """Write a version's body, the bytes that its SHA-256 is of."""
    return codec.encode(MODEL, version.record())


def key(version: ModelVersion) -> bytes:
    """Give the key of a version's record: its name and number, so that no version is ever compacted away."""
    return f"{version.name}:{version.version}".encode()


def record(version: ModelVersion, body: bytes, schema_id: wire.SchemaId) -> OutRecord:
    """Write a version as an outbox record."""
    return OutRecord(Topic.MODELS, None, key(version), wire.framed(body, schema_id), ())


class ModelShelf:
    """Versions met so far."""

    def __init__(self, store: StateStore, reader: TopicReader, name: str, partitions: int = 1) -> None:
        """Look in Redis first, then in the `partitions` of the models' topic, for versions of the model `name`."""
        self._store = store
        self._reader = reader
        self._name = name
        self._partitions = partitions
        self.known: dict[int, ModelVersion] = {}
        self.names: dict[int, str] = {}
        self._bodies: dict[int, bytes] = {}

    def put(self, version: ModelVersion, body: bytes) -> None:
        """Remember a version."""
        self.known[version.version] = version
        self._bodies[version.version] = body
        self.names |= {segment.number: segment.name for segment in version.segments}

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
            body = self._store.announced(stored_name(version)) or self._published(version)
            try:
                self.put(from_record(codec.decode(MODEL, body)), body)
            except (codec.BodyRefused, ValueError) as error:
                message = f"version {version} of model {self._name!r} can't be read: {error}"
                raise Corrupt(message) from error
        return self.known[version]

    def _published(self, version: int) -> bytes:
        wanted = f"{self._name}:{version}".encode()
        for partition in range(self._partitions):
            for found in reversed(self._reader.read(Topic.MODELS, partition, 0, READ_TIMEOUT_S)):
                if found.key == wanted and found.value is not None:
                    return found.value[wire.opening(found.value, found.headers).body :]
        message = (
            f"version {version} of model {self._name!r} is neither in Redis nor on the models' topic: restore the topic, "
            "or begin in a new namespace"
        )
        raise Corrupt(message)
