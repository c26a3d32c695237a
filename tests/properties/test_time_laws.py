"""The laws of time: what moved the clock does not show, time alone gives what the oracle computes, and who leaves leaves nothing."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamer.core.declaration import declare
from streamer.core.model import features_as_of
from streamer.core.partition import DONE
from streamer.core.profile import CLOCK, LAST, NEVER
from tests import oracle
from tests.corekit import DAY_MS, HOUR_MS, Stream, event, log, opened, valid
from tests.properties.strategies import declarations, events
from tests.properties.test_fold_laws import by_customer, staying, versions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamer.core.model import ModelVersion

SILENCE = st.sampled_from([1, HOUR_MS, 5 * HOUR_MS, DAY_MS, 3 * DAY_MS, 45 * DAY_MS, 120 * DAY_MS])
OTHER = "somebody else"


def judged_from_the_start(tree: Mapping[str, Any], version: ModelVersion) -> Stream:
    """Begin with a version adopted before everything."""
    stream = Stream.of(tree)
    stream.adopt(version, 0, 0, NEVER)
    return stream


def recent(data: st.DataObject, tree: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Draw valid events that lie within 100 days of the first of them, in their order."""
    rows = valid(data.draw(events(tree)), tree)
    first = min((row["occurred_at"] for row in rows), default=0)
    return [row for row in rows if row["occurred_at"] < first + 100 * DAY_MS]


@given(st.data())
def test_after_any_silence_features_are_those_that_the_oracle_computes_from_raw_events(data: st.DataObject) -> None:
    tree = data.draw(declarations())
    rows = recent(data, tree)
    if not rows:
        return
    stream = judged_from_the_start(tree, staying(data.draw(versions(declare(tree), 1))))
    stop = data.draw(st.integers(1, len(rows)))
    stream.fold_all(log(rows[:stop]), data.draw(st.lists(st.integers(1, 45), max_size=3)))
    as_of = max(row["occurred_at"] for row in rows[:stop])
    for silence in data.draw(st.lists(SILENCE, min_size=1, max_size=3)):
        as_of += silence
        stream.tick(0, as_of)
        expected = oracle.features(oracle.frame(rows[:stop]), tree, as_of)
        work = opened(stream.plan, [stream.profiles[0, str(customer)] for customer in expected.index])
        assert expected.to_numpy(np.float64).tobytes() == features_as_of(stream.plan, work, as_of).tobytes()
        assert stream.recounted(0) == stream.sums(0)


@given(st.data(), st.integers(0, 2**32))
def test_what_moves_the_clock_and_when_a_sweep_comes_by_do_not_show(data: st.DataObject, seed: int) -> None:
    tree = data.draw(declarations())
    rng, rows = random.Random(seed), sorted(recent(data, tree), key=lambda row: row["occurred_at"])
    version = data.draw(versions(declare(tree), 1))
    alone, among = judged_from_the_start(tree, version), judged_from_the_start(tree, version)
    for row in rows:
        alone.fold(log([row]))
    others = [
        event("view", row["occurred_at"] + rng.choice([0, 1, HOUR_MS, DAY_MS]), OTHER, f"other {i}")
        for i, row in enumerate(rows)
        if rng.random() < 0.7
    ]
    for placed in log(sorted([*rows, *others], key=lambda row: row["occurred_at"])):
        among.fold([placed._replace(offset=0)])
        if rng.random() < 0.3:
            among.fold([], rng.sample(sorted(among.profiles), rng.randint(0, len(among.profiles))))
    end = max((row["occurred_at"] for row in [*rows, *others]), default=0) + data.draw(SILENCE)
    steps = sorted(rng.randint(0, end) for _ in range(rng.randint(0, 3)))
    for as_of in [*steps, end]:
        if as_of > among.data().watermark:
            among.tick(0, as_of)
    alone.tick(0, end)
    assert by_customer(alone.changes) == {name: path for name, path in by_customer(among.changes).items() if name != OTHER}
    assert alone.profiles == {key: body for key, body in among.profiles.items() if key[1] != OTHER}


@given(st.data(), st.integers(0, 2**32))
def test_who_is_silent_for_long_leaves_at_a_midnight_and_comes_back_as_somebody_new(data: st.DataObject, seed: int) -> None:
    tree = data.draw(declarations())
    rows = recent(data, tree)
    if not rows:
        return
    rng = random.Random(seed)
    drawn = data.draw(versions(declare(tree), 1))
    version = replace(drawn, decision=replace(drawn.decision, retention_ms=rng.choice([0, 50, 200]) * DAY_MS))
    stream = judged_from_the_start(tree, version)
    stream.fold_all(log(rows))
    last = max(row["occurred_at"] for row in rows)
    longest = max(version.decision.retention_ms, (stream.declaration.horizon_days + 1) * DAY_MS)
    stream.tick(0, last + longest + 2 * DAY_MS)
    assert not stream.profiles
    assert all(not np.any(sums) for sums in stream.sums(0))
    latest: dict[str, int] = {}
    heard = {name: max(row["occurred_at"] for row in rows if row["customer_id"] == name) for name in {row["customer_id"] for row in rows}}
    for name, path in by_customer(stream.changes).items():
        gone = path[-1]
        latest[name] = gone.version
        assert ("expired", 0) == (gone.cause, gone.after)
        assert gone.occurred % DAY_MS == 0
        assert longest < gone.occurred - heard[name] <= longest + DAY_MS
    assert set(latest) == set(heard)
    back = [{**row, "occurred_at": last + longest + 3 * DAY_MS} for row in rows[:1]]
    fresh = judged_from_the_start(tree, version)
    offset = len(rows)
    stream.fold([log(back)[0]._replace(offset=offset)])
    fresh.fold([log(back)[0]._replace(offset=offset)])
    assert fresh.profiles == stream.profiles
    assert fresh.changes == stream.changes[-1:]
    assert stream.changes[-1].version > latest[stream.changes[-1].customer]


@given(st.data())
def test_the_clock_is_at_the_last_boundary_and_the_last_event_stays_known(data: st.DataObject) -> None:
    tree = data.draw(declarations())
    rows = recent(data, tree)
    if not rows:
        return
    stream = judged_from_the_start(tree, staying(data.draw(versions(declare(tree), 1))))
    stream.fold_all(log(rows))
    as_of = max(row["occurred_at"] for row in rows) + data.draw(SILENCE)
    stream.tick(0, as_of)
    assert stream.data().cursor == DONE
    for (_, name), body in stream.profiles.items():
        head = opened(stream.plan, [body]).head[0]
        heard = max(row["occurred_at"] for row in rows if row["customer_id"] == name)
        assert heard == head[LAST]
        assert max(as_of // DAY_MS * DAY_MS, heard) <= head[CLOCK] <= as_of
        if not stream.plan.horizon_hours:
            assert head[CLOCK] in (as_of // DAY_MS * DAY_MS, heard)
