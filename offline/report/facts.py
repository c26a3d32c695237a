"""What a report tells, counted: plain numbers in arrays, before any word or picture.

Laws: a customer counts in one segment at a time; places are those of the version's active segments, NEW is too little behind them, ABSENT
not there. What is drawn by lot comes from a seed, and says of how many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from offline.fit import SEED, sampled
from streamer.core.declaration import DAY_MS
from streamer.core.fold import VOTE_ONE
from streamer.core.lloyd import assign

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offline.replaying import Spending
    from streamer.core.columns import F64, I16, I64, Bool
    from streamer.core.model import ModelVersion

NEW, ABSENT = -1, -2
PICTURE_SAMPLE = 1_200  # points of the picture in two dimensions
SILHOUETTE_SAMPLE = 2_000
PROFILE_POINTS = 60  # of a segment's silhouette
GRID = 5  # classes of recency and of frequency
REVENUE_DAYS = 90
PERIODS = (30, 7, 1)  # days of a period of retention, the first that history has room for
PERIODS_MIN, PERIODS_MAX = 2, 6


@dataclass(frozen=True, slots=True)
class Profile:
    """Segments (k,) by their members' features (f,): `z` is how far the mean is from the average customer, in standard deviations."""

    customers: I64  # (k,)
    new: int
    z: F64  # (k, f)
    mean: F64  # (k, f), in the features' own units
    median: F64  # (k, f)
    mean_all: F64  # (f,)
    median_all: F64


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many were in each segment as of some instants; the last column is NEW."""

    instants: tuple[int, ...]
    customers: I64  # (t, k + 1)


@dataclass(frozen=True, slots=True)
class Revenue:
    """What each segment bought in the days before the report, in minor units; `order_value` are quartiles, NaN without an order."""

    days: int
    customers: I64  # (k,)
    buyers: I64
    orders: I64
    revenue: I64
    order_value: F64  # (k, 3)


@dataclass(frozen=True, slots=True)
class Grid:
    """Buyers by recency (rows, the latest first) and number of orders (columns, the most last)."""

    recency_days: tuple[tuple[int, int], ...]  # bounds of each row, both included
    orders: tuple[tuple[int, int], ...]  # of each column
    customers: I64  # (r, c)
    spent: F64  # (r, c) median in minor units, NaN where nobody is
    place: I64  # (r, c) the segment that most of them are in


@dataclass(frozen=True, slots=True)
class Retention:
    """Of those who were in a segment at an instant, the share who were active in each period after it."""

    since: int
    days: int  # of a period
    what: str  # bought, or did anything
    customers: I64  # (k,)
    active: F64  # (k, p)


@dataclass(frozen=True, slots=True)
class Migration:
    """Customers by where they were and where they are; rows and columns are `before` and `after` labels."""

    before_ms: int
    after_ms: int
    before: tuple[str, ...]
    after: tuple[str, ...]
    customers: I64  # (b, a)


@dataclass(frozen=True, slots=True)
class Picture:
    """Customers in two dimensions: principal components of the standardised features."""

    points: F64  # (s, 2)
    place: I64  # (s,)
    centres: F64  # (k, 2)
    explained: tuple[float, float]
    loadings: F64  # (2, f)
    customers: int  # of whom the points were drawn


@dataclass(frozen=True, slots=True)
class Silhouette:
    """How much nearer customers are to their own segment than to the next, from -1 to 1: each segment's profile, the greatest first."""

    profiles: tuple[F64, ...]  # (k,) of up to PROFILE_POINTS
    mean: F64  # (k,), NaN where none of the sample is
    negative: F64  # (k,) the share below 0
    overall: float
    customers: int  # of the sample


def places(version: ModelVersion, values: F64, eligible: Bool) -> I64:
    """Find the nearest active segment of customers with features (n, f): its place, or NEW."""
    from streamer.core.model import votes  # noqa: PLC0415  # beside what is made of it

    found = np.full(len(values), NEW, np.int64)
    if eligible.any():
        vectors = votes(version.transforms, version.scaling, np.ascontiguousarray(values[eligible]))
        found[eligible] = assign(vectors, version.fixed_centroids())[0]
    return found


