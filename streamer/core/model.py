"""A model version, and how it is made from features: clip, transform, standardise, name.

Laws: a version never changes once published; what learning makes of its centroids are epochs. A vector is quantised before it is compared
with anything, so the model that is stored, published and fitted again decides alike everywhere.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from streamer.core.compiled import compiled, kernel
from streamer.core.declaration import Declaration, Transform
from streamer.core.features import evaluate
from streamer.core.fold import CENTROID_ONE, FINER, VOTE_MAX, VOTE_ONE, quantised, transformed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from streamer.core.columns import F64, I16, I64
    from streamer.core.plan import Plan
    from streamer.core.profile import Work

NEW = "new"  # the id and name of the segment of those with too little behind them
CLIP_LOW, CLIP_HIGH = 0.005, 0.995  # quantiles
LABEL_FEATURES = 2
LABEL_Z_MIN = 0.35


@dataclass(frozen=True, slots=True)
class Scaling:
    """How each of `f` features becomes a coordinate: `(transform(clip(x, low, high)) - mean) / scale * weight`."""

    low: F64  # (f,)
    high: F64
    mean: F64
    scale: F64
    weight: F64


def segment_id_of(number: int) -> str:
    """Give the stable id of a segment by its number."""
    return f"seg_{number:04d}"


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment: its number is its identity for ever, its id is made of it, its name is for people."""

    number: int
    name: str
    members: int = 0
    retired: bool = False

    @property
    def segment_id(self) -> str:
        """Give the stable id."""
        return segment_id_of(self.number)


@dataclass(frozen=True, slots=True)
class Decision:
    """When a customer changes segment: shares of the distance to the present one, and event time.

    One of whom nothing was heard for longer than `retention_ms`, and than the longest window, leaves.
    """

    margin: float = 0.10
    margin_large: float = 0.30
    dwell_ms: int = 3 * 86_400_000
    retention_ms: int = 400 * 86_400_000


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """An immutable model. `centroids` is (k, f), one row for each segment, in standardised space."""

    name: str
    version: int
    created_at: int
    as_of: int
    feature_version: str
    features: tuple[str, ...]
    transforms: tuple[Transform, ...]
    scaling: Scaling
    eligibility: tuple[tuple[str, int], ...]
    segments: tuple[Segment, ...]
    centroids: F64
    decision: Decision
    quality: Mapping[str, float]
    provenance: Mapping[str, str]
    previous_version: int | None = None

    @property
    def active(self) -> tuple[Segment, ...]:
        """Give the segments that customers can be in: those not retired."""
        return tuple(segment for segment in self.segments if not segment.retired)

    def fixed_centroids(self) -> I64:
        """Give the centroids of the active segments in the fixed-point units of the fold, where every vote is: no mean is farther out."""
        chosen = self.centroids[[not segment.retired for segment in self.segments]]
        return np.clip(np.floor(chosen * CENTROID_ONE + 0.5), -VOTE_MAX * FINER, VOTE_MAX * FINER).astype(np.int64)

    def record(self) -> dict[str, Any]:
        """Give the version as the ModelVersion schema has it."""
        s = self.scaling
        return {
            "name": self.name,
            "version": self.version,
            "created_at": self.created_at,
            "as_of": self.as_of,
            "feature_version": self.feature_version,
            "features": [
                {
                    "name": name,
                    "transform": self.transforms[f].name.lower(),
                    "clip_low": float(s.low[f]),
                    "clip_high": float(s.high[f]),
                    "mean": float(s.mean[f]),
                    "scale": float(s.scale[f]),
                    "weight": float(s.weight[f]),
                }
                for f, name in enumerate(self.features)
            ],
            "eligibility": [{"measure": measure, "at_least": least} for measure, least in self.eligibility],
            "segments": [
                {
                    "number": segment.number,
                    "segment_id": segment.segment_id,
                    "name": segment.name,
                    "centroid": [float(x) for x in self.centroids[k]],
                    "members": segment.members,
                    "retired": segment.retired,
                }
                for k, segment in enumerate(self.segments)
            ],
            "decision": {
                "margin": self.decision.margin,
                "margin_large": self.decision.margin_large,
                "dwell_ms": self.decision.dwell_ms,
                "retention_ms": self.decision.retention_ms,
            },
            "quality": dict(self.quality),
            "provenance": dict(self.provenance),
            "previous_version": self.previous_version,
        }


