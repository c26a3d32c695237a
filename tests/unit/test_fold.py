"""The fold's decisions, by hand: two features that are plain sums, so that a customer stands where its events add up to."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamer.core.declaration import Transform, declare
from streamer.core.features import feature
from streamer.core.fold import (
    APPLIED,
    CENTROID_ONE,
    DUPLICATE,
    FINER,
    JUDGED,
    LATE,
    VOTE_MAX,
    VOTE_ONE,
    decide,
    nearest,
    quantised,
    squared_distance,
    transformed,
)
from streamer.core.model import Decision, Scaling, Segment, features_as_of
from streamer.core.partition import stack_judge
from streamer.core.profile import CLOCK, EPOCH, FIRST_CODE, HELD, NEVER, NEW_SEGMENT, NO_SEGMENT
from tests.corekit import DAY_MS, HOUR_MS, T0, Change, Event, Stream, event, hashed, opened, packaged, version_of

TREE = {
    "duplicates": {"ids_max": 3, "age": "2d"},
    "measures": {
        "x_ever": {"lifetime_sum": "amount"},
        "y_ever": {"lifetime_sum": "quantity"},
        "events": {"lifetime_count": "any"},
        "points": {"count": "point"},
    },
    "features": {"x": {"lifetime": "x_ever"}, "y": {"lifetime": "y_ever"}, "points_7d": {"sum": "points", "window": "7d"}},
    "eligibility": {"events": 1},
}
CALM = Decision(margin=0.1, margin_large=0.3, dwell_ms=3 * DAY_MS)
AT_ONCE = Decision(margin=0.0, margin_large=0.0, dwell_ms=0)
FIRST, SECOND, THIRD = FIRST_CODE + 1, FIRST_CODE + 2, FIRST_CODE + 3


def plane(decision: Decision = CALM, centroids: Any = ((0, 0), (4, 0)), number: int = 1, **fields: Any) -> Any:
    """Make a version over x and y in hundredths, without the points."""
    rows = [[x, y, 0.0] for x, y in centroids]
    scaling = Scaling(np.full(3, -1e6), np.full(3, 1e6), np.zeros(3), np.array([100.0, 100.0, 1.0]), np.array([1.0, 1.0, 0.0]))
    return version_of(declare(TREE), rows, number, **{"scaling": scaling, "decision": decision, "eligibility": (), **fields})


class Walk:
    """One customer's way over the plane: each step is an event at the next offset."""

    def __init__(self, version: Any = None, parts: int = 1, era: int = 0, tree: Any = None) -> None:
        """Begin with a version, or without one."""
        self.stream = Stream.of(tree or TREE, parts=parts, era=era)
        self.offset = 0
        self.at = {"ann": (0, 0)}
        if version is not None:
            self.adopt(version, NEVER)

    def adopt(self, version: Any, as_of: int) -> None:
        self.stream.adopt(version, 0, self.offset, as_of)

    def to(self, x: int, y: int = 0, t: int = T0, customer: str = "ann") -> list[Change]:
        """Go to a place, in hundredths."""
        before = self.at.get(customer, (0, 0))
        self.at[customer] = (x, y)
        return self.send(event("move", t, customer, f"e{self.offset}", amount=x - before[0], quantity=y - before[1]))

    def send(self, *rows: dict[str, Any]) -> list[Change]:
        placed = [Event(0, self.offset + i, row) for i, row in enumerate(rows)]
        self.offset += len(rows)
        return self.stream.fold(placed)

    def epoch(self, number: int, *centroids: tuple[float, float]) -> None:
        rows = [[int(x * CENTROID_ONE), int(y * CENTROID_ONE), 0] for x, y in centroids]
        self.stream.adopt_epoch(0, number, np.array(rows, np.int64))

    def head(self, column: int, customer: str = "ann") -> int:
        return int(opened(self.stream.plan, [self.stream.profiles[0, customer]]).head[0, column])


def only(changes: list[Change]) -> Change:
    """Give the one change there is."""
    assert len(changes) == 1
    return changes[0]


# Changes


def test_without_a_model_nothing_changes_and_nothing_is_judged() -> None:
    walk = Walk()
    assert [] == walk.to(100)
    assert [1, 0, 0, 0, 0] == walk.stream.tally.tolist()
    assert (T0, 0) == (walk.head(CLOCK), walk.head(HELD))


