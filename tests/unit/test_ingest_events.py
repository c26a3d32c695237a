from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.adapters.files.load import events_from, load
from streamer.adapters.files.mapping_file import MappingError, parse_mapping
from streamer.adapters.files.rejects import reject_lines, rejects_path, write_rejects
from streamer.adapters.files.rows import Limits
from streamer.adapters.files.tables import Unreadable
from streamer.core.errors import Misconfigured

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.adapters.files.load import Loaded

ORDERS = """\
name: orders
time_zone: UTC
columns:
  event_id: {join: [order], prefix: "o:"}
  customer_id: {column: customer}
  occurred_at: {column: at}
  event_type: {constant: purchase}
  amount: {product: [quantity, price], scale: 2}
  currency: {constant: GBP}
  quantity: {column: quantity}
  product_id: {column: product}
  properties:
    shop: {column: shop, default: web}
group_by: {columns: [order], lines_property: lines}
refund:
  when: {any: [{column: order, starts_with: C}, {column: quantity, less_than: 0}]}
  id_suffix: ":refund"
duplicates: skip
skip:
  - {reason: postage, when: {column: product, equals: POST}}
"""
HEADER = "order,customer,at,product,quantity,price,shop\n"


def loaded(tmp_path: Path, lines: str, mapping: str = ORDERS, chunk_rows: int = 65_536, limits: Limits | None = None) -> Loaded:
    path = tmp_path / "orders.csv"
    path.write_text(HEADER + lines)
    return load(path, parse_mapping(mapping, "orders.yaml"), chunk_rows=chunk_rows, limits=limits)


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


def test_lines_of_one_order_are_one_purchase_with_exact_sums_and_the_leading_lines_texts(tmp_path: Path) -> None:
    lines = (
        "1,ann,2024-01-01 10:01,A,1,0.1,\n"
        "2,bo,2024-01-01 09:00,B,1,1,\n"
        "1,ann,2024-01-01 10:00,C,3,0.7,York\n"
        "1,ann,2024-01-01 10:02,D,1,0.2,\n"
    )
    for chunk_rows in (1, 2, 100):
        result = loaded(tmp_path, lines, chunk_rows=chunk_rows)
        records = list(result.events.records())
        assert ["o:2", "o:1"] == [record["event_id"] for record in records]
        assert {
            "event_id": "o:1",
            "customer_id": "ann",
            "event_type": "purchase",
            "occurred_at": at("2024-01-01 10:00"),
            "amount": 240,
            "currency": "GBP",
            "quantity": 5,
            "product_id": "C",
            "category": None,
            "session_id": None,
            "properties": {"shop": "York", "lines": "3"},
        } == records[1]
        assert result.totals.balanced
        assert (4, 4, 2) == (result.totals.rows_read, result.totals.rows_used, result.totals.events)


def test_negative_quantities_and_cancelled_orders_become_refunds_with_positive_amounts(tmp_path: Path) -> None:
    lines = "C1,ann,2024-01-01,A,-2,1.5,\n2,ann,2024-01-02,A,-1,1,\n2,ann,2024-01-02,B,3,1,\n"
    records = list(loaded(tmp_path, lines).events.records())
    assert [("o:C1:refund", "refund", 300, 2), ("o:2:refund", "refund", 100, 1), ("o:2", "purchase", 300, 3)] == [
        (record["event_id"], record["event_type"], record["amount"], record["quantity"]) for record in records
    ]


def test_every_row_is_used_or_named_with_its_reason(tmp_path: Path) -> None:
    lines = (
        "1,ann,2024-01-01,A,1,1,\n"
        "1,ann,2024-01-01,A,1,1,\n"  # a duplicate
        "1,,2024-01-01,A,1,1,\n"
        "1,ann,soon,A,1,1,\n"
        "1,ann,2024-01-01,A,1,dear,\n"
        "1,ann,2024-01-01,A,1.5,1,\n"
        "1,ann,2024-01-01,POST,1,1,\n"
        "2,ann,2024-01-01,A\n"
        "C3,ann,2024-01-01,A,1,1,\n"  # a refund that gives instead
        ",ann,2024-01-01,A,1,1,\n"
        f"1,{'x' * 300},2024-01-01,A,1,1,\n"
    )
    result = loaded(tmp_path, lines)
    said = [json.loads(line) for line in reject_lines(result.refused)]
    assert [
        (2, "skipped", "duplicate_line"),
        (3, "rejected", "missing_value"),
        (4, "rejected", "bad_time"),
        (5, "rejected", "not_a_number"),
        (6, "rejected", "not_a_whole_number"),
        (7, "skipped", "postage"),
        (8, "rejected", "unreadable_row"),
        (9, "rejected", "negative_amount"),
        (10, "rejected", "missing_value"),
        (11, "rejected", "too_long"),
    ] == [(one["row"], one["outcome"], one["reason"]) for one in said]
    assert {
        "row": 5,
        "outcome": "rejected",
        "reason": "not_a_number",
        "field": "amount",
        "column": "quantity, price",
        "value": "1, dear",
    } == said[3]
    assert result.totals.balanced
    assert 1 == result.totals.rows_used


def test_a_time_in_the_future_is_rejected(tmp_path: Path) -> None:
    limits = Limits(time_ms_max=at("2024-01-01"))
    lines = "1,ann,2024-01-01 00:00:00,A,1,1,\n2,ann,2024-01-01 00:00:01,A,1,1,\n"
    assert {"time_in_future": 1} == loaded(tmp_path, lines, limits=limits).totals.rejected


