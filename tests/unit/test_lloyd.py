"""Lloyd's k-means over votes: it agrees with scikit-learn's, and its result depends on the votes and on where it begins alone."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans

from streamer.core.fold import CENTROID_ONE, FINER, VOTE_MAX, VOTE_ONE
from streamer.core.lloyd import assign, fixed, refine, squared_distances

RNG = np.random.default_rng(3)
POINTS = np.concatenate([RNG.normal(centre, 0.4, (40, 2)) for centre in ((0, 0), (3, 0), (0, 3))])
VECTORS = np.round(POINTS * VOTE_ONE).astype(np.int16)
START = fixed(POINTS[[0, 50, 90]])


def test_it_comes_to_where_scikit_learn_comes() -> None:
    found = refine(VECTORS, START)
    best = KMeans(3, init=START / CENTROID_ONE, n_init=1, tol=0.0).fit(VECTORS / VOTE_ONE)
    assert np.abs(best.cluster_centers_ - found.centroids / CENTROID_ONE).max() < 2 / CENTROID_ONE
    assert np.bincount(best.labels_).tolist() == found.members.tolist()
    assert found.inertia == pytest.approx(best.inertia_, rel=1e-6)
    assert found.rounds > 0
    labels, distances = assign(VECTORS, found.centroids)
    assert best.labels_.tolist() == labels.tolist()
    assert distances.sum() == found.inertia
    assert squared_distances(VECTORS, found.centroids).min(axis=1).tolist() == distances.tolist()


def test_the_order_of_the_votes_leaves_no_trace() -> None:
    found, other = refine(VECTORS, START), refine(VECTORS[RNG.permutation(len(VECTORS))], START)
    assert found.centroids.tolist() == other.centroids.tolist()
    assert found.members.tolist() == other.members.tolist()


def test_a_cluster_without_votes_stays_where_it_is() -> None:
    far = np.vstack([START, fixed(np.array([[7.9, 7.9]]))])
    found = refine(VECTORS, far)
    assert ([0], far[3].tolist()) == (found.members[3:].tolist(), found.centroids[3].tolist())
    assert refine(VECTORS, START).inertia == found.inertia


def test_rounds_are_bounded() -> None:
    assert 1 == refine(VECTORS, START, 1).rounds
    assert len(VECTORS) == refine(VECTORS, START, 1).members.sum()


def test_centroids_are_rounded_and_kept_where_votes_can_be() -> None:
    assert [[1 << 18, -VOTE_MAX * FINER]] == fixed(np.array([[0.25, -99.0]])).tolist()