def test_the_first_change_tells_all_there_is_to_tell() -> None:
    walk = Walk(plane())
    change = only(walk.to(100, 0))
    assert ("ann", 0, 0, "first_seen", NO_SEGMENT, FIRST) == change[:6]
    assert (NEVER, T0, 1 << 10, 1, 0) == (change.since, change.occurred, change.version, change.model, change.epoch)
    assert (1.0, 1.0 - 1.0 / 3.0) == (change.distance, change.margin)
    assert (100.0, 0.0, 0.0) == change.feature
    assert (VOTE_ONE, 0, 0) == change.vote
    assert ([1, 0], [[VOTE_ONE, 0, 0], [0, 0, 0]], [[VOTE_ONE**2, 0, 0], [0, 0, 0]], [1, 0, 0]) == walk.stream.sums(0)


def test_a_customer_stays_who_is_not_nearer_by_the_margin_to_another_segment_though_the_vote_moves() -> None:
    walk = Walk(plane())
    walk.to(0)
    assert [] == walk.to(209, t=T0 + 30 * DAY_MS)  # 1.91 from the second, 2.09 from the first: 8.6 % nearer
    assert ([0, 1], [1, 0, 0]) == (walk.stream.sums(0)[0], walk.stream.sums(0)[3])
    assert SECOND == only(walk.to(212, t=T0 + 30 * DAY_MS)).after  # 11.3 % nearer


def test_a_customer_dwells_until_the_time_is_up_or_the_margin_is_large() -> None:
    walk = Walk(plane())
    walk.to(0)
    assert [] == walk.to(230, t=T0 + 3 * DAY_MS - 1)  # 26 % nearer, a millisecond early
    change = only(walk.stream.tick(0, T0 + 3 * DAY_MS + 5))
    assert (FIRST, SECOND, "decay", T0, T0 + 3 * DAY_MS) == (change.before, change.after, change.cause, change.since, change.occurred)
    awake = Walk(plane())
    awake.to(0, t=T0 + HOUR_MS)
    change = only(awake.to(230, t=T0 + 3 * DAY_MS + HOUR_MS))
    assert (FIRST, SECOND, "behaviour", T0 + HOUR_MS) == (change.before, change.after, change.cause, change.since)
    quick = Walk(plane())
    quick.to(0)
    assert SECOND == only(quick.to(240, t=T0)).after  # 33 % nearer


def test_a_change_tells_how_much_nearer_its_segment_is_than_the_next() -> None:
    assert (1.0, 0.75) == only(Walk(plane(centroids=((1, 0), (6, 0)))).to(200))[11:13]
    assert (0.0, 1.0) == only(Walk(plane(centroids=((1, 0),))).to(100))[11:13]
    assert (FIRST, 0.0, 0.0) == (change := only(Walk(plane(centroids=((1, 0), (1, 0)))).to(100)))[5:6] + change[11:13]


def test_versions_of_a_customer_grow_by_offset_and_era_and_by_one_where_that_is_not_enough() -> None:
    walk = Walk(plane(AT_ONCE), era=3)
    era = 3 << 46
    assert era + (1 << 10) == only(walk.to(0)).version
    assert era + (2 << 10) == only(walk.to(400)).version
    walk.adopt(plane(AT_ONCE, ((4, 0), (0, 0)), number=2), NEVER)
    assert era + (2 << 10) + 1 == only(walk.stream.sweep(0)).version


# Causes


def test_a_customer_moves_by_behaviour_while_the_epoch_stands() -> None:
    walk = Walk(plane(AT_ONCE))
    walk.to(0)
    assert "behaviour" == only(walk.to(400)).cause


def test_the_model_moves_a_customer_whose_previous_vector_it_would_have_moved() -> None:
    walk = Walk(plane(AT_ONCE))
    walk.to(100)
    walk.epoch(1, (-4, 0), (2, 0))
    change = only(walk.to(110))
    assert ("model_drift", 1, SECOND) == (change.cause, change.epoch, change.after)


def test_behaviour_moves_a_customer_whose_previous_vector_would_have_stayed_in_the_new_epoch() -> None:
    walk = Walk(plane(AT_ONCE))
    walk.to(100)
    walk.epoch(1, (0, 0), (3.5, 0))
    change = only(walk.to(190))
    assert ("behaviour", 1, SECOND) == (change.cause, change.epoch, change.after)


