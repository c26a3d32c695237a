"""Records on the topic of models: versions by their numbers, and which of them a person has promoted.

Laws: a version's record is keyed by the model's name and the number, the promotion by the name and a word, so compaction takes neither
away. A promotion is the whole version again, under a key of its own: who reads one record knows what is to be in force.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamer.adapters.avro import codec, wire
from streamer.core.model import digest, from_record
from streamer.core.ports import OutRecord, Topic

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streamer.core.columns import Headers
    from streamer.core.model import ModelVersion
    from streamer.core.ports import LogRecord

MODEL = "model_version"
PROMOTED = "promoted"
REASON, FORCED, AT, BEFORE, BACK = (f"promotion_{word}" for word in ("reason", "forced", "at", "before", "back"))


@dataclass(frozen=True, slots=True)
class Promotion:
    """Which version is to be in force, why, and since when by the wall clock of who said so, in milliseconds.

    `before` is the version that was in force then, 0 for none; the promotion goes `back` where it takes up an older one again.
    """

    version: ModelVersion
    body: bytes
    reason: str = ""
    forced: bool = False
    at: int = 0
    before: int = 0
    back: bool = False

    @property
    def sha256(self) -> str:
        """Name the version's bytes."""
        return digest(self.body).hex()


@dataclass(frozen=True, slots=True)
class OnTopic:
    """What a topic of models says of one model: the bodies of its versions by their numbers, and the promotion, if there is one."""

    bodies: dict[int, bytes]
    promotion: Promotion | None


def encoded(version: ModelVersion) -> bytes:
    """Write a version's body, the bytes that its SHA-256 is of."""
    return codec.encode(MODEL, version.record())


def decoded(body: bytes) -> ModelVersion:
    """Read a version's body.

    Raises:
        BodyRefused: it is no version's body.
        ValueError: the version can't be judged by.

    """
    return from_record(codec.decode(MODEL, body))


def key(name: str, version: int) -> bytes:
    """Give the key of a version's record."""
    return f"{name}:{version}".encode()


def promoted_key(name: str) -> bytes:
    """Give the key of the record that says which version is to be in force."""
    return f"{name}:{PROMOTED}".encode()


def version_record(version: ModelVersion, body: bytes, schema_id: wire.SchemaId) -> OutRecord:
    """Write a version as a record."""
    return OutRecord(Topic.MODELS, None, key(version.name, version.version), wire.framed(body, schema_id), ())


def promotion_record(promotion: Promotion, schema_id: wire.SchemaId) -> OutRecord:
    """Write a promotion as a record."""
    told = {
        REASON: promotion.reason,
        FORCED: str(promotion.forced).lower(),
        AT: str(promotion.at),
        BEFORE: str(promotion.before),
        BACK: str(promotion.back).lower(),
    }
    headers: Headers = tuple((name, text.encode()) for name, text in told.items())
    return OutRecord(Topic.MODELS, None, promoted_key(promotion.version.name), wire.framed(promotion.body, schema_id), headers)


def body_of(record: LogRecord) -> bytes | None:
    """Give the body in a record; None for a tombstone."""
    return None if record.value is None else record.value[wire.opening(record.value, record.headers).body :]


def promotion_of(record: LogRecord) -> Promotion | None:
    """Read a promotion; None for a tombstone, which leaves in force what is.

    Raises:
        BodyRefused, ValueError: as `decoded` does.

    """
    body = body_of(record)
    if body is None:
        return None
    told = {name: (value or b"").decode("utf-8", "replace") for name, value in record.headers}
    at, before = (int(text) if (text := told.get(name, "")).isdecimal() else 0 for name in (AT, BEFORE))
    return Promotion(decoded(body), body, told.get(REASON, ""), told.get(FORCED) == "true", at, before, told.get(BACK) == "true")


def on_topic(name: str, records: Iterable[LogRecord]) -> OnTopic:
    """Take what is said of a model out of a topic's records, in their order; of two records under one key the later counts.

    Raises:
        BodyRefused, ValueError: as `decoded` does, of the promotion.

    """
    bodies: dict[int, bytes] = {}
    promotion: Promotion | None = None
    prefix = f"{name}:".encode()
    for record in records:
        if record.key is None or not record.key.startswith(prefix):
            continue
        word = record.key[len(prefix) :]
        if word == PROMOTED.encode():
            promotion = promotion_of(record)
        elif word.isdigit():
            body = body_of(record)
            if body is None:
                bodies.pop(int(word), None)
            else:
                bodies[int(word)] = body
    return OnTopic(bodies, promotion)
