"""The oracle against numbers computed by hand: one case or more for every rule of docs/features.md."""

from __future__ import annotations

import random
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests import oracle
from tests.oracle import BEGIN_MS, DAY_MS, END_MS, HOUR_MS

MIDNIGHT = 1_709_251_200_000  # 2024-03-01 00:00 UTC, the day after a 29 February
PURCHASES = {"n": {"count": "purchase"}}
Row = dict[str, Any]
_numbers = count()


def event(t: int = MIDNIGHT, event_type: str = "purchase", **fields: object) -> Row:
    """One event of customer `c` as a row; each has an id of its own unless told otherwise."""
    return {"event_id": f"e{next(_numbers)}", "customer_id": "c", "event_type": event_type, "occurred_at": t, **fields}


def declared(measures: Row, features: Row, others: str = "refuse", **rest: object) -> Row:
    """A declaration in EUR."""
    return {"money": {"currency": "EUR", "others": others}, "measures": measures, "features": features, **rest}


def value(rows: list[Row], measures: Row, feature: Row, as_of_ms: int = MIDNIGHT, others: str = "refuse") -> float:
    """The one feature of customer `c`."""
    found = oracle.features(oracle.frame(rows), declared(measures, {"f": feature}, others), as_of_ms)
    return float(found["f"].to_dict()["c"])


def reasons(rows: list[Row], measures: Row | None = None, others: str = "refuse") -> list[str | None]:
    """Why each row is refused."""
    return list(oracle.refused(oracle.frame(rows), declared(measures or {}, {}, others)))


# Windows


@pytest.mark.parametrize(("before_ms", "expected"), [(2 * DAY_MS + 1, 0.0), (2 * DAY_MS, 1.0), (1, 1.0), (0, 1.0)])
def test_a_window_of_days_as_of_a_midnight_holds_exactly_its_whole_days(before_ms: int, expected: float) -> None:
    assert expected == value([event(MIDNIGHT - before_ms)], PURCHASES, {"sum": "n", "window": "2d"})


@pytest.mark.parametrize("after_ms", [0, 1, 12 * HOUR_MS, DAY_MS - 1])
def test_the_tail_of_a_window_of_days_stands_still_during_the_day(after_ms: int) -> None:
    rows = [event(MIDNIGHT - before_ms) for before_ms in (2 * DAY_MS + 1, 2 * DAY_MS, 1, 0)]
    assert 3.0 == value(rows, PURCHASES, {"sum": "n", "window": "2d"}, MIDNIGHT + after_ms)


def test_the_tail_of_a_window_of_days_moves_by_whole_days_at_midnight() -> None:
    rows = [event(MIDNIGHT - before_ms) for before_ms in (2 * DAY_MS, DAY_MS + 1, DAY_MS)]
    instants = [MIDNIGHT + DAY_MS - 1, MIDNIGHT + DAY_MS, MIDNIGHT + 2 * DAY_MS - 1, MIDNIGHT + 2 * DAY_MS]
    assert [3.0, 1.0, 1.0, 0.0] == [value(rows, PURCHASES, {"sum": "n", "window": "2d"}, t) for t in instants]


def test_a_window_of_hours_moves_on_the_hour_and_holds_the_hours_before_it_and_its_own() -> None:
    hour = MIDNIGHT + 5 * HOUR_MS
    rows = [event(hour - before_ms) for before_ms in (3 * HOUR_MS + 1, 3 * HOUR_MS, 1, 0)]
    instants = [hour, hour + HOUR_MS - 1, hour + HOUR_MS, hour + 3 * HOUR_MS, hour + 4 * HOUR_MS]
    assert [3.0, 3.0, 2.0, 1.0, 0.0] == [value(rows, PURCHASES, {"sum": "n", "window": "3h"}, t) for t in instants]


def test_a_window_of_24_hours_is_not_a_window_of_a_day() -> None:
    rows = [event(MIDNIGHT - 1), event(MIDNIGHT - DAY_MS)]
    noon = MIDNIGHT + 12 * HOUR_MS
    assert [1.0, 2.0] == [value(rows, PURCHASES, {"sum": "n", "window": window}, noon) for window in ("24h", "1d")]