CLICKS = """\
name: clicks
time_zone: UTC
columns:
  event_id: {join: [user, at, action], hash: true}
  customer_id: {column: user, lower: true}
  occurred_at: {column: at, unit: ms}
  event_type:
    cases: [{when: {all: [{column: action, equals: click}, {not: {column: sku, is_empty: true}}]}, then: view}]
    otherwise: visit
  category: {column: sku, first: 2}
  currency: {column: cur, values: {pounds: GBP}}
  quantity: {constant: 1}
"""


def clicks(tmp_path: Path, records: list[dict[str, object]]) -> Loaded:
    path = tmp_path / "clicks.jsonl"
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return load(path, parse_mapping(CLICKS, "clicks.yaml"), chunk_rows=2)


def test_events_without_groups_use_cases_values_and_hashes(tmp_path: Path) -> None:
    base: dict[str, object] = {"user": "Ann", "at": 1_700_000_000_000, "action": "click"}
    result = clicks(
        tmp_path,
        [{**base, "sku": "22-A"}, {**base, "at": 1_700_000_000_001, "cur": "pounds"}, {**base, "at": 1_600_000_000_000, "cur": "euro"}],
    )
    records = list(result.events.records())
    assert [("view", "22", None), ("visit", None, "GBP")] == [
        (record["event_type"], record["category"], record["currency"]) for record in records
    ]
    assert {"ann"} == {record["customer_id"] for record in records}
    assert [32, 32] == [len(record["event_id"]) for record in records]
    assert {"value_not_listed": 1} == result.totals.rejected
    assert [(1, None)] * 2 == [(record["quantity"], record["amount"]) for record in records]


def test_a_second_event_with_the_same_id_is_rejected_not_lost(tmp_path: Path) -> None:
    base: dict[str, object] = {"user": "ann", "at": 1_700_000_000_000, "action": "click", "cur": "pounds"}
    result = clicks(tmp_path, [base, {**base, "sku": "22"}, {**base, "user": "bo"}])
    assert {"duplicate_event_id": 1} == result.totals.rejected
    assert 2 == len(result.events)
    assert result.totals.balanced


def test_a_mapping_applied_twice_gives_the_same_events(tmp_path: Path) -> None:
    lines = "1,ann,2024-01-01,A,1,1,\n2,bo,2024-01-01,A,1,1,\n"
    assert list(loaded(tmp_path, lines).events.records()) == list(loaded(tmp_path, lines, chunk_rows=1).events.records())


def test_a_missing_column_is_told_with_a_suggestion(tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    path.write_text(HEADER.replace("customer", "Customers"))
    with pytest.raises(MappingError, match="reads the column 'customer', which the file does not have: did you mean 'Customers'"):
        load(path, parse_mapping(ORDERS, "orders.yaml"))


def test_a_column_of_json_lines_may_come_late_but_must_come(tmp_path: Path) -> None:
    base: dict[str, object] = {"user": "ann", "at": 1_700_000_000_000, "action": "click"}
    with pytest.raises(MappingError, match="'cur'"):
        clicks(tmp_path, [{**base, "sku": "22"}] * 5)


def test_a_file_with_too_many_rows_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    path.write_text(HEADER + "1,ann,2024-01-01,A,1,1,\n" * 3)
    with pytest.raises(Unreadable, match="over 2 rows"):
        load(path, parse_mapping(ORDERS, "orders.yaml"), rows_max=2)


def test_a_file_without_rows_gives_no_events(tmp_path: Path) -> None:
    result = loaded(tmp_path, "")
    assert (0, 0, True) == (result.totals.rows_read, len(result.events), result.totals.balanced)
    assert [] == list(result.batches())


def test_events_come_in_batches_in_the_order_of_their_time(tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    path.write_text(HEADER + "".join(f"{day},ann,2024-01-{day:02},A,1,1,\n" for day in range(9, 0, -1)))
    batches = list(events_from(path, parse_mapping(ORDERS, "orders.yaml"), 4))
    assert [4, 4, 1] == [len(batch) for batch in batches]
    assert [f"o:{day}" for day in range(1, 10)] == [record["event_id"] for batch in batches for record in batch]


def test_the_rejects_file_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    result = loaded(tmp_path, "1,,2024-01-01,A,1,1,\n")
    path = rejects_path(tmp_path / "orders.csv")
    path.write_text("of an earlier run\n")
    write_rejects(path, result.refused)
    assert [1] == [json.loads(line)["row"] for line in path.read_text().splitlines()]
    write_rejects(path, ())
    assert "" == path.read_text()
    with pytest.raises(Misconfigured, match="--rejects"):
        write_rejects(tmp_path / "nowhere" / "a.jsonl", result.refused)


cell = st.sampled_from(["", "1", "2", "-1", "C1", "x", "POST", "2024-01-01", "2024-01-02 03:04", "0.335", "9" * 30, "ann", "$erase"])


@given(st.lists(st.lists(cell, min_size=6, max_size=8), max_size=12), st.integers(1, 5))
def test_whatever_the_rows_hold_none_is_lost_and_chunks_do_not_show(
    tmp_path_factory: pytest.TempPathFactory, lines: list[list[str]], chunk_rows: int
) -> None:
    text = "".join(",".join(line) + "\n" for line in lines)
    path = tmp_path_factory.mktemp("rows")
    one, other = loaded(path, text), loaded(path, text, chunk_rows=chunk_rows)
    assert one.totals.balanced
    assert len(lines) == one.totals.rows_read
    assert one.totals.rows_read - one.totals.rows_used == len(list(reject_lines(one.refused)))
    assert list(reject_lines(one.refused)) == list(reject_lines(other.refused))
    assert list(one.events.records()) == list(other.events.records())
