"""Segment changes as records for `segment-changes`: SegmentChange in Avro, CloudEvents' attributes in the headers.

Law: a change's id is a function of the input topic, the customer and the customer's version, so that the same change found again has the
same id, in whatever namespace or run.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamer.adapters.avro import codec, wire
from streamer.core.fold import CAUSES, VOTE_ONE
from streamer.core.model import NEW
from streamer.core.ports import OutRecord, Topic
from streamer.core.profile import FIRST_CODE, NEW_SEGMENT, NO_SEGMENT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamer.core.fold import Changes
    from streamer.core.intake import Customers
    from streamer.core.columns import Headers

CHANGE = "segment_change"
TOP_FEATURES = 3
CLOUD_EVENT_TYPE = b"segment_streamer.SegmentChange"


@dataclass(frozen=True, slots=True)
class Origin:
    """What every change of a worker says of where it comes from."""

    topic: str
    feature_version: str
    features: tuple[str, ...]
    origin: str = "live"
    run_id: str | None = None


def change_id(topic: str, customer_id: bytes, version: int) -> str:
    """Name a change: 32 hexadecimal digits."""
    name = b"\0".join([topic.encode(), customer_id, str(version).encode()])
    return hashlib.blake2b(name, digest_size=16).hexdigest()


class ChangeWriter:
    """Writes the changes of a batch as outbox records."""

    def __init__(self, origin: Origin, schema_id: wire.SchemaId) -> None:
        """Write by the latest published schema, which readers know by `schema_id`."""
        self._origin = origin
        self._prefix = wire.prefix(schema_id)
        self._source = f"/kafka/{origin.topic}".encode()

    def records(
        self,
        changes: Changes,
        count: int,
        customers: Customers,
        numbers: tuple[int, ...],
        names: Mapping[int, str],
        detected_at: int,
    ) -> dict[int, list[OutRecord]]:
        """Write the first `count` changes.

        `numbers` gives the Kafka partition of each of the batch's partitions, `names` every segment's name by its number. Returns each
        partition's records in order.
        """
        written: dict[int, list[OutRecord]] = {}
        feature = changes.feature[:count]
        z = changes.vote[:count] / VOTE_ONE
        top = np.argsort(-np.abs(z), axis=1, kind="stable")[:, :TOP_FEATURES].tolist()
        ids, bounds = customers.ids.tobytes(), customers.id_bounds
        for c in range(count):
            slot, partition = int(changes.slot[c]), numbers[changes.part[c]]
            key = ids[bounds[slot] : bounds[slot + 1]]
            version, before, after = int(changes.version[c]), int(changes.before[c]), int(changes.after[c])
            identity = change_id(self._origin.topic, key, version)
            body = codec.encode(
                CHANGE,
                {
                    "change_id": identity,
                    "customer_id": key.decode(),
                    "version": version,
                    "status": "entered",
                    "segment_id": _segment_id(after),
                    "segment_name": NEW if after == NEW_SEGMENT else names[after - FIRST_CODE],
                    "previous_segment_id": None if before == NO_SEGMENT else _segment_id(before),
                    "previous_since": None if before == NO_SEGMENT else int(changes.since[c]),
                    "cause": CAUSES[changes.cause[c]],
                    "occurred_at": int(changes.occurred[c]),
                    "detected_at": detected_at,
                    "model_version": int(changes.model[c]),
                    "epoch": int(changes.epoch[c]),
                    "feature_version": self._origin.feature_version,
                    "distance": float(changes.distance[c]),
                    "margin": float(changes.margin[c]),
                    "top_features": [
                        {"name": self._origin.features[f], "value": float(feature[c, f]), "z": float(z[c, f])} for f in top[c]
                    ],
                    "source": {"topic": self._origin.topic, "partition": partition, "offset": int(changes.offset[c])},
                    "origin": self._origin.origin,
                    "run_id": self._origin.run_id,
                },
            )
            headers = self._headers(identity, key)
            written.setdefault(partition, []).append(OutRecord(Topic.CHANGES, partition, key, self._prefix + body, headers))
        return written

    def _headers(self, identity: str, key: bytes) -> Headers:
        return (
            ("ce_specversion", b"1.0"),
            ("ce_id", identity.encode()),
            ("ce_source", self._source),
            ("ce_type", CLOUD_EVENT_TYPE),
            ("ce_subject", key),
            ("content-type", b"application/avro"),
        )


def _segment_id(code: int) -> str:
    return NEW if code == NEW_SEGMENT else f"seg_{code - FIRST_CODE:04d}"
