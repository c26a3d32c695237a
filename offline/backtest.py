"""`offline backtest`, decided: a period of history replayed under several policies, each measured every day.

Law: a policy's figures are a function of the log, the first version, the period and the policy; how many processes there are can't show.

A day, in order: 1. its events are folded; 2. the midnight after it is let come, and everybody is judged as of it; 3. the next epoch
begins; 4. where the policy has nights, a new version is fitted and adopted; 5. the day is measured as of that midnight.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from offline.fit import SEED, cold, different, in_deviations, points_of, warm
from offline.identity import Matching, fixed_old, match, numbers_of, old_votes
from offline.replaying import Moves, Replay, joined
from offline.versions import Making, version_of
from streamer.core.errors import BadInput
from streamer.core.estimator import SegmentModel
from streamer.core.fold import CAUSES, MODEL_RESEED, VOTE_ONE
from streamer.core.lloyd import Clusters, assign, fixed, squared_distances
from streamer.core.model import segment_id_of
from streamer.core.profile import DAY_MS, FIRST_CODE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from multiprocessing.queues import SimpleQueue
    from typing import Any

    from offline.policies import Policy
    from offline.replaying import Log, Seen
    from streamer.core.columns import F64, I16, I64
    from streamer.core.model import ModelVersion

STARTS = 10
RETURN_MS = 7 * DAY_MS
AHEAD_MS = 30 * DAY_MS
WAIT_S = 0.2
NAME = "backtest"


@dataclass(frozen=True, slots=True)
class Period:
    """What is replayed: from the midnight of the first model to the last midnight, refits every so many days."""

    begin: int
    end: int
    refit_days: int = 14

    @property
    def days(self) -> int:
        """Count the days."""
        return (self.end - self.begin) // DAY_MS


@dataclass(frozen=True, slots=True)
class Day:
    """A day's figures, as of the midnight at its end; None where one was not, or could not be, computed."""

    at: int
    customers: int  # in a segment
    changes: int  # from one segment to another
    returned: int  # of these, back to the segment that the customer had left within seven days, with no other between
    causes: Mapping[str, int]
    share: Mapping[str, float]  # by segment id
    relabelled: float | None  # share of the customers whom the night's new version alone moves, features being equal
    wcss_ratio: float | None  # squares to the nearest centroid, over those of the best refit
    wcss_ratio_told: float | None  # squares to the centroid of the segment told
    separation: float | None  # share of the variance of log1p(spend of the next 30 days) that is between segments


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a policy came to."""

    policy: Policy
    days: tuple[Day, ...]

    @property
    def customer_days(self) -> int:
        """Count customers in a segment over all days."""
        return sum(day.customers for day in self.days)

    @property
    def changes(self) -> int:
        """Count changes from one segment to another."""
        return sum(day.changes for day in self.days)

    @property
    def churn(self) -> float:
        """Give changes per customer-day."""
        return self.changes / max(self.customer_days, 1)

    @property
    def flapping(self) -> float:
        """Give the share of the changes that go back to where the customer was within seven days."""
        return sum(day.returned for day in self.days) / max(self.changes, 1)

    @property
    def causes(self) -> dict[str, int]:
        """Count changes by cause."""
        total: Counter[str] = Counter()
        for day in self.days:
            total.update(day.causes)
        return dict(total)

    def mean(self, figure: str) -> float | None:
        """Give the mean of a figure over the days that have it."""
        found = self._values(figure)
        return float(np.mean(found)) if found else None

    def most(self, figure: str) -> float | None:
        """Give the greatest value of a figure."""
        return max(self._values(figure), default=None)

    def _values(self, figure: str) -> list[float]:
        return [value for day in self.days if (value := getattr(day, figure)) is not None]


@dataclass(frozen=True, slots=True)
class Case:
    """What all policies of a backtest share. It travels to other processes as it is."""

    log: Log
    version: ModelVersion  # the first
    period: Period
    seed: int = SEED


def first_version(log: Log, at: int, k: int, seed: int = SEED) -> ModelVersion:
    """Fit the first version to everybody who is eligible at a midnight, from nothing.

    Raises:
        BadInput: there are too few customers, or too few that differ.

    """
    declaration = log.reading.declaration
    replay = Replay(log)
    replay.play(at)
    seen = replay.look(at)
    enough = int(seen.eligible.sum())
    points = points_of(_frame(log, seen), seen.eligible, [f.transform for f in declaration.features]) if enough else None
    apart = different(points.vectors, k) if points is not None else 0
    if points is None or apart < k:
        message = f"{enough:,} customers have enough behind them at the first model, of whom {apart:,} differ: too few for {k} segments"
        raise BadInput(message)
    making = Making(NAME, declaration, at, None, 1, {}, {}, {"fit": "cold"})
    return version_of(making, points, cold(points.vectors, k, seed), None)


def _frame(log: Log, seen: Seen) -> pd.DataFrame:
    return pd.DataFrame(seen.values, seen.customer, [feature.name for feature in log.reading.declaration.features])


def run(case: Case, policy: Policy, progress: Callable[[], None] = lambda: None) -> Outcome:
    """Replay the period under one policy; `progress` is told of each day."""
    replay, period = Replay(case.log), case.period
    replay.play(period.begin)
    replay.adopt(replace(case.version, decision=policy.decision), period.begin)
    river = _river(replay, policy)
    returns = _Returns(case.log.customers)
    days = []
    for at in range(period.begin + DAY_MS, period.end + 1, DAY_MS):
        moves = []
        if river is not None:
            moved, votes = replay.play_one_by_one(at)
            moves.append(moved)
            _learn_river(river, votes)
        else:
            moves.append(replay.play(at, still=not policy.sweeps))
        if policy.sweeps:
            moves.append(replay.midnight(at))
        if river is not None:
            replay.learn(_centres(river))
        elif policy.learning == "one vote":
            replay.learn()
        if policy.night is not None:
            moves.append(replay.adopt(_night(case, replay, policy, at), at))
        days.append(_measured(case, replay, at, joined(moves), returns, relabelling=policy.night is not None))
        progress()
    return Outcome(policy, tuple(days))


def _river(replay: Replay, policy: Policy) -> SegmentModel | None:
    """Make river's own model of the first version's centroids, where the policy learns by its rule."""
    if policy.learning != "river":
        return None
    names = replay.version.features
    return SegmentModel.from_centroids(names, in_deviations(replay.centroids), rule="river", halflife=policy.halflife)


def _learn_river(river: SegmentModel, votes: I16) -> None:
    for row in (votes / VOTE_ONE).tolist():
        river.learn_one(dict(zip(river.names, row, strict=True)))


def _centres(river: SegmentModel) -> I64:
    return fixed(np.array([[river.centers[k][name] for name in river.names] for k in range(river.n_clusters)]))


def _night(case: Case, replay: Replay, policy: Policy, at: int) -> ModelVersion:
    """Fit the next version to everybody as of a midnight, segments matched to those before."""
    declaration = case.log.reading.declaration
    learned = replace(replay.version, centroids=_with(replay.version, in_deviations(replay.centroids)))
    seen = replay.look(at)
    points = points_of(_frame(case.log, seen), seen.eligible, [f.transform for f in declaration.features])
    if policy.night == "warm":
        points = replace(points, scaling=learned.scaling, vectors=old_votes(learned, points.values))
    numbers, following = numbers_of(learned)
    old = fixed_old(learned, points.scaling)
    if policy.night != "cold":
        clusters, matching = warm(points.vectors, old), Matching(numbers, (), (), {}, {})
    else:
        clusters = best(points.vectors, len(numbers), case.seed)
        before = assign(old_votes(learned, points.values), replay.centroids)[0]
        after = assign(points.vectors, clusters.centroids)[0]
        matching = match(in_deviations(old), in_deviations(clusters.centroids), before, after, numbers, following)
    making = Making(NAME, declaration, at, learned, learned.version + 1, {}, {}, {"fit": policy.night or ""})
    return version_of(making, points, clusters, matching)


def _with(version: ModelVersion, active: F64) -> F64:
    """Give a version's centroids with other ones for the segments in use."""
    found = version.centroids.copy()
    found[[not segment.retired for segment in version.segments]] = active
    return found


