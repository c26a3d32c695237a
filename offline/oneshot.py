"""One file in, one segment for every customer out: no server, no history, no version.

Law: a file gives a right answer or an error that says what to mend. A file of events or orders goes through the same mapping, checks and
features as the stream; a plain table of features is taken as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import pandas as pd

from offline import choosing
from offline.event_files import has_events, read_events
from offline.events import Reading
from offline.features import compute
from offline.fit import cold, different, in_deviations, points_of
from offline.identity import typical
from offline.naming import named, plain_words, words_of
from offline.tables import read_features
from streamer.core.declaration import DAY_MS
from streamer.core.errors import BadInput
from streamer.core.lloyd import assign
from streamer.core.model import NEW, Segment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from offline.event_files import FileEvents
    from offline.fit import Points
    from offline.naming import Words
    from offline.settings import Settings
    from streamer.core.columns import F64, Bool
    from streamer.core.declaration import Transform

K: TypeAlias = "int | Literal['auto']"

APART = 4  # features told of each segment


@dataclass(frozen=True, slots=True)
class Request:
    """What to segment, and how; see `offline segment --help`."""

    file: Path
    k: K
    mapping: str | None = None
    declaration: Path | None = None
    as_of: int | None = None
    customer: str | None = None
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Apart:
    """One feature that sets a segment apart: its usual value there and on average, and by how many standard deviations they differ."""

    feature: str
    typical: float
    average: float
    z: float


@dataclass(frozen=True, slots=True)
class Profile:
    """One segment as people see it."""

    segment_id: str
    name: str
    customers: int
    share: float
    apart: tuple[Apart, ...]


@dataclass(frozen=True, slots=True)
class Segmented:
    """The answer: each customer's segment, the segments, and what should be known of it."""

    segments: pd.Series[str]  # by customer
    profiles: tuple[Profile, ...]
    new: int
    choice: pd.DataFrame | None
    clipped: Mapping[str, int]
    clipped_rows: int
    warnings: tuple[str, ...]
    as_of: int | None
    behind: Behind


@dataclass(frozen=True, slots=True)
class Source:
    """Features and how they came about; of events, what they were computed of."""

    features: pd.DataFrame
    eligible: Bool
    transforms: Sequence[Transform]
    words: Sequence[Words]
    warnings: tuple[str, ...]
    rule: str = ""
    as_of: int | None = None
    events: FileEvents | None = None


@dataclass(frozen=True, slots=True)
class Behind:
    """What the answer was made of, for whoever reports on it: features, what segments were fitted to, the fit."""

    source: Source
    points: Points
    centroids: F64  # (k, f) in standard deviations


def segment(request: Request, settings: Settings, progress: Callable[[str, int, int], None] = lambda _s, _d, _o: None) -> Segmented:
    """Segment a file's customers.

    Raises:
        BadInput: the file can't be read or used, with what to mend.
        Misconfigured: the mapping or the declaration is wrong.

    """
    source = _of_events(request, settings, progress) if request.mapping is not None or has_events(request.file) else _of_table(request)
    points = points_of(source.features, source.eligible, source.transforms) if source.eligible.any() else None
    return _fitted(request, source, points, settings, progress)


