"""Changes as records: what names them, what their headers say, and which are written."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import numpy as np
import xxhash

from streamer.adapters.avro import codec, wire
from streamer.app.changes import CHANGE, TEXTS_KEPT, ChangeWriter, Origin, Written
from streamer.core.fold import make_changes
from streamer.core.intake import Customers
from streamer.core.profile import FIRST_CODE

ORIGIN = Origin("customer-events", "v1", ("views", "spend"))
CUSTOMERS = Customers(np.frombuffer(b"annbob", np.uint8), np.array([0, 3, 6]), np.array([0, 1, 2]))


def change_id(topic: str, customer: bytes, version: int) -> str:
    """Name a change by the module's law."""
    whole = b"\0".join([topic.encode(), customer, (version & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "little")])
    return "".join(xxhash.xxh64_hexdigest(half + whole) for half in (b"\0", b"\1"))


def write(writer: ChangeWriter, wanted: list[bool] | None = None, names: list[dict[int, str]] | None = None) -> dict[int, Written]:
    """Write ann's change on partition 4 and two of bob's on partition 9."""
    changes = make_changes(3, 2)
    changes.slot[:], changes.part[:], changes.version[:], changes.after[:] = [0, 1, 1], [0, 1, 1], [10, 11, 12], FIRST_CODE + 1
    stamps: dict[int, Any] = {4: (("commit_id", b"x"),), 9: (("commit_id", b"y"),)}
    chosen = np.array([True] * 3 if wanted is None else wanted)
    return writer.write(changes, 3, CUSTOMERS, (4, 9), names or 2 * [{1: "loyal"}], stamps, 5, chosen)


def decoded(written: Written) -> list[dict[str, Any]]:
    values = [record.value or b"" for record in written.records]
    return [codec.decode(CHANGE, value[wire.opening(value).body :]) for value in values]


def test_a_change_is_named_after_topic_customer_and_version_alone() -> None:
    named = change_id("customer-events", b"ann", 10)
    assert 32 == len(named)
    assert named == decoded(write(ChangeWriter(ORIGIN, 1))[4])[0]["change_id"]
    other = ChangeWriter(Origin("customer-events", "v2", ("views", "spend"), "replay", "run-7"), 2)
    assert named == decoded(write(other)[4])[0]["change_id"]
    different = {change_id("other", b"ann", 10), change_id("customer-events", b"bob", 10), change_id("customer-events", b"ann", 11)}
    assert 4 == len({named, *different})


def test_each_partition_has_its_own_changes_in_order_under_its_own_stamp() -> None:
    written = write(ChangeWriter(ORIGIN, 1))
    assert {4: ["ann"], 9: ["bob", "bob"]} == {number: [change["customer_id"] for change in decoded(w)] for number, w in written.items()}
    assert [11, 12] == [change["version"] for change in decoded(written[9])]
    assert {4: b"x", 9: b"y"} == {number: dict(w.records[0].headers)["commit_id"] for number, w in written.items()}


def test_headers_are_cloud_events() -> None:
    [record] = write(ChangeWriter(ORIGIN, 1))[4].records
    expected = {
        "ce_specversion": b"1.0",
        "ce_source": b"/kafka/customer-events",
        "ce_type": b"segment_streamer.SegmentChange",
        "content-type": b"application/avro",
        "commit_id": b"x",
        "ce_id": change_id("customer-events", b"ann", 10).encode(),
    }
    assert expected == dict(record.headers)
    assert len(expected) == len(record.headers)


def test_what_is_not_wanted_is_not_written() -> None:
    assert [9] == list(write(ChangeWriter(ORIGIN, 1), [False, False, True]))
    assert [12] == [change["version"] for change in decoded(write(ChangeWriter(ORIGIN, 1), [False, False, True])[9])]
    assert {} == write(ChangeWriter(ORIGIN, 1), [False] * 3)


def test_each_partition_tells_the_names_of_the_version_that_it_has_adopted() -> None:
    writer = ChangeWriter(ORIGIN, 1)
    for turn in range(2 * TEXTS_KEPT):  # more versions than are kept laid out
        found = write(writer, names=[{1: f"dear {turn}", 2: "others"}, {1: "loyal"}])
        assert (f"dear {turn}", "loyal") == tuple(decoded(found[place])[0]["segment_name"] for place in (4, 9))


def test_a_schema_is_named_by_its_number_or_its_guid() -> None:
    guid = UUID("0123456789abcdef0123456789abcdef")
    for schema_id in (7, guid):
        value = write(ChangeWriter(ORIGIN, schema_id))[4].records[0].value
        assert schema_id == wire.opening(value).schema_id
