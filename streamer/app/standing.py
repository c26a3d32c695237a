"""Where customers stand as of an instant: the segment that each was last told to be in, and the vote that its features make by then.

Law: the segment is what subscribers know; it may be older than the instant, since a customer is judged when it does something. The vote is
computed as the fold computes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamer.app.walk import walk
from streamer.core.fold import VOTE_ONE
from streamer.core.model import NEW, features_as_of, votes
from streamer.core.profile import FIRST_CODE, NEW_SEGMENT, PRESENT, SEGMENT, VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.core.columns import F64, I16, I64, Bool
    from streamer.core.declaration import Declaration
    from streamer.core.model import ModelVersion
    from streamer.core.plan import Plan
    from streamer.core.ports import StateStore
    from streamer.core.profile import Work


@dataclass(frozen=True, slots=True)
class Standing:
    """Customers, `n` of them. `segment` is the empty text for those never judged; `version` is that of the latest change."""

    customers: tuple[str, ...]
    segment: tuple[str, ...]
    version: tuple[int, ...]
    eligible: Bool  # (n,)
    vote: I16  # (n, f)

    @property
    def points(self) -> F64:
        """Give the votes in standard deviations, (n, f)."""
        return self.vote / VOTE_ONE


def standing(
    store: StateStore, partitions: Sequence[int], declaration: Declaration, plan: Plan, model: ModelVersion, as_of: int
) -> Standing:
    """Tell where the customers of partitions stand as of an instant (ms), by a model version."""
    customers: list[str] = []
    codes, versions, eligible, found = ([np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.bool_)], [])
    for partition in partitions:
        for met in walk(store, partition, plan):
            chosen = met.fresh & (met.work.found == PRESENT)
            customers += [customer.decode() for customer, taken in zip(met.ids, chosen.tolist(), strict=True) if taken]
            codes.append(met.work.head[chosen, SEGMENT])
            versions.append(met.work.head[chosen, VERSION])
            eligible.append(_eligible(declaration, model, met.work)[chosen])
            found.append(features_as_of(plan, met.work, as_of)[chosen])
    features = np.concatenate([np.zeros((0, len(plan.kind))), *found])
    return Standing(
        tuple(customers),
        tuple(_named(code) for code in np.concatenate(codes).tolist()),
        tuple(np.concatenate(versions).tolist()),
        np.concatenate(eligible),
        votes(model.transforms, model.scaling, features),
    )


def nearest_of(points: F64, centroids: F64) -> I64:
    """Find each point's nearest centroid: (n,), of points (n, f) and centroids (k, f)."""
    far = np.stack([((points - centroid) ** 2).sum(axis=1) for centroid in centroids])
    found: I64 = far.argmin(axis=0)
    return found


def _eligible(declaration: Declaration, model: ModelVersion, work: Work) -> Bool:
    place = {measure.name: i for i, measure in enumerate(declaration.lifetimes)}
    found = np.ones(len(work.found), np.bool_)
    for measure, least in model.eligibility:
        found &= work.life[:, place[measure]] >= least
    return found


def _named(code: int) -> str:
    return f"seg_{code - FIRST_CODE:04d}" if code >= FIRST_CODE else NEW if code == NEW_SEGMENT else ""
