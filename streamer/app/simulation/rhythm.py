"""When a shop's customers come: hours, weekdays, months, sales. All times are UTC.

Law: the factors of the hours, the weekdays and the months average 1, so that a persona's rates hold over a year without sales.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

import numpy as np

from streamer.core.errors import Misconfigured

DAY_MS: Final = 86_400_000
EPOCH: Final = date(1970, 1, 1)
_HOURS = np.array([3, 2, 1, 1, 1, 2, 4, 6, 8, 9, 10, 11, 12, 11, 10, 10, 11, 13, 15, 18, 20, 18, 12, 6], np.float64)
HOURS: Final = _HOURS / _HOURS.sum()  # (24,) shares of a day's visits
WEEKDAYS: Final = (0.95, 0.90, 0.92, 0.96, 1.02, 1.14, 1.11)  # from Monday
MONTHS: Final = (0.95, 0.92, 0.96, 0.98, 1.00, 0.97, 0.90, 0.88, 0.97, 1.02, 1.17, 1.28)  # from January


@dataclass(frozen=True, slots=True)
class Sale:
    """Days on which everything is cheaper: from `first` to `last`, both included; prices fall by `discount`, a share."""

    first: date
    last: date
    discount: float = 0.25

    @classmethod
    def parse(cls, text: str) -> Sale:
        """Read `2026-11-24..2026-11-30`, or one day alone.

        Raises:
            Misconfigured: it is neither.

        """
        first, _, last = text.partition("..")
        try:
            sale = cls(date.fromisoformat(first), date.fromisoformat(last or first))
        except ValueError as error:
            message = f"a sale is FIRST..LAST, such as 2026-11-24..2026-11-30, not {text!r}"
            raise Misconfigured(message) from error
        if sale.last < sale.first:
            message = f"the sale {text} ends before it begins: put the earlier day first"
            raise Misconfigured(message)
        return sale


def calendar_sales(first_year: int, last_year: int) -> tuple[Sale, ...]:
    """Give the sales of each year: winter, summer and the last week of November."""
    days = (((1, 2), (1, 12)), ((6, 24), (7, 4)), ((11, 24), (11, 30)))
    return tuple(Sale(date(year, *first), date(year, *last)) for year in range(first_year, last_year + 1) for first, last in days)


def day_of(time_ms: int) -> int:
    """Number a time's day from 1970-01-01."""
    return time_ms // DAY_MS


def date_of(day: int) -> date:
    """Give a day by its number."""
    return EPOCH + timedelta(days=day)


def midnight_ms(day: date) -> int:
    """Give the first millisecond of a day."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000


def day_factor(day: int) -> float:
    """Tell how busy a day is by weekday and month; 1 on average."""
    when = date_of(day)
    return WEEKDAYS[when.weekday()] * MONTHS[when.month - 1]


def discount_on(day: int, sales: tuple[Sale, ...]) -> float:
    """Tell by how much prices are down on a day: the greatest discount, 0 without a sale."""
    when = date_of(day)
    return max((sale.discount for sale in sales if sale.first <= when <= sale.last), default=0.0)
