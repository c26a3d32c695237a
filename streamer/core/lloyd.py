"""Lloyd's k-means over votes, in whole numbers.

Laws: the result is a function of the set of votes and of the centroids it begins at, on any machine and in any order of the votes. A
cluster that loses all its votes keeps its centroid, as in the stream; none is ever moved to where another cluster's customers are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from streamer.core.compiled import compiled
from streamer.core.fold import CENTROID_ONE, FINER, VOTE_MAX, nearest, squared_distance

if TYPE_CHECKING:
    from streamer.core.columns import F64, I16, I32, I64

ROUNDS_MAX = 300


class Clusters(NamedTuple):
    """What a fit came to, `k` clusters."""

    centroids: I64  # (k, f) in units of 1 / CENTROID_ONE
    members: I64  # (k,)
    inertia: float  # in squared standard deviations
    rounds: int


@compiled
def assign(vectors: I16, centroids: I64) -> tuple[I32, F64]:
    """Give the nearest centroid of each vote (n,), the first of equals, and its squared distance (n,) in standardised space."""
    n = len(vectors)
    labels = np.empty(n, np.int32)
    distances = np.empty(n, np.float64)
    unit = float(CENTROID_ONE) * float(CENTROID_ONE)
    for i in range(n):
        k = nearest(vectors[i], centroids, len(centroids))
        labels[i] = k
        distances[i] = float(squared_distance(vectors[i], centroids[k])) / unit
    return labels, distances


@compiled
def squared_distances(vectors: I16, centroids: I64) -> F64:
    """Give the squared distance of each vote to each centroid, (n, k), in standardised space."""
    unit = float(CENTROID_ONE) * float(CENTROID_ONE)
    found = np.empty((len(vectors), len(centroids)), np.float64)
    for i in range(len(vectors)):
        for k in range(len(centroids)):
            found[i, k] = float(squared_distance(vectors[i], centroids[k])) / unit
    return found


@compiled
def _means(vectors: I16, labels: I32, centroids: I64) -> tuple[I64, I64]:
    """Move each centroid to the mean of its votes, rounded to the nearest unit, half up; also counts them."""
    total = np.zeros(centroids.shape, np.int64)
    count = np.zeros(len(centroids), np.int64)
    for i in range(len(vectors)):
        k = labels[i]
        count[k] += 1
        for f in range(vectors.shape[1]):
            total[k, f] += vectors[i, f]
    moved = centroids.copy()
    for k in range(len(centroids)):
        if count[k]:
            for f in range(centroids.shape[1]):
                moved[k, f] = (2 * FINER * total[k, f] + count[k]) // (2 * count[k])
    return moved, count


def fixed(centroids: F64) -> I64:
    """Round centroids in standardised space to the fixed point."""
    rounded: I64 = np.clip(np.floor(centroids * CENTROID_ONE + 0.5), -VOTE_MAX * FINER, VOTE_MAX * FINER).astype(np.int64)
    return rounded


def refine(vectors: I16, centroids: I64, rounds_max: int = ROUNDS_MAX) -> Clusters:
    """Move centroids (k, f) to where they no longer change, at most `rounds_max` times."""
    found = np.ascontiguousarray(centroids)
    for done in range(rounds_max):
        labels, distances = assign(vectors, found)
        moved, count = _means(vectors, labels, found)
        if (moved == found).all():
            return Clusters(found, count, float(distances.sum()), done)
        found = moved
    labels, distances = assign(vectors, found)
    return Clusters(found, np.bincount(labels, minlength=len(found)).astype(np.int64), float(distances.sum()), rounds_max)
