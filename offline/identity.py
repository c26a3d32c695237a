"""Which segment is which: new clusters matched to old ids.

Laws: an id is never reused. A cluster that matches no old segment is born under the next number; an old segment that none matches is
retired, and stays in the version so that its number stays taken.

The assignment is Kuhn and Munkres's (the Hungarian method), over the distances between centroids. A pair that it makes is the same segment
only if enough of the same customers are in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

from streamer.core.declaration import Transform
from streamer.core.lloyd import fixed
from streamer.core.model import votes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.core.columns import F64, I16, I32, I64
    from streamer.core.model import ModelVersion, Scaling

SAME_MIN = 0.2  # of the customers in either of the two, the share in both


@dataclass(frozen=True, slots=True)
class Matching:
    """Numbers of `k` new clusters; `born` are those without a predecessor, `retired` the old ones without a successor."""

    numbers: tuple[int, ...]
    born: tuple[int, ...]
    retired: tuple[int, ...]
    overlap: dict[int, float]  # number -> share of the customers in either that are in both
    distance: dict[int, float]  # number -> how far the centroid moved, in standard deviations

    @property
    def same(self) -> tuple[int, ...]:
        """Give the segments that go on."""
        return tuple(self.overlap)


def match(old: F64, new: F64, old_labels: I32, new_labels: I32, numbers: Sequence[int], next_number: int) -> Matching:
    """Match `k` new centroids (k, f) to `a` old ones (a, f) of the given numbers.

    `old_labels` and `new_labels` (n,) are the clusters that the same customers are in.
    """
    distance = np.sqrt(((old[:, None, :] - new[None, :, :]) ** 2).sum(axis=2))
    both = np.zeros(distance.shape, np.int64)
    np.add.at(both, (old_labels, new_labels), 1)
    either = both.sum(axis=1)[:, None] + both.sum(axis=0)[None, :] - both
    overlap = both / np.maximum(either, 1)
    pairs = zip(*(side.tolist() for side in linear_sum_assignment(distance)), strict=True)
    found = {j: i for i, j in pairs if overlap[i, j] >= SAME_MIN or either[i, j] == 0}
    taken = iter(range(next_number, next_number + len(new)))
    named = tuple(numbers[found[j]] if j in found else next(taken) for j in range(len(new)))
    return Matching(
        named,
        tuple(named[j] for j in range(len(new)) if j not in found),
        tuple(number for i, number in enumerate(numbers) if i not in found.values()),
        {named[j]: float(overlap[i, j]) for j, i in found.items()},
        {named[j]: float(distance[i, j]) for j, i in found.items()},
    )


def moved(version: ModelVersion, centroids: F64, scaling: Scaling) -> F64:
    """Carry centroids (k, f) from a version's standardised space into another scaling's. A feature that had no weight comes out average."""
    old = version.scaling
    shaped = np.where(old.weight > 0, centroids / np.where(old.weight > 0, old.weight, 1.0) * old.scale + old.mean, scaling.mean)
    carried: F64 = (shaped - scaling.mean) / scaling.scale * scaling.weight
    return carried


def old_votes(version: ModelVersion, values: F64) -> I16:
    """Give customers' votes as a version makes them of their features (n, f)."""
    return votes(version.transforms, version.scaling, values)


def typical(transforms: Sequence[Transform], scaling: Scaling, centroids: F64) -> F64:
    """Turn centroids (k, f) back into values of the features, in their own units."""
    shaped = np.where(scaling.weight > 0, centroids, 0.0) * scaling.scale + scaling.mean
    log = np.array([transform is Transform.LOG1P for transform in transforms])
    values = np.where(log, np.copysign(np.expm1(np.abs(shaped)), shaped), shaped)
    return np.clip(values, scaling.low, scaling.high)


def numbers_of(version: ModelVersion) -> tuple[tuple[int, ...], int]:
    """Give the numbers of a version's active segments, and the next that was never used."""
    return tuple(segment.number for segment in version.active), max(segment.number for segment in version.segments) + 1


def fixed_old(version: ModelVersion, scaling: Scaling, centroids: F64 | None = None) -> I64:
    """Give a version's active centroids in fixed point, in another scaling's space: those of its fit, or what `centroids` (k, f) says."""
    active = version.centroids[[not segment.retired for segment in version.segments]] if centroids is None else centroids
    return fixed(moved(version, active, scaling))
