"""A report on one file that was segmented once: the same study, with what there is."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from offline.events import Reading
from offline.report.facts import NEW
from offline.report.ledger import ROWS_MAX, ledger_of
from offline.report.study import Study, Subject, of_log, of_table
from offline.report.words import described, described_plainly
from streamer.core.model import Decision, ModelVersion, Segment

if TYPE_CHECKING:
    from offline.oneshot import Segmented
    from offline.settings import Settings

FOREVER_MS = 2**62  # a file's customers don't leave


def study(found: Segmented, settings: Settings, rows_max: int = ROWS_MAX) -> Study:
    """Study what `offline segment` found."""
    behind = found.behind
    source, events = behind.source, behind.source.events
    names = [str(name) for name in source.features.columns]
    about, words = described(events.declaration) if events is not None else described_plainly(names)
    version = ModelVersion(
        name="segments",
        version=1,
        created_at=found.as_of or 0,
        as_of=found.as_of or 0,
        feature_version=events.declaration.version if events is not None else "",
        features=behind.points.names,
        transforms=behind.points.transforms,
        scaling=behind.points.scaling,
        eligibility=events.declaration.eligibility if events is not None else (),
        segments=tuple(Segment(n, one.name, one.customers) for n, one in enumerate(found.profiles, 1)),
        centroids=behind.centroids,
        decision=Decision(retention_ms=FOREVER_MS),
        quality={},
        provenance={},
    )
    table = None if found.choice is None else json.loads(found.choice.to_json(orient="records"))
    subject = Subject(version, about, words, {"k_table": table}, once=True)
    if events is not None and found.as_of is not None:
        ledger = ledger_of(Reading(events.declaration), events.batches, found.as_of, rows_max)
        made = of_log(subject, ledger, found.as_of, None, settings)
    else:
        place = {segment.segment_id: n for n, segment in enumerate(version.segments)}
        places = np.array([place.get(segment, NEW) for segment in found.segments], np.int64)
        made = of_table(subject, source.features.to_numpy(np.float64), places, settings)
    return replace(made, warnings=tuple(f"{one[0].upper()}{one[1:]}." for one in found.warnings))