def test_the_longest_windows_are_48_hours_and_730_days() -> None:
    rows = [event(MIDNIGHT - 730 * DAY_MS), event(MIDNIGHT - 48 * HOUR_MS), event(MIDNIGHT - 48 * HOUR_MS - 1)]
    assert [3.0, 1.0] == [value(rows, PURCHASES, {"sum": "n", "window": window}) for window in ("730d", "48h")]
    for window in ("731d", "49h", "0d", "30m"):
        with pytest.raises(ValueError, match=window):
            value(rows, PURCHASES, {"sum": "n", "window": window})


def test_an_instant_before_an_event_of_the_customer_is_refused() -> None:
    with pytest.raises(ValueError, match="'c' has an event after"):
        value([event(MIDNIGHT)], PURCHASES, {"sum": "n", "window": "1d"}, MIDNIGHT - 1)


def test_each_customer_may_have_an_instant_of_their_own() -> None:
    rows = [event(MIDNIGHT, customer_id="a"), event(MIDNIGHT, customer_id="b")]
    declaration = declared(PURCHASES, {"f": {"sum": "n", "window": "1d"}})
    found = oracle.features(oracle.frame(rows), declaration, {"a": MIDNIGHT + DAY_MS, "b": MIDNIGHT + 2 * DAY_MS, "unseen": 0})
    assert {"a": 1.0, "b": 0.0} == found["f"].to_dict()
    with pytest.raises(ValueError, match="'b'"):
        oracle.features(oracle.frame(rows), declaration, {"a": MIDNIGHT})


# Measures and their windows


def test_of_is_one_type_or_a_list_or_any_and_compares_exactly() -> None:
    rows = [event(event_type=name) for name in ("view", "View", "view ", "purchase", "any", "views")]
    measures = {"one": {"count": "view"}, "two": {"count": ["view", "purchase"]}, "all": {"count": "any"}}
    assert [1.0, 2.0, 6.0] == [value(rows, measures, {"sum": name, "window": "1d"}) for name in measures]


def test_a_sum_without_of_is_over_any_type() -> None:
    rows = [event(event_type="view", amount=1), event(event_type="refund", amount=-3), event(amount=5)]
    measures = {"all": {"sum": "amount"}, "spend": {"sum": "amount", "of": "purchase"}}
    assert [3.0, 5.0] == [value(rows, measures, {"sum": name, "window": "1d"}) for name in measures]


def test_a_null_adds_nothing_to_a_sum_and_is_still_counted() -> None:
    rows = [event(amount=None, quantity=2), event(amount=7, quantity=None)]
    measures = {"spend": {"sum": "amount"}, "pieces": {"sum": "quantity"}, **PURCHASES}
    assert [7.0, 2.0, 2.0] == [value(rows, measures, {"sum": name, "window": "1d"}) for name in measures]


def test_an_empty_sum_is_0() -> None:
    assert 0.0 == value([event(event_type="view")], PURCHASES, {"sum": "n", "window": "1d"})


def test_sums_are_exact_beyond_2_to_the_53_and_rounded_once() -> None:
    rows = [event(amount=10**12) for _ in range(9008)] + [event(amount=1) for _ in range(3)]
    assert 9_008_000_000_000_004.0 == value(rows, {"spend": {"sum": "amount"}}, {"sum": "spend", "window": "1d"})


def test_min_and_max_take_the_extremes_of_the_window_and_skip_nulls() -> None:
    rows = [event(MIDNIGHT - 3 * DAY_MS, amount=-100), event(MIDNIGHT - 2 * DAY_MS, amount=4), event(amount=9), event(amount=None)]
    rows += [event(MIDNIGHT - 3 * DAY_MS, amount=100), event(event_type="view", amount=1000)]
    measures = {"least": {"min": "amount", "of": "purchase"}, "most": {"max": "amount", "of": "purchase"}}
    seen = [value(rows, measures, {how: name, "window": "2d"}) for how, name in (("min", "least"), ("max", "most"))]
    assert [4.0, 9.0] == seen


