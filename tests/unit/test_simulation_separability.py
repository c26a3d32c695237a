"""Personas can be told apart by the packaged features: else nobody could judge a model on simulated traffic."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from streamer.app.simulation import PERSONAS, Options, traffic, truth
from streamer.app.simulation.rhythm import midnight_ms
from streamer.app.simulation.visits import MALFORMED
from streamer.core.model import scale, votes
from tests.corekit import Stream, log, packaged

if TYPE_CHECKING:
    from streamer.core.columns import F64

OPTIONS = Options(customers=600, days=30, start_ms=midnight_ms(date(2026, 3, 2)))


def features(options: Options) -> tuple[list[str], F64]:
    """Fold the traffic; returns the customers and their coordinates as of the end of the period."""
    stream = Stream.of(packaged())
    for batch in traffic(options):
        sound = batch.rows["fate"] != MALFORMED
        stream.fold(log(record for record, taken in zip(batch.records(), sound, strict=True) if taken))
    raw = stream.features(options.until_ms)
    transforms = tuple(feature.transform for feature in stream.declaration.features)
    return sorted(customer for _, customer in stream.profiles), votes(transforms, scale(transforms, raw), raw).astype(np.float64)


def agreement(options: Options) -> float:
    """Cluster the customers and compare with their personas at the end: the adjusted Rand index."""
    customers, points = features(options)
    last = truth(options).drop_duplicates("customer_id", keep="last").set_index("customer_id")["persona"]
    found = KMeans(len(PERSONAS), n_init=10, random_state=0).fit(points).labels_
    return float(adjusted_rand_score(last[customers], found))


@pytest.mark.compiled
@pytest.mark.parametrize(("days", "least"), [(30, 0.65), (60, 0.75)])
def test_k_means_on_the_packaged_features_finds_the_personas(days: int, least: float) -> None:
    assert agreement(replace(OPTIONS, days=days)) >= least


@pytest.mark.compiled
def test_late_and_doubled_events_change_no_feature() -> None:
    plain = replace(OPTIONS, customers=100, days=10, late=0, duplicates=0)
    customers, points = features(plain)
    again, others = features(replace(plain, late=0.2, duplicates=0.2, malformed=0.1))
    assert customers == again
    assert points.tolist() == others.tolist()