def test_it_is_not_the_model_that_moves_a_customer_whose_dwell_is_over() -> None:
    walk = Walk(plane())
    walk.to(0)
    walk.to(230, t=T0 + 1)
    walk.epoch(1, (0, 0), (4, 0.01))
    assert "decay" == only(walk.to(230, t=T0 + 3 * DAY_MS)).cause


def test_adoption_moves_customers_at_the_sweep_or_before_their_next_event_alike() -> None:
    moved = plane(AT_ONCE, ((4, 0), (0, 0)), number=2)
    swept, live = Walk(plane(AT_ONCE)), Walk(plane(AT_ONCE))
    for walk in (swept, live):
        walk.to(0)
        walk.adopt(moved, T0 + DAY_MS)
    first = [*swept.stream.sweep(0), *swept.to(10, t=T0)]
    second = live.to(10, t=T0)
    assert first == second
    change = only(first)
    assert ("model_reseed", FIRST, SECOND, T0 + DAY_MS, 2, 1) == (
        change.cause,
        change.before,
        change.after,
        change.occurred,
        change.model,
        change.offset,
    )
    assert swept.stream.profiles == live.stream.profiles
    assert swept.stream.sums(0) == live.stream.sums(0)
    assert T0 + DAY_MS == swept.head(CLOCK)


def points_7d(number: int, *centroids: float) -> Any:
    """Make a version over the points of seven days alone."""
    flat = Scaling(np.full(3, -1e6), np.full(3, 1e6), np.zeros(3), np.ones(3), np.array([0.0, 0.0, 1.0]))
    return version_of(declare(TREE), [[0, 0, z] for z in centroids], number, scaling=flat, decision=AT_ONCE, eligibility=())


@pytest.mark.parametrize(
    ("before", "then", "cause", "after"),
    [
        ((1.0, 9.0), (4.0, 0.0), "model_reseed", SECOND),  # nearer to the second now, with the point as without it
        ((1.0, 9.0), (0.9, 0.0), "decay", SECOND),  # with the point it would have stayed: that the point is too old now moves it
        ((1.0, 9.0, 12.0), (-1.0, 0.9, 0.0), "decay", THIRD),  # the version alone would have moved it elsewhere
    ],
)
def test_a_new_version_is_the_cause_where_it_alone_moves_a_customer_as_of_when_that_was_last_judged(
    before: tuple[float, ...], then: tuple[float, ...], cause: str, after: int
) -> None:
    start = T0 // DAY_MS * DAY_MS
    adopted = start + 8 * DAY_MS + 5
    for live in (False, True):
        walk = Walk(points_7d(1, *before))
        walk.send(event("point", start, "ann", "p"))
        walk.adopt(points_7d(2, *then), adopted)
        change = (walk.send(event("point", start, "ann", "q")) if live else walk.stream.sweep(0))[0]
        assert (cause, FIRST, after, adopted) == (change.cause, change.before, change.after, change.occurred)
        assert (0.0, 0) == (change.feature[2], change.vote[2])  # what the change tells is as of the adoption


def test_who_comes_out_of_a_segment_that_is_gone_is_moved_by_the_version_whatever_time_did() -> None:
    start = T0 // DAY_MS * DAY_MS
    walk = Walk(points_7d(1, 1.0, 9.0))
    walk.send(event("point", start, "ann", "p"))
    gone = (Segment(1, "a", retired=True), Segment(2, "b"), Segment(3, "c"))
    walk.adopt(replace(points_7d(2, 1.0, 0.9, 0.0), segments=gone), start + 8 * DAY_MS)
    change = only(walk.stream.sweep(0))
    assert ("model_reseed", FIRST, THIRD) == (change.cause, change.before, change.after)


def told(change: Change) -> tuple[str, int, int, int]:
    return change.cause, change.after, change.model, change.epoch