def test_min_and_max_below_zero_are_not_hidden_by_the_default() -> None:
    measures = {"least": {"min": "quantity"}, "most": {"max": "quantity"}}
    rows = [event(quantity=-2), event(quantity=-1)]
    assert -2.0 == value(rows, measures, {"min": "least", "window": "1d", "default": -7})
    assert -1.0 == value(rows, measures, {"max": "most", "window": "1d"})


@pytest.mark.parametrize(("extra", "expected"), [({}, 0.0), ({"default": -1.5}, -1.5)])
def test_min_and_max_without_a_value_in_the_window_are_the_default(extra: Row, expected: float) -> None:
    rows = [event(MIDNIGHT - 2 * DAY_MS, amount=3), event(amount=None)]
    measures = {"least": {"min": "amount"}, "most": {"max": "amount"}}
    assert expected == value(rows, measures, {"min": "least", "window": "1d", **extra})
    assert expected == value(rows, measures, {"max": "most", "window": "1d", **extra})


# Ratio


def test_a_ratio_is_smoothed_by_prior_and_weight() -> None:
    rows = [event(), event(), event(), event(event_type="view"), event(event_type="view")]
    measures = {**PURCHASES, "views": {"count": "view"}}
    feature = {"ratio": ["n", "views"], "window": "1d", "prior": 0.1, "weight": 10}
    assert 4.0 / 12.0 == value(rows, measures, feature)


def test_a_ratio_multiplies_prior_and_weight_first() -> None:
    rows = [event(event_type="search")]
    measures = {**PURCHASES, "views": {"count": "view"}}
    feature = {"ratio": ["n", "views"], "window": "1d", "prior": 0.1, "weight": 3}
    assert 0.10000000000000002 == value(rows, measures, feature)  # 0.30000000000000004 / 3, not the prior itself


def test_a_ratio_without_prior_and_weight_is_a_plain_quotient_in_the_window() -> None:
    rows = [event(amount=1000), event(amount=501), event(MIDNIGHT - 2 * DAY_MS, amount=9)]
    assert 750.5 == value(rows, {"spend": {"sum": "amount"}, **PURCHASES}, {"ratio": ["spend", "n"], "window": "1d"})


@pytest.mark.parametrize(("pieces", "weight", "expected"), [(0, 0, 8.5), (-2, 0, 8.5), (-2, 2, 8.5), (-2, 3, 1.0), (1, 0, 1.0)])
def test_a_ratio_is_its_default_where_the_divisor_is_0_or_less(pieces: int, weight: int, expected: float) -> None:
    measures = {"pieces": {"sum": "quantity"}, **PURCHASES}
    feature = {"ratio": ["n", "pieces"], "window": "1d", "weight": weight, "default": 8.5}
    assert expected == value([event(quantity=pieces)], measures, feature)


def test_a_ratio_without_a_default_is_0_where_the_divisor_is_0() -> None:
    assert 0.0 == value([event()], {**PURCHASES, "views": {"count": "view"}}, {"ratio": ["n", "views"], "window": "1d"})


# Times


@pytest.mark.parametrize(
    ("since_ms", "expected"),
    [(0, 0.0), (1, 1 / 86_400_000), (36 * HOUR_MS, 1.5), (2 * DAY_MS, 2.0), (2 * DAY_MS + 1, 2.0), (900 * DAY_MS, 2.0)],
)
def test_a_recency_is_in_days_up_to_its_cap(since_ms: int, expected: float) -> None:
    assert expected == value([event(MIDNIGHT - since_ms)], {"last": {"last": "any"}}, {"recency": "last", "cap": "2d"})


def test_a_recency_of_a_type_that_never_came_is_the_cap() -> None:
    assert 1.5 == value([event(event_type="view")], {"last": {"last": "purchase"}}, {"recency": "last", "cap": "36h"})


