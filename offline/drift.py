"""How far the customers have drifted from those that a model version was fitted to.

Laws: all of it is a function of the features at two instants and the version. Features are as of the instant, for everybody who is eligible
and has not left; a segment is the nearest centroid, without margin or dwell, as at the fit.

Population stability index: `offline.gate.psi`, over the deciles of the fit. The quantisation error is the mean squared distance of the
customers' votes from their nearest centroid, in standardised space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from offline import gate
from offline.identity import old_votes
from streamer.core.errors import BadInput, Misconfigured
from streamer.core.lloyd import assign

if TYPE_CHECKING:
    from collections.abc import Mapping

    from offline.features import Computed
    from offline.gate import Spread
    from offline.settings import DriftLimits
    from streamer.core.columns import F64
    from streamer.core.declaration import Declaration
    from streamer.core.model import ModelVersion

DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Reference:
    """What a version was fitted to: the spread of each feature, the error a customer, and each active segment's share."""

    spreads: Mapping[str, Spread]
    error: float
    shares: F64  # (k,)
    customers: int


@dataclass(frozen=True, slots=True)
class Shift:
    """A segment's share of the customers, at the fit and now."""

    segment_id: str
    name: str
    before: float
    now: float

    @property
    def shift(self) -> float:
        """Give the difference."""
        return self.now - self.before


@dataclass(frozen=True, slots=True)
class Drift:
    """What was found, with a reason for each limit that is passed."""

    version: int
    fitted_as_of: int
    as_of: int
    customers: int
    customers_before: int
    psi: Mapping[str, float]
    error: float
    error_before: float
    segments: tuple[Shift, ...]
    reasons: tuple[str, ...]

    @property
    def error_ratio(self) -> float:
        """Give the error over that of the fit."""
        return self.error / self.error_before if self.error_before > 0 else 1.0 if self.error == 0 else float("inf")

    def record(self) -> dict[str, Any]:
        """Give it in JSON's types."""
        ratio = self.error_ratio
        return {
            "version": self.version,
            "fitted_as_of": self.fitted_as_of,
            "as_of": self.as_of,
            "customers": self.customers,
            "customers_before": self.customers_before,
            "psi": dict(self.psi),
            "quantisation_error": self.error,
            "quantisation_error_before": self.error_before,
            "quantisation_error_ratio": ratio if np.isfinite(ratio) else None,
            "segments": [
                {"segment_id": s.segment_id, "name": s.name, "share_before": s.before, "share": s.now, "shift": s.shift}
                for s in self.segments
            ],
            "drifted": bool(self.reasons),
            "reasons": list(self.reasons),
        }


def reference_of(version: ModelVersion, spreads: Mapping[str, Spread] | None) -> Reference | None:
    """Take the reference out of a version and what was written beside it; None where that does not say all."""
    customers = version.quality.get("customers", 0.0)
    if spreads is None or not set(version.features) <= set(spreads) or "inertia" not in version.quality or customers <= 0:
        return None
    members = np.array([segment.members for segment in version.active], np.float64)
    return Reference(spreads, version.quality["inertia"] / customers, members / max(members.sum(), 1.0), int(customers))


def measured(version: ModelVersion, declaration: Declaration, computed: Computed, as_of: int) -> tuple[Reference, F64]:
    """Measure the customers as of an instant: as a reference, and their features (n, f).

    Raises:
        Misconfigured: the declaration does not make the version's features.
        BadInput: nobody is eligible.

    """
    names = tuple(str(name) for name in computed.features.columns)
    if names != version.features:
        message = (
            f"version {version.version} has the features {', '.join(version.features)}, the declaration {', '.join(names)}: "
            "give the version's own with --features"
        )
        raise Misconfigured(message)
    longest_ms = max(version.decision.retention_ms, (declaration.horizon_days + 1) * DAY_MS)
    there = as_of - computed.facts["clock"].to_numpy(np.int64) <= longest_ms
    chosen = computed.facts["eligible"].to_numpy(np.bool_) & there
    if not chosen.any():
        message = f"none of {len(chosen):,} customers is eligible: check the history and the cut-off"
        raise BadInput(message)
    values = computed.features.to_numpy(np.float64)[chosen]
    labels, squared = assign(old_votes(version, values), version.fixed_centroids())
    members = np.bincount(labels, minlength=len(version.active))
    spreads = {name: gate.spread(values[:, f]) for f, name in enumerate(names)}
    return Reference(spreads, float(squared.mean()), members / len(values), len(values)), values


def drift(version: ModelVersion, before: Reference, now: Reference, values: F64, as_of: int, limits: DriftLimits) -> Drift:
    """Hold the customers of now, with the features (n, f), against those of the fit."""
    psi = {name: gate.psi(before.spreads[name], values[:, f]) for f, name in enumerate(version.features)}
    shares = zip(version.active, before.shares.tolist(), now.shares.tolist(), strict=True)
    segments = tuple(Shift(segment.segment_id, segment.name, then, share) for segment, then, share in shares)
    found = Drift(version.version, version.as_of, as_of, now.customers, before.customers, psi, now.error, before.error, segments, ())
    reasons = [
        f"{name} is spread otherwise than at the fit: population stability index {value:.2f}, at most {limits.psi_max:g}"
        for name, value in psi.items()
        if value > limits.psi_max
    ]
    if found.error_ratio > limits.error_ratio_max:
        reasons.append(
            f"customers are farther from their centroids than at the fit: {found.error_ratio:.2f} times the squared distance, "
            f"at most {limits.error_ratio_max:g}"
        )
    reasons += [
        f"{one.segment_id} ({one.name}) had {one.before:.1%} of all, now {one.now:.1%}, at most {limits.share_shift_max:.0%} apart"
        for one in segments
        if abs(one.shift) > limits.share_shift_max
    ]
    return Drift(
        version.version, version.as_of, as_of, now.customers, before.customers, psi, now.error, before.error, segments, tuple(reasons)
    )
