"""Validation and numbering of decoded events: every rule at its edges, customers told apart by bytes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import xxhash

from streamer.core import intake
from streamer.core.columns import Decoded
from streamer.core.declaration import declare
from streamer.core.fold import ERASE
from streamer.core.intake import EARLIEST_MS, LATEST_MS, Limits, group, hash_ids, projection, take, wanted
from streamer.core.opcodes import Column, Kind
from streamer.core.plan import plan
from streamer.core.reasons import Reason
from tests.corekit import COMMANDS

TREE: dict[str, Any] = {
    "money": {"currency": "EUR", "others": "refuse"},
    "measures": {
        "n": {"count": "view"},
        "spend": {"sum": "amount", "of": "purchase"},
        "pieces": {"sum": "quantity", "of": ["purchase", "refund"]},
        "fee": {"sum": "properties.fee", "decimals": 2, "of": "purchase"},
        "tip": {"lifetime_sum": "properties.a.tip", "of": ["purchase", "tip"]},
        "fee_units": {"max": "properties.fee", "of": "refund"},
        "kinds": {"distinct": "category"},
        "types": {"distinct": "event_type"},
        "codes": {"distinct": "properties.fee"},
    },
    "features": {"f": {"active_days": "1d"}},
}
NOW = 1_700_000_000_000
EVENT: dict[str, Any] = {"event_id": "e", "customer_id": "c", "event_type": "view", "occurred_at": NOW}


class Batch:
    """Events as the decoder would give them, and what `take` makes of them."""

    def __init__(self, *events: dict[str, Any], others: str = "refuse", limits: Limits | None = None, timestamp: int = NOW) -> None:
        declaration = declare({**TREE, "money": {"currency": "EUR", "others": others}})
        columns = projection(declaration)
        self.plan = plan(declaration)
        n = len(events)
        cells, lengths = np.zeros((len(columns), n), np.int64), np.full((len(columns), n), -1, np.int32)
        hashes, joined = np.zeros((len(columns), n), np.uint64), b""
        for i, event in enumerate(events):
            for c, column in enumerate(columns):
                value = event.get("properties", {}).get(column.key) if column.kind == Kind.PROPERTY else event.get(column.field)
                if isinstance(value, str):
                    text = value.encode("utf-8", "surrogateescape")
                    cells[c, i], lengths[c, i], joined = len(joined), len(text), joined + text
                    hashes[c, i] = xxhash.xxh64_intdigest(text) if column.hashed else 0
                elif value is not None:
                    cells[c, i], lengths[c, i] = value, 0
        self.decoded = Decoded(cells, lengths, hashes, np.zeros(n, np.int16))
        part, offset, stamps = np.arange(n, dtype=np.int32) % 3, np.arange(n) + 100, np.full(n, timestamp)
        values = np.frombuffer(joined, np.uint8)
        found = take(self.plan, wanted(declaration, columns), limits or Limits(), values, self.decoded, part, offset, stamps)
        self.rows, self.record = found
        self.sources = declaration.sources

    @property
    def reasons(self) -> list[Reason]:
        return [Reason(int(status)) for status in self.decoded.status]

    def value(self, field: str, decimals: int = 0, row: int = 0) -> int | None:
        """What a source is of a row."""
        place = [(source.field, source.decimals) for source in self.sources].index((field, decimals))
        return int(self.rows.value[place, row]) if self.rows.there[place, row] else None


def reason(others: str = "refuse", timestamp: int = NOW, limits: Limits | None = None, **fields: Any) -> Reason:
    """Why an event with these fields is refused."""
    return Batch({**EVENT, **fields}, others=others, timestamp=timestamp, limits=limits).reasons[0]


def reason_with(field: str, value: Any, event_type: str = "view") -> Reason:
    """Why an event with this field is refused."""
    fields: dict[str, Any] = {"event_type": event_type, field: value}
    return reason(**fields)


def test_a_right_event_becomes_a_row() -> None:
    batch = Batch(EVENT, {**EVENT, "event_type": "other", "event_id": "f"})
    assert [Reason.OK, Reason.OK] == batch.reasons
    rows = batch.rows
    assert ([0, 1], [100, 101], [NOW, NOW]) == (rows.part.tolist(), rows.offset.tolist(), rows.time.tolist())
    types = ["purchase", "refund", "tip", "view"]
    assert [types.index("view"), len(types)] == rows.type.tolist()
    assert [xxhash.xxh64_intdigest(b"e"), xxhash.xxh64_intdigest(b"f")] == rows.event_id.tolist()
    assert [0, 1] == batch.record.tolist()


def test_no_events_make_no_rows() -> None:
    batch = Batch()
    assert (0, (len(batch.sources), 0), (3, 0)) == (len(batch.record), batch.rows.value.shape, batch.rows.text.shape)


@pytest.mark.parametrize(
    ("field", "most", "bad"),
    [
        ("event_id", 128, Reason.BAD_EVENT_ID),
        ("customer_id", 256, Reason.BAD_CUSTOMER_ID),
        ("event_type", 64, Reason.BAD_EVENT_TYPE),
    ],
)
def test_ids_and_types_have_one_byte_to_their_limit(field: str, most: int, bad: Reason) -> None:
    assert [bad, Reason.OK, Reason.OK, bad, bad] == [
        reason_with(field, text) for text in ("", "x", "é" * (most // 2), "é" * (most // 2) + "x", "x" * 10_240)
    ]
    assert bad == reason_with(field, None)


def test_the_limits_of_lengths_can_be_set() -> None:
    limits = Limits(event_id_bytes_max=1, customer_id_bytes_max=2, event_type_bytes_max=4)
    assert Reason.OK == reason(limits=limits, customer_id="cc")
    assert Reason.BAD_EVENT_ID == reason(limits=limits, event_id="ee")
    assert Reason.BAD_CUSTOMER_ID == reason(limits=limits, customer_id="ccc")
    assert Reason.BAD_EVENT_TYPE == reason(limits=limits, event_type="views")


@pytest.mark.parametrize("name", ["$merg", "$", "$view", "$erases", "$eras", "$ERASE"])
def test_commands_that_are_not_known_are_refused(name: str) -> None:
    assert Reason.UNKNOWN_COMMAND == reason(event_type=name)
    assert Reason.OK == reason(event_type=f"view{name}")


def test_a_command_is_a_row_of_its_own_kind_without_values() -> None:
    refused = {**EVENT, "event_type": "purchase", "amount": 5, "currency": "XXX"}  # leaves its values in the row that comes next
    batch = Batch(*({**refused, "currency": None, "event_type": name} for name in COMMANDS), refused)
    assert [Reason.OK] * len(COMMANDS) == batch.reasons[: len(COMMANDS)]
    assert [*COMMANDS.values()] == batch.rows.type.tolist()
    assert not batch.rows.there.any()
    again = Batch(refused, {**EVENT, "event_type": "$erase"})
    assert [ERASE] == again.rows.type.tolist()
    assert not again.rows.there.any()


def test_times_are_from_1990_until_before_2100() -> None:
    out = Reason.TIME_OUT_OF_RANGE
    times = [EARLIEST_MS - 1, EARLIEST_MS, LATEST_MS - 1, LATEST_MS, 0, -(2**63), 2**63 - 1, NOW * 1000, None]
    expected = [out, Reason.OK, Reason.OK, out, out, out, out, out, out]
    assert expected == [reason(occurred_at=time, timestamp=LATEST_MS) for time in times]


def test_a_time_is_in_the_future_by_more_than_the_limit_after_kafkas() -> None:
    assert [Reason.OK, Reason.TIME_IN_FUTURE] == [reason(occurred_at=NOW + 3_600_000 + late) for late in (0, 1)]
    assert Reason.TIME_IN_FUTURE == reason(occurred_at=NOW + 1, limits=Limits(future_ms_max=0))


def test_a_record_that_kafka_gave_no_time_is_not_judged_by_it() -> None:
    assert Reason.OK == reason(timestamp=-1)
    assert Reason.OK == reason(timestamp=2**63 - 1)


@pytest.mark.parametrize(("field", "bad"), [("amount", Reason.AMOUNT_OUT_OF_RANGE), ("quantity", Reason.QUANTITY_OUT_OF_RANGE)])
def test_numbers_are_at_most_10_to_the_12_either_way_whoever_uses_them(field: str, bad: Reason) -> None:
    for event_type in ("purchase", "other"):
        given = [10**12, -(10**12), 10**12 + 1, -(10**12) - 1, 2**63 - 1, -(2**63), None, 0]
        expected = [Reason.OK, Reason.OK, bad, bad, bad, bad, Reason.OK, Reason.OK]
        assert expected == [reason_with(field, number, event_type) for number in given]


def test_an_amount_in_another_currency_is_refused_or_ignored() -> None:
    for currency in ("USD", "eur", "", "EURO", "EU"):
        assert Reason.CURRENCY_REFUSED == reason(amount=1, currency=currency)
        assert Reason.OK == reason(amount=None, currency=currency)
        ignored = Batch({**EVENT, "event_type": "purchase", "amount": 5, "quantity": 2, "currency": currency}, others="ignore")
        assert (Reason.OK, None, 2) == (ignored.reasons[0], ignored.value("amount"), ignored.value("quantity"))
    for ours in ("EUR", None):
        assert 5 == Batch({**EVENT, "event_type": "purchase", "amount": 5, "currency": ours}).value("amount")


def test_the_range_of_an_amount_is_checked_in_ignored_currencies_too() -> None:
    assert Reason.AMOUNT_OUT_OF_RANGE == reason(others="ignore", amount=10**12 + 1, currency="USD")


@pytest.mark.parametrize("text", ["", " 1", "1 ", "+1", ".5", "5.", "1e", "NaN", "nan", "inf", "-Infinity", "1,5", "0x1", "٣", "1_0"])
def test_a_property_that_is_no_number_is_refused_where_a_number_is_asked(text: str) -> None:
    properties = {"fee": text}
    assert Reason.PROPERTY_NOT_A_NUMBER == reason(event_type="purchase", properties=properties)
    assert Reason.OK == reason(event_type="view", properties=properties)
    assert Reason.OK == reason(event_type="purchase", properties={"other": text})


def test_a_property_is_taken_in_units_rounded_half_to_even_before_its_range_is_checked() -> None:
    texts = {"12.345": 1234, "-12.355": -1236, "1E+2": 10_000, "5e-3": 0, "1e10": 10**12, "10000000000.005": 10**12, "-0": 0}
    for text, expected in texts.items():
        batch = Batch({**EVENT, "event_type": "purchase", "properties": {"fee": text, "a.tip": "7"}})
        assert (expected, 7) == (batch.value("properties.fee", 2), batch.value("properties.a.tip"))
    for text in ("10000000000.006", "-1e11", "1e99999999999999999999"):
        assert Reason.PROPERTY_OUT_OF_RANGE == reason(event_type="purchase", properties={"fee": text})
    assert Reason.OK == reason(event_type="refund", properties={"fee": "10000000000.006"})  # here in units of 1


def test_what_is_absent_or_not_named_is_null() -> None:
    batch = Batch({**EVENT, "amount": 5, "quantity": 3, "properties": {"fee": "1"}}, {**EVENT, "event_type": "purchase"})
    for row in (0, 1):
        assert [None] * 5 == [batch.value(source.field, source.decimals, row) for source in batch.sources]


def test_reasons_come_in_their_order() -> None:
    bad: dict[str, Any] = {
        "event_id": "",
        "customer_id": "",
        "event_type": "",
        "occurred_at": 0,
        "amount": 10**13,
        "quantity": 10**13,
        "currency": "USD",
        "properties": {"fee": "1e99", "a.tip": "x"},
    }
    good: list[tuple[str, Any]] = [
        ("event_id", "e"),
        ("customer_id", "c"),
        ("event_type", "$x"),
        ("event_type", "purchase"),
        ("occurred_at", NOW + 10**9),
        ("occurred_at", NOW),
        ("amount", 1),
        ("quantity", 1),
        ("currency", "EUR"),
        ("properties", {"fee": "1e99"}),
        ("properties", {}),
    ]
    found = [reason(**bad)]
    for field, value in good:
        bad[field] = value
        found.append(reason(**bad))
    expected = [one for one in Reason if Reason.BAD_EVENT_ID <= one < Reason.BAD_MERGE]  # which another check gives
    assert [*expected, Reason.OK] == found
    assert Reason.PROPERTY_NOT_A_NUMBER == reason(event_type="purchase", properties={"fee": "x", "a.tip": "1e99"})


def test_texts_are_hashed_and_an_empty_one_is_a_value() -> None:
    batch = Batch({**EVENT, "category": "", "properties": {"fee": "free"}}, EVENT)
    assert [[1, 0], [1, 1], [1, 0]] == batch.rows.text_there.tolist()
    assert [xxhash.xxh64_intdigest(text) for text in (b"", b"view", b"free")] == batch.rows.text[:, 0].tolist()


def test_refused_records_are_left_out_and_the_rows_stay_dense() -> None:
    events = [
        {**EVENT, "event_type": "purchase", "amount": 1},
        {**EVENT, "event_id": ""},
        {**EVENT, "event_type": "purchase", "properties": {"fee": "x"}},
        {**EVENT, "event_type": "purchase", "amount": 2},
    ]
    batch = Batch(*events)
    assert [0, 3] == batch.record.tolist()
    assert [100, 103] == batch.rows.offset.tolist()
    assert [1, 2] == [batch.value("amount", row=row) for row in (0, 1)]
    assert None is batch.value("properties.fee", 2, 1)
    assert all(column.flags.c_contiguous for column in batch.rows)


def test_a_record_that_the_decoder_refused_is_left_as_it_is() -> None:
    batch = Batch(EVENT, EVENT)
    batch.decoded.status[:] = [Reason.TRUNCATED, Reason.OK]
    declaration = declare(TREE)
    columns = projection(declaration)
    n = np.arange(2)
    values = np.frombuffer(b"ecview" * 2, np.uint8)
    _, record = take(batch.plan, wanted(declaration, columns), Limits(), values, batch.decoded, n.astype(np.int32), n, n + NOW)
    assert ([1], [Reason.TRUNCATED, Reason.OK]) == (record.tolist(), batch.reasons)


def test_a_type_is_known_by_its_bytes_where_hashes_are_equal() -> None:
    batch = Batch(EVENT)
    declared = batch.plan.type_bounds
    view = len(declared) - 2
    hashes = np.full(len(declared) - 1, 7, np.uint64)
    collided = batch.plan._replace(type_hashes=hashes)
    for name, expected in (("view", view), ("viex", view + 1), ("views", view + 1), ("tip", view - 1)):
        text = np.frombuffer(name.encode(), np.uint8)
        text.flags.writeable = False
        assert expected == intake._event_type(collided, text, 0, len(name), np.uint64(7))  # type: ignore[arg-type]  # as it is called


def test_the_projection_has_each_column_once() -> None:
    columns = projection(declare(TREE))
    assert len(columns) == len(set(columns))
    assert Column(Kind.STRING, "event_type", hashed=True) == columns[intake.EVENT_TYPE]
    assert 2 == sum(column.key == "fee" for column in columns)
    assert ["event_id", "customer_id", "event_type", "occurred_at", "amount", "currency", "quantity"] == [
        column.field for column in columns[: intake.FIXED]
    ]


# Customers


def numbered(ids: list[bytes], parts: list[int], hashes: list[int] | None = None, count: int = 3) -> tuple[list[int], list[list[bytes]]]:
    """Each row's customer, and each partition's customers."""
    bounds = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    joined = np.frombuffer(b"".join(ids), np.uint8)
    hashed = np.array([xxhash.xxh64_intdigest(one) for one in ids] if hashes is None else hashes, np.uint64)
    lengths = np.diff(bounds).astype(np.int32)
    number, customers = group(joined, bounds[:-1], lengths, hashed, np.array(parts, np.int32), count)
    found = []
    for part in range(count):
        text, cut = customers.of(part)
        found.append([text[begin:end].tobytes() for begin, end in pairwise(cut)])
    flat = [one for one_part in found for one in one_part]
    assert flat == [customers.ids[begin:end].tobytes() for begin, end in pairwise(customers.id_bounds)]
    return number.tolist(), found


def test_customers_are_numbered_by_partition_in_order_of_appearance() -> None:
    ids, parts = [b"b", b"a", b"b", b"c", b"a", b"b"], [2, 0, 2, 2, 0, 0]
    assert ([2, 0, 2, 3, 0, 1], [[b"a", b"b"], [], [b"b", b"c"]]) == numbered(ids, parts)


def test_one_id_in_two_partitions_is_two_customers() -> None:
    assert ([0, 1], [[b"a"], [b"a"], []]) == numbered([b"a", b"a"], [0, 1])


@pytest.mark.parametrize("hashed", [0, 2**64 - 1, 12345])
def test_customers_are_told_apart_by_their_bytes_where_hashes_are_equal(hashed: int) -> None:
    ids = [b"aa", b"ab", b"a", b"aa", b"", b"ab", b"aab", b"\0", b"aa\0"] + [b"%d" % (i % 7) for i in range(40)]
    number, found = numbered(ids, [0] * len(ids), [hashed] * len(ids))
    assert list(dict.fromkeys(ids)) == found[0]
    assert ids == [found[0][one] for one in number]


def test_many_customers_are_all_found_again() -> None:
    rng = np.random.default_rng(3)
    ids = [b"c%d" % one for one in rng.integers(0, 700, 1500)]
    parts = [int(one) for one in rng.integers(0, 5, 1500)]
    number, found = numbered(ids, parts, count=5)
    flat = [(part, one) for part in range(5) for one in found[part]]
    assert list(zip(parts, ids, strict=True)) == [flat[one] for one in number]
    assert len(set(flat)) == len(flat) == len(set(zip(parts, ids, strict=True)))


def test_no_rows_are_no_customers() -> None:
    assert ([], [[], [], []]) == numbered([], [])


def test_ids_of_a_sweep_have_the_hashes_of_events() -> None:
    ids = [b"", b"a", b"\xff" * 300, b"customer-0000042"]
    bounds = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    expected = [xxhash.xxh64_intdigest(one) for one in ids]
    for joined in (np.frombuffer(b"".join(ids), np.uint8), np.frombuffer(bytearray(b"".join(ids)), np.uint8)):
        assert expected == hash_ids(joined, bounds).tolist()
