"""Decimal numbers in text, as whole numbers of a small unit.

Law: the grammar is `-?digits[.digits][(e|E)[+|-]digits]` and nothing else: no spaces, no leading plus, no NaN, infinity, hexadecimal or
underscores. The result is the text's exact value in units of 10^-scale, rounded half to even, as Python's `decimal` rounds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from streamer.core.compiled import kernel

if TYPE_CHECKING:
    from streamer.core.columns import U8

UNITS_MAX: Final = 10**12
PARSED, NOT_A_NUMBER, OUT_OF_RANGE = 0, 1, 2
EXPONENT_MAX: Final = 1 << 40
"""Greater exponents are cut to this: no text is long enough for its digits to make up for the difference."""


@kernel
def _digits_end(values: U8, pos: int, end: int) -> int:
    """Give the position after the digits at `pos`."""
    while pos < end and 0x30 <= values[pos] <= 0x39:
        pos += 1
    return pos


@kernel
def parse_decimal(values: U8, start: int, length: int, scale: int) -> tuple[int, int]:
    """Parse `values[start:start + length]` as a whole number of units of 10^-scale.

    Returns:
        PARSED and the number, between -UNITS_MAX and UNITS_MAX; or NOT_A_NUMBER or OUT_OF_RANGE, and 0.

    Example:
        >>> parse_decimal(np.frombuffer(b"12.345", np.uint8), 0, 6, 2)
        (0, 1234)
    """
    end = start + length
    negative = length > 0 and values[start] == 0x2D
    first = start + 1 if negative else start
    point = _digits_end(values, first, end)
    after = point
    if after < end and values[after] == 0x2E:
        after = _digits_end(values, point + 1, end)
    # A point has digits on both sides.
    if point == first or after == point + 1:
        return NOT_A_NUMBER, 0
    exponent = 0
    if after < end and (values[after] == 0x65 or values[after] == 0x45):
        signed = after + 1 < end and (values[after + 1] == 0x2B or values[after + 1] == 0x2D)
        at = after + 2 if signed else after + 1
        stop = _digits_end(values, at, end)
        if stop == at:
            return NOT_A_NUMBER, 0
        for i in range(at, stop):
            exponent = min(exponent * 10 + int(values[i]) - 0x30, EXPONENT_MAX)
        if signed and values[at - 1] == 0x2D:
            exponent = -exponent
        if stop != end:
            return NOT_A_NUMBER, 0
    elif after != end:
        return NOT_A_NUMBER, 0
    units, fits = _round_digits(values, first, point, after, exponent + scale)
    if not fits:
        return OUT_OF_RANGE, 0
    return PARSED, -units if negative else units


@kernel
def _round_digits(values: U8, first: int, point: int, end: int, exponent: int) -> tuple[int, bool]:
    """Round digits with a point at `point`, times 10^exponent, half to even: the number, and whether it is in range."""
    while first < end and (values[first] == 0x30 or values[first] == 0x2E):
        first += 1
    # The value is now 0.d1d2d3... times 10^whole, d1 not 0: its first `whole` digits are the units, the next decides the rounding.
    whole = point - first + exponent
    if first > point:
        whole += 1
    if first == end or whole < 0:
        return 0, True
    if whole > 13:
        return 0, False
    units, taken, next_digit, rest = 0, 0, 0, False
    for i in range(first, end):
        if values[i] != 0x2E:
            digit = int(values[i]) - 0x30
            if taken < whole:
                units = units * 10 + digit
            elif taken == whole:
                next_digit = digit
            else:
                rest = rest or digit > 0
            taken += 1
    while taken < whole:
        units *= 10
        taken += 1
    if next_digit > 5 or (next_digit == 5 and (rest or units % 2 == 1)):
        units += 1
    return units, units <= UNITS_MAX