def test_an_older_version_adopted_again_begins_an_epoch_of_its_own_with_the_centroids_of_its_fit() -> None:
    first, second = plane(AT_ONCE), plane(AT_ONCE, ((4, 0), (0, 0)), number=2)
    walk = Walk(first)
    walk.to(0)
    walk.epoch(1, (0, 0), (5, 0))
    walk.stream.sweep(0)
    walk.adopt(second, T0)
    assert ("model_reseed", SECOND, 2, 2) == told(only(walk.stream.sweep(0)))
    walk.adopt(first, T0)
    assert ("model_reseed", FIRST, 1, 3) == told(only(walk.stream.sweep(0)))
    data = walk.stream.data()
    assert data.centroids is not None
    assert first.fixed_centroids().tolist() == data.centroids.tolist()
    assert (3, 3) == (data.epoch, data.first_epoch)
    assert ([1, 0], [1, 0, 0]) == (walk.stream.sums(0)[0], walk.stream.sums(0)[3])


def test_a_customer_known_before_the_first_model_is_first_seen_at_its_adoption() -> None:
    walk = Walk()
    walk.to(0)
    walk.adopt(plane(), T0 - DAY_MS)
    change = only(walk.stream.sweep(0))
    assert ("first_seen", FIRST, T0, 1, 1 << 10) == (change.cause, change.after, change.occurred, change.offset, change.version)
    assert [] == walk.stream.sweep(0)


def test_a_customer_of_a_segment_that_is_gone_joins_the_nearest_without_margin_or_dwell() -> None:
    walk = Walk(plane())
    walk.to(0)
    walk.adopt(plane(number=2, segments=(Segment(1, "a", retired=True), Segment(3, "b"))), T0)
    change = only(walk.stream.sweep(0))
    assert (FIRST, THIRD, "model_reseed", 4.0, 1.0) == (change.before, change.after, change.cause, change.distance, change.margin)
    assert ([1], [1, 0]) == (walk.stream.sums(0)[0], walk.stream.sums(0)[3])


def test_a_customer_keeps_a_segment_by_its_number_wherever_that_stands_in_the_version() -> None:
    walk = Walk(plane())
    walk.to(400)
    walk.adopt(plane(centroids=((4, 0), (0, 0)), number=2, segments=(Segment(2, "b"), Segment(3, "c"))), T0)
    assert [] == walk.stream.sweep(0)
    assert ([1, 0], [1, 0, 0]) == (walk.stream.sums(0)[0], walk.stream.sums(0)[3])


# Eligibility


def test_a_customer_with_too_little_behind_is_new_and_has_no_vote() -> None:
    walk = Walk(plane(eligibility=(("events", 2),)))
    change = only(walk.to(100))
    assert ("first_seen", NEW_SEGMENT, 0.0, 0.0, (VOTE_ONE, 0, 0)) == (
        change.cause,
        change.after,
        change.distance,
        change.margin,
        change.vote,
    )
    assert ([0, 0], [0, 0, 1]) == (walk.stream.sums(0)[0], walk.stream.sums(0)[3])
    change = only(walk.to(100))
    assert ("behaviour", NEW_SEGMENT, FIRST) == (change.cause, change.before, change.after)
    assert ([1, 0], [1, 0, 0]) == (walk.stream.sums(0)[0], walk.stream.sums(0)[3])


def test_a_version_that_asks_for_more_makes_customers_new_again_and_takes_their_votes() -> None:
    walk = Walk(plane())
    walk.to(100)
    walk.adopt(plane(number=2, eligibility=(("events", 2),)), T0)
    change = only(walk.stream.sweep(0))
    assert ("model_reseed", FIRST, NEW_SEGMENT) == (change.cause, change.before, change.after)
    assert ([0, 0], [0, 0, 1], 0) == (walk.stream.sums(0)[0], walk.stream.sums(0)[3], walk.head(HELD))


def test_a_partition_whose_version_asks_for_less_than_another_s_asks_for_no_more() -> None:
    strict = plane(number=2, eligibility=(("events", 9),))
    stream = Stream.of(TREE, parts=2)
    stream.adopt(plane(), 0, 0, NEVER)
    stream.adopt(strict, 1, 0, NEVER)
    changes = stream.fold([Event(0, 0, event("move", T0, "ann", amount=-5)), Event(1, 0, event("move", T0, "bob"))])
    assert [("ann", FIRST), ("bob", NEW_SEGMENT)] == [(change.customer, change.after) for change in changes]


# Votes