def test_first_and_last_are_by_event_time_over_the_whole_life_in_any_log_order() -> None:
    rows = [event(MIDNIGHT - 5 * DAY_MS), event(MIDNIGHT - 4000 * DAY_MS), event(MIDNIGHT - 2 * DAY_MS), event(MIDNIGHT - 9 * DAY_MS)]
    rows += [event(MIDNIGHT, "view")]
    measures = {"first": {"first": "purchase"}, "last": {"last": "purchase"}}
    assert [4000.0, 2.0] == [value(rows, measures, {"recency": name, "cap": "5000d"}) for name in measures]


GAP = {"first": {"first": "purchase"}, "last": {"last": "purchase"}, "ever": {"lifetime_count": "purchase"}}


def gap(days: list[float], cap: str) -> float:
    """The mean gap of purchases so many days ago."""
    return value([event(MIDNIGHT - int(day * DAY_MS)) for day in days], GAP, {"mean_gap": list(GAP), "cap": cap})


def test_a_mean_gap_is_the_mean_of_the_gaps_in_days_up_to_its_cap() -> None:
    assert [1.5, 1.25, 1.5, 0.0] == [gap([4, 3, 1], "90d"), gap([4, 3, 1], "30h"), gap([4, 3, 1], "36h"), gap([2, 2], "90d")]


def test_a_mean_gap_below_two_events_is_the_cap() -> None:
    assert 90.0 == gap([1], "90d")
    assert 90.0 == value([event(event_type="view")], GAP, {"mean_gap": list(GAP), "cap": "90d"})


def test_a_mean_gap_divides_twice() -> None:  # a single division by three days would end in ...32
    rows = [event(MIDNIGHT - before_ms) for before_ms in (10_000_003, 5, 3, 0)]
    assert 0.038580258487654326 == value(rows, GAP, {"mean_gap": list(GAP), "cap": "90d"})


def test_active_days_are_the_days_of_the_window_with_any_event() -> None:
    rows = [event(MIDNIGHT - before_ms, "view") for before_ms in (3 * DAY_MS + 1, 3 * DAY_MS, 3 * DAY_MS - 1, DAY_MS, 1)] + [
        event(MIDNIGHT + 5)
    ]
    assert [3.0, 4.0, 2.0] == [value(rows, {}, {"active_days": window}, MIDNIGHT + 5) for window in ("3d", "4d", "1d")]


# Distinct


def test_buckets_are_xxh64_modulo_64() -> None:
    assert [25, 27, 25] == [oracle.bucket(text) for text in ("", "a", "abc")]  # ef46db3751d8e999, d24ec4f1a98c6e5b, 44bc2cf5ad770999


def test_distinct_counts_buckets_and_an_empty_string_is_a_value_but_null_is_none() -> None:
    measures = {"kinds": {"distinct": "category", "of": "purchase"}}
    feature = {"distinct": "kinds", "window": "1d"}
    assert 0.0 == value([event(category=None)], measures, feature)
    assert 1.0 == value([event(category="")], measures, feature)
    rows = [event(category=text) for text in ("", "a", "abc", "a", None)] + [event(event_type="view", category="b")]
    assert 2.0 == value(rows, measures, feature)


def test_a_bucket_counts_while_its_last_hit_is_in_the_window() -> None:
    rows = [
        event(MIDNIGHT - 3 * DAY_MS, category="a"),
        event(MIDNIGHT - 2 * DAY_MS, category="abc"),
        event(MIDNIGHT - 9 * DAY_MS, category=""),
    ]
    instants = [MIDNIGHT, MIDNIGHT + DAY_MS - 1, MIDNIGHT + DAY_MS, MIDNIGHT + 2 * DAY_MS]
    assert [2.0, 2.0, 1.0, 0.0] == [value(rows, {"k": {"distinct": "category"}}, {"distinct": "k", "window": "3d"}, t) for t in instants]


def test_distinct_is_over_any_text() -> None:
    rows = [
        event(product_id="a", session_id="a", properties={"shop": "a"}),
        event(product_id="abc", event_type="view", properties={"shop": "a"}),
    ]
    sources = ("product_id", "session_id", "event_type", "properties.shop", "category")
    assert [2.0, 1.0, 2.0, 1.0, 0.0] == [value(rows, {"k": {"distinct": source}}, {"distinct": "k", "window": "1d"}) for source in sources]