def _fitted(
    request: Request, source: Source, points: Points | None, settings: Settings, progress: Callable[[str, int, int], None]
) -> Segmented:
    customers = len(source.features)
    eligible = 0 if points is None else len(points.values)
    if points is None or eligible < 2:  # noqa: PLR2004  # segments tell customers apart
        rule = f", of whom {eligible} with enough behind them ({source.rule})" if source.rule else ""
        message = f"{request.file}: {customers:,} customer{'s' if customers != 1 else ''}{rule}: segments need at least two"
        raise BadInput(message)
    if len(points.flat) == len(points.names):
        message = f"{request.file}: no feature differs between {eligible:,} customers: there is nothing to tell them apart by"
        raise BadInput(message)
    if request.k != "auto" and (apart := different(points.vectors, request.k)) < request.k:
        but = f", of whom {apart:,} differ" if apart < eligible else ""
        message = f"{request.file}: {eligible:,} customers{but}: too few for {request.k} segments: ask for at most {apart}"
        raise BadInput(message)
    choice = None
    if request.k == "auto":
        limits, candidates = settings.gate, range(settings.fit.k_min, settings.fit.k_max + 1)
        choice = choosing.choose(
            points.vectors,
            candidates,
            share_min=limits.share_min,
            share_max=limits.share_max,
            seed=settings.fit.seed,
            progress=lambda done, of: progress("choosing k", done, of),
        )
        clusters = choice.clusters
    else:
        progress("fitting", 0, 1)
        clusters = cold(points.vectors, request.k, settings.fit.seed)
    labels = assign(points.vectors, clusters.centroids)[0]
    ids = [Segment(number, "").segment_id for number in range(1, len(clusters.members) + 1)]
    told = pd.Series(NEW, index=source.features.index, name="segment", dtype="object")
    told[source.eligible] = np.array(ids, dtype=object)[labels]
    centroids = in_deviations(clusters.centroids)
    usual = dict(enumerate(typical(points.transforms, points.scaling, centroids)))
    names = named(source.words, points.names, dict(enumerate(centroids)), {}, usual=usual)
    profiles = tuple(
        Profile(ids[k], names[k], int(size), int(size) / customers, _apart(points, centroids[k])) for k, size in enumerate(clusters.members)
    )
    warnings = list(source.warnings)
    if points.flat:
        warnings.append(f"features without variance have no weight: {', '.join(points.flat)}")
    return Segmented(
        told,
        profiles,
        customers - eligible,
        choice.table if choice is not None else None,
        points.clipped(),
        points.clipped_rows(),
        tuple(warnings),
        source.as_of,
        Behind(source, points, centroids),
    )


def _apart(points: Points, centroid: F64) -> tuple[Apart, ...]:
    values = typical(points.transforms, points.scaling, centroid[None, :])[0]
    average = typical(points.transforms, points.scaling, np.zeros((1, len(centroid))))[0]
    chosen = np.argsort(-np.abs(centroid), kind="stable")[:APART].tolist()
    return tuple(Apart(points.names[f], float(values[f]), float(average[f]), float(centroid[f])) for f in chosen)


def _of_table(request: Request) -> Source:
    table = read_features(request.file, request.customer, request.without)
    names = [str(name) for name in table.features.columns]
    return Source(table.features, np.ones(len(table.features), np.bool_), table.transforms, plain_words(names), table.warnings)


def _of_events(request: Request, settings: Settings, progress: Callable[[str, int, int], None]) -> Source:
    progress("reading", 0, 1)
    read = read_events(request.file, request.mapping, request.declaration or settings.declaration)
    declaration, last = read.declaration, read.last_ms
    as_of = (last // DAY_MS + 1) * DAY_MS if request.as_of is None else request.as_of
    if as_of <= last:
        message = f"{request.file}: its last event is of {_utc(last)}, after --as-of: choose a later day, or cut the file there"
        raise BadInput(message)
    computed = compute(Reading(declaration), read.batches, as_of, buckets=settings.fit.buckets, rows_in_memory=2**62, progress=progress)
    warnings = list(read.warnings)
    refused = {name: count for name, count in computed.counts.items() if name.startswith("refused")}
    warnings += [f"{count:,} events were {name}" for name, count in refused.items()]
    if not len(computed.features):
        message = f"{request.file}: no event is valid: {'; '.join(warnings)}"
        raise BadInput(message)
    rule = ", ".join(f"{measure} of {least} or more" for measure, least in declaration.eligibility)
    transforms = [feature.transform for feature in declaration.features]
    eligible = computed.facts["eligible"].to_numpy(np.bool_)
    return Source(computed.features, eligible, transforms, words_of(declaration), tuple(warnings), rule, as_of, read)


def _utc(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