def test_a_vote_replaces_the_one_before_also_over_epochs_and_versions() -> None:
    walk = Walk(plane(AT_ONCE))
    for step, x in enumerate((0, 400, 150, 390)):
        walk.to(x)
        walk.to(400 - x, customer="bob")
        walk.epoch(step + 1, (step, 0), (4, step))
        assert walk.stream.recounted(0) == walk.stream.sums(0)
        assert 2 == sum(walk.stream.sums(0)[0])
    walk.adopt(plane(AT_ONCE, ((1, 1), (2, 2), (3, 3)), number=2), T0)
    assert ([0, 0, 0], [0, 0, 0, 0]) == (walk.stream.sums(0)[0], walk.stream.sums(0)[3])
    walk.to(0)
    assert (1, 1) == (sum(walk.stream.sums(0)[0]), sum(walk.stream.sums(0)[3]))
    walk.stream.sweep(0)
    assert (2, 2) == (sum(walk.stream.sums(0)[0]), sum(walk.stream.sums(0)[3]))
    assert walk.stream.recounted(0) == walk.stream.sums(0)


def test_an_event_judges_a_customer_by_the_present_epoch() -> None:
    walk = Walk(plane())
    walk.to(0)
    walk.epoch(7, (0, 0), (4, 0))
    walk.to(0)
    assert 7 == walk.head(EPOCH)


# Late events and duplicates


def test_a_late_event_counts_and_the_clock_stands() -> None:
    walk = Walk(plane(AT_ONCE))
    walk.to(0, t=T0 + 8 * DAY_MS)
    change = only(walk.to(400, t=T0))
    assert (T0 + 8 * DAY_MS, SECOND) == (change.occurred, change.after)
    walk.send(event("point", T0 + DAY_MS), event("point", T0 + DAY_MS - 1))
    assert 1.0 == walk.stream.features(T0 + 8 * DAY_MS)[0, 2]
    assert [4, 0, 2, 4] == [walk.stream.tally[column] for column in (APPLIED, DUPLICATE, LATE, JUDGED)]
    assert T0 + 8 * DAY_MS == walk.stream.data().watermark


def test_a_repeated_id_changes_nothing_but_the_watermark() -> None:
    walk = Walk(plane(AT_ONCE))
    walk.send(event("move", T0, event_id="e"))
    before = dict(walk.stream.profiles)
    assert [] == walk.send(event("move", T0 + HOUR_MS, event_id="e", amount=400))
    assert before == walk.stream.profiles
    assert [1, 1, 0, 1, 0] == walk.stream.tally.tolist()
    assert T0 + HOUR_MS == walk.stream.data().watermark
    walk.send(event("move", T0, "bob", event_id="e"))
    assert [2, 1, 0, 2, 0] == walk.stream.tally.tolist()


@pytest.mark.parametrize("together", [True, False])
def test_ids_are_forgotten_by_age_and_by_number_the_earliest_first(together: bool) -> None:
    def repeated(*times_h: int, then: tuple[int, ...]) -> int:
        rows = [event("move", T0 + hours * HOUR_MS, event_id=f"at {hours}") for hours in (*times_h, *then)]
        stream = Stream.of(TREE)
        stream.fold_all([Event(0, i, row) for i, row in enumerate(rows)], () if together else range(len(rows)))
        return int(stream.tally[DUPLICATE])

    assert 1 == repeated(0, 48, then=(0,))
    assert 0 == repeated(0, 49, then=(0,))
    assert 3 == repeated(3, 1, 2, 0, then=(3, 2, 1))
    assert 0 == repeated(3, 1, 2, 0, then=(0,))
    assert 2 == repeated(1, 2, 3, 4, then=(4, 2))
    assert 0 == repeated(1, 2, 3, 4, then=(1,))
    assert 2 == repeated(50, 1, then=(50, 50))
    assert 0 == repeated(50, 1, then=(1, 1))


@pytest.mark.parametrize("together", [True, False])
def test_an_id_that_has_been_forgotten_is_a_new_event_whatever_batch_it_comes_in(together: bool) -> None:
    rows = [event("move", T0, event_id="e"), event("move", T0 + 3 * DAY_MS, event_id="f"), event("move", T0 + 3 * DAY_MS, event_id="e")]
    stream = Stream.of(TREE)
    stream.fold_all([Event(0, i, row) for i, row in enumerate(rows)], () if together else (1, 2))
    assert [3, 0] == stream.tally[:2].tolist()


