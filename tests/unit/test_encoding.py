"""Segment changes written compiled equal fastavro's bytes, in frames that equal the outbox's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from hypothesis import example, given
from hypothesis import strategies as st

from streamer.adapters.avro import codec, wire
from streamer.app.changes import CHANGE, ChangeWriter, Origin
from streamer.core import outbox
from streamer.core.fold import CAUSES, ERASURE, VOTE_ONE, Changes, make_changes
from streamer.core.intake import Customers
from streamer.core.ports import OutRecord, Topic
from streamer.core.profile import FIRST_CODE, NEVER, NEW_SEGMENT, NO_SEGMENT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12) | st.sampled_from(["ann", "ünïcödé", "客户", "🛒" * 40, "x" * 200])
WHOLE = st.integers(-(2**62), 2**62) | st.sampled_from([0, -1, 63, 64, -64, -65, 8191, 8192, NEVER])
REAL = st.floats(width=64) | st.sampled_from([0.0, -0.0, np.inf, -np.inf, np.nan])
NUMBERS = st.sampled_from([1, 2, 9, 10, 999, 1000, 9999, 10_000, 10_001, 123_456])
VOTES = st.sampled_from([0, 1, -1, 7, -7, 4096, -4096, 32_767, -32_767])
STAMP = (("commit_id", b"c"), ("next_offset", None))


def change_id(topic: str, customer: bytes, version: int) -> str:
    """Name a change by the law of the module that writes it."""
    whole = b"\0".join([topic.encode(), customer, (version & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "little")])
    return "".join(xxhash.xxh64_hexdigest(half + whole) for half in (b"\0", b"\1"))


@st.composite
def written(draw: st.DrawFn) -> dict[str, Any]:
    """Draw changes as plain rows, and all that they are written with."""
    f = draw(st.integers(1, 20))
    names = {draw(NUMBERS): draw(TEXTS) for _ in range(draw(st.integers(1, 4)))}
    customers = draw(st.lists(TEXTS, min_size=1, max_size=4, unique=True))
    codes = st.sampled_from([NEW_SEGMENT, *(FIRST_CODE + number for number in names)])
    before = codes | st.just(NO_SEGMENT) | NUMBERS.map(lambda number: FIRST_CODE + number)  # of a version that is not known any more
    row = st.fixed_dictionaries(
        {
            "slot": st.integers(0, len(customers) - 1),
            "part": st.integers(0, 1),
            "cause": st.integers(0, len(CAUSES) - 1),
            "before": before,
            "after": codes | st.just(NO_SEGMENT),
            "version": st.integers(0, 2**53),
            "distance": REAL,
            "margin": REAL,
            "feature": st.lists(REAL, min_size=f, max_size=f),
            "vote": st.lists(VOTES, min_size=f, max_size=f),
            **dict.fromkeys(("offset", "since", "occurred", "model", "epoch"), WHOLE),
        }
    )
    rows = [row if row["after"] else {**row, "before": draw(codes)} for row in draw(st.lists(row, max_size=6))]  # who leaves was somewhere
    return {
        "names": names,
        "customers": customers,
        "rows": rows,
        "features": [f"{draw(TEXTS)}{i}" for i in range(f)],
        "topic": draw(TEXTS),
        "origin": draw(st.sampled_from(["live", "replay"])),
        "run_id": draw(st.none() | TEXTS),
        "schema_id": draw(st.integers(0, wire.ID_MAX)),
        "now_ms": draw(WHOLE),
        "numbers": draw(st.sampled_from([(0, 1), (7, 2**31 - 1)])),
    }


def columns(rows: Sequence[Mapping[str, Any]], f: int, room: int) -> Changes:
    """Lay rows out, with room for some more."""
    changes = make_changes(len(rows) + room, f)
    for c, row in enumerate(rows):
        for name, value in row.items():
            getattr(changes, name)[c] = value
    return changes


def customers_of(ids: Sequence[str]) -> Customers:
    encoded = [customer.encode() for customer in ids]
    bounds = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return Customers(np.frombuffer(b"".join(encoded), np.uint8), bounds, np.array([0, len(ids)]))


def expected(case: Mapping[str, Any], row: Mapping[str, Any]) -> bytes:
    """Write a row with fastavro."""

    def segment(code: int) -> str | None:
        return {NO_SEGMENT: None, NEW_SEGMENT: "new"}.get(code, f"seg_{code - FIRST_CODE:04d}")

    customer = case["customers"][row["slot"]]
    order = sorted(range(len(row["vote"])), key=lambda j: -abs(row["vote"][j]))[:3]
    left = row["after"] == NO_SEGMENT
    told = row["before"] if left else row["after"]
    record = {
        "change_id": change_id(case["topic"], customer.encode(), row["version"]),
        "customer_id": customer,
        "version": row["version"],
        "status": "exited" if left else "entered",
        "segment_id": segment(told),
        "segment_name": "new" if told == NEW_SEGMENT else case["names"][told - FIRST_CODE],
        "previous_segment_id": segment(row["before"]),
        "previous_since": None if row["before"] == NO_SEGMENT else row["since"],
        "cause": CAUSES[row["cause"]],
        "occurred_at": row["occurred"],
        "detected_at": case["now_ms"],
        "model_version": row["model"],
        "epoch": row["epoch"],
        "feature_version": "ab" * 8,
        "distance": row["distance"],
        "margin": row["margin"],
        "top_features": []
        if left
        else [{"name": case["features"][j], "value": row["feature"][j], "z": row["vote"][j] / VOTE_ONE} for j in order],
        "source": {"topic": case["topic"], "partition": case["numbers"][row["part"]], "offset": row["offset"]},
        "origin": case["origin"],
        "run_id": case["run_id"],
    }
    return wire.framed(codec.encode(CHANGE, record), case["schema_id"])


def records_of(case: dict[str, Any], row: dict[str, Any]) -> list[bytes | None]:
    """Give the values that a row is told by: of an erasure a notice, if there is anything to be noticed, and a tombstone."""
    if row["cause"] != ERASURE:
        return [expected(case, row)]
    return [None] if row["before"] == NO_SEGMENT else [expected(case, row), None]


def case_of(**changed: Any) -> dict[str, Any]:
    """Give one plain case."""
    row: dict[str, Any] = {
        "slot": 0,
        "part": 0,
        "cause": 0,
        "before": NO_SEGMENT,
        "after": FIRST_CODE + 3,
        "version": 1024,
        "distance": 0.5,
        "margin": 0.1,
    }
    row |= {"feature": [1.0] * 4, "vote": [5, -5, 5, 5], "offset": 9, "since": NEVER, "occurred": 77, "model": 1, "epoch": 2}
    case = {"names": {3: "high spend"}, "customers": ["ann"], "rows": [row], "features": list("abcd"), "topic": "events", "origin": "live"}
    return {**case, "run_id": None, "schema_id": 4, "now_ms": 99, "numbers": (0, 1), **changed}


@given(written())
@example(case_of())
@example(case_of(rows=[{**case_of()["rows"][0], "cause": ERASURE, "before": FIRST_CODE + 3, "after": NO_SEGMENT}]))
@example(case_of(rows=[{**case_of()["rows"][0], "cause": ERASURE, "before": NO_SEGMENT, "after": NO_SEGMENT}, case_of()["rows"][0]]))
@example(case_of(features=["only"], rows=[{**case_of()["rows"][0], "feature": [1.0], "vote": [0]}]))
def test_changes_equal_fastavros_bytes_and_the_outboxs_frames(case: dict[str, Any]) -> None:
    rows = case["rows"]
    changes = columns(rows, len(case["features"]), room=2)
    writer = ChangeWriter(Origin(case["topic"], "ab" * 8, tuple(case["features"]), case["origin"], case["run_id"]), case["schema_id"])
    stamps = dict.fromkeys(case["numbers"], STAMP)
    customers = customers_of(case["customers"])
    wanted = np.ones(len(rows), np.bool_)
    found = writer.write(
        changes, len(rows), customers, case["numbers"], [case["names"]] * len(case["numbers"]), stamps, case["now_ms"], wanted
    )
    for part, number in enumerate(case["numbers"]):
        mine = [row for row in rows if row["part"] == part]
        if not mine:
            assert number not in found
            continue
        told = [(row, value) for row in mine for value in records_of(case, row)]
        assert [value for _, value in told] == [record.value for record in found[number].records]
        assert outbox.pack(found[number].records)[1:] == found[number].packed
        for (row, value), record in zip(told, found[number].records, strict=True):
            customer = case["customers"][row["slot"]].encode()
            named = change_id(case["topic"], customer, row["version"]).encode()
            assert (Topic.CHANGES, number, customer) == (record.topic, record.partition, record.key)
            assert (STAMP if value is None else (*STAMP, ("ce_id", named))) == (record.headers if value is None else record.headers[-3:])


def test_an_outbox_of_changes_unpacks_to_its_records() -> None:
    case = case_of()
    writer = ChangeWriter(Origin("events", "v", tuple("abcd")), 4)
    one = (columns(case["rows"], 4, 1), 1, customers_of(["ann"]), (5,), [{3: "high spend"}], {5: STAMP}, 99, np.ones(1, np.bool_))
    found = writer.write(*one)[5]
    letter = OutRecord(Topic.DEAD_LETTERS, None, None, None, ())
    assert [*found.records, letter] == outbox.unpack(outbox.pack([letter], found.packed))


def test_equal_features_are_told_in_the_order_of_the_declaration() -> None:
    value = expected(case_of(), case_of()["rows"][0])  # which the law above holds the compiled bytes to
    assert ["a", "b", "c"] == [feature["name"] for feature in codec.decode(CHANGE, value[wire.ID_BYTES :])["top_features"]]
