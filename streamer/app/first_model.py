"""The first model: fitted by partition 0's owner once enough customers are known.

Law: the vectors it is fitted on are those of all eligible customers as of one instant, the latest event time that any partition has seen.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from streamer.app.walk import walk
from streamer.core.declaration import DAY_MS
from streamer.core.fold import VOTE_ONE
from streamer.core.model import Decision, ModelVersion, assemble, features_as_of, scale, votes, within_squares
from streamer.core.partition import unpack_state
from streamer.core.profile import PRESENT

if TYPE_CHECKING:
    from streamer.core.columns import F64, I16, I64
    from streamer.core.declaration import Declaration
    from streamer.core.plan import Plan
    from streamer.core.ports import StateStore

log = logging.getLogger(__name__)


class Fitter(Protocol):
    """Clusters points."""

    def fit(self, points: F64, k: int) -> tuple[F64, I64]:
        """Cluster points (n, f) into k: centroids (k, f) and how many points each has (k,)."""


@dataclass(frozen=True, slots=True)
class FirstFit:
    """When and how the first model is made."""

    name: str
    k: int
    customers_min: int
    history_days_min: int
    sample_max: int
    decision: Decision


class Looked(NamedTuple):
    """When everybody was looked at last: after so many events, and at what time by the wall clock, ms."""

    events: int
    at_ms: int

    def due(self, events: int, now_ms: int) -> bool:
        """Tell whether it is worth looking again."""
        more = events - self.events
        return more >= max(self.events // 10, 1) or (more > 0 and now_ms - self.at_ms >= LOOK_AGAIN_MS)


LOOK_AGAIN_MS = 60_000
NEVER_LOOKED = Looked(0, 0)


@dataclass(slots=True)
class FirstModel:
    """Fits the first model when there is enough to fit it on.

    Until then it looks at everybody again when a tenth more events came, or a minute after it did last: customers become eligible by what
    they do, so nothing may hang on there being more of them.
    """

    declaration: Declaration
    plan: Plan
    how: FirstFit
    fitter: Fitter
    _looked: Looked = NEVER_LOOKED

    def fit(self, store: StateStore, partitions: int, now_ms: int) -> ModelVersion | None:
        """Fit, or return None while too few customers are known or too little time has been seen."""
        numbers = list(range(partitions))
        read = [s for s in store.read(numbers) if s.commit_id]
        states = [unpack_state(s.state) for s in read]
        if not states:
            return None
        as_of = max(s.watermark for s in states)
        if as_of - min(s.began for s in states) < self.how.history_days_min * DAY_MS:
            return None
        events = sum(s.next_offset for s in read)
        if not self._looked.due(events, now_ms):
            return None
        known = sum(store.count(numbers))
        if known < self.how.customers_min:
            return None
        values = self.eligible_features(store, partitions, as_of)
        if len(values) < self.how.customers_min:
            self._looked = Looked(events, now_ms)
            log.info("%d of %d customers are eligible, the first model needs %d", len(values), known, self.how.customers_min)
            return None
        return self._fitted(values, as_of, now_ms)

    def eligible_features(self, store: StateStore, partitions: int, as_of: int) -> F64:
        """Compute the features of all eligible customers as of an instant, (n, f); beyond the sample's size, of the first ones found."""
        found: list[F64] = []
        lifetime = {m.name: i for i, m in enumerate(self.declaration.lifetimes)}
        for partition in range(partitions):
            if sum(map(len, found)) >= self.how.sample_max:
                break
            for met in walk(store, partition, self.plan):
                chosen = met.fresh & (met.work.found == PRESENT)
                for measure, least in self.declaration.eligibility:
                    chosen &= met.work.life[:, lifetime[measure]] >= least
                found.append(features_as_of(self.plan, met.work, as_of)[chosen])
                if sum(map(len, found)) >= self.how.sample_max:
                    break
        return np.concatenate(found) if found else np.zeros((0, len(self.plan.kind)))

    def _fitted(self, values: F64, as_of: int, now_ms: int) -> ModelVersion:
        transforms = tuple(feature.transform for feature in self.declaration.features)
        scaling = scale(transforms, values)
        vectors: I16 = votes(transforms, scaling, values)
        centroids, members = self.fitter.fit(vectors / VOTE_ONE, self.how.k)
        inertia = within_squares(vectors, centroids)
        flat = [feature.name for f, feature in enumerate(self.declaration.features) if scaling.weight[f] == 0.0]
        if flat:
            log.warning("features without variance have no weight in the model: %s", ", ".join(flat))
        log.info("first model: %d customers, %d segments, inertia %.4f a customer", len(values), self.how.k, inertia / len(values))
        made = {
            "created_at": now_ms,
            "as_of": as_of,
            "quality": {"inertia": inertia, "customers": float(len(values))},
            "provenance": {"fit": "first model, in the stream"},
        }
        return assemble(self.declaration, self.how.name, scaling, centroids, members, self.how.decision, made)
