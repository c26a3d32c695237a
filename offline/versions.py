"""A model version of a fit: segments by their numbers, names, figures and where it comes from.

Law: equal arguments give equal bytes. Nothing in a version is a clock's or a machine's: `created_at` is the instant that it is as of.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from offline.fit import in_deviations
from offline.identity import moved, typical
from offline.naming import named, words_of
from streamer.core.model import Decision, ModelVersion, Segment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from offline.fit import Points
    from offline.identity import Matching
    from streamer.core.columns import F64
    from streamer.core.declaration import Declaration
    from streamer.core.lloyd import Clusters


@dataclass(frozen=True, slots=True)
class Making:
    """What a version is made of besides its fit."""

    name: str
    declaration: Declaration
    as_of: int
    previous: ModelVersion | None
    number: int  # the version's
    names: Mapping[str, str]  # segment id -> the name that a person gave
    quality: Mapping[str, float]
    provenance: Mapping[str, str]


def version_of(making: Making, points: Points, clusters: Clusters, matching: Matching | None) -> ModelVersion:
    """Make the version after `making.previous`, or the first; `matching` numbers the clusters, by default from 1 in their order."""
    previous, declaration = making.previous, making.declaration
    numbers = matching.numbers if matching is not None else tuple(range(1, len(clusters.members) + 1))
    centroids = dict(zip(numbers, in_deviations(clusters.centroids), strict=True))
    members = dict(zip(numbers, clusters.members.tolist(), strict=True))
    before = {segment.number: segment.name for segment in previous.active} if previous is not None else {}
    features = tuple(feature.name for feature in declaration.features)
    given = {number: text for number in numbers if (text := making.names.get(Segment(number, "").segment_id))}
    usual = {number: typical(points.transforms, points.scaling, centroid) for number, centroid in centroids.items()}
    names = named(words_of(declaration), features, centroids, before, given, usual)
    rows: dict[int, tuple[Segment, F64]] = {n: (Segment(n, names[n], int(members[n])), centroids[n]) for n in numbers}
    if previous is not None:
        same_space = (previous.features, previous.transforms) == (features, points.transforms)
        old = moved(previous, previous.centroids, points.scaling) if same_space else np.zeros((len(previous.segments), len(features)))
        for segment, centroid in zip(previous.segments, old, strict=True):
            rows.setdefault(segment.number, (replace(segment, members=0, retired=True), centroid))
    ordered = [rows[number] for number in sorted(rows)]
    return ModelVersion(
        name=making.name,
        version=making.number,
        created_at=making.as_of,
        as_of=making.as_of,
        feature_version=declaration.version,
        features=features,
        transforms=points.transforms,
        scaling=points.scaling,
        eligibility=declaration.eligibility,
        segments=tuple(segment for segment, _ in ordered),
        centroids=np.array([centroid for _, centroid in ordered], np.float64),
        decision=previous.decision if previous is not None else Decision(),
        quality=dict(sorted(making.quality.items())),
        provenance=dict(sorted(making.provenance.items())),
        previous_version=previous.version if previous is not None else None,
    )


def code_version() -> str:
    """Hash the sources that a version depends on: the core and this package; 16 hexadecimal digits."""
    hashed = hashlib.sha256()
    for package in ("streamer.core", "offline"):
        for path in sorted(resources.files(package).iterdir(), key=lambda found: found.name):
            if path.name.endswith(".py"):
                hashed.update(f"{package}/{path.name}\0".encode() + path.read_bytes())
    return hashed.hexdigest()[:16]


def inputs_digest(inputs: Mapping[str, Any]) -> str:
    """Hash all that a fit depends on: 64 hexadecimal digits of a SHA-256."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()
