"""The nightly re-seed, decided: from what was computed of the history and the version in force to a candidate and the gate's verdict.

Law: the candidate is a function of its arguments, to the byte. Nothing here reads a file or a clock.

The order of work: 1. keep clip and scale of the version in force, or choose them from the eligible customers; 2. fit, warm from the version
in force where it has the same features and as many segments, else cold; 3. fit a challenger from nothing; 4. match segments to old ids; 5.
measure; 6. make the version; 7. judge.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from offline import choosing, cleaning, gate
from offline.fit import cold, different, in_deviations, points_of, shares, stability, warm
from offline.identity import Matching, fixed_old, match, numbers_of, old_votes
from offline.versions import Making, version_of
from streamer.core.declaration import DAY_MS
from streamer.core.errors import BadInput
from streamer.core.lloyd import assign, squared_distances
from streamer.core.model import Decision

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd

    from offline.features import Computed
    from offline.fit import Points
    from offline.gate import Spread, Verdict
    from offline.settings import Settings
    from streamer.core.columns import F64, I32, Bool
    from streamer.core.declaration import Declaration
    from streamer.core.lloyd import Clusters
    from streamer.core.model import ModelVersion, Scaling

ACCEPTED = "days_accepted"  # in a version's provenance

K: TypeAlias = "int | Literal['auto'] | None"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a re-seed was asked for."""

    name: str
    declaration: Declaration
    as_of: int
    k: K = None  # None: as many as the version in force has
    forced: str | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)
    new_scale: bool = False  # whether a warm fit too chooses clip and scale anew


