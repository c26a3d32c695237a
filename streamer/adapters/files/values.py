"""One cell's value to a text, a number or a time, by written rules; nothing here knows of rows or files.

Law: numbers are exact. A binary float stands for the shortest decimal that reads back as it (2.55 is 2.55), text for the decimal it shows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from streamer.adapters.files.tables import Value

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
TIME_MS_MIN = 631_152_000_000  # 1990-01-01
TIME_MS_MAX = 4_102_444_800_000  # 2100-01-01, itself outside
WHOLE_MAX = 10**12
DIGITS_MAX = 40
UNITS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}

_EXACT = Context(prec=4 * DIGITS_MAX, rounding=ROUND_HALF_EVEN)
_EXACT_40 = Context(prec=DIGITS_MAX)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)


class Refusal(StrEnum):
    """Why a row is rejected; the value stands in the rejects file."""

    UNREADABLE = "unreadable_row"
    MISSING = "missing_value"
    NOT_LISTED = "value_not_listed"
    TOO_LONG = "too_long"
    RESERVED = "reserved_event_type"
    BAD_CURRENCY = "bad_currency"
    BAD_TIME = "bad_time"
    AMBIGUOUS_TIME = "ambiguous_time"
    NONEXISTENT_TIME = "nonexistent_time"
    TIME_RANGE = "time_out_of_range"
    FUTURE = "time_in_future"
    NOT_A_NUMBER = "not_a_number"
    NOT_WHOLE = "not_a_whole_number"
    RANGE = "out_of_range"
    NEGATIVE = "negative_amount"
    DUPLICATE_ID = "duplicate_event_id"


REMEDIES: dict[Refusal, str] = {
    Refusal.UNREADABLE: "the row has another number of fields than the header, or is no JSON object: mend the row",
    Refusal.MISSING: "the event needs this value: mend the row, or declare a skip rule with is_empty",
    Refusal.NOT_LISTED: "the value is not among `values` or `cases`: list it, or give `otherwise`",
    Refusal.TOO_LONG: "the text is longer than the worker accepts: shorten it, or use a joined column with hash: true",
    Refusal.RESERVED: "event types that begin with $ are commands and are not ingested: name another type",
    Refusal.BAD_CURRENCY: "a currency is three capital letters of ISO 4217, such as GBP: map the file's names with `values`",
    Refusal.BAD_TIME: "the time is not as the mapping says: set `format` for text (ISO 8601 otherwise), `unit` for numbers",
    Refusal.AMBIGUOUS_TIME: "the clock showed this local time twice: set `ambiguous_times` to earlier or later",
    Refusal.NONEXISTENT_TIME: "the clock skipped this local time: set `nonexistent_times` to forward, or check `time_zone`",
    Refusal.TIME_RANGE: "the time is before 1990 or after 2099: check `format` and `unit`",
    Refusal.FUTURE: "the time is still to come: check `time_zone` and `unit`, or this machine's clock",
    Refusal.NOT_A_NUMBER: "the text is no number: check `input.decimal` and `input.thousands`",
    Refusal.NOT_WHOLE: "a quantity is a whole number: map another column",
    Refusal.RANGE: "the number is beyond 10^12 (of minor units): check `scale`",
    Refusal.NEGATIVE: "the event's amount is below zero: declare a `refund` rule for such rows, or skip them",
    Refusal.DUPLICATE_ID: "two events of a customer have the same id: add a column to `event_id`, or `id_suffix` to `refund`",
}


@dataclass(frozen=True, slots=True)
class TimeRule:
    """How a time is read: `pattern` (of strptime; None for ISO 8601), `unit` of numbers, and the zone of times that name none."""

    zone: ZoneInfo
    pattern: str | None = None
    unit: str | None = None
    ambiguous: str = "earlier"  # later, reject
    nonexistent: str = "forward"  # reject


@dataclass(frozen=True, slots=True)
class NumberRule:
    """How a number is written in text."""

    decimal: str = "."
    thousands: str = ""


def text_of(value: Value) -> str:
    """Write a value as text: a whole number without a fraction (17850.0 is `17850`), a time as ISO 8601."""
    if isinstance(value, str):
        return value
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, int):
        return str(value)
    number = value if isinstance(value, Decimal) else Decimal(repr(value))
    if number.is_finite() and abs(number.adjusted()) <= DIGITS_MAX:
        return f"{number:f}" if number != number.to_integral_value() else str(int(number))
    return str(number)


def number_of(value: Value, rule: NumberRule) -> Decimal | Refusal:
    """Read a value as an exact decimal of at most 40 digits.

    >>> number_of("1.250,50", NumberRule(decimal=",", thousands="."))
    Decimal('1250.50')
    """
    if isinstance(value, str):
        plain = value.replace(rule.thousands, "") if rule.thousands else value
        plain = plain.replace(rule.decimal, ".") if rule.decimal != "." else plain
        if not _NUMBER.fullmatch(plain) or (rule.decimal != "." and "." in value.replace(rule.thousands or "\0", "")):
            return Refusal.NOT_A_NUMBER
        number = _EXACT.create_decimal(plain) if len(plain) <= 2 * DIGITS_MAX else Decimal("NaN")
    elif isinstance(value, (datetime, date)):
        return Refusal.NOT_A_NUMBER
    elif isinstance(value, float):
        number = Decimal(repr(value))
    else:
        number = Decimal(value)
    if not number.is_finite():
        return Refusal.NOT_A_NUMBER
    if abs(number.adjusted()) > DIGITS_MAX or number != _EXACT_40.plus(number):
        return Refusal.RANGE
    return number


def product(left: Decimal, right: Decimal) -> Decimal:
    """Multiply exactly."""
    return _EXACT.multiply(left, right)


def minor_units(number: Decimal, scale: int) -> int | Refusal:
    """Round a number of major units to whole minor units, halves to even; `scale` is the currency's number of decimals.

    >>> minor_units(Decimal("0.125"), 2)
    12
    """
    if number.adjusted() > DIGITS_MAX:
        return Refusal.RANGE
    whole = int(number.scaleb(scale, _EXACT).to_integral_value(ROUND_HALF_EVEN, _EXACT))
    return whole if abs(whole) <= WHOLE_MAX else Refusal.RANGE


def whole_of(value: Value, rule: NumberRule) -> int | Refusal:
    """Read a value as a whole number of at most 10^12 either way."""
    number = number_of(value, rule)
    if isinstance(number, Refusal):
        return number
    if number != number.to_integral_value():
        return Refusal.NOT_WHOLE
    return int(number) if abs(number) <= WHOLE_MAX else Refusal.RANGE


def time_of(value: Value, rule: TimeRule) -> int | Refusal:
    """Read a value as milliseconds since 1970-01-01 UTC, smaller parts cut off.

    A time that names its offset keeps it; any other is local time of the rule's zone. A local time that occurs twice is the earlier of the
    two, one that is skipped by the clock moves forward by the gap, or either is refused, as the rule says.
    """
    if isinstance(value, (int, float, Decimal)) or rule.unit is not None:
        instant = _instant_of_number(value, rule)
    else:
        moment = _moment_of(value, rule)
        instant = moment if isinstance(moment, Refusal) else _instant(moment, rule)
    if isinstance(instant, Refusal):
        return instant
    return instant if TIME_MS_MIN <= instant < TIME_MS_MAX else Refusal.TIME_RANGE


def _instant_of_number(value: Value, rule: TimeRule) -> int | Refusal:
    if rule.unit is None or isinstance(value, (datetime, date)):
        return Refusal.BAD_TIME
    number = number_of(value, NumberRule())
    if isinstance(number, Refusal):
        return Refusal.BAD_TIME if number is Refusal.NOT_A_NUMBER else Refusal.TIME_RANGE
    scaled = _EXACT.multiply(number, Decimal(1000))
    return int(_EXACT.divide_int(scaled, Decimal(UNITS_PER_SECOND[rule.unit]))) if number >= 0 else Refusal.TIME_RANGE


def _moment_of(value: Value, rule: TimeRule) -> datetime | Refusal:
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)  # noqa: DTZ001  # local time, localised by the caller
    try:
        if rule.pattern is not None:
            return datetime.strptime(str(value), rule.pattern)  # noqa: DTZ007  # likewise
        return datetime.fromisoformat(str(value))
    except ValueError:
        return Refusal.BAD_TIME


def _instant(moment: datetime, rule: TimeRule) -> int | Refusal:
    if moment.tzinfo is None:
        first, second = moment.replace(tzinfo=rule.zone, fold=0), moment.replace(tzinfo=rule.zone, fold=1)
        if first.utcoffset() != second.utcoffset():
            skipped = first.astimezone(UTC).astimezone(rule.zone).replace(tzinfo=None) != moment.replace(fold=0)
            if skipped and rule.nonexistent == "reject":
                return Refusal.NONEXISTENT_TIME
            if not skipped and rule.ambiguous == "reject":
                return Refusal.AMBIGUOUS_TIME
            if not skipped and rule.ambiguous == "later":
                first = second
        moment = first
    return (moment - EPOCH) // MILLISECOND
