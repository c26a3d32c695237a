"""Decimal text to whole units, against Python's `decimal`."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_EVEN, Context, Decimal

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamer.core.decimals import NOT_A_NUMBER, OUT_OF_RANGE, PARSED, UNITS_MAX, parse_decimal

GRAMMAR = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
EXACT = Context(prec=400, rounding=ROUND_HALF_EVEN, Emax=10**9, Emin=-(10**9))


def parse(text: str, scale: int = 2) -> tuple[int, int]:
    padded = b"7" + text.encode() + b"7"
    status, units = parse_decimal(np.frombuffer(padded, np.uint8), 1, len(padded) - 2, scale)
    return int(status), int(units)


def expected(text: str, scale: int) -> tuple[int, int]:
    if GRAMMAR.fullmatch(text) is None:
        return NOT_A_NUMBER, 0
    value = Decimal(text)
    if value != 0 and value.adjusted() + scale > 20:
        return OUT_OF_RANGE, 0
    units = int(EXACT.to_integral_value(EXACT.scaleb(value, scale))) if value.adjusted() + scale > -20 else 0
    return (PARSED, units) if abs(units) <= UNITS_MAX else (OUT_OF_RANGE, 0)


DIGITS = st.text("0123456789", min_size=1, max_size=18)
NUMBERS = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "-"]),
    st.one_of(DIGITS, st.builds("{}{}".format, st.text("0", max_size=4), DIGITS)),
    st.one_of(
        st.just(""), st.builds(".{}".format, st.one_of(DIGITS, st.sampled_from(["5", "50", "500", "5000001", "05", "49999", "005"])))
    ),
    st.one_of(st.just(""), st.builds("{}{}{}".format, st.sampled_from("eE"), st.sampled_from(["", "+", "-"]), st.integers(0, 40))),
)


@given(NUMBERS, st.integers(0, 6))
@example("999999999999.5", 0)
@example("1000000000000.5", 0)
@example("1000000000000.51", 0)
@example("0.5", 0)
@example("1.5", 0)
@example("0.05", 0)
@example("0.51e-0", 0)
@example("-0", 2)
@example("0e99999999", 2)
@example("100000000000000e-4", 2)
def test_a_number_is_its_exact_value_rounded_half_to_even(text: str, scale: int) -> None:
    assert expected(text, scale) == parse(text, scale)


@given(st.text("0123456789.-+eE x_", max_size=8))
def test_what_is_outside_the_grammar_is_not_a_number(text: str) -> None:
    assert expected(text, 2) == parse(text, 2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        ".",
        "1.",
        ".5",
        "+1",
        " 1",
        "1 ",
        "1e",
        "1e+",
        "1E-",
        "1e1.5",
        "1e5x",
        "--1",
        "1-",
        "NaN",
        "-inf",
        "0x10",
        "1_000",
        "\N{ARABIC-INDIC DIGIT ONE}",
        "1,5",
        "1..2",
    ],
)
def test_these_are_not_numbers(text: str) -> None:
    assert (NOT_A_NUMBER, 0) == parse(text)


def test_the_bounds_are_in_range_and_the_next_units_are_not() -> None:
    assert (PARSED, UNITS_MAX) == parse("10000000000.00")
    assert (PARSED, -UNITS_MAX) == parse("-1e10")
    assert (OUT_OF_RANGE, 0) == parse("10000000000.01")
    assert (OUT_OF_RANGE, 0) == parse("-10000000000.006")


def test_exponents_beyond_those_of_python_s_decimals_are_read_too() -> None:
    assert (PARSED, 0) == parse("0.000e99999999999999999999")
    assert (PARSED, 0) == parse("-1e-99999999999999999999")
    assert (OUT_OF_RANGE, 0) == parse("1e99999999999999999999")