# Lifetime


def test_lifetime_measures_have_no_window() -> None:
    rows = [event(MIDNIGHT - 8000 * DAY_MS, amount=10**12), event(amount=-1), event(amount=None), event(event_type="view", amount=50)]
    measures = {"ever": {"lifetime_count": "purchase"}, "spent": {"lifetime_sum": "amount", "of": "purchase"}}
    assert [3.0, 999_999_999_999.0] == [value(rows, measures, {"lifetime": name}) for name in measures]


def test_eligibility_asks_for_all_of_its_lifetime_counts() -> None:
    declaration = declared(
        {"ever": {"lifetime_count": "purchase"}, "events": {"lifetime_count": "any"}}, {}, eligibility={"ever": 1, "events": 2}
    )
    owners = [("a", "purchase"), ("b", "purchase"), ("b", "view"), ("d", "view"), ("d", "view")]
    rows = [event(event_type=event_type, customer_id=owner) for owner, event_type in owners]
    assert {"a": False, "b": True, "d": False} == oracle.eligible(oracle.frame(rows), declaration).to_dict()


# Which events count


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"t": BEGIN_MS - 1}, "occurred_at is out of range"),
        ({"t": BEGIN_MS}, None),
        ({"t": END_MS - 1}, None),
        ({"t": END_MS}, "occurred_at is out of range"),
        ({"t": -(2**63)}, "occurred_at is out of range"),
        ({"amount": 10**12}, None),
        ({"amount": -(10**12)}, None),
        ({"amount": 10**12 + 1}, "amount is out of range"),
        ({"amount": -(2**63)}, "amount is out of range"),
        ({"quantity": -(10**12)}, None),
        ({"quantity": -(10**12) - 1}, "quantity is out of range"),
        ({"event_id": ""}, "event_id is empty"),
        ({"event_id": "é" * 64}, None),
        ({"event_id": "é" * 64 + "e"}, "event_id is longer than 128 bytes"),
        ({"customer_id": ""}, "customer_id is empty"),
        ({"customer_id": "c" * 256}, None),
        ({"customer_id": "c" * 257}, "customer_id is longer than 256 bytes"),
        ({"event_type": ""}, "event_type is empty"),
        ({"event_type": "t" * 64}, None),
        ({"event_type": "t" * 65}, "event_type is longer than 64 bytes"),
        ({"event_type": "$other"}, "event_type is an unknown command"),
        ({"event_type": "$erase"}, None),
        ({"event_type": "a$"}, None),
    ],
)
def test_an_event_out_of_the_bounds_of_a_field_is_refused(fields: Row, reason: str | None) -> None:
    assert [reason] == reasons([event(**fields)])


def test_the_bounds_of_time_are_new_years_days() -> None:
    assert ["1990-01-01", "2100-01-01"] == [str(np.datetime64(t, "ms").astype("datetime64[D]")) for t in (BEGIN_MS, END_MS)]


def test_an_amount_in_another_currency_refuses_the_event_or_is_ignored_as_declared() -> None:
    rows = [event(amount=5, currency=currency) for currency in (None, "EUR", "USD", "eur", "")] + [event(currency="USD")]
    other = "currency is another one"
    assert [None, None, other, other, other, None] == reasons(rows)
    assert [None] * 6 == reasons(rows, others="ignore")
    measures = {"spend": {"sum": "amount"}, **PURCHASES}
    assert [10.0, 3.0] == [value(rows, measures, {"sum": name, "window": "1d"}) for name in measures]
    assert [10.0, 6.0] == [value(rows, measures, {"sum": name, "window": "1d"}, others="ignore") for name in measures]


def test_an_ignored_amount_is_no_least_amount_either() -> None:
    rows = [event(amount=5), event(amount=1, currency="USD")]
    assert 5.0 == value(rows, {"least": {"min": "amount"}}, {"min": "least", "window": "1d"}, others="ignore")


