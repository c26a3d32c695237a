"""Intake against the oracle, which knows docs/features.md and none of this code: the same events count, with the same values."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import schemas
from streamer.adapters.avro import codec, wire
from streamer.adapters.avro.writer_schemas import WriterSchemas
from streamer.app.intake import Intake
from streamer.core.columns import Fetched
from streamer.core.declaration import PROPERTY, LifetimeMeasure, TileMeasure, declare
from streamer.core.intake import Limits
from tests import oracle
from tests.properties.strategies import Row, declarations, events


class OneSchema:
    """Our own schema under its number."""

    def by_id(self, schema_id: int, /) -> str | None:
        return schemas.text("behaviour_event", 1) if schema_id == 1 else None

    def by_guid(self, guid: object, /) -> str | None:
        raise LookupError(guid)


def fetched(rows: list[Row]) -> Fetched:
    """Records without a Kafka timestamp, so that any valid time will do."""
    values = [wire.framed(codec.encode("behaviour_event", row), 1) for row in rows]
    n = len(values)
    bounds = np.cumsum([0, *map(len, values)], dtype=np.int64)
    return Fetched(np.zeros(n, np.int32), np.arange(n), np.full(n, -1), b"".join(values), bounds, np.zeros(n, np.bool_), (None,) * n, {})


def value_of(row: Row, field: str, decimals: int, currency: str) -> int | None:
    """What a source is of an event, by the oracle's arithmetic."""
    if field.startswith(PROPERTY):
        text = row["properties"].get(field.removeprefix(PROPERTY))
        return None if text is None else oracle.scaled(text, decimals)
    if field == "amount" and row["currency"] not in (None, currency):
        return None
    value: int | None = row[field]
    return value


@given(st.data())
def test_the_same_events_count_with_the_same_values(data: st.DataObject) -> None:
    tree: dict[str, Any] = data.draw(declarations())
    rows = data.draw(events(tree))
    declaration = declare(tree)
    taken = Intake(declaration, WriterSchemas(OneSchema()), Limits(), 1_000, 1 << 20).take(fetched(rows), np.zeros(len(rows), np.int32))
    refused = oracle.refused(oracle.frame(rows), tree)
    assert [reason is not None for reason in refused] == [bool(status) for status in taken.status]
    types = [*declaration.types, None]
    measures: list[TileMeasure | LifetimeMeasure] = [*declaration.tiles, *declaration.lifetimes]
    for i, record in enumerate(taken.record):
        row = rows[record]
        assert (row["event_type"] if row["event_type"] in types else None) == types[taken.rows.type[i]]
        for v, source in enumerate(declaration.sources):
            used = any(m.source == source and (not m.of or row["event_type"] in m.of) for m in measures)
            expected = value_of(row, source.field, source.decimals, declaration.currency) if used else None
            assert expected == (int(taken.rows.value[v, i]) if taken.rows.there[v, i] else None)
