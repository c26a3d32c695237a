"""scikit-learn's k-means, for fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from streamer.core.columns import F64, I64

STARTS_MIN, STARTS_MAX = 10, 100
POINTS_STARTED = 1_000_000  # points times starts, a second or two of work


class KMeansFitter:
    """Best of ten starts, and of up to a hundred where there are few points: the best of ten is now and then far from the best there is."""

    def __init__(self, seed: int = 0, starts_max: int = STARTS_MAX) -> None:
        """Fit from a seed, so that equal points give an equal model."""
        self._seed, self._starts_max = seed, starts_max

    def fit(self, points: F64, k: int) -> tuple[F64, I64]:
        """Cluster points (n, f) into at most k: centroids (k, f) and how many points each has (k,)."""
        from sklearn.cluster import KMeans  # noqa: PLC0415  # slow to import, and needed once in a worker's life

        k = min(k, len(np.unique(points, axis=0)))
        starts = min(max(POINTS_STARTED // len(points), STARTS_MIN), self._starts_max)
        fitted = KMeans(n_clusters=k, n_init=starts, random_state=self._seed).fit(points)
        return np.asarray(fitted.cluster_centers_, np.float64), np.bincount(fitted.labels_, minlength=k).astype(np.int64)