def test_who_is_erased_is_gone_and_refused_or_begins_anew() -> None:
    rows = [event(MIDNIGHT), event(MIDNIGHT, event_type="$erase"), event(MIDNIGHT + 1), event(MIDNIGHT + 2), event(customer_id="d")]
    declaration = declared({"last": {"last": "any"}}, {"a": {"active_days": "9d"}})
    assert ["d"] == oracle.counted(oracle.frame(rows), declaration)["customer_id"].tolist()
    accepted = oracle.counted(oracle.frame(rows), declaration, "accept")
    assert [MIDNIGHT + 1, MIDNIGHT + 2] == accepted["occurred_at"].tolist()[:2]
    assert 3 == len(accepted)


def test_refused_events_leave_no_trace_and_their_customers_no_row() -> None:
    rows = [
        event(MIDNIGHT - DAY_MS),
        event(MIDNIGHT, quantity=10**13),
        event(event_type="$other"),
        event(END_MS),
        event(customer_id="d", quantity=10**13),
    ]
    declaration = declared({"last": {"last": "any"}}, {"r": {"recency": "last", "cap": "9d"}, "a": {"active_days": "9d"}})
    found = oracle.features(oracle.frame(rows), declaration, MIDNIGHT)
    assert {"c": {"r": 1.0, "a": 1.0}} == found.to_dict("index")


# Numbers in properties


@pytest.mark.parametrize(
    ("text", "decimals", "expected"),
    [
        ("12.50", 2, 1250),
        ("-3", 0, -3),
        ("007", 0, 7),
        ("0.5", 0, 0),
        ("1.5", 0, 2),
        ("2.5", 0, 2),
        ("-0.5", 0, 0),
        ("-1.5", 0, -2),
        ("-2.5", 0, -2),
        ("2.50000000000000000000000000001", 0, 3),
        ("2.4999999999999999999999999999", 0, 2),
        ("0.125", 2, 12),
        ("0.135", 2, 14),
        ("1.005", 2, 100),  # a tie
        ("1.015", 2, 102),  # a tie, though the nearest double is below it
        ("0.05", 0, 0),
        ("0.95", 0, 1),
        ("99.5", 0, 100),
        ("1e3", 0, 1000),
        ("1e+3", 0, 1000),
        ("1E3", 0, 1000),
        ("125E-2", 1, 12),
        ("125e-2", 0, 1),
        ("150e-2", 0, 2),
        ("5e-1", 0, 0),
        ("15e-1", 0, 2),
        ("1e0000000000000000000000000000003", 0, 1000),
        ("0e99999999999999999999", 0, 0),
        ("0.000e-99999999999999999999", 3, 0),
        ("1e-99999999999999999999", 0, 0),
        ("1e99999999999999999999", 0, None),
        ("1000000000000", 0, 10**12),
        ("-1000000000000", 0, -(10**12)),
        ("1000000000000.5", 0, 10**12),
        ("1000000000000.51", 0, None),
        ("1000000000001", 0, None),
        ("10000000000", 2, 10**12),
        ("10000000000.01", 2, None),
        ("99999999999999", 0, None),
        ("1" + "0" * 6000 + "e-6000", 0, 1),
        ("0." + "0" * 6000 + "1e6001", 0, 1),
        *((text, 0, None) for text in ("", " 1", "1 ", "1\n", "+1", ".5", "5.", "-", "1e", "1e+", "1_000", "1,5", "0x1", "--1")),
        *((text, 0, None) for text in ("nan", "NaN", "inf", "-Infinity", "\u0661", "1\0")),
    ],
)
def test_a_property_is_read_as_a_decimal_number_and_rounded_half_to_even(text: str, decimals: int, expected: int | None) -> None:
    assert expected == oracle.scaled(text, decimals)


def test_a_property_that_is_no_number_refuses_events_of_the_types_that_the_measure_names() -> None:
    measures = {"fee": {"sum": "properties.fee", "of": "purchase", "decimals": 2}}
    rows = [event(properties={"fee": "1.255"}), event(properties={"fee": "free"}), event(properties={"fee": "1e11"}), event(properties={})]
    rows += [event(event_type="view", properties={"fee": "free"}), event(properties={"other": "free"}), event(properties={"fee": "-0.01"})]
    fault = "properties.fee is no number in range"
    assert [None, fault, fault, None, None, None, None] == reasons(rows, measures)
    assert 125.0 == value(rows, measures, {"sum": "fee", "window": "1d"})


