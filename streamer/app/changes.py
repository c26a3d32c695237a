"""Segment changes as records for `segment-changes`: SegmentChange in Avro, CloudEvents' attributes in the headers.

Law: a change's id is a function of the input topic, the customer and the customer's version, so that the same change found again has the
same id, in whatever namespace or run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from streamer.adapters.avro import codec, wire
from streamer.core import outbox
from streamer.core.encoding import ID_BYTES, Place, Strings, Texts, encode_changes, name_changes
from streamer.core.fold import CAUSES, ERASURE
from streamer.core.model import NEW, segment_id_of
from streamer.core.ports import OutRecord, Topic
from streamer.core.profile import FIRST_CODE, NEW_SEGMENT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamer.core.columns import U8, Bool, Headers
    from streamer.core.fold import Changes
    from streamer.core.intake import Customers

CHANGE = "segment_change"
EXISTING, EXITED = "existing", "exited"
RECONCILE = "reconcile"
CHANGE_ID = "ce_id"
CLOUD_EVENT_TYPE = b"segment_streamer.SegmentChange"
TEXTS_KEPT = 8  # versions that partitions have adopted at a time: two, where one is on its way


@dataclass(frozen=True, slots=True)
class Origin:
    """What every change of a worker says of where it comes from."""

    topic: str
    feature_version: str
    features: tuple[str, ...]
    origin: str = "live"
    run_id: str | None = None


class Written(NamedTuple):
    """The changes of one partition: as an outbox without its first byte, and as records."""

    packed: bytes
    records: list[OutRecord]


class Membership(NamedTuple):
    """What is told of a customer beside the fold: `existing`, that they are in a segment still, or `exited`, that they are in none now.

    `since` is when they came into the segment, in event time; `as_of` when what is told holds.
    """

    customer: bytes
    version: int
    status: str
    segment: int  # its code
    since: int
    as_of: int
    model: int
    epoch: int
    distance: float = 0.0
    margin: float = 0.0


class ChangeWriter:
    """Writes the changes of a batch as outbox records."""

    def __init__(self, origin: Origin, schema_id: wire.SchemaId) -> None:
        """Write by the latest published schema, which readers know by `schema_id`."""
        self._origin = origin
        self._prefix = _array(wire.prefix(schema_id))
        self._head: Headers = (
            ("ce_specversion", b"1.0"),
            ("ce_source", f"/kafka/{origin.topic}".encode()),
            ("ce_type", CLOUD_EVENT_TYPE),
            ("content-type", b"application/avro"),
        )
        self._topic_number = outbox.topic_number(Topic.CHANGES)
        self._texts: list[tuple[dict[int, str], Texts]] = []  # by the names of their segments, the latest last

    def write(
        self,
        changes: Changes,
        count: int,
        customers: Customers,
        numbers: Sequence[int],
        names: Sequence[Mapping[int, str]],
        stamps: Mapping[int, Headers],
        detected_at: int,
        wanted: Bool,
    ) -> dict[int, Written]:
        """Write those of the first `count` changes that are `wanted`, (count,).

        `numbers` gives the Kafka partition of each of the batch's partitions, `names` the names of segments by their numbers in the version
        that each has adopted, `stamps` the headers that every record of a partition's commit bears. Returns each partition's changes in
        order, and behind the notice of an erasure, if there is one, its tombstone.
        """
        ids, bounds = customers.ids.tobytes(), customers.id_bounds.tolist()
        slots = changes.slot[:count].tolist()
        joined = name_changes(
            self._origin.topic.encode(), customers.ids, customers.id_bounds, changes.slot[:count], changes.version[:count]
        )
        written = {}
        for part, partition in enumerate(numbers):
            chosen = np.flatnonzero((changes.part[:count] == part) & wanted)
            if not len(chosen):
                continue
            headers = (*self._head, *stamps[partition])
            frame = outbox.pack_headers((*headers, (CHANGE_ID, b"0" * ID_BYTES)))[:-ID_BYTES]
            stamp = outbox.pack_headers(stamps[partition])
            place = Place(partition, self._topic_number, _array(frame), len(headers) + 1, _array(stamp), len(stamps[partition]))
            packed, values = encode_changes(
                self._texts_of(names[part]), changes, count, customers.ids, customers.id_bounds, joined, chosen, place, detected_at
            )
            records = []
            for c, (begin, end), cause in zip(chosen.tolist(), values, changes.cause[chosen].tolist(), strict=True):
                key = ids[bounds[slots[c]] : bounds[slots[c] + 1]]
                if end:
                    change_id = (CHANGE_ID, joined[ID_BYTES * c : ID_BYTES * (c + 1)])
                    records.append(OutRecord(Topic.CHANGES, partition, key, packed[begin:end], (*headers, change_id)))
                if cause == ERASURE:
                    records.append(OutRecord(Topic.CHANGES, partition, key, None, stamps[partition]))
            written[partition] = Written(packed, records)
        return written

    def write_again(
        self, told: Sequence[Membership], partition: int, offset: int, names: Mapping[int, str], stamp: Headers, detected_at: int
    ) -> list[OutRecord]:
        """Write what is told with the cause `reconcile`: by record, for it is seldom. `offset` is the next one of the input to be read."""
        ids = _strings([one.customer for one in told])
        joined = name_changes(
            self._origin.topic.encode(),
            ids.data.copy(),  # as a batch's ids are: what is read-only would be compiled for anew
            ids.bounds,
            np.arange(len(told), dtype=np.int32),
            np.array([one.version for one in told], np.int64),
        )
        named = [joined[at : at + ID_BYTES] for at in range(0, len(joined), ID_BYTES)]
        return [
            OutRecord(
                Topic.CHANGES,
                partition,
                one.customer,
                self._prefix.tobytes() + codec.encode(CHANGE, self._again(one, change_id, partition, offset, names, detected_at)),
                (*self._head, *stamp, (CHANGE_ID, change_id)),
            )
            for one, change_id in zip(told, named, strict=True)
        ]

    def _again(
        self, one: Membership, change_id: bytes, partition: int, offset: int, names: Mapping[int, str], detected_at: int
    ) -> dict[str, Any]:
        new, number = one.segment == NEW_SEGMENT, one.segment - FIRST_CODE
        segment_id = NEW if new else segment_id_of(number)
        left = one.status == EXITED
        origin = self._origin
        return {
            "change_id": change_id.decode(),
            "customer_id": one.customer.decode(),
            "version": one.version,
            "status": one.status,
            "segment_id": segment_id,
            "segment_name": NEW if new else names.get(number, ""),
            "previous_segment_id": segment_id if left else None,
            "previous_since": one.since if left else None,
            "cause": RECONCILE,
            "occurred_at": one.as_of,
            "detected_at": detected_at,
            "model_version": one.model,
            "epoch": one.epoch,
            "feature_version": origin.feature_version,
            "distance": one.distance,
            "margin": one.margin,
            "top_features": [],
            "source": {"topic": origin.topic, "partition": partition, "offset": offset},
            "origin": origin.origin,
            "run_id": origin.run_id,
        }

    def _texts_of(self, names: Mapping[int, str]) -> Texts:
        """Find the texts for a version's names of segments, or lay them out."""
        for known, texts in self._texts:
            if known == names:
                return texts
        texts = self._made(names)
        self._texts = [*self._texts[1 - TEXTS_KEPT :], (dict(names), texts)]
        return texts

    def _made(self, named: Mapping[int, str]) -> Texts:
        """Lay out the texts, with the names of segments by their numbers."""
        origin = self._origin
        codes = range(max(named, default=0) + FIRST_CODE + 1)
        names = [NEW if code == NEW_SEGMENT else named.get(code - FIRST_CODE, "") for code in codes]
        run = b"\0" if origin.run_id is None else b"\2" + _avro(origin.run_id)
        return Texts(
            prefix=self._prefix,
            status=_strings(["entered", "exited"]),
            causes=_strings(CAUSES),
            features=_strings(origin.features),
            feature_version=_array(_avro(origin.feature_version)),
            topic=_array(_avro(origin.topic)),
            tail=_array(_avro(origin.origin) + run),
            segment_ids=_strings(["seg_", NEW]),
            segment_names=_strings(names),
        )


def _array(data: bytes) -> U8:
    return np.frombuffer(data, np.uint8)


def _strings(texts: Sequence[str | bytes]) -> Strings:
    encoded = [text.encode() if isinstance(text, str) else text for text in texts]
    return Strings(_array(b"".join(encoded)), np.cumsum([0, *map(len, encoded)], dtype=np.int64))


def _avro(text: str) -> bytes:
    """Write a string as Avro has it: its length, zigzag, then its bytes."""
    data = text.encode()
    length, left = bytearray(), len(data) << 1
    while left >= 0x80:  # noqa: PLR2004  # seven bits a byte
        length.append((left & 0x7F) | 0x80)
        left >>= 7
    length.append(left)
    return bytes(length) + data