def from_record(record: Mapping[str, Any]) -> ModelVersion:
    """Read a version from a record of the ModelVersion schema, times as whole milliseconds.

    Raises:
        ValueError: it can't be judged by, with every reason.

    """
    features = record["features"]
    segments = record["segments"]
    faults = [fault for wrong, fault in _faults(features, segments, record["decision"]) if wrong]
    if faults:
        message = f"version {record['version']} of model {record['name']!r} can't be used: {'; '.join(faults)}: publish a sound one"
        raise ValueError(message)

    def column(name: str) -> F64:
        return np.array([feature[name] for feature in features], np.float64)

    decision = record["decision"]
    return ModelVersion(
        name=record["name"],
        version=record["version"],
        created_at=record["created_at"],
        as_of=record["as_of"],
        feature_version=record["feature_version"],
        features=tuple(feature["name"] for feature in features),
        transforms=tuple(Transform[feature["transform"].upper()] for feature in features),
        scaling=Scaling(column("clip_low"), column("clip_high"), column("mean"), column("scale"), column("weight")),
        eligibility=tuple((rule["measure"], rule["at_least"]) for rule in record["eligibility"]),
        segments=tuple(Segment(s["number"], s["name"], s["members"], s["retired"]) for s in segments),
        centroids=np.array([s["centroid"] for s in segments], np.float64),
        decision=Decision(decision["margin"], decision["margin_large"], decision["dwell_ms"], decision["retention_ms"]),
        quality=dict(record["quality"]),
        provenance=dict(record["provenance"]),
        previous_version=record["previous_version"],
    )


def _faults(
    features: Sequence[Mapping[str, Any]], segments: Sequence[Mapping[str, Any]], decision: Mapping[str, Any]
) -> Iterator[tuple[bool, str]]:
    """List what may be wrong with a version, and whether it is."""
    known = {transform.name.lower() for transform in Transform}
    for feature in features:
        yield (
            feature["transform"] not in known,
            f"feature {feature['name']} has the transform {feature['transform']!r}, known are {sorted(known)}",
        )
        numbers = [feature[name] for name in ("clip_low", "clip_high", "mean", "scale", "weight")]
        yield not all(map(math.isfinite, numbers)) or feature["scale"] <= 0, f"feature {feature['name']} is scaled by {numbers}"
    numbers = [segment["number"] for segment in segments]
    yield numbers != sorted({n for n in numbers if n > 0}), f"segments are numbered {numbers}, not upwards from 1 or more"
    yield all(segment["retired"] for segment in segments), "every segment is retired"
    for segment in segments:
        centroid = segment["centroid"]
        yield len(centroid) != len(features), f"segment {segment['number']} has {len(centroid)} coordinates for {len(features)} features"
        yield not all(map(math.isfinite, centroid)), f"segment {segment['number']} has the centroid {centroid}"
    margins = [decision["margin"], decision["margin_large"]]
    yield not all(0 <= margin <= 1 for margin in margins), f"margins are {margins}, not from 0 to 1"


def unfit(version: ModelVersion, declaration: Declaration) -> str | None:
    """Say why customers can't be judged by a version under a declaration, and what to do; None where they can."""
    if version.feature_version != declaration.version:
        return (
            f"version {version.version} of model {version.name!r} is of feature version {version.feature_version}, the declaration that is "
            f"running is {declaration.version}: fit a version with that declaration, or run the other one in a new `app.namespace`"
        )
    names, transforms = (tuple(getattr(feature, name) for feature in declaration.features) for name in ("name", "transform"))
    measures = {measure.name for measure in declaration.lifetimes}
    unknown = sorted({measure for measure, _ in version.eligibility} - measures)
    if (version.features, version.transforms) != (names, transforms) or unknown:
        what = f"its eligibility asks for {', '.join(unknown)}" if unknown else "its features are others"
        return f"version {version.version} of model {version.name!r} does not fit the declaration of its own feature version: {what}"
    return None


@compiled
def features_as_of(plan: Plan, work: Work, as_of: int) -> F64:
    """Compute every feature of every customer as of a time, (u, f)."""
    u, f = len(work.found), len(plan.kind)
    values = np.empty((u, f), np.float64)
    for i in range(u):
        evaluate(plan, work, i, as_of, values[i])
    return values