def test_of_ids_at_the_same_time_the_greater_hashes_are_remembered() -> None:
    rows = [event("move", T0, event_id=f"e{n}") for n in range(6)]
    streams = [Stream.of(TREE) for _ in range(2)]
    streams[0].fold([Event(0, 0, row) for row in rows])
    streams[1].fold([Event(0, 0, row) for row in reversed(rows)])
    assert streams[0].profiles == streams[1].profiles
    assert sorted((hashed(row["event_id"]) >> 16 for row in rows), reverse=True)[:3] == streams[0].work().ids[0].tolist()


def test_with_no_room_for_ids_every_event_counts() -> None:
    walk = Walk(tree={**TREE, "duplicates": {"ids_max": 0}})
    walk.send(*[event("move", T0, event_id="e")] * 2)
    assert [2, 0] == walk.stream.tally[:2].tolist()


# Distances, votes, decisions


def test_votes_are_rounded_to_the_nearest_step_halves_up_and_clipped() -> None:
    steps = {0.0: 0, 1.0: VOTE_ONE, 0.49 / VOTE_ONE: 0, 0.5 / VOTE_ONE: 1, -0.5 / VOTE_ONE: 0, -0.51 / VOTE_ONE: -1, -1.5 / VOTE_ONE: -1}
    assert steps == {z: quantised(z) for z in steps}
    assert [VOTE_MAX, VOTE_MAX, -VOTE_MAX, -VOTE_MAX] == [quantised(z) for z in (8.0, math.inf, -8.0, -math.inf)]


def test_features_are_clipped_transformed_and_standardised() -> None:
    log, none = int(Transform.LOG1P), int(Transform.NONE)
    assert 1.5 == transformed(none, 5.0, 0.0, 4.0, 1.0, 2.0, 1.0)
    assert -0.25 == transformed(none, -5.0, 0.0, 4.0, 1.0, 2.0, 0.5)
    assert math.log1p(4.0) == transformed(log, 5.0, 0.0, 4.0, 0.0, 1.0, 1.0)
    assert -math.log1p(3.0) == transformed(log, -3.0, -9.0, 9.0, 0.0, 1.0, 1.0)
    assert -1.0 == transformed(log, 0.0, 0.0, 9.0, 1.0, 1.0, 1.0)


def test_the_first_of_equally_near_centroids_wins_and_those_beyond_the_size_do_not_count() -> None:
    centroid = np.array([[FINER, 0], [-FINER, 0], [0, FINER], [0, 0]], np.int64)
    assert [0, 3, 1] == [nearest(np.array(vote, np.int16), centroid, size) for vote, size in (((0, 0), 3), ((0, 0), 4), ((-1, 0), 4))]


def test_the_longest_distance_there_is_fits() -> None:
    vote, centroid = np.full(48, VOTE_MAX, np.int16), np.full(48, -VOTE_MAX * FINER, np.int64)
    assert 48 * (2 * VOTE_MAX * FINER) ** 2 == squared_distance(vote, centroid) < 2**63


def test_a_tie_moves_nobody_even_without_a_margin() -> None:
    stream = Stream.of(TREE)
    stream.adopt(plane(AT_ONCE, ((0, 0), (4, 0), (4, 0))), 0, 0, NEVER)
    judge = stack_judge([stream.data()], stream.versions, stream.declaration)
    between, on = np.array([2 * VOTE_ONE, 0, 0], np.int16), np.array([4 * VOTE_ONE, 0, 0], np.int16)
    assert [1, 0, 0] == [decide(judge, 0, between, code, 0, 0) for code in (SECOND, FIRST, NEW_SEGMENT)]
    assert [1, 2, 1] == [decide(judge, 0, on, code, 0, 0) for code in (SECOND, THIRD, FIRST)]


# Compiled and uncompiled


