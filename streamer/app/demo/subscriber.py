"""Subscribers to `segment-changes`: one that follows, as every subscriber should, and an auditor who counts what was told twice or lost."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SHOWN_CHANGES = 8


@dataclass(slots=True)
class Subscriber:
    """What a subscriber knows: each customer's segment, by the rule that a change counts if its version is greater than the one at hand."""

    segment: dict[str, str] = field(default_factory=dict)
    version: dict[str, int] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    causes: Counter[str] = field(default_factory=Counter)
    latest: deque[Mapping[str, Any]] = field(default_factory=lambda: deque(maxlen=SHOWN_CHANGES))

    def apply(self, change: Mapping[str, Any]) -> None:
        """Take a change in."""
        customer = change["customer_id"]
        if change["version"] <= self.version.get(customer, -1):
            return
        self.version[customer] = change["version"]
        self.segment[customer] = change["segment_id"]
        self.names[change["segment_id"]] = change["segment_name"]
        self.causes[change["cause"]] += 1
        self.latest.append(change)


@dataclass(frozen=True, slots=True)
class Audit:
    """How often changes were told. `lost` counts the places where a customer's changes do not follow from each other."""

    told: int
    twice: int
    lost: int

    def words(self) -> str:
        """Tell it to people."""
        return f"{self.told:,} changes on the topic: {self.twice:,} of them told twice, {self.lost:,} lost"


def audit(changes: Iterable[Mapping[str, Any]], kept: Mapping[str, tuple[str, int]]) -> Audit:
    """Count what was told twice and what was lost.

    Changes are all that the topic has, from its beginning, in order within each customer, with nothing taken out. `kept` has the segment
    and the version of the latest change of every customer, as the profiles have them. A change was told twice if its version is not
    greater than one that was told before. Changes were lost if one does not begin at the segment where the one before it ended, or if the
    last is not the one that the profile has.
    """
    told, twice, lost = 0, 0, 0
    segment: dict[str, str | None] = {}
    version: dict[str, int] = {}
    for change in changes:
        told += 1
        customer = change["customer_id"]
        if change["version"] <= version.get(customer, -1):
            twice += 1
            continue
        lost += change["previous_segment_id"] != segment.get(customer)
        segment[customer], version[customer] = change["segment_id"], change["version"]
    lost += sum((segment.get(customer), version.get(customer, 0)) != known for customer, known in kept.items() if known[1])
    return Audit(told, twice, lost)
