"""Segments on simulated traffic agree with the true personas as well as a clustering that sees everything at once.

The whole worker runs in memory, with the real fit. At the moment everybody has been judged by the first model, and again at the end of 30
days, the adjusted Rand index of the segments that customers were last told to be in is held against scikit-learn's KMeans, best of ten, on
the votes that the same customers' features make at the same instant. So what the stream knows may be older than what KMeans is given.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from streamer.adapters.clustering import KMeansFitter
from streamer.app.demo.truth import Truth
from streamer.app.first_model import FirstFit
from streamer.app.models import ModelShelf
from streamer.app.simulation import PERSONAS, Options, traffic
from streamer.app.simulation.rhythm import midnight_ms
from streamer.app.simulation.traffic import packaged_schema_id
from streamer.app.standing import standing
from streamer.core.model import Decision
from streamer.core.partitioning import partition_of
from tests.corekit import packaged
from tests.fakes.job import INPUT, NAME, Job

if TYPE_CHECKING:
    from streamer.app.simulation import Batch
    from streamer.app.worker import Worker

FEW, CUSTOMERS = 2_000, 4_000
DAYS, HISTORY_DAYS = 30, 21
K = len(PERSONAS)
RECORDS_AT_ONCE = 1_000
ROUNDS_MAX = 200
ROUND_S = 10.0  # so that every round may have its epoch
ALLOWED = 0.02
LEAST = 0.65  # whatever KMeans finds
REFERENCES = 3  # fits of the best of ten, from other seeds: each must be met
SEEDS = int(os.environ.get("ACCEPTANCE_SEEDS", "8"))


@dataclass(frozen=True)
class Found:
    """Agreement with the personas as of an instant: ours, and that of KMeans from several seeds."""

    at_ms: int
    customers: int
    ours: float
    theirs: list[float]


@dataclass
class Run:
    """Simulated traffic through one worker."""

    options: Options
    job: Job
    worker: Worker = field(init=False)

    def __post_init__(self) -> None:
        self.worker = self.job.worker()
        self.truth = Truth.of(self.options)
        self.sent = [0] * self.job.partitions
        self.schema_id = packaged_schema_id()

    def send(self, records: Batch) -> None:
        """Append records as they are sent: keyed, by Java's partitioner, malformed ones among them."""
        times = records.rows["sent"].tolist()
        for key, value, sent_ms in zip(records.record_keys(), records.values(self.schema_id), times, strict=True):
            partition = partition_of(key, self.job.partitions)
            self.job.broker.append(INPUT, partition, key, value, timestamp=sent_ms)
            self.sent[partition] += 1

    def catch_up(self) -> None:
        """Let the worker work until all that was sent is in profiles and everybody has been judged by what is adopted."""
        for _ in range(ROUNDS_MAX):
            self.job.step(self.worker, seconds=ROUND_S)
            states = self.job.store.read(range(self.job.partitions))
            behind = any(state.next_offset < sent for state, sent in zip(states, self.sent, strict=True))
            if not behind and all(data.swept for data in self.job.data()):
                return
        message = f"the worker did not catch up in {ROUNDS_MAX} rounds"
        raise TimeoutError(message)

    @property
    def now_ms(self) -> int:
        """The latest event time that any partition has seen."""
        return max(data.watermark for data in self.job.data())

    @property
    def has_model(self) -> bool:
        """Whether every partition judges by the first model."""
        return all(data.model for data in self.job.data())

    def found(self, at_ms: int) -> Found:
        """Hold the segments against the truth, and KMeans too."""
        model = ModelShelf(self.job.store, self.job.reader, NAME).get(1)
        stand = standing(self.job.store, range(self.job.partitions), self.job.declaration, self.job.plan, model, at_ms)
        personas = [self.truth.persona(customer, at_ms) for customer in stand.customers]
        chosen = np.flatnonzero(stand.eligible & np.array([persona is not None for persona in personas]))
        known = [personas[i] for i in chosen]
        points = stand.points[chosen]
        fits = [KMeans(K, n_init=10, random_state=seed).fit(points) for seed in range(REFERENCES)]
        ours = float(adjusted_rand_score(known, [stand.segment[i] for i in chosen]))
        return Found(at_ms, len(chosen), ours, [float(adjusted_rand_score(known, fit.labels_)) for fit in fits])


def found_twice(customers: int, seed: int) -> tuple[Found, Found]:
    """Run 30 days; returns what was found when the first model was there, and at the end."""
    options = Options(customers, DAYS, midnight_ms(date(2026, 3, 2)), seed)
    first_fit = FirstFit(NAME, K, customers // 2, HISTORY_DAYS, 200_000, Decision())
    settings = {"records_max": 5_000, "sweep_records": 5_000}
    run = Run(options, Job(features=packaged(), first_fit=first_fit, settings=settings, fitter=KMeansFitter()))
    first: Found | None = None
    for batch in traffic(options):
        for begin in range(0, len(batch), RECORDS_AT_ONCE):
            run.send(batch.part(begin, begin + RECORDS_AT_ONCE))
            run.catch_up()
            if first is None and run.has_model:
                first = run.found(run.now_ms)
    run.job.settle(run.worker)
    assert run.job.check().clean
    assert first is not None
    return first, run.found(options.until_ms - 1)


def shortfall(customers: int, seed: int) -> float:
    """Run 30 days; returns by how much ours is below the best of theirs, at the worse of the two moments."""
    first, last = found_twice(customers, seed)
    print(f"seed {seed}: {first} {last}")  # noqa: T201  # the figures, with `pytest -s` and where it fails
    assert first.customers >= customers // 2
    assert last.customers >= customers * 9 // 10
    assert last.ours >= LEAST, last
    return max(max(found.theirs) - found.ours for found in (first, last))


@pytest.mark.compiled
@pytest.mark.in_memory
@pytest.mark.timeout(900)
def test_segments_agree_with_the_personas_as_well_as_a_clustering_of_everything_at_once() -> None:
    assert shortfall(FEW, seed=1) <= ALLOWED


@pytest.mark.compiled
@pytest.mark.in_memory
@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
def test_they_do_so_from_any_seed(seed: int) -> None:
    assert shortfall(CUSTOMERS, seed) <= ALLOWED


@pytest.mark.compiled
@pytest.mark.in_memory
@pytest.mark.long
def test_of_fewer_customers_at_most_one_of_eight_seeds_falls_short() -> None:
    """Where the best clustering of the last day is not to be reached from that of the first, only a fit from nothing finds it."""
    found = [shortfall(FEW, seed) for seed in range(1, 9)]
    assert sum(short > ALLOWED for short in found) <= 1, found
    assert sum(found) / len(found) <= ALLOWED, found