def test_every_kind_of_measure_over_a_property_reads_it() -> None:
    rows = [event(properties={"a.b": text}) for text in ("2", "-1", "0.6")] + [event()]
    kinds = [("min", {"min": "m", "window": "1d"}), ("max", {"max": "m", "window": "1d"}), ("lifetime_sum", {"lifetime": "m"})]
    assert [-1.0, 2.0, 2.0] == [value(rows, {"m": {kind: "properties.a.b", "decimals": 0}}, feature) for kind, feature in kinds]
    assert [None, None, None, None] == reasons(rows, {"m": {"distinct": "properties.a.b"}})


def test_two_measures_may_read_a_property_with_different_decimals() -> None:
    measures = {"whole": {"sum": "properties.x"}, "cents": {"sum": "properties.x", "decimals": 2}}
    rows = [event(properties={"x": "1.5"}), event(properties={"x": "100000000000"})]
    assert [2.0, 150.0] == [value(rows, measures, {"sum": name, "window": "1d"}) for name in measures]


# Duplicates


def test_of_a_repeated_id_the_first_in_log_order_counts_whatever_its_time() -> None:
    rows = [event(MIDNIGHT - 1, event_id="x", amount=1), event(MIDNIGHT - 5, event_id="x", amount=2), event(event_id="y", amount=4)]
    spend, feature = {"spend": {"sum": "amount"}}, {"sum": "spend", "window": "1d"}
    assert [5.0, 6.0] == [value(rows, spend, feature), value(rows[::-1], spend, feature)]


def test_ids_are_repeated_per_customer_only() -> None:
    rows = [event(event_id="x", customer_id=owner) for owner in ("a", "b", "a")]
    found = oracle.features(oracle.frame(rows), declared(PURCHASES, {"f": {"sum": "n", "window": "1d"}}), MIDNIGHT)
    assert {"a": 1.0, "b": 1.0} == found["f"].to_dict()


def test_a_refused_event_does_not_take_its_id() -> None:
    rows = [event(event_id="x", amount=10**13), event(event_id="x", amount=3)]
    assert 3.0 == value(rows, {"spend": {"sum": "amount"}}, {"sum": "spend", "window": "1d"})


# The table


def test_rows_are_sorted_by_the_bytes_of_the_id_and_columns_are_as_declared() -> None:
    owners = ["b", "a\0b", "é", "a", "B", "\U0001f600", "\uffee", "a\0a", " a"]
    rows = [event(customer_id=owner) for owner in owners]
    declaration = declared(PURCHASES, {"z": {"sum": "n", "window": "1d"}, "a": {"active_days": "1d"}})
    found = oracle.features(oracle.frame(rows), declaration, MIDNIGHT)
    assert sorted(owners, key=lambda owner: owner.encode()) == list(found.index)
    assert ["z", "a"] == list(found.columns)
    assert {np.dtype("float64")} == set(found.dtypes)
    assert "customer_id" == found.index.name
    assert [[1.0, 1.0]] * len(owners) == found.to_numpy().tolist()


def test_no_events_give_no_rows_but_every_column() -> None:
    found = oracle.features(oracle.frame([]), packaged(), MIDNIGHT)
    assert (0, 16) == found.shape
    assert {np.dtype("float64")} == set(found.dtypes)


def test_features_do_not_depend_on_the_order_of_events_or_on_repetitions() -> None:
    chance = random.Random(7)
    types = ("view", "add_to_cart", "purchase", "refund", "search")
    rows = [
        event(
            MIDNIGHT - chance.randrange(100 * DAY_MS),
            chance.choice(types),
            customer_id=chance.choice("abc"),
            amount=chance.randrange(10**12),
        )
        for _ in range(300)
    ]
    expected = oracle.features(oracle.frame(rows), packaged(), MIDNIGHT)
    shuffled = rows + rows[:20]
    chance.shuffle(shuffled)
    actual = oracle.features(oracle.frame(shuffled), packaged(), MIDNIGHT)
    assert expected.to_numpy().tobytes() == actual.to_numpy().tobytes()