def profile(values: F64, vectors: I16, place: I64, k: int) -> Profile:
    """Profile `k` segments by the features (n, f) and votes (n, f) of customers at places (n,)."""
    inside = place >= 0
    f = values.shape[1]
    z, mean, median = np.zeros((k, f)), np.full((k, f), np.nan), np.full((k, f), np.nan)
    everybody = vectors[inside].mean(axis=0) / VOTE_ONE if inside.any() else np.zeros(f)
    for one in range(k):
        members = place == one
        if members.any():
            z[one] = vectors[members].mean(axis=0) / VOTE_ONE - everybody
            mean[one], median[one] = values[members].mean(axis=0), np.median(values[members], axis=0)
    known = values[inside]
    mean_all, median_all = (known.mean(axis=0), np.median(known, axis=0)) if len(known) else (np.full(f, np.nan),) * 2
    customers = np.bincount(place[inside], minlength=k).astype(np.int64)
    return Profile(customers, int((place == NEW).sum()), z, mean, median, mean_all, median_all)


def counted(place: I64, k: int) -> I64:
    """Count customers at places (n,): (k + 1,), NEW last."""
    return np.append(np.bincount(place[place >= 0], minlength=k), (place == NEW).sum()).astype(np.int64)


def revenue(orders: Spending, place: I64, k: int, begin: int, end: int) -> Revenue:
    """Add up the orders from `begin` to before `end`, by the segments that customers (by slot) are in."""
    within = (orders.time >= begin) & (orders.time < end)
    slot, amount = orders.slot[within].astype(np.int64), orders.amount[within]
    whose = place[slot]
    inside = whose >= 0
    slot, amount, whose = slot[inside], amount[inside], whose[inside]
    total = np.zeros(k, np.int64)
    np.add.at(total, whose, amount)
    buyers = np.bincount(place[np.unique(slot)], minlength=k).astype(np.int64)
    quartiles = np.full((k, 3), np.nan)
    for one in range(k):
        of_one = amount[whose == one]
        if len(of_one):
            quartiles[one] = np.quantile(of_one, (0.25, 0.5, 0.75))
    members = np.bincount(place[place >= 0], minlength=k).astype(np.int64)
    days = round((end - begin) / DAY_MS)
    return Revenue(days, members, buyers, np.bincount(whose, minlength=k).astype(np.int64), total, quartiles)


def grid(orders: Spending, place: I64, as_of: int) -> Grid | None:
    """Lay buyers out by recency and number of orders, in up to five classes each of about equal size; None where nobody bought."""
    before = orders.time < as_of
    slot, time, amount = orders.slot[before].astype(np.int64), orders.time[before], orders.amount[before]
    slot, time, amount = (column[place[slot] != ABSENT] for column in (slot, time, amount))
    if not len(slot):
        return None
    who, whose = np.unique(slot, return_inverse=True)
    last = np.zeros(len(who), np.int64)
    np.maximum.at(last, whose, time)
    recency, often = (as_of - last) // DAY_MS, np.bincount(whose)
    spent = np.zeros(len(who), np.int64)
    np.add.at(spent, whose, amount)
    rows, columns = _classes(recency), _classes(often)
    row, column = _class_of(recency, rows), _class_of(often, columns)
    customers = np.zeros((len(rows), len(columns)), np.int64)
    np.add.at(customers, (row, column), 1)
    median, most = np.full(customers.shape, np.nan), np.full(customers.shape, ABSENT)
    for r, c in np.argwhere(customers).tolist():
        inside = (row == r) & (column == c)
        median[r, c] = np.median(spent[inside])
        there = place[who[inside]]
        found, times = np.unique(there, return_counts=True)
        most[r, c] = found[times.argmax()]
    return Grid(rows, columns, customers, median, most)


