"""The gate between a fit and its publication.

Law: a version that fails a check is not published, and every reason is kept, unless a person forces it with a reason that is kept too. No
check is a clustering score alone: a fit to raw amounts that puts 99.3 % of the customers into one segment has a silhouette of 0.96.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING

import numpy as np

from streamer.core.declaration import DAY_MS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    import pandas as pd

    from offline.features import Computed
    from offline.settings import GateLimits
    from streamer.core.columns import F64, I32, I64

BINS = 10
SHARE_FLOOR = 1e-4  # of an empty bin, so that the index stays finite
WEEKS = 4  # either side, whose same weekday a day is held against
WEEKDAYS_MIN = 3
EVENTS_MIN = 50  # a usual day with fewer says nothing
EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
CUSTOMERS_ALONE = 5  # of few customers one may well have a fifth


@dataclass(frozen=True, slots=True)
class Check:
    """One check: the figure, the limit, what it means when it fails, and the days of event time that fail it."""

    name: str
    value: float
    limit: str
    passed: bool
    reason: str = ""
    days: tuple[date, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says: passed, refused with reasons, or forced with one."""

    checks: tuple[Check, ...]
    forced: str | None = None

    @property
    def reasons(self) -> tuple[str, ...]:
        """Give the reasons of the checks that failed."""
        return tuple(check.reason for check in self.checks if not check.passed)

    @property
    def odd_days(self) -> tuple[date, ...]:
        """Give the days that failed a check."""
        return tuple(sorted({day for check in self.checks for day in check.days}))

    @property
    def passed(self) -> bool:
        """Tell whether the version may be published."""
        return not self.reasons or self.forced is not None

    def record(self) -> dict[str, object]:
        """Give it in JSON's types."""
        values = [c.value if math.isfinite(c.value) else None for c in self.checks]
        checks = [{"name": c.name, "value": v, "limit": c.limit, "passed": c.passed} for c, v in zip(self.checks, values, strict=True)]
        return {"passed": self.passed, "reasons": list(self.reasons), "forced": self.forced, "checks": checks}


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a fit that the gate judges; None where there is no version before to compare with."""

    wcss_ratio: float
    share: F64  # (k,)
    stability: float
    relabelled: float | None = None
    psi: Mapping[str, float] | None = None
    saturated: Mapping[str, float] | None = None  # shares beyond the clip, where the scale is that of the version before


def judge(
    figures: Figures,
    limits: GateLimits,
    computed: Computed | None = None,
    as_of: int = 0,
    forced: str | None = None,
    accepted: Collection[date] = (),
) -> Verdict:
    """Hold a fit, and the history that it is of, against the limits; days that are `accepted` are not looked at."""
    checks = [*_of_fit(figures, limits)]
    if computed is not None:
        known = {*limits.days_accepted, *accepted}
        checks += [*_of_days(computed.days, as_of, limits, known), *_of_customers(computed.facts, limits)]
    return Verdict(tuple(checks), forced)


def _of_fit(figures: Figures, limits: GateLimits) -> Iterator[Check]:
    least, most = float(figures.share.min()), float(figures.share.max())
    worse = f"it has {figures.wcss_ratio - 1:.1%} more within-cluster squares than a fit from nothing"
    yield _at_most("wcss_ratio", figures.wcss_ratio, limits.wcss_ratio_max, worse)
    yield _at_least("share_min", least, limits.share_min, f"the smallest segment has {least:.2%} of the customers")
    yield _at_most("share_max", most, limits.share_max, f"the largest segment has {most:.1%} of the customers")
    agreed = f"bootstrap samples agree with it by an adjusted Rand index of {figures.stability:.2f}"
    yield _at_least("stability", figures.stability, limits.stability_min, agreed)
    if figures.relabelled is not None:
        said = f"it moves {figures.relabelled:.1%} of the customers, whose behaviour is the same"
        yield _at_most("relabelled", figures.relabelled, limits.relabelled_max, said)
    if figures.psi:
        worst = max(figures.psi, key=lambda name: figures.psi[name] if figures.psi else 0.0)
        said = f"{worst} is spread otherwise than at the version before (population stability index {figures.psi[worst]:.2f})"
        said += "; if that is the shop of now, its scale is outgrown (`--new-scale`)" if figures.saturated is not None else ""
        yield _at_most("psi", figures.psi[worst], limits.psi_max, said)
    if figures.saturated:
        worst = max(figures.saturated, key=lambda name: figures.saturated[name] if figures.saturated else 0.0)
        share = figures.saturated[worst]
        said = f"{share:.1%} of the customers lie beyond where {worst} is clipped: its scale is outgrown, choose another (`--new-scale`)"
        yield _at_most("saturated", share, limits.saturated_max, said)


def _of_days(days: pd.DataFrame, as_of: int, limits: GateLimits, accepted: Collection[date]) -> Iterator[Check]:
    """Hold each of the last days, the day of the cut-off aside, against the same weekday of the weeks around it."""
    end = as_of // DAY_MS
    known = days[days.index < end]
    if not len(known):
        return
    first, last = int(known.index.min()), end - 1
    looked = [day for day in range(max(first, end - limits.days), end) if _date(day) not in accepted]
    events, repeated, purchased = (_daily(known[name].to_dict(), first, last) for name in ("events", "repeated", "purchased"))
    off = _against_weekday(events, EVENTS_MIN)
    usual = np.log(np.maximum(off[np.isfinite(off) & (off > 0)], 1e-9))
    spread = float(np.median(np.abs(usual - np.median(usual)))) * 1.4826 if len(usual) else 0.0  # as a deviation, if normal
    high = max(limits.day_high, float(np.exp(limits.day_spread * spread)))
    low = min(limits.day_low, float(np.exp(-limits.day_spread * spread)))
    money = _against_weekday(purchased, 1)
    again = repeated / np.maximum(events, 1)
    at = np.array([day - first for day in looked], np.int64)
    yield _worst_day(
        "day_low", off, at, first, low, "has {:.2f} of the events that its weekday usually has: is a part missing?", least=True
    )
    yield _worst_day("day_high", off, at, first, high, "has {:.2f} times the events that its weekday usually has: is it there twice?")
    yield _worst_day("repeated", again, at, first, limits.repeated_max, "has events that came before, {:.1%} of them: was it sent twice?")
    said = "has {:.1f} times the purchases in money that its weekday usually has: is an amount absurd, or in another unit?"
    yield _worst_day("amount_day_high", money, at, first, limits.amount_day_high, said)


def _daily(found: Mapping[object, int], first: int, last: int) -> I64:
    """Give a number for each day, 0 where there is none."""
    return np.array([found.get(day, 0) for day in range(first, last + 1)], np.int64)


def _against_weekday(daily: I64, least: int) -> F64:
    """Divide each day by the median of the same weekday in the weeks around it; NaN where that says nothing."""
    ratio = np.full(len(daily), np.nan)
    for day in range(len(daily)):
        around = [day + 7 * week for week in range(-WEEKS, WEEKS + 1) if week]
        others = daily[[other for other in around if 0 <= other < len(daily)]]
        if len(others) >= WEEKDAYS_MIN and np.median(others) >= least:
            ratio[day] = daily[day] / np.median(others)
    return ratio


def _worst_day(name: str, off: F64, at: I64, first: int, limit: float, said: str, *, least: bool = False) -> Check:
    known = at[np.isfinite(off[at])]
    if not len(known):
        return Check(name, float("nan"), "not enough days to say", passed=True)
    worst = int(known[np.argmin(off[known]) if least else np.argmax(off[known])])
    value = float(off[worst])
    words = f"{_date(first + worst)} {said.format(value)} (name it in offline.gate.days_accepted if it is right)"
    failing = known[(off[known] < limit) if least else (off[known] > limit)]
    check = (_at_least if least else _at_most)(name, value, limit, words)
    return replace(check, days=tuple(_date(first + day) for day in failing.tolist()))


def _date(day: int) -> date:
    return date.fromordinal(EPOCH_ORDINAL + day)


def _of_customers(facts: pd.DataFrame, limits: GateLimits) -> Iterator[Check]:
    alone = max(limits.customer_share_max, CUSTOMERS_ALONE / max(len(facts), 1))
    for name, what in (("events", "events"), ("purchased", "purchases in money")):
        total = int(facts[name].clip(lower=0).sum())
        if total <= 0:
            continue
        share, customer = float(facts[name].max()) / total, facts[name].idxmax()
        yield _at_most(f"customer_share_{name}", share, alone, f"customer {customer} has {share:.1%} of all {what}")


def _at_most(name: str, value: float, limit: float, reason: str) -> Check:
    return Check(name, value, f"at most {limit:.4g}", value <= limit, f"{reason}: at most {limit:.4g}")


def _at_least(name: str, value: float, limit: float, reason: str) -> Check:
    return Check(name, value, f"at least {limit:.4g}", value >= limit, f"{reason}: at least {limit:.4g}")


def relabelled(old_place: Sequence[int | None], old_labels: I32, new_labels: I32, squared: F64, margin: float) -> float:
    """Tell the share of customers whom a version moves out of their segment, features and instant being equal, by the stream's margin.

    `squared` (n, k) are squared distances to the new centroids, `old_place[a]` is where old segment `a` is among the new ones or None where
    it is retired, `old_labels` (n,) the old segments and `new_labels` (n,) the nearest new ones.
    """
    place = np.array([-1 if p is None else p for p in old_place], np.int64)[old_labels]
    rows = np.arange(len(old_labels))
    stayed = place == new_labels
    there = np.where(place >= 0, squared[rows, np.maximum(place, 0)], np.inf)
    here = squared[rows, new_labels]
    leaves = ~stayed & ((place < 0) | (here <= there * (1.0 - margin) ** 2))
    return float(leaves.mean()) if len(leaves) else 0.0


@dataclass(frozen=True, slots=True)
class Spread:
    """How a feature was spread over the customers of a fit: edges of bins, and the share in each, the outer ones open."""

    edges: tuple[float, ...]
    shares: tuple[float, ...]
    customers: int


def spread(values: F64) -> Spread:
    """Cut one feature (n,) at its deciles, each edge once."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1], method="inverted_cdf"))
    return Spread(tuple(edges.tolist()), tuple(_binned(values, edges).tolist()), len(values))


def psi(before: Spread, values: F64) -> float:
    """Give the population stability index of a feature (n,) against how it was spread before: the sum of (a - e) ln(a / e) over bins.

    What chance alone gives two samples of such sizes, by the chi-squared distribution that the index then has, is taken off.
    """
    expected = np.maximum(np.array(before.shares), SHARE_FLOOR)
    actual = np.maximum(_binned(values, np.array(before.edges)), SHARE_FLOOR)
    chance = len(before.edges) * (1 / max(before.customers, 1) + 1 / max(len(values), 1))
    return max(float(((actual - expected) * np.log(actual / expected)).sum()) - chance, 0.0)


def _binned(values: F64, edges: F64) -> F64:
    return np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1) / max(len(values), 1)
