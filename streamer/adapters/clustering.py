"""scikit-learn's k-means, for fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from streamer.core.columns import F64, I64

STARTS = 10


class KMeansFitter:
    """Best of ten starts."""

    def __init__(self, seed: int = 0) -> None:
        """Fit from a seed, so that equal points give an equal model."""
        self._seed = seed

    def fit(self, points: F64, k: int) -> tuple[F64, I64]:
        """Cluster points (n, f) into at most k: centroids (k, f) and how many points each has (k,)."""
        from sklearn.cluster import KMeans  # noqa: PLC0415  # slow to import, and needed once in a worker's life

        k = min(k, len(np.unique(points, axis=0)))
        fitted = KMeans(n_clusters=k, n_init=STARTS, random_state=self._seed).fit(points)
        return np.asarray(fitted.cluster_centers_, np.float64), np.bincount(fitted.labels_, minlength=k).astype(np.int64)
