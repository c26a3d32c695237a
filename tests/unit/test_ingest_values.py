from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.adapters.files.values import (
    REMEDIES,
    NumberRule,
    Refusal,
    TimeRule,
    minor_units,
    number_of,
    product,
    text_of,
    time_of,
    whole_of,
)

LONDON = ZoneInfo("Europe/London")
PLAIN = NumberRule()


def ms(*parts: int) -> int:
    year, month, day, hour, minute = (*parts, 0, 0)[:5]
    return int(datetime(year, month, day, hour, minute, tzinfo=UTC).timestamp()) * 1000


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a b", "a b"),
        (17850, "17850"),
        (17850.0, "17850"),
        (2.5, "2.5"),
        (Decimal("2.50"), "2.50"),
        (Decimal("1E+3"), "1000"),
        (1e300, "1e+300"),
    ],
)
def test_a_value_as_text_has_no_fraction_that_says_nothing(value: str | float | Decimal, text: str) -> None:
    assert text == text_of(value).lower()


@pytest.mark.parametrize(
    ("text", "rule", "number"),
    [
        ("12.50", PLAIN, Decimal("12.50")),
        ("-3", PLAIN, Decimal(-3)),
        ("1e2", PLAIN, Decimal(100)),
        (".5", PLAIN, Decimal("0.5")),
        ("1.234,56", NumberRule(",", "."), Decimal("1234.56")),
        ("1,234.56", NumberRule(".", ","), Decimal("1234.56")),
        ("1_000", PLAIN, Refusal.NOT_A_NUMBER),
        ("1,5", PLAIN, Refusal.NOT_A_NUMBER),
        ("1.5", NumberRule(","), Refusal.NOT_A_NUMBER),
        ("nan", PLAIN, Refusal.NOT_A_NUMBER),
        ("Infinity", PLAIN, Refusal.NOT_A_NUMBER),
        ("12 GBP", PLAIN, Refusal.NOT_A_NUMBER),
        ("\u0661", PLAIN, Refusal.NOT_A_NUMBER),
        ("1e99", PLAIN, Refusal.RANGE),
        ("9" * 41, PLAIN, Refusal.RANGE),
    ],
)
def test_a_number_is_read_as_written_or_refused(text: str, rule: NumberRule, number: Decimal | Refusal) -> None:
    assert number == number_of(text, rule)


def test_a_float_stands_for_its_shortest_decimal() -> None:
    assert Decimal("2.55") == number_of(2.55, PLAIN)
    assert Refusal.NOT_A_NUMBER is number_of(float("inf"), PLAIN)


@pytest.mark.parametrize(("number", "minor"), [("0.125", 12), ("0.135", 14), ("-0.125", -12), ("0.001", 0), ("13.92", 1392)])
def test_minor_units_round_halves_to_even(number: str, minor: int) -> None:
    assert minor == minor_units(Decimal(number), 2)


def test_amounts_beyond_a_trillion_are_out_of_range() -> None:
    assert 10**12 == minor_units(Decimal(10**10), 2)
    assert Refusal.RANGE is minor_units(Decimal(10**10) + 1, 2)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-9999, max_value=9999), st.integers(-9999, 9999))
def test_products_are_exact(price: Decimal, quantity: int) -> None:
    assert int(price * 10_000) * quantity == product(price, Decimal(quantity)) * 10_000


def test_a_quantity_is_whole() -> None:
    assert 3 == whole_of("3.0", PLAIN)
    assert Refusal.NOT_WHOLE is whole_of("3.5", PLAIN)


@pytest.mark.parametrize(
    ("value", "rule", "expected"),
    [
        (datetime(2011, 1, 15, 8, 26), TimeRule(LONDON), ms(2011, 1, 15, 8, 26)),  # noqa: DTZ001  # local times are the subject
        (datetime(2011, 7, 15, 8, 26), TimeRule(LONDON), ms(2011, 7, 15, 7, 26)),  # noqa: DTZ001
        ("2011-07-15T08:26:00+05:00", TimeRule(LONDON), ms(2011, 7, 15, 3, 26)),
        ("15/07/2011 08:26", TimeRule(LONDON, "%d/%m/%Y %H:%M"), ms(2011, 7, 15, 7, 26)),
        (date(2011, 7, 15), TimeRule(LONDON), ms(2011, 7, 14, 23)),
        (1_310_000_000, TimeRule(LONDON, unit="s"), 1_310_000_000_000),
        ("1310000000.1239", TimeRule(LONDON, unit="s"), 1_310_000_000_123),
        ("1310000000123456", TimeRule(LONDON, unit="us"), 1_310_000_000_123),
        (1_310_000_000, TimeRule(LONDON), Refusal.BAD_TIME),
        ("yesterday", TimeRule(LONDON), Refusal.BAD_TIME),
        ("2011-02-30", TimeRule(LONDON), Refusal.BAD_TIME),
        ("1989-12-31", TimeRule(LONDON), Refusal.TIME_RANGE),
        ("2100-01-01", TimeRule(LONDON), Refusal.TIME_RANGE),
        ("0001-01-01", TimeRule(ZoneInfo("Asia/Tokyo")), Refusal.TIME_RANGE),
        (10**30, TimeRule(LONDON, unit="s"), Refusal.TIME_RANGE),
    ],
)
def test_a_time_is_read_as_the_mapping_says(value: str | int | datetime | date, rule: TimeRule, expected: int | Refusal) -> None:
    assert expected == time_of(value, rule)


@pytest.mark.parametrize(
    ("ambiguous", "expected"),
    [("earlier", ms(2011, 10, 30, 0, 30)), ("later", ms(2011, 10, 30, 1, 30)), ("reject", Refusal.AMBIGUOUS_TIME)],
)
def test_a_local_time_that_occurs_twice_follows_its_rule(ambiguous: str, expected: int | Refusal) -> None:
    assert expected == time_of("2011-10-30 01:30", TimeRule(LONDON, ambiguous=ambiguous))


@pytest.mark.parametrize(("nonexistent", "expected"), [("forward", ms(2011, 3, 27, 1, 30)), ("reject", Refusal.NONEXISTENT_TIME)])
def test_a_local_time_that_the_clock_skips_follows_its_rule(nonexistent: str, expected: int | Refusal) -> None:
    assert expected == time_of("2011-03-27 01:30", TimeRule(LONDON, nonexistent=nonexistent))


def test_every_refusal_has_a_remedy() -> None:
    assert set(Refusal) == set(REMEDIES)
