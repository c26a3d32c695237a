"""The first model: when there is enough to fit it on, and on what it is fitted."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from streamer.app.first_model import FirstFit, FirstModel
from streamer.core.model import Decision, features_as_of
from tests.fakes.job import FakeFitter, Job, shop
from tests.fakes.state_store import FakeStateStore

if TYPE_CHECKING:
    from streamer.core.model import ModelVersion
    from streamer.core.ports import Packed

HOW = FirstFit("segments", 3, 10, 0, 1000, Decision())
DAYS = 40


@pytest.fixture(scope="module")
def job() -> Job:
    made = Job(first_fit=None)
    made.send(shop(300, 30))
    made.settle(made.worker())
    return made


def first_model(job: Job, **how: Any) -> FirstModel:
    return FirstModel(job.declaration, job.plan, replace(HOW, **how), FakeFitter())


def fit(job: Job, **how: Any) -> ModelVersion | None:
    return first_model(job, **how).fit(job.store, job.partitions, 5)


def test_it_is_fitted_on_all_eligible_customers_as_of_the_latest_event_of_any_partition(job: Job) -> None:
    made = fit(job)
    assert made is not None
    as_of = max(data.watermark for data in job.data())
    customers, work = job.work()
    eligible = np.array([job.counts()[customer] >= 2 for customer in customers])
    assert (as_of, 5, 1) == (made.as_of, made.created_at, made.version)
    assert float(eligible.sum()) == made.quality["customers"]
    values = first_model(job).eligible_features(job.store, job.partitions, as_of)
    expected = features_as_of(job.plan, work, as_of)[eligible]
    assert sorted(map(tuple, expected.tolist())) == sorted(map(tuple, values.tolist()))
    assert eligible.sum() == sum(segment.members for segment in made.segments)


def test_it_waits_until_anything_is_known() -> None:
    assert fit(Job()) is None


@pytest.mark.parametrize(("how", "made"), [({"customers_min": 31}, False), ({"customers_min": 30}, True)])
def test_it_waits_for_enough_customers(job: Job, how: dict[str, Any], made: bool) -> None:
    assert made == (fit(job, **how) is not None)


@pytest.mark.parametrize(("days", "made"), [(DAYS - 1, True), (DAYS, False)])
def test_it_waits_for_enough_history(job: Job, days: int, made: bool) -> None:
    assert made == (fit(job, history_days_min=days) is not None)


def test_it_looks_again_when_a_tenth_more_events_came_or_a_minute_passed_though_nobody_is_new(caplog: pytest.LogCaptureFixture) -> None:
    job = Job(first_fit=None)
    everybody_once = list({event["customer_id"]: event for event in shop(600, 40)}.values())
    job.send(everybody_once)  # known, and with one event each not eligible
    worker = job.worker()
    job.settle(worker)
    caplog.set_level(logging.INFO)
    trying = first_model(job)
    assert trying.fit(job.store, job.partitions, 0) is None
    assert "0 of 40 customers are eligible, the first model needs 10" in caplog.text

    def looks(begin: int, end: int, now_ms: int) -> str:
        """Let some do the same again, and tell what was found."""
        caplog.clear()
        job.send([{**event, "event_id": f"again {event['event_id']}"} for event in everybody_once[begin:end]])
        job.settle(worker)
        assert trying.fit(job.store, job.partitions, now_ms) is None
        return caplog.text

    assert "" == looks(0, 3, 59_999)
    assert "4 of 40" in looks(3, 4, 59_999)  # a tenth more events
    assert "" == looks(4, 6, 119_998)
    assert "" == looks(6, 6, 59_999)
    assert "6 of 40" in looks(6, 6, 119_999)  # a minute later
    assert "" == looks(6, 6, 999_999)  # nothing came
    job.send([{**event, "event_id": f"again {event['event_id']}"} for event in everybody_once[6:10]])
    job.settle(worker)
    assert trying.fit(job.store, job.partitions, 999_999) is not None


def test_no_more_than_the_sample_is_read(job: Job) -> None:
    as_of = max(data.watermark for data in job.data())
    assert len(first_model(job, sample_max=1).eligible_features(job.store, job.partitions, as_of)) < 30


class TwiceOver(FakeStateStore):
    """Gives each profile twice, as a walk may."""

    def scan(self, partition: int, cursor: int, count: int, commit_id: str | None = None) -> tuple[int, Packed]:
        return (0 if cursor else 1), super().scan(partition, 0, count, commit_id)[1]


def test_a_customer_whom_the_walk_meets_twice_counts_once(job: Job) -> None:
    as_of = max(data.watermark for data in job.data())
    twice = TwiceOver(job.redis, job.run, "shop")
    expected = first_model(job).eligible_features(job.store, job.partitions, as_of)
    assert expected.tolist() == first_model(job).eligible_features(twice, job.partitions, as_of).tolist()


def test_a_feature_without_variance_has_no_weight_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    job = Job(first_fit=None)
    job.send(event for event in shop(300, 30) if event["event_type"] == "view")
    job.settle(job.worker())
    made = fit(job)
    assert made is not None
    assert 0.0 == made.scaling.weight[2]
    assert "features without variance have no weight in the model: spend_30d" in caplog.text
