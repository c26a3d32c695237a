"""From decoded records to whole events, and where files end."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import fastavro
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemas
from streamer.core.decoding import decode, new_decoded
from streamer.core.history import NO_TIME, NUMBERS, TEXTS, EventColumns, Texts, cuts, event_columns, gather, split_maps, with_whole_events
from streamer.core.opcodes import Column, Kind, compile_program

if TYPE_CHECKING:
    from streamer.core.columns import U8

EVENT = json.loads(schemas.text("behaviour_event"))
PARSED = fastavro.parse_schema(EVENT)
DAY_MS = 86_400_000
TEXT = st.text(max_size=5)
EVENTS = st.lists(
    st.fixed_dictionaries(
        {
            **dict.fromkeys(("event_id", "customer_id", "event_type"), TEXT),
            **{name: st.none() | TEXT for name in ("currency", "product_id", "category", "session_id")},
            "occurred_at": st.integers(0, 2**40),
            **{name: st.none() | st.integers(-(2**63), 2**63 - 1) for name in ("amount", "quantity")},
            "properties": st.dictionaries(TEXT, TEXT, max_size=3),
        }
    ),
    max_size=6,
)


def read(bodies: list[bytes], columns: tuple[Column, ...]) -> EventColumns:
    bounds = np.cumsum([0, *map(len, bodies)], dtype=np.int64)
    values: U8 = np.frombuffer(b"".join(bodies), np.uint8)
    out = new_decoded(len(columns), len(bodies))
    rows = np.arange(len(bodies))
    decode(compile_program(EVENT, EVENT, columns), values, bounds[:-1], bounds[1:], rows, 100, out)
    assert not out.status.any()
    chosen = rows[::-1].copy()  # rows may be taken in any order
    return event_columns(columns, out, values, chosen, rows.astype(np.int32), rows + 100, rows + 1000)


def texts(given_texts: Texts) -> list[str | None]:
    values, bounds, there = given_texts
    return [values[bounds[i] : bounds[i + 1]].tobytes().decode() if there[i] else None for i in range(len(there))]


def as_events(columns: EventColumns) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{} for _ in range(len(columns))]
    for name in TEXTS:
        for event, text in zip(found, texts(columns.texts[name]), strict=True):
            event[name] = text
    for name in NUMBERS:
        for event, value, there in zip(found, *columns.numbers[name], strict=True):
            event[name] = int(value) if there else None
    bounds, keys, items = columns.properties
    pairs = list(zip(texts(keys), texts(items), strict=True))
    for i, event in enumerate(found):
        event["properties"] = dict(pairs[bounds[i] : bounds[i + 1]])
        assert len(event["properties"]) == bounds[i + 1] - bounds[i]
    return found


def body(event: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, PARSED, event)
    return stream.getvalue()


@given(EVENTS, st.booleans())
def test_a_whole_event_is_what_its_record_says(events: list[dict[str, Any]], used: bool) -> None:
    declared = (
        Column(Kind.STRING, "category", hashed=True),
        Column(Kind.PROPERTY, "properties", "k", hashed=True),
        Column(Kind.NUMBER, "amount"),
    )
    columns = with_whole_events(declared if used else ())
    assert columns[: 3 * used] == declared * used
    found = read([body(event) for event in events], columns)
    assert events[::-1] == as_events(found)
    assert [100 + i for i in range(len(events))][::-1] == found.offset.tolist()
    assert [1000 + i for i in range(len(events))][::-1] == found.timestamp.tolist()


def test_of_a_key_that_a_map_repeats_the_last_value_counts() -> None:
    blocks = b"\6\2k\4v1\2l\2x\2k\2v\0"
    in_sizes = b"\1\x0a\2k\4v1\1\x08\2k\2w\0"  # two blocks that tell their sizes
    for data, expected in ((blocks, {"k": "v", "l": "x"}), (in_sizes, {"k": "w"}), (b"", {}), (b"\0", {})):
        values = np.frombuffer(b"?" + data, np.uint8)
        bounds, keys, items = split_maps(values, np.array([1]), np.array([len(data)], np.int32))
        assert expected == dict(zip(texts(keys), texts(items), strict=True))
        assert [0, len(expected)] == bounds.tolist()


def test_a_map_that_is_null_is_empty() -> None:
    assert [0, 0] == split_maps(np.zeros(1, np.uint8), np.array([0]), np.array([-1], np.int32)).bounds.tolist()


def test_a_text_that_is_not_there_is_told_from_an_empty_one() -> None:
    found = gather(np.frombuffer(b"abc", np.uint8), np.array([1, 2, 0]), np.array([2, 0, -1], np.int32))
    assert ["bc", "", None] == texts(found)


@pytest.mark.parametrize(
    ("expected", "offsets", "days", "latest", "last"),
    [
        ([0], [0], [0], NO_TIME, -1),
        ([], [1, 2, 9], [0, 0, 0], 0, 0),
        ([2], [1, 2, 10], [0, 0, 0], 0, 0),
        ([0, 1], [10, 25], [0, 0], 0, 9),
        ([1], [1, 2, 3], [0, 1, 0], 0, 0),
        ([0], [1, 2, 3], [1, 0, 1], 0, 0),
        ([], [1, 2], [0, 1], 1, 0),
        ([], [], [], 5, 3),
    ],
)
def test_a_file_begins_with_a_range_of_offsets_or_a_log_day(expected: list[int], offsets: Any, days: Any, latest: int, last: int) -> None:
    day = np.array(days, np.int64) * DAY_MS
    begins, running = cuts(np.array(offsets, np.int64), day, latest * DAY_MS if latest > 0 else latest, last, 10)
    assert expected == begins.tolist()
    assert [max([latest * DAY_MS if latest > 0 else latest, *day[: i + 1].tolist()]) for i in range(len(day))] == running.tolist()


@given(st.data())
def test_where_files_begin_does_not_depend_on_how_the_log_is_cut(data: st.DataObject) -> None:
    gaps = data.draw(st.lists(st.integers(1, 6), max_size=20))
    offset = np.cumsum(gaps, dtype=np.int64)
    timestamp = np.array(data.draw(st.lists(st.integers(0, 4 * DAY_MS), min_size=len(gaps), max_size=len(gaps))), np.int64)
    whole = offset[cuts(offset, timestamp, NO_TIME, -1, 7)[0]].tolist()
    found: list[int] = []
    latest, last, at = NO_TIME, -1, 0
    while at < len(gaps):
        end = at + data.draw(st.integers(1, 5))
        begins, running = cuts(offset[at:end], timestamp[at:end], latest, last, 7)
        found += offset[at:end][begins].tolist()
        latest, last, at = int(running[-1]), int(offset[at:end][-1]), end
    assert whole == found