@dataclass(frozen=True, slots=True)
class Before:
    """The version in force, and how features were spread over the customers that it was fitted to, where that is known."""

    version: ModelVersion
    spreads: Mapping[str, Spread] | None = None
    versions_taken: int = 0  # the highest number that any version has: an older one may be in force
    segments_taken: int = 0  # the highest number that any version gave a segment
    centroids: F64 | None = None  # (k, f) what learning had made of its active ones by the cut-off, in its own standardised space

    @property
    def next_version(self) -> int:
        """Give the number of the next version."""
        return max(self.version.version, self.versions_taken) + 1

    @property
    def next_segment(self) -> int:
        """Give the number of the next segment that is born."""
        return max(numbers_of(self.version)[1], self.segments_taken + 1)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that the gate has judged, with all that was seen on the way."""

    version: ModelVersion
    verdict: Verdict
    report: cleaning.Report
    spreads: Mapping[str, Spread]
    matching: Matching | None
    choice: pd.DataFrame | None
    audit: tuple[str, ...]  # what a person should look at: where the matching contradicts a warm fit's numbers, names of no segment


def reseed(
    wanted: Wanted, computed: Computed, before: Before | None, settings: Settings, progress: Callable[[str], None] = lambda _step: None
) -> Candidate:
    """Fit, number, name and judge a candidate.

    Raises:
        BadInput: there are too few eligible customers, or too few that differ.

    """
    transforms = [feature.transform for feature in wanted.declaration.features]
    progress("scaling")
    gone = silent(computed, wanted, before.version.decision if before is not None else Decision())
    eligible = computed.facts["eligible"].to_numpy(np.bool_) & ~gone
    if not len(eligible):
        refused = ", ".join(f"{count:,} {name}" for name, count in computed.counts.items() if name.startswith("refused"))
        message = f"no event before the cut-off is valid ({refused or 'there is none'}): check the cut-off and the declaration"
        raise BadInput(message)
    if not eligible.any():
        rules = ", ".join(f"{measure} of {least} or more" for measure, least in wanted.declaration.eligibility)
        message = f"none of {len(eligible):,} customers has enough behind it ({rules}): check the cut-off and the declaration"
        raise BadInput(message)
    kept = _kept_scale(wanted, computed, before)
    points = points_of(computed.features, eligible, transforms, kept)
    fitted = _fit(wanted, points, before, settings, progress)
    progress("measuring")
    relabelled, psi = _compared(points, fitted, before)
    figures = gate.Figures(
        fitted.clusters.inertia / max(min(fitted.refit.inertia, fitted.clusters.inertia), 1e-12),
        shares(fitted.clusters.members),
        stability(points.vectors, fitted.clusters.centroids, seed=settings.fit.seed),
        relabelled,
        psi,
        points.saturated() if kept is not None else None,
    )
    accepted = _accepted(before)
    verdict = gate.judge(figures, settings.gate, computed, wanted.as_of, wanted.forced, accepted)
    if wanted.forced is not None:
        accepted = tuple(sorted({*accepted, *verdict.odd_days}))
    making = Making(
        wanted.name,
        wanted.declaration,
        wanted.as_of,
        before.version if before is not None else None,
        before.next_version if before is not None else 1,
        settings.names,
        _quality(points, fitted, figures),
        {
            **wanted.provenance,
            "fit": fitted.how,
            "scale": f"that of version {before.version.version}" if before is not None and kept is not None else "new",
            **({"forced": wanted.forced} if wanted.forced and verdict.reasons else {}),
            **({ACCEPTED: ",".join(map(str, accepted))} if accepted else {}),
        },
    )
    version = version_of(making, points, fitted.clusters, fitted.matching)
    report = cleaning.report(computed, points, settings.cleaning, gone)
    spreads = {name: gate.spread(points.values[:, f]) for f, name in enumerate(points.names)}
    ids = {segment.segment_id for segment in version.active}
    idle = tuple(f"offline.names names {one}, which is no segment of this version" for one in settings.names if one not in ids)
    return Candidate(version, verdict, report, spreads, fitted.matching, fitted.choice, (*fitted.audit, *idle))


def _kept_scale(wanted: Wanted, computed: Computed, before: Before | None) -> Scaling | None:
    """Give the scale of the version before, where a warm fit is wanted: a scale chosen anew costs more than it mends.

    docs/model.md has the figures.
    """
    if before is None or wanted.new_scale:
        return None
    version, names = before.version, tuple(str(name) for name in computed.features.columns)
    transforms = tuple(feature.transform for feature in wanted.declaration.features)
    warm_fit = (version.features, version.transforms) == (names, transforms) and wanted.k in (None, len(version.active))
    return version.scaling if warm_fit else None


def silent(computed: Computed, wanted: Wanted, decision: Decision) -> Bool:
    """Find the customers (n,) of whom nothing was heard for so long that the stream has let them leave."""
    longest_ms = (wanted.declaration.horizon_days + 1) * DAY_MS
    gone: Bool = wanted.as_of - computed.facts["clock"].to_numpy(np.int64) > max(decision.retention_ms, longest_ms)
    return gone


def _accepted(before: Before | None) -> tuple[date, ...]:
    """Give the odd days that someone has vouched for by forcing the version before, or one before it."""
    found = before.version.provenance.get(ACCEPTED, "") if before is not None else ""
    return tuple(date.fromisoformat(day) for day in found.split(",") if day)


@dataclass(frozen=True, slots=True)
class _Fitted:
    clusters: Clusters
    refit: Clusters  # from nothing, with as many segments
    how: str
    labels: I32
    matching: Matching | None = None
    old_labels: I32 | None = None
    choice: pd.DataFrame | None = None
    audit: tuple[str, ...] = ()


def _fit(wanted: Wanted, points: Points, before: Before | None, settings: Settings, progress: Callable[[str], None]) -> _Fitted:
    previous = before.version if before is not None else None
    comparable = previous is not None and (previous.features, previous.transforms) == (points.names, points.transforms)
    k, choice = wanted.k, None
    if k is None:
        k = len(previous.active) if previous is not None else settings.fit.k
    if k == "auto":
        progress("choosing k")
        limits, candidates = settings.gate, range(settings.fit.k_min, settings.fit.k_max + 1)
        choice = choosing.choose(points.vectors, candidates, share_min=limits.share_min, share_max=limits.share_max, seed=settings.fit.seed)
        k = choice.k
    apart = different(points.vectors, k)
    if apart < k:
        message = f"{len(points.values):,} eligible customers, of whom {apart} differ, are too few for {k} segments: ask for fewer"
        raise BadInput(message)
    progress("fitting from nothing")
    refit = choice.clusters if choice is not None else cold(points.vectors, k, settings.fit.seed)
    table = choice.table if choice is not None else None
    if before is None or previous is None:
        return _Fitted(refit, refit, "cold", assign(points.vectors, refit.centroids)[0], choice=table)
    numbers, following = numbers_of(previous)[0], before.next_segment
    if not comparable:
        born = tuple(range(following, following + k))
        renewed = Matching(born, born, numbers, {}, {})
        return _Fitted(refit, refit, "cold, on other features", assign(points.vectors, refit.centroids)[0], renewed, choice=table)
    old = fixed_old(previous, points.scaling, before.centroids)
    old_labels = assign(old_votes(previous, points.values), fixed_old(previous, previous.scaling, before.centroids))[0]
    if k != len(numbers):
        labels = assign(points.vectors, refit.centroids)[0]
        matching = match(in_deviations(old), in_deviations(refit.centroids), old_labels, labels, numbers, following)
        return _Fitted(refit, refit, "cold, with another number of segments", labels, matching, old_labels, table)
    progress("fitting from the version in force")
    found = warm(points.vectors, old)
    labels = assign(points.vectors, found.centroids)[0]
    matching = match(in_deviations(old), in_deviations(found.centroids), old_labels, labels, numbers, following)
    audit = tuple(
        f"segment {number} went on as itself, and its customers are now nearest to what {other} was"
        if other in numbers
        else f"segment {number} went on as itself, though few of its customers are still in it"
        for number, other in zip(numbers, matching.numbers, strict=True)
        if number != other
    )
    kept = Matching(numbers, (), (), matching.overlap, matching.distance)
    return _Fitted(found, refit, f"warm, from version {previous.version}", labels, kept, old_labels, table, audit)


def _compared(points: Points, fitted: _Fitted, before: Before | None) -> tuple[float | None, dict[str, float] | None]:
    """Compare with the version in force: the share of customers that the new one moves, and how features have shifted."""
    if before is None or fitted.matching is None or fitted.old_labels is None:
        return None, None
    numbers, _ = numbers_of(before.version)
    place: dict[int, int] = {number: j for j, number in enumerate(fitted.matching.numbers)}
    squared = squared_distances(points.vectors, fitted.clusters.centroids)
    moved = gate.relabelled(
        [place.get(number) for number in numbers], fitted.old_labels, fitted.labels, squared, before.version.decision.margin
    )
    if before.spreads is None:
        return moved, None
    known = before.spreads
    return moved, {name: gate.psi(known[name], points.values[:, f]) for f, name in enumerate(points.names) if name in known}


def _quality(points: Points, fitted: _Fitted, figures: gate.Figures) -> dict[str, float]:
    found = {
        "inertia": fitted.clusters.inertia,
        "customers": float(len(points.values)),
        "k": float(len(fitted.clusters.members)),
        "wcss_ratio": figures.wcss_ratio,
        "share_min": float(figures.share.min()),
        "share_max": float(figures.share.max()),
        "stability": figures.stability,
        "clipped_customers": float(points.clipped_rows()),
    }
    if figures.relabelled is not None:
        found["relabelled"] = figures.relabelled
    if figures.psi:
        found["psi_max"] = max(figures.psi.values())
    return found