def packaged() -> Row:
    """The packaged declaration."""
    path = Path(__file__).parents[2] / "streamer" / "core" / "default_features.yaml"
    declaration: Row = yaml.safe_load(path.read_text(encoding="utf-8"))
    return declaration


def test_the_packaged_declaration_by_hand() -> None:
    noon = MIDNIGHT + 12 * HOUR_MS
    rows = [
        event(noon - 100 * DAY_MS, amount=9000, category="a"),
        event(noon - 90 * DAY_MS, amount=1000, category="abc"),
        event(noon - 30 * DAY_MS, amount=501, category="a"),
        event(noon - 29 * DAY_MS, "refund", amount=-501),
        event(noon - 8 * DAY_MS, "view", category="a"),
        event(noon - 7 * DAY_MS, "view", category="zz"),
        event(noon - 7 * DAY_MS, "add_to_cart", category=None),
        event(noon - HOUR_MS, "search"),
    ]
    expected = {
        "days_since_event": 1 / 24,
        "days_since_purchase": 30.0,
        "purchases_30d": 1.0,
        "purchases_90d": 2.0,
        "spend_30d": 501.0,
        "spend_90d": 1501.0,
        "average_order_value": 750.5,
        "days_between_purchases": 35.0,
        "views_7d": 1.0,
        "views_30d": 2.0,
        "cart_rate": 2.0 / 12.0,
        "purchase_rate": (1.0 + 0.3) / 12.0,
        "refund_rate": 1.25 / 7.0,
        "active_days_30d": 5.0,
        "categories_90d": 3.0,
        "searches_30d": 1.0,
    }
    found = oracle.features(oracle.frame(rows), packaged(), noon)
    assert {"c": expected} == found.to_dict("index")
    assert {"c": True} == oracle.eligible(oracle.frame(rows), packaged()).to_dict()


# Declarations that the page does not have


@pytest.mark.parametrize(
    ("measures", "feature", "message"),
    [
        ({"n": {"min": "amount"}}, {"sum": "n", "window": "1d"}, "is a min"),
        (PURCHASES, {"min": "n", "window": "1d"}, "is a count"),
        (PURCHASES, {"recency": "n", "cap": "1d"}, "is a count"),
        ({"n": {"sum": "category"}}, {"sum": "n", "window": "1d"}, "category is no source"),
        ({"n": {"distinct": "amount"}}, {"distinct": "n", "window": "1d"}, "amount is no source"),
        ({"n": {"distinct": "category"}}, {"distinct": "n", "window": "3h"}, "windows of days"),
        (PURCHASES, {"active_days": "3h"}, "windows of days"),
        ({"n": {"last": "any"}}, {"recency": "n", "cap": "soon"}, "'soon' is not a duration"),
        ({"n": {"last": "any"}}, {"recency": "n", "cap": "90m"}, "'90m' is not a duration"),
        ({"n": {"last": "any"}}, {"recency": "n", "cap": "01d"}, "'01d' is not a duration"),
        ({"n": {"last": "any"}}, {"recency": "n", "cap": "36501d"}, "'36501d' is not a duration"),
        ({"n": {"count": ["any", "view"]}}, {"sum": "n", "window": "1d"}, "`any` stands alone"),
        ({"n": {"count": []}}, {"sum": "n", "window": "1d"}, "`any` stands alone"),
        ({"n": {"mean": "amount"}}, {"sum": "n", "window": "1d"}, "exactly one of"),
        (PURCHASES, {"mean": "n"}, "exactly one of"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused(measures: Row, feature: Row, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        value([event()], measures, feature)


def test_an_unknown_way_with_other_currencies_is_refused() -> None:
    with pytest.raises(ValueError, match=r"money\.others"):
        reasons([event()], others="convert")