def best(vectors: I16, k: int, seed: int = SEED) -> Clusters:
    """Fit from nothing as a plain batch job would: scikit-learn's KMeans, best of ten starts."""
    from sklearn.cluster import KMeans  # noqa: PLC0415  # slow to import

    with threadpool_limits(limits=1):
        fitted = KMeans(min(k, different(vectors, k)), n_init=STARTS, random_state=seed).fit(vectors / VOTE_ONE)
    members = np.bincount(fitted.labels_, minlength=fitted.n_clusters).astype(np.int64)
    return Clusters(fixed(fitted.cluster_centers_), members, float(fitted.inertia_), int(fitted.n_iter_))


class _Returns:
    """Counts changes back to a segment that was left a short while ago; each customer's latest change is remembered."""

    def __init__(self, customers: int) -> None:
        self._left = np.zeros(customers, np.int64)  # segment code
        self._when = np.zeros(customers, np.int64)

    def add(self, customer: int, before: int, after: int, occurred: int) -> bool:
        back = self._left[customer] == after and occurred - self._when[customer] <= RETURN_MS
        self._left[customer], self._when[customer] = before, occurred
        return bool(back)


def _measured(case: Case, replay: Replay, at: int, moves: Moves, returns: _Returns, *, relabelling: bool) -> Day:
    seen = replay.look(at)
    told = seen.code >= FIRST_CODE
    codes, customers = seen.code[told], seen.customer[told]
    between = (moves.before >= FIRST_CODE) & (moves.after >= FIRST_CODE)
    returned = sum(returns.add(*row) for row in zip(*(c[between].tolist() for c in moves if c is not moves.cause), strict=True))
    causes = np.bincount(moves.cause[between], minlength=len(CAUSES)).tolist()
    n = max(len(codes), 1)
    share = {segment_id_of(s.number): float((codes == FIRST_CODE + s.number).sum()) / n for s in replay.version.active}
    due = (at - case.period.begin) // DAY_MS % case.period.refit_days == 0 and len(codes) > 0
    ratio, ratio_told = _against_refit(replay, seen.values[told], codes, case.seed) if due else (None, None)
    return Day(
        at,
        len(codes),
        int(between.sum()),
        returned,
        {cause: count for cause, count in zip(CAUSES, causes, strict=True) if count},
        share,
        causes[MODEL_RESEED] / n if relabelling else None,
        ratio,
        ratio_told,
        _separation(case, at, customers, codes),
    )


