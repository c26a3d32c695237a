"""Fits of segments to customers: warm from given centroids, cold from nothing, and how stable a clustering is.

Law: equal votes in equal order give an equal fit, whatever the number of processors. Random starts come from a seed, run on one thread, and
end in whole-number arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from streamer.adapters.clustering import STARTS_MAX, KMeansFitter
from streamer.core.fold import CENTROID_ONE, VOTE_ONE
from streamer.core.lloyd import Clusters, assign, fixed, refine
from streamer.core.model import Scaling, scale, votes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from streamer.core.columns import F64, I16, I64, Bool
    from streamer.core.declaration import Transform

SEED = 0
FIT_SAMPLE = 100_000  # customers that the starts of a cold fit see; it is finished on all
STABILITY_SAMPLE = 10_000
BOOTSTRAPS = 10
BOOTSTRAP_STARTS = 3


@dataclass(frozen=True, slots=True)
class Points:
    """What segments are fitted to: the votes of `n` eligible customers, and how they came of their features."""

    customers: pd.Index
    values: F64  # (n, f) as computed
    scaling: Scaling
    vectors: I16  # (n, f)
    names: tuple[str, ...]
    transforms: tuple[Transform, ...]

    @property
    def flat(self) -> tuple[str, ...]:
        """Name the features without variance, which have no weight."""
        return tuple(name for name, weight in zip(self.names, self.scaling.weight.tolist(), strict=True) if weight == 0.0)

    def clipped(self) -> dict[str, int]:
        """Count, for each feature, the customers beyond the quantiles that it is clipped at; those with none are left out."""
        beyond = ((self.values < self.scaling.low) | (self.values > self.scaling.high)).sum(axis=0).tolist()
        return {name: count for name, count in zip(self.names, beyond, strict=True) if count}

    def saturated(self) -> dict[str, float]:
        """Give, for each feature that has a weight, the share of the customers beyond the quantiles that it is clipped at."""
        beyond = ((self.values < self.scaling.low) | (self.values > self.scaling.high)).mean(axis=0).tolist()
        return {name: share for name, share in zip(self.names, beyond, strict=True) if name not in self.flat}

    def clipped_rows(self) -> int:
        """Count the customers of whom any feature is clipped."""
        return int(((self.values < self.scaling.low) | (self.values > self.scaling.high)).any(axis=1).sum())


def points_of(features: pd.DataFrame, eligible: Bool, transforms: Sequence[Transform], scaling: Scaling | None = None) -> Points:
    """Take the eligible customers, and choose clip, mean and scale from their features unless a `scaling` is given.

    Features are clipped at the quantiles of `streamer.core.model`; one without variance gets weight 0.
    """
    values = np.empty((int(eligible.sum()), features.shape[1]), np.float64)
    for f in range(features.shape[1]):  # column by column, as there may be millions of customers
        values[:, f] = features.iloc[:, f].to_numpy(np.float64)[eligible]
    scaling = scaling or scale(tuple(transforms), values)
    names = tuple(str(name) for name in features.columns)
    return Points(features.index[eligible], values, scaling, votes(tuple(transforms), scaling, values), names, tuple(transforms))


def cold(vectors: I16, k: int, seed: int = SEED, starts_max: int = STARTS_MAX) -> Clusters:
    """Fit from nothing: scikit-learn's k-means, best of ten starts or more, on a sample, then on all; the largest cluster first."""
    sample = sampled(len(vectors), FIT_SAMPLE, seed)
    with threadpool_limits(limits=1):  # threads add up in the order in which they end
        centroids, _ = KMeansFitter(seed, starts_max).fit(vectors[sample] / VOTE_ONE, k)
    return by_size(refine(vectors, fixed(centroids)))


def warm(vectors: I16, centroids: I64) -> Clusters:
    """Fit from given centroids (k, f) in fixed point; cluster i remains cluster i."""
    return refine(vectors, centroids)


def by_size(found: Clusters) -> Clusters:
    """Order clusters by size, the largest first; among equals by their centroids."""
    order = sorted(range(len(found.members)), key=lambda k: (-int(found.members[k]), found.centroids[k].tolist()))
    return found._replace(centroids=found.centroids[order], members=found.members[order])


def sampled(n: int, most: int, seed: int) -> I64:
    """Choose up to `most` of `n` rows, in order."""
    if n <= most:
        return np.arange(n, dtype=np.int64)
    return np.sort(np.random.default_rng(seed).choice(n, most, replace=False)).astype(np.int64)


def different(vectors: I16, enough: int) -> int:
    """Count the votes that differ; where there are `enough` of them, perhaps not all."""
    rows = 10 * enough
    while rows < len(vectors):
        found = len(np.unique(vectors[:rows], axis=0))
        if found >= enough:
            return found
        rows *= 10
    return len(np.unique(vectors, axis=0))


def stability(vectors: I16, centroids: I64, *, seed: int = SEED, bootstraps: int = BOOTSTRAPS) -> float:
    """Tell how much a clustering depends on who happens to be there: the mean adjusted Rand index to fits of bootstrap samples.

    1 is the same clusters every time, 0 what chance gives. A sample of the customers is drawn with replacement and clustered from nothing;
    all of the sample are then assigned both ways.
    """
    from sklearn.cluster import KMeans  # noqa: PLC0415  # slow to import
    from sklearn.metrics import adjusted_rand_score  # noqa: PLC0415

    chosen = np.ascontiguousarray(vectors[sampled(len(vectors), STABILITY_SAMPLE, seed)])
    labels = assign(chosen, centroids)[0]
    k = len(np.unique(labels))
    scores = []
    rng = np.random.default_rng(seed)
    with threadpool_limits(limits=1):
        for trial in range(bootstraps):
            drawn = chosen[rng.integers(0, len(chosen), len(chosen))]
            different = min(k, len(np.unique(drawn, axis=0)))
            fitted = KMeans(different, n_init=BOOTSTRAP_STARTS, random_state=seed + trial).fit(drawn / VOTE_ONE)
            scores.append(adjusted_rand_score(labels, assign(chosen, fixed(fitted.cluster_centers_))[0]))
    return float(np.mean(scores))


def shares(members: I64) -> F64:
    """Give each segment's share of the customers."""
    return members / max(int(members.sum()), 1)


def in_deviations(centroids: I64) -> F64:
    """Turn fixed-point centroids into standardised space."""
    return centroids / CENTROID_ONE
