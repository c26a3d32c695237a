"""What is odd about the data, counted and shown with examples.

Law: nothing is dropped in silence, and nothing here changes a feature: features are those of the stream. An extreme customer is clipped at
the version's quantiles, as in the stream; one with too little behind it is `new`, by the stream's own eligibility.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from offline.features import Computed
    from offline.fit import Points
    from offline.settings import Cleaning
    from streamer.core.columns import Bool


@dataclass(frozen=True, slots=True)
class Oddity:
    """One kind of odd customers: how many, some of them, and what is done about it."""

    count: int
    examples: tuple[str, ...]
    done: str


@dataclass(frozen=True, slots=True)
class Report:
    """The account of a history: rows by what became of them, customers by what is odd."""

    rows: dict[str, int]
    customers: int
    fitted: int
    oddities: dict[str, Oddity]
    clipped: dict[str, int]  # feature -> customers
    flat: tuple[str, ...]

    def record(self) -> dict[str, object]:
        """Give it in JSON's types."""
        return {
            "rows": self.rows,
            "customers": self.customers,
            "fitted": self.fitted,
            "oddities": {name: {"customers": o.count, "examples": list(o.examples), "done": o.done} for name, o in self.oddities.items()},
            "clipped": self.clipped,
            "without_variance": list(self.flat),
        }


def report(computed: Computed, points: Points, how: Cleaning, silent: Bool) -> Report:
    """Look at the customers' raw facts and at what the fit clipped; `silent` (n,) are those that the stream has let leave."""
    facts = computed.facts
    odd = {
        "silent for longer than the model keeps them": (pd.Series(silent, facts.index), "they have left, and nothing is fitted to them"),
        "too little behind them": (~facts["eligible"], "they are in the segment `new`, and nothing is fitted to them"),
        "repeated events": (facts["repeated"] > 0, "left out where the stream leaves them out, counted where it counts them"),
        "refunds larger than purchases": (facts["refunded"] > facts["purchased"], "kept: goods bought before the history begin so"),
        f"more than {how.busiest_day_max:,} events on a day": (
            facts["busiest_day"] > how.busiest_day_max,
            "kept: one customer is one vote, and the vote is clipped",
        ),
    }
    oddities = {name: _oddity(facts, chosen, how.examples_max, done) for name, (chosen, done) in odd.items()}
    beyond = (points.values < points.scaling.low) | (points.values > points.scaling.high)
    extreme = [str(customer) for customer in points.customers[np.flatnonzero(beyond.any(axis=1))[: how.examples_max]]]
    oddities["features beyond the clipping quantiles"] = Oddity(points.clipped_rows(), tuple(extreme), "clipped, as in the stream")
    return Report(computed.counts, len(facts), len(points.values), oddities, points.clipped(), points.flat)


def _oddity(facts: pd.DataFrame, chosen: pd.Series[bool], examples_max: int, done: str) -> Oddity:
    return Oddity(int(chosen.sum()), tuple(str(customer) for customer in facts.index[chosen][:examples_max]), done)