def _against_refit(replay: Replay, values: F64, codes: I64, seed: int) -> tuple[float | None, float | None]:
    """Compare squares within clusters, by the nearest centroid and by the segment told, with the best refit's on the same vectors."""
    vectors = old_votes(replay.version, values)
    squares = squared_distances(vectors, replay.centroids)
    refit = best(vectors, len(replay.centroids), seed).inertia
    if refit <= 0.0:
        return None, None
    place = {FIRST_CODE + segment.number: k for k, segment in enumerate(replay.version.active)}
    own = np.array([place[code] for code in codes.tolist()], np.int64)
    return float(squares.min(axis=1).sum()) / refit, float(squares[np.arange(len(own)), own].sum()) / refit


def _separation(case: Case, at: int, customers: I64, codes: I64) -> float | None:
    """Give eta squared of log1p(spend of the next 30 days) by segment; None where the log ends before that."""
    spending, until = case.log.spending, at + AHEAD_MS
    if until > int(case.log.rows.time[-1]) or len(customers) < 2:  # noqa: PLR2004  # a variance needs two
        return None
    begin, end = np.searchsorted(spending.time, [at, until])
    spent = np.bincount(spending.slot[begin:end], spending.amount[begin:end], minlength=case.log.customers)
    value = pd.Series(np.log1p(np.maximum(spent[customers], 0.0)))
    groups = value.groupby(codes)
    whole = float(((value - value.mean()) ** 2).sum())
    between = float((groups.size() * (groups.mean() - value.mean()) ** 2).sum())
    return between / whole if whole > 0.0 else None


_shared: dict[str, Any] = {}  # of a process of the pool, set by `_begin`


def _begin(case: Case, told: SimpleQueue[int]) -> None:
    _shared.update(case=case, told=told)


def _one(n: int, policy: Policy) -> Outcome:
    return run(_shared["case"], policy, lambda: _shared["told"].put(n))


def backtest(case: Case, policies: Sequence[Policy], jobs: int = 1, progress: Callable[[int], None] = lambda _: None) -> list[Outcome]:
    """Run policies, `jobs` at a time, each in a process of its own; `progress` is told the policy's place for each day that is done.

    Raises:
        BadInput: the period has no day, or a policy failed on the data.

    """
    if case.period.days < 1:
        message = "there is no day after the first model: choose an earlier first model or a later end"
        raise BadInput(message)
    if jobs == 1 or len(policies) == 1:
        return [run(case, policy, lambda n=n: progress(n)) for n, policy in enumerate(policies)]  # type: ignore[misc]  # a loop's variable
    context = multiprocessing.get_context("spawn")
    told = context.SimpleQueue()
    with ProcessPoolExecutor(min(jobs, len(policies)), context, _begin, (case, told)) as pool:
        results = [pool.submit(_one, n, policy) for n, policy in enumerate(policies)]
        left = set(results)
        while left:
            _, left = wait(left, WAIT_S, FIRST_COMPLETED)
            while not told.empty():
                progress(told.get())
        return [result.result() for result in results]