SCENARIO = """
import hashlib, random, sys
from tests.corekit import DAY_MS, T0, Stream, event, log, packaged, version_of

rng = random.Random(7)
stream = Stream.of(packaged(), parts=2)
types = ("view", "add_to_cart", "search", "purchase", "refund", "other")
rows = [
    event(rng.choice(types), T0 + rng.randrange(120 * DAY_MS), f"c{rng.randrange(30)}", f"e{rng.randrange(700)}",
          amount=rng.choice([None, 10**12, -3, rng.randrange(20000)]), category=rng.choice([None, "", f"k{rng.randrange(90)}"]))
    for _ in range(900)
]
placed = log(rows, 2)
features = len(stream.plan.kind)
stream.fold_all(placed[:300], range(0, 300, 37))
for number in (1, 2):
    centroids = [[rng.uniform(0, 5) for _ in range(features)] for _ in range(4)]
    for part in range(2):
        stream.adopt(version_of(stream.declaration, centroids, number), part, 300 * number, T0 + 90 * DAY_MS)
    stream.fold_all(placed[300 * number : 300 * number + 300], range(0, 300, 41))
    for part in range(2):
        stream.sweep(part)
        stream.adopt_epoch(part, 1, stream.data(part).centroids + 100_000)
features = stream.features(T0 + 130 * DAY_MS).tobytes()
found = (sorted(stream.profiles.items()), stream.states, stream.changes, stream.tally.tolist(), features)
sys.stdout.write(hashlib.sha256(repr(found).encode()).hexdigest() + f" {len(stream.changes)}")
"""


@pytest.mark.compiled
def test_the_fold_computes_the_same_bytes_compiled_and_uncompiled_without_a_warning() -> None:
    told = [
        subprocess.run(
            [sys.executable, "-W", "error", "-c", SCENARIO],
            env={**os.environ, "NUMBA_DISABLE_JIT": disabled},
            cwd=Path(__file__).parents[2],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for disabled in ("0", "1")
    ]
    assert told[0] == told[1]
    assert int(told[0].split()[1]) > 30


def test_tiles_after_the_instant_do_not_count() -> None:
    walk = Walk()
    walk.send(*(event("point", T0 + day * DAY_MS) for day in (0, 1, 7, 8)))
    work = walk.stream.work()
    assert [0.0, 1.0, 2.0, 3.0] == [features_as_of(walk.stream.plan, work, T0 + day * DAY_MS)[0, 2] for day in (0, 6, 7, 8)]
    assert [0.0, 1.0, 2.0, 3.0] == [feature(walk.stream.plan, work, 0, 2, T0 + day * DAY_MS) for day in (0, 6, 7, 8)]


def test_the_packaged_declaration_runs_through() -> None:
    stream = Stream.of(packaged())
    stream.fold([Event(0, 0, event("purchase", T0, amount=1000, category="books")), Event(0, 1, event("view", T0 + 1, category="books"))])
    names = [feature.name for feature in stream.declaration.features]
    values = dict(zip(names, stream.features(T0 + DAY_MS)[0].tolist(), strict=True))
    assert (1000.0, 1.0, 1.0, 1.0) == tuple(values[name] for name in ("spend_30d", "views_7d", "active_days_30d", "categories_90d"))


# Time

SILENT = {
    "measures": {"last": {"last": "any"}, "events": {"lifetime_count": "any"}},
    "features": {"since": {"recency": "last", "cap": "30d"}},
    "eligibility": {"events": 1},
}


def silent() -> Stream:
    """Begin with a segment for each day of silence."""
    stream = Stream.of(SILENT)
    f = np.ones(1)
    scaling = Scaling(0 * f, 100 * f, 0 * f, f, f)
    stream.adopt(version_of(stream.declaration, [[day] for day in range(8)], scaling=scaling, decision=AT_ONCE), 0, 0, NEVER)
    return stream


@pytest.mark.parametrize("days", range(1, 8))
def test_every_boundary_is_told_of_however_many_there_are_at_once(days: int) -> None:
    def told(stream: Stream) -> list[tuple[str, int, int, str]]:
        return [(c.customer, c.after - FIRST_CODE, (c.occurred - T0) // DAY_MS, c.cause) for c in stream.changes]

    expected = [("ann", 1, 0, "first_seen"), *(("ann", 1 + day, day, "decay") for day in range(1, days + 1))]
    swept, awake, late = silent(), silent(), silent()
    for stream in (swept, awake):
        stream.fold([Event(0, 0, event("view", T0))])
    swept.tick(0, T0 + days * DAY_MS)
    assert expected == told(swept)
    awake.fold([Event(0, 1, event("view", T0 + days * DAY_MS + 1))])
    assert [*expected, ("ann", 1, days, "behaviour")] == told(awake)
    late.fold([Event(0, 0, event("view", T0 + days * DAY_MS, "bob"))])
    late.fold([Event(0, 1, event("view", T0))])
    assert expected == told(late)[1:]
