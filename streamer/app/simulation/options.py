"""What to simulate: the whole of what the traffic depends on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from streamer.app.simulation.rhythm import DAY_MS
from streamer.core.errors import Misconfigured

if TYPE_CHECKING:
    from streamer.app.simulation.rhythm import Sale

VERSION: Final = 1  # of the traffic that equal options give
CUSTOMERS_MAX: Final = 10_000_000
DAYS_MAX: Final = 3_650
EARLIEST_MS, LATEST_MS = 631_152_000_000, 4_102_444_800_000  # 1990 and 2100, what a worker accepts
FOLLOW_DAYS: Final = 1_000_000  # for ever, and bounded


@dataclass(frozen=True, slots=True)
class Options:
    """What to simulate.

    The period is `days` whole days from `start_ms`. `late`, `duplicates` and `malformed` are shares of the sound events: late ones are held
    back, duplicates and malformed records come on top. `changes` is the share of customers who change persona once. With `follow` there
    is no end: nobody changes persona, fades or arrives later, and days follow each other.

    Raises:
        Misconfigured: a number is out of its range.
    """

    customers: int
    days: int
    start_ms: int
    seed: int = 1
    late: float = 0.01
    duplicates: float = 0.005
    malformed: float = 0.001
    changes: float = 0.1
    sales: tuple[Sale, ...] = ()
    follow: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        ranges = {"customers": (1, CUSTOMERS_MAX), "days": (1, DAYS_MAX), "seed": (0, 2**63 - 1)}
        ranges |= dict.fromkeys(("late", "duplicates", "malformed", "changes"), (0, 1))
        for name, (least, greatest) in ranges.items():
            value = getattr(self, name)
            if not least <= value <= greatest:
                message = f"--{name} is from {least:,} to {greatest:,}, not {value:,}"
                raise Misconfigured(message)
        if not EARLIEST_MS <= self.start_ms <= self.until_ms < LATEST_MS:
            message = "--start and --days: events are from 1990 to 2099: choose another period"
            raise Misconfigured(message)

    @property
    def until_ms(self) -> int:
        """Give the period's end, exclusive."""
        return self.start_ms + self.days * DAY_MS

    def digest(self) -> str:
        """Tell these options from others in 8 hexadecimal digits; event ids begin with it."""
        return hashlib.blake2b(f"{VERSION} {self!r}".encode(), digest_size=4).hexdigest()
