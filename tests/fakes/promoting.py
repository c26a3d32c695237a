"""Versions that a person promotes, without the nightly job: others than the present one in every way that a version may differ."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from streamer.adapters.avro.model_records import Promotion, encoded, promotion_record, version_record
from streamer.core.model import ModelVersion, Scaling, Segment
from streamer.core.ports import Topic

if TYPE_CHECKING:
    from streamer.adapters.avro.wire import SchemaId
    from tests.fakes.broker import FakeBroker

STARTS = (0.5, 0.8, 1.25, 2.0)


def renewed(version: ModelVersion, number: int, seed: object) -> ModelVersion:
    """Make another version after one: another scale, moved centroids, now and then a segment that dies and one that is born, new names."""
    rng = random.Random(f"{seed}:{number}")
    old = version.scaling
    factors = np.array([rng.choice(STARTS) for _ in version.features])
    high = old.high * rng.choice((0.7, 1.0, 1.5)) + 0.01
    scaling = Scaling(old.low, high, old.mean + rng.uniform(-0.3, 0.3), old.scale * factors, old.weight)
    segments = [replace(segment, name=f"{segment.segment_id} of {number}") for segment in version.segments]
    active = [k for k, segment in enumerate(segments) if not segment.retired]
    if len(active) > 2 and rng.random() < 0.6:
        dead = rng.choice(active)
        segments[dead] = replace(segments[dead], retired=True)
    centroids = [*(version.centroids + np.array([[rng.gauss(0, 0.4) for _ in version.features] for _ in segments]))]
    if rng.random() < 0.7:
        born = max(10 * number, 1 + max(segment.number for segment in segments))
        segments.append(Segment(born, f"born in {number}"))
        centroids.append(np.array([rng.gauss(0, 1.0) for _ in version.features]))
    return replace(
        version,
        version=number,
        previous_version=version.version,
        scaling=scaling,
        segments=tuple(segments),
        centroids=np.array(centroids),
        decision=replace(version.decision, margin=rng.choice((0.0, 0.1)), dwell_ms=rng.choice((0, 86_400_000))),
    )


def promote(broker: FakeBroker, topic: str, version: ModelVersion, schema_id: SchemaId, reason: str = "") -> None:
    """Publish a version and its promotion in one step, as `offline models promote` does."""
    body = encoded(version)
    records = version_record(version, body, schema_id), promotion_record(Promotion(version, body, reason, forced=False, at=0), schema_id)
    for record in records:
        assert record.topic is Topic.MODELS
        broker.append(topic, 0, record.key or b"", record.value, record.headers)
