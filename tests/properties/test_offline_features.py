"""Features out of the history are, to the bit, those of the independent program and of the stream, whatever the batches and buckets."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from offline import features
from offline.events import Reading, take
from offline.features import Computed, bucket, compute
from streamer.core.declaration import declare
from streamer.core.model import features_as_of
from streamer.core.profile import CLOCK, NEVER
from tests import oracle
from tests.corekit import DAY_MS, T0, Stream, event, log, opened, packaged, valid
from tests.offlinekit import batches
from tests.properties.strategies import declarations, events, instants
from tests.properties.test_fold_laws import versions


def computed(tree: Any, rows: Any, as_of: int, size: int = 1000, **spilling: Any) -> Computed:
    return compute(Reading(declare(tree)), batches(rows, size), as_of, **spilling)


def bits(values: Any) -> list[list[int]]:
    found: list[list[int]] = np.ascontiguousarray(values, np.float64).view(np.int64).tolist()
    return found


@given(st.data())
def test_features_equal_the_oracle_s_to_the_bit(data: st.DataObject) -> None:
    tree = data.draw(declarations(mixed_gaps=True))
    rows = data.draw(events(tree))
    as_of = max(data.draw(instants(rows, tree)).values(), default=0)
    found = computed(tree, rows, as_of, data.draw(st.integers(1, 45)))
    expected = oracle.features(oracle.frame(rows), tree, dict.fromkeys(found.features.index, as_of))
    assert sorted(expected.index, key=str.encode) == list(found.features.index)
    assert list(expected.columns) == list(found.features.columns)
    assert bits(expected.loc[found.features.index].to_numpy(np.float64)) == bits(found.features.to_numpy())
    eligible = oracle.eligible(oracle.frame(rows), tree)
    assert eligible.loc[found.features.index].tolist() == found.facts["eligible"].tolist()


@given(st.data())
def test_what_is_before_a_customer_s_clock_is_evaluated_as_of_the_clock_as_in_the_stream(data: st.DataObject) -> None:
    tree = data.draw(declarations())
    rows = data.draw(events(tree))
    stream = Stream.of(tree)
    stream.fold_all(log(valid(rows, tree)))
    clocks = stream.work().head[:, CLOCK]
    found = computed(tree, rows, 0)
    customers = sorted((customer for _, customer in stream.profiles), key=str.encode)
    places = [sorted(customer for _, customer in stream.profiles).index(customer) for customer in customers]
    assert customers == list(found.features.index)
    assert clocks[places].tolist() == found.facts["clock"].tolist()
    for place, customer in zip(places, customers, strict=True):
        assert bits(stream.features(int(clocks[place]))[place]) == bits(found.features.loc[customer].to_numpy())


@given(st.data())
def test_batches_and_buckets_leave_no_trace(data: st.DataObject) -> None:
    tree = data.draw(declarations())
    rows = data.draw(events(tree))
    whole = computed(tree, rows, 0)
    size, buckets = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 5))
    with patch.object(features, "FOLDED_ROWS", data.draw(st.integers(1, 40))):
        cut = computed(tree, rows, 0, size, buckets=buckets, rows_in_memory=data.draw(st.integers(0, 40)))
    assert list(whole.features.index) == list(cut.features.index)
    assert bits(whole.features.to_numpy()) == bits(cut.features.to_numpy())
    assert whole.facts.equals(cut.facts)
    assert whole.days.equals(cut.days)
    assert whole.counts == cut.counts


@given(st.data())
def test_who_was_silent_for_too_long_begins_anew_as_in_the_stream(data: st.DataObject) -> None:
    tree = data.draw(declarations())
    version = data.draw(versions(declare(tree), 1))
    retention_ms = data.draw(st.sampled_from([0, 50, 200])) * DAY_MS
    version = replace(version, decision=replace(version.decision, retention_ms=retention_ms))
    longest = max(retention_ms, (declare(tree).horizon_days + 1) * DAY_MS)
    gaps = st.sampled_from([0, DAY_MS, longest - 1, longest, longest + 1, longest + DAY_MS // 2, longest + 5 * DAY_MS])
    rows, at = [], T0
    for n, row in enumerate(valid(data.draw(events(tree)), tree)[:20]):
        at += data.draw(gaps)
        rows.append({**row, "occurred_at": at, "event_id": str(n)})
    stream = Stream.of(tree)
    stream.adopt(version, 0, 0, NEVER)
    stream.fold_all(log(rows), data.draw(st.lists(st.integers(1, 45), max_size=4)))
    reading = Reading(declare(tree), retention_ms=retention_ms)
    found = compute(reading, batches(rows, data.draw(st.integers(1, 45))), at)
    assert {customer for _, customer in stream.profiles} == set(found.features.index)
    for customer in found.features.index:
        work = opened(stream.plan, [stream.profiles[0, customer]])
        assert bits(features_as_of(stream.plan, work, at)) == bits(found.features.loc[[customer]].to_numpy())


def test_a_bucket_can_be_computed_in_another_process() -> None:
    tree = packaged()
    rows = [event("purchase", T0 + n * 3_600_000, f"c{n % 3}", amount=n, currency="EUR") for n in range(20)]
    reading = Reading(declare(tree))
    here = bucket(reading, batches(rows), T0 + 10 * 86_400_000)
    there = bucket(*pickle.loads(pickle.dumps((reading, batches(rows), T0 + 10 * 86_400_000))))
    assert bits(here.features.to_numpy()) == bits(there.features.to_numpy())
    again = pickle.loads(pickle.dumps(there))
    assert here.facts.equals(again.facts)
    assert (here.counts, here.days.to_dict()) == (again.counts, again.days.to_dict())


@given(st.data())
def test_an_event_is_refused_for_the_stream_s_reason(data: st.DataObject) -> None:
    tree = data.draw(declarations())
    rows = data.draw(events(tree))
    reasons = oracle.refused(oracle.frame(rows), tree)
    status = [taken.status for batch in batches(rows) for taken in [take(Reading(declare(tree)), batch)]]
    assert [reason is None for reason in reasons] == [code == 0 for codes in status for code in codes.tolist()][: len(rows)]