@compiled
def features_as_of_each(plan: Plan, work: Work, as_of: I64) -> F64:
    """Compute every feature of every customer, each as of a time of its own (u,): (u, f)."""
    u, f = len(work.found), len(plan.kind)
    values = np.empty((u, f), np.float64)
    for i in range(u):
        evaluate(plan, work, i, as_of[i], values[i])
    return values


@kernel
def _quantise(transform: I64, values: F64, low: F64, high: F64, mean: F64, scale: F64, weight: F64, out: I16) -> None:
    for i in range(values.shape[0]):
        for f in range(values.shape[1]):
            out[i, f] = quantised(transformed(transform[f], values[i, f], low[f], high[f], mean[f], scale[f], weight[f]))


def votes(transforms: tuple[Transform, ...], scaling: Scaling, values: F64) -> I16:
    """Give the vectors of features as the fold quantises them: (n, f) 16-bit votes; `votes / VOTE_ONE` is standardised space."""
    out = np.empty(values.shape, np.int16)
    kinds = np.array(transforms, np.int64)
    _quantise(kinds, np.ascontiguousarray(values), scaling.low, scaling.high, scaling.mean, scaling.scale, scaling.weight, out)
    return out


def scale(transforms: tuple[Transform, ...], values: F64) -> Scaling:
    """Choose clip, mean and scale from the features (n, f) of the customers to fit on. A feature without variance gets weight 0."""
    low, high, mean, deviation = np.empty((4, values.shape[1]), np.float64)
    for f, transform in enumerate(transforms):  # one at a time, as there may be millions of customers
        column = values[:, f]
        low[f], high[f] = np.quantile(column, [CLIP_LOW, CLIP_HIGH])
        clipped = np.clip(column, low[f], high[f])
        shaped = np.copysign(np.log1p(np.abs(clipped)), clipped) if transform is Transform.LOG1P else clipped
        mean[f], deviation[f] = shaped.mean(), shaped.std()
    flat = deviation < 1e-9  # far below what any feature's unit can tell apart
    return Scaling(low, high, mean, np.where(flat, 1.0, deviation), np.where(flat, 0.0, 1.0))


def label(features: tuple[str, ...], centroid: F64) -> str:
    """Name a segment after the features in which it differs most from the average customer."""
    chosen = [f for f in np.argsort(-np.abs(centroid), kind="stable")[:LABEL_FEATURES] if abs(centroid[f]) >= LABEL_Z_MIN]
    words = [f"{'high' if centroid[f] > 0 else 'low'} {features[f].replace('_', ' ')}" for f in chosen]
    return ", ".join(words) or "average"


def assemble(
    declaration: Declaration, name: str, scaling: Scaling, centroids: F64, members: I64, decision: Decision, made: Mapping[str, Any]
) -> ModelVersion:
    """Make the first version from fitted centroids (k, f): segments are numbered from 1, the largest first.

    `made` has the fields that say how it was made: created_at, as_of, quality, provenance.
    """
    names = tuple(feature.name for feature in declaration.features)
    order = np.argsort(-members, kind="stable")
    labels = [label(names, centroids[k]) for k in order]
    segments = tuple(
        Segment(n, text if labels.count(text) == 1 else f"{text} ({n})", int(members[k]))
        for n, (k, text) in enumerate(zip(order, labels, strict=True), 1)
    )
    return ModelVersion(
        name=name,
        version=1,
        feature_version=declaration.version,
        features=names,
        transforms=tuple(feature.transform for feature in declaration.features),
        scaling=scaling,
        eligibility=declaration.eligibility,
        segments=segments,
        centroids=centroids[order],
        decision=decision,
        **made,
    )


def within_squares(vectors: I16, centroids: F64) -> float:
    """Sum the squared distances of votes (n, f) to their nearest centroid (k, f), in standardised space (inertia)."""
    points = vectors / VOTE_ONE
    least = np.full(len(points), np.inf)
    for centroid in centroids:
        np.minimum(least, ((points - centroid) ** 2).sum(axis=1), out=least)
    return float(least.sum())


def digest(body: bytes) -> bytes:
    """Give the SHA-256 by which a journal names a version's bytes."""
    return hashlib.sha256(body).digest()