def _classes(values: I64) -> tuple[tuple[int, int], ...]:
    """Cut whole numbers (n,) into classes of about equal size: bounds, both included; equal numbers are never parted."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, GRID + 1)[1:], method="inverted_cdf")).astype(np.int64).tolist()
    begins = [int(values.min()), *(edge + 1 for edge in edges[:-1])]
    return tuple(zip(begins, edges, strict=True))


def _class_of(values: I64, classes: Sequence[tuple[int, int]]) -> I64:
    return np.searchsorted(np.array([end for _, end in classes]), values, side="left").astype(np.int64)


def period_of(first: int, as_of: int) -> tuple[int, int] | None:
    """Choose how many days a period of retention has, and how many periods; half of the history at least lies before them."""
    span = (as_of - first) // DAY_MS
    for days in PERIODS:
        periods = min(int(span // (2 * days)), PERIODS_MAX)
        if periods >= PERIODS_MIN:
            return days, periods
    return None


def retention(times: I64, slots: I64, since: int, days: int, periods: int, place: I64, k: int, what: str) -> Retention:
    """Follow those who were at places (by slot) at an instant: who has an event (of `times`, `slots`) in each period after it."""
    active = np.full((k, periods), np.nan)
    members = np.bincount(place[place >= 0], minlength=k).astype(np.int64)
    for p in range(periods):
        begin = since + p * days * DAY_MS
        within = (times >= begin) & (times < begin + days * DAY_MS)
        there = place[np.unique(slots[within])]
        seen = np.bincount(there[there >= 0], minlength=k)
        active[members > 0, p] = seen[members > 0] / members[members > 0]
    return Retention(since, days, what, members, active)


def picture(vectors: I16, place: I64, k: int, seed: int = SEED) -> Picture | None:
    """Project votes (n, f) onto their two principal components; None where there is no plane."""
    points = vectors / VOTE_ONE
    if len(points) < 3 or points.shape[1] < 2:  # noqa: PLR2004  # a plane
        return None
    middle = points.mean(axis=0)
    spread, axes = np.linalg.eigh(np.cov(points - middle, rowvar=False))
    total = float(spread.sum())
    if total <= 0:
        return None
    loadings = axes[:, [-1, -2]].T
    loadings *= np.sign(loadings[np.arange(2), np.abs(loadings).argmax(axis=1)])[:, None]  # else the sign is chance
    chosen = sampled(len(points), PICTURE_SAMPLE, seed)
    centres = np.array(
        [points[place == one].mean(axis=0) if (place == one).any() else np.full(points.shape[1], np.nan) for one in range(k)]
    )
    explained = (float(spread[-1]) / total, max(float(spread[-2]), 0.0) / total)
    return Picture((points[chosen] - middle) @ loadings.T, place[chosen], (centres - middle) @ loadings.T, explained, loadings, len(points))


def silhouette(vectors: I16, place: I64, k: int, seed: int = SEED) -> Silhouette | None:
    """Measure silhouettes on a sample of votes (n, f) at places (n,); None where fewer than two segments are in it."""
    from sklearn.metrics import silhouette_samples  # noqa: PLC0415  # slow to import

    chosen = sampled(len(vectors), SILHOUETTE_SAMPLE, seed)
    labels = place[chosen]
    if not 1 < len(np.unique(labels)) < len(labels):
        return None
    found = silhouette_samples(vectors[chosen] / VOTE_ONE, labels)
    profiles, mean, negative = [], np.full(k, np.nan), np.full(k, np.nan)
    for one in range(k):
        of_one = np.sort(found[labels == one])[::-1]
        if len(of_one):
            mean[one], negative[one] = of_one.mean(), (of_one < 0).mean()
            of_one = of_one[np.linspace(0, len(of_one) - 1, min(len(of_one), PROFILE_POINTS)).round().astype(np.int64)]
        profiles.append(of_one)
    return Silhouette(tuple(profiles), mean, negative, float(found.mean()), len(chosen))
