"""The fold: events of a batch, one after another, into profiles, votes and changes.

Laws:
1. Tiles, lifetime measures and features depend on the events alone, not on their order (sums, least and greatest are commutative).
2. Each customer's path depends on that customer's events, the model that its partition had adopted at each, how far the partition's clock
   was, and nothing else: not on batch bounds, on what moved the clock, or on when a sweep came by. What has come due for a customer is
   settled before that customer's next event: first a version adopted since, then each boundary of time passed since, in order, as of it.
3. A partition's sums are the sum of its customers' votes, each customer one vote, exact to the bit: a vote is taken out as it was put in.

4. A command that erases a customer, or merges one into another, is a row like any other: what is due for them is settled, then nothing of
   them is left in their columns. Commands move no clock but for PASSED, which is what history keeps of an erased customer's event.
5. A profile that a merge brings joins a customer's as if its events had been theirs: tiles and counts add up, times take the least or the
   greatest, ids unite, and the later clock holds. It moves the partition's clock, as those events would have.

Distances and votes are fixed-point integers, so that every machine decides alike; docs/model.md gives the scales.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from streamer.core.columns import read_only
from streamer.core.compiled import compiled, compiled_uncounted, kernel, wide
from streamer.core.declaration import Lifetime, Transform
from streamer.core.features import evaluate, join
from streamer.core.plan import BUCKETS, COUNTED, Plan
from streamer.core.profile import (
    CLOCK,
    DAY_MS,
    EPOCH,
    FIRST_CODE,
    HELD,
    HOUR_MS,
    LAST,
    MODEL,
    NEVER,
    NEW_SEGMENT,
    NO_SEGMENT,
    SEGMENT,
    SINCE,
    VERSION,
    Tiles,
    Work,
    pack,
    unpack,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamer.core.columns import F64, I16, I32, I64, U8, U64

VOTE_ONE = 1 << 12  # a vote's unit: 1.0 in standardised space
VOTE_MAX = (1 << 15) - 1
FINER = 1 << 8  # centroids are this much finer than votes
CENTROID_ONE = VOTE_ONE * FINER
OFFSET_VERSIONS = 1 << 10  # versions reserved to each offset
ERA_VERSIONS = 1 << 46
OTHER_SEGMENT = -1  # no segment of this model
ID_BITS = 48

# Causes of a change, in the order of `CAUSES`.
FIRST_SEEN, BEHAVIOUR, DECAY, MODEL_DRIFT, MODEL_RESEED, EXPIRED, ERASURE, MERGER = range(8)
CAUSES = ("first_seen", "behaviour", "decay", "model_drift", "model_reseed", "expired", "erased", "merged")
# Rows that are commands, in `Rows.type`: the customer is to be erased; is to be merged into another; gets the profile of one who was.
ERASE, MERGE, MERGED = -1, -2, -3
# History's own: one whose keyed hash stands in the id's place was erased; and what is left of an event of such a one, its time.
ERASED, PASSED = -4, -5
# What became of the rows, per partition.
APPLIED, DUPLICATE, LATE, JUDGED, UNITED = range(5)
TALLIES = 5

_FIRST, _LAST, _COUNT = int(Lifetime.FIRST), int(Lifetime.LAST), int(Lifetime.COUNT)
_LOG1P = int(Transform.LOG1P)


# How far a fold is: swept customers, rows and brought profiles that are done; and what became of the next row so far.
SWEPT_DONE, ROWS_DONE, BROUGHT_DONE, ROW_STEP = range(4)
UNTAKEN, TO_TAKE, TAKEN = range(3)


class Rows(NamedTuple):
    """The valid events of a batch, `n` rows in log order within a partition; `v` sources and `s` distinct texts as the plan lists them."""

    part: I32  # (n,) which of the batch's partitions
    slot: I32  # (n,) which of the batch's customers
    offset: I64  # (n,)
    time: I64  # (n,)
    type: I32  # (n,) declared event type, t for others, or a command below 0
    event_id: U64  # (n,) XXH64
    value: I64  # (v, n)
    there: U8  # (v, n) whether the value is not null
    text: U64  # (s, n) XXH64
    text_there: U8  # (s, n)


class Judge(NamedTuple):
    """The model that each of `p` partitions has adopted; `k` segments at most, `f` features, `e` eligibility rules. Version 0: none yet."""

    version: I64  # (p,)
    epoch: I64  # (p,)
    as_of: I64  # (p,) when customers judged by an earlier version are judged anew
    at_offset: I64  # (p,) where the version was adopted
    size: I32  # (p,) segments in use
    number: I64  # (p, k) segments' stable numbers
    centroid: I64  # (p, k, f) in units of 1 / CENTROID_ONE
    low: F64  # (p, f) clip
    high: F64  # (p, f)
    mean: F64  # (p, f)
    scale: F64  # (p, f)
    weight: F64  # (p, f)
    eligible: I64  # (p, e, 2) lifetime measure, least count
    margin: F64  # (p,)
    margin_large: F64  # (p,)
    dwell_ms: I64  # (p,)
    retention_ms: I64  # (p,) after so long without an event a customer leaves


class Sums(NamedTuple):
    """What `p` partitions have learned: votes per segment of the adopted version, and customers by published segment (`new` last)."""

    count: I64  # type: ignore[assignment]  # (p, k)
    total: I64  # (p, k, f) in units of 1 / VOTE_ONE
    square: I64  # (p, k, f) in units of 1 / VOTE_ONE^2
    members: I64  # (p, k + 1)


class Changes(NamedTuple):
    """Room for segment changes, `c` rows, in the order of publication per partition.

    Who leaves has NO_SEGMENT after. One with the cause ERASURE stands for the notice that the customer left, and a tombstone; without a
    segment before, for a tombstone alone.
    """

    slot: I32  # (c,)
    part: I32  # (c,)
    offset: I64  # (c,) the event's, or the adoption's
    cause: U8  # (c,)
    before: I64  # (c,) segment codes
    after: I64  # (c,)
    since: I64  # (c,) of the segment before
    occurred: I64  # (c,)
    version: I64  # (c,) the customer's
    model: I64  # (c,)
    epoch: I64  # (c,)
    distance: F64  # (c,)
    margin: F64  # (c,)
    feature: F64  # (c, f)
    vote: I16  # (c, f)


@compiled
def make_changes(room: int, f: int) -> Changes:
    """Make room for changes."""
    wide = np.zeros(room, np.int64)
    narrow = np.zeros(room, np.int32)
    real = np.zeros(room, np.float64)
    return Changes(
        narrow,
        narrow.copy(),
        wide,
        np.zeros(room, np.uint8),
        wide.copy(),
        wide.copy(),
        wide.copy(),
        wide.copy(),
        wide.copy(),
        wide.copy(),
        wide.copy(),
        real,
        real.copy(),
        np.zeros((room, f), np.float64),
        np.zeros((room, f), np.int16),
    )


@kernel
def _remember(plan: Plan, work: Work, u: int, event_id: int, time: int) -> bool:
    """Tell whether the id is remembered already, else remember it: the latest `ids_max` by (time, id), none older than the age."""
    clock = work.head[u, CLOCK]
    n = wide(work.id_count[u])
    while n and work.id_time[u, n - 1] < clock - plan.ids_age_ms:
        n -= 1
    known = event_id >> np.uint64(64 - ID_BITS)
    place = n
    for i in range(n):
        if work.ids[u, i] == known:
            return True
        later = work.id_time[u, i] < time or (work.id_time[u, i] == time and work.ids[u, i] < known)
        if later and place == n:
            place = i
    if place < plan.ids_max and time >= clock - plan.ids_age_ms:
        n = min(n, plan.ids_max - 1)
        for i in range(n, place, -1):
            work.ids[u, i] = work.ids[u, i - 1]
            work.id_time[u, i] = work.id_time[u, i - 1]
        work.ids[u, place] = known
        work.id_time[u, place] = time
        n += 1
    work.id_count[u] = n
    return False


@kernel
def _tile(tiles: Tiles, u: int, index: int) -> int:
    """Find the customer's row of a tile, or make it in its place; the room has been made."""
    first = tiles.start[u]
    row = first + tiles.count[u] - 1
    while row >= first and tiles.index[row] > index:
        row -= 1
    if row >= first and tiles.index[row] == index:
        return row
    for i in range(first + tiles.count[u], row + 1, -1):
        tiles.index[i] = tiles.index[i - 1]
        tiles.mask[i] = tiles.mask[i - 1]
        for m in range(tiles.value.shape[1]):
            tiles.value[i, m] = tiles.value[i - 1, m]
    tiles.index[row + 1] = index
    tiles.mask[row + 1] = 0
    tiles.count[u] += 1
    return row + 1


@kernel
def _add(plan: Plan, tiles: Tiles, row: int, kept: int, rows: Rows, i: int) -> None:
    """Join an event's measures to a tile."""
    mask = plan.tile_mask[rows.type[i]] & kept
    m = 0
    while mask:
        source = plan.tile_source[m]
        if mask & 1 and (source == COUNTED or rows.there[source, i]):
            value = 1 if source == COUNTED else rows.value[source, i]
            bit = 1 << m
            if not tiles.mask[row] & bit:
                tiles.mask[row] |= bit
                tiles.value[row, m] = value
            else:
                tiles.value[row, m] = join(plan.tile_op[m], tiles.value[row, m], value)
        mask >>= 1
        m += 1


@kernel
def _apply(plan: Plan, work: Work, u: int, rows: Rows, i: int) -> bool:
    """Join an event to a profile; tells whether its tile was beyond the horizon."""
    time = rows.time[i]
    kind = rows.type[i]
    clock = max(work.head[u, CLOCK], time)
    work.head[u, CLOCK] = clock
    work.head[u, LAST] = max(work.head[u, LAST], time)
    for k in range(len(plan.life_op)):
        if not plan.life_mask[kind] >> k & 1:
            continue
        if plan.life_op[k] == _FIRST:
            if work.life[u, k] == NEVER or time < work.life[u, k]:
                work.life[u, k] = time
        elif plan.life_op[k] == _LAST:
            work.life[u, k] = max(work.life[u, k], time)
        elif plan.life_op[k] == _COUNT:
            work.life[u, k] += 1
        elif rows.there[plan.life_source[k], i]:
            work.life[u, k] += rows.value[plan.life_source[k], i]
    day = time // DAY_MS
    for s in range(plan.distincts):
        if plan.distinct_mask[kind] >> s & 1 and rows.text_there[s, i]:
            bucket = wide(rows.text[s, i] & np.uint64(BUCKETS - 1))
            work.seen[u, s, bucket] = max(wide(work.seen[u, s, bucket]), day)
    late = day < clock // DAY_MS - plan.horizon_days
    if not late:
        _add(plan, work.days, _tile(work.days, u, day), plan.day_mask, rows, i)
    if plan.horizon_hours and time // HOUR_MS >= clock // HOUR_MS - plan.horizon_hours:
        _add(plan, work.hours, _tile(work.hours, u, time // HOUR_MS), plan.hour_mask, rows, i)
    return late


@kernel
def transformed(kind: int, value: float, low: float, high: float, mean: float, scale: float, weight: float) -> float:
    """Clip, transform and standardise one feature."""
    clipped = min(max(value, low), high)
    if kind == _LOG1P and clipped != 0.0:  # the logarithm of 1 is spared: most features of most customers are 0
        clipped = math.copysign(math.log1p(abs(clipped)), clipped)
    return (clipped - mean) / scale * weight


@kernel
def quantised(z: float) -> int:
    """Round a standardised feature to a vote's 16 bits."""
    return math.floor(min(max(z * VOTE_ONE, -float(VOTE_MAX)), float(VOTE_MAX)) + 0.5)  # clipped first: a huge number has no integer


@kernel
def squared_distance(vote: I16, centroid: I64) -> int:
    """Square the distance of a vote from a centroid, in units of 1 / CENTROID_ONE^2."""
    total = 0
    for f in range(len(vote)):
        gap = wide(vote[f]) * FINER - centroid[f]
        total += gap * gap
    return total


@kernel
def nearest(vote: I16, centroid: I64, size: int) -> int:
    """Find the nearest of the first `size` centroids; the first of equals."""
    return _nearest(vote, centroid, size)[0]


@kernel
def _nearest(vote: I16, centroid: I64, size: int) -> tuple[int, int]:
    best, least = 0, squared_distance(vote, centroid[0])
    for k in range(1, size):
        distance = squared_distance(vote, centroid[k])
        if distance < least:
            best, least = k, distance
    return best, least


@kernel
def segment_index(judge: Judge, p: int, code: int) -> int:
    """Find a segment code's place in the adopted model, or OTHER_SEGMENT."""
    for k in range(judge.size[p]):
        if judge.number[p, k] == code - FIRST_CODE:
            return k
    return OTHER_SEGMENT


@kernel
def decide(judge: Judge, p: int, vote: I16, code: int, since: int, as_of: int) -> int:
    """Decide which segment a customer belongs to, by margin and dwell.

    A customer leaves a segment for one that is nearer by `margin`, if it has been in its segment for `dwell_ms` or the other is nearer by
    `margin_large`. From no segment, from `new` and from a segment that the model no longer has, it joins the nearest.
    """
    near, distance = _nearest(vote, judge.centroid[p], judge.size[p])
    return _decide(judge, p, vote, segment_index(judge, p, code), near, distance, as_of - since)


@kernel
def _decide(judge: Judge, p: int, vote: I16, current: int, near: int, distance: int, stayed_ms: int) -> int:
    if current in (OTHER_SEGMENT, near):
        return near
    there = float(squared_distance(vote, judge.centroid[p, current]))
    here = float(distance)
    if here >= there or here > there * _squared(1.0 - judge.margin[p]):
        return current
    if stayed_ms < judge.dwell_ms[p] and here > there * _squared(1.0 - judge.margin_large[p]):
        return current
    return near


@kernel
def _squared(x: float) -> float:
    return x * x


@kernel
def _vote_out(work: Work, u: int, sums: Sums, p: int) -> None:
    k = work.head[u, HELD] - 1
    sums.count[p, k] -= 1
    for f in range(work.vote.shape[1]):
        vote = wide(work.vote[u, f])
        sums.total[p, k, f] -= vote
        sums.square[p, k, f] -= vote * vote
    work.head[u, HELD] = 0


@kernel
def _vote_in(work: Work, u: int, vote: I16, k: int, sums: Sums, p: int) -> None:
    sums.count[p, k] += 1
    for f in range(len(vote)):
        steps = wide(vote[f])
        sums.total[p, k, f] += steps
        sums.square[p, k, f] += steps * steps
        work.vote[u, f] = vote[f]
    work.head[u, HELD] = k + 1


@kernel
def _eligible(judge: Judge, p: int, work: Work, u: int) -> bool:
    for e in range(judge.eligible.shape[1]):  # noqa: SIM110  # numba compiles no generator without counting references
        if work.life[u, judge.eligible[p, e, 0]] < judge.eligible[p, e, 1]:
            return False
    return True


@compiled_uncounted
def _explain(judge: Judge, p: int, vote: I16, k: int, changes: Changes, c: int) -> None:
    """Record the distance to the segment, and how much nearer it is than the nearest other, as a share of the distance to that."""
    here = math.sqrt(float(squared_distance(vote, judge.centroid[p, k])))
    other = math.inf
    for j in range(judge.size[p]):
        if j != k:
            other = min(other, math.sqrt(float(squared_distance(vote, judge.centroid[p, j]))))
    changes.distance[c] = here / CENTROID_ONE
    changes.margin[c] = 1.0 - here / other if other > 0.0 else 0.0


@compiled_uncounted
def _cause(judge: Judge, p: int, head: I64, vote: I16, target: int, before: int, due: int) -> int:
    """Say why a customer moves to `target`; `due` is the cause if nothing else moved them.

    The model did if it alone would have: with the vote that the customer had, at the time `before` which that vote is of.
    """
    if head[SEGMENT] == NO_SEGMENT:
        return FIRST_SEEN
    if due == MODEL_RESEED or not head[HELD] or head[EPOCH] == judge.epoch[p]:
        return due
    return MODEL_DRIFT if decide(judge, p, vote, head[SEGMENT], head[SINCE], before) == target else due


@kernel
def _look(plan: Plan, judge: Judge, work: Work, u: int, p: int, as_of: int, value: F64, vote: I16) -> None:
    """Evaluate a customer as of a time: features into `value`, (f,), and the vote they make into `vote`, (f,)."""
    evaluate(plan, work, u, as_of, value)
    for f in range(len(value)):
        scaled = transformed(
            plan.transform[f], value[f], judge.low[p, f], judge.high[p, f], judge.mean[p, f], judge.scale[p, f], judge.weight[p, f]
        )
        vote[f] = quantised(scaled)


@compiled_uncounted
def _version_moves(
    plan: Plan, judge: Judge, work: Work, u: int, p: int, current: int, target: int, before: int, changes: Changes, c: int
) -> bool:
    """Tell whether a new version alone moves a customer from the place `current` to the place `target`.

    It does if it moves them there as of the time `before` that they were last judged at; row `c` of `changes` is written over.
    """
    vote = changes.vote[c]
    _look(plan, judge, work, u, p, before, changes.feature[c], vote)
    near, distance = _nearest(vote, judge.centroid[p], judge.size[p])
    moved: bool = _decide(judge, p, vote, current, near, distance, before - work.head[u, SINCE]) == target
    return moved


@compiled_uncounted
def _judge(
    plan: Plan,
    judge: Judge,
    sums: Sums,
    work: Work,
    u: int,
    p: int,
    before: int,
    offset: int,
    base: int,
    due: int,
    changes: Changes,
    c: int,
) -> int:
    """Judge a customer as of its clock: replace the vote, decide, record a change. Returns the number of changes so far.

    `before` is when it was last judged, `offset` the change's source, `base` the least version it may have, `due` its cause if neither
    newness nor the model explains it.
    """
    head, as_of, other = work.head[u], work.head[u, CLOCK], judge.number.shape[1]
    code = head[SEGMENT]
    current = segment_index(judge, p, code)
    if head[MODEL] == judge.version[p]:
        sums.members[p, current if current >= 0 else other] -= 1
    else:
        head[HELD] = 0
    vote = changes.vote[c]
    _look(plan, judge, work, u, p, as_of, changes.feature[c], vote)
    near, target, after = OTHER_SEGMENT, OTHER_SEGMENT, NEW_SEGMENT
    if _eligible(judge, p, work, u):
        near, distance = _nearest(vote, judge.centroid[p], judge.size[p])
        target = _decide(judge, p, vote, current, near, distance, as_of - head[SINCE])
        after = FIRST_CODE + judge.number[p, target]
    cause = due
    if after != code and due == MODEL_RESEED and current >= 0 and target >= 0 and before < as_of:
        if not _version_moves(plan, judge, work, u, p, current, target, before, changes, c):
            cause = wide(DECAY)
        _look(plan, judge, work, u, p, as_of, changes.feature[c], vote)
    elif after != code:
        cause = _cause(judge, p, head, work.vote[u], target, before, due)
    if head[HELD]:
        _vote_out(work, u, sums, p)
    if near >= 0:
        _vote_in(work, u, vote, near, sums, p)
    sums.members[p, target if target >= 0 else other] += 1
    head[MODEL] = judge.version[p]
    head[EPOCH] = judge.epoch[p]
    if after == code:
        return c
    changes.distance[c] = 0.0
    changes.margin[c] = 0.0
    if target >= 0:
        _explain(judge, p, vote, target, changes, c)
    changes.before[c] = code
    changes.since[c] = head[SINCE]
    head[VERSION] = max(head[VERSION] + 1, base)
    head[SEGMENT] = after
    head[SINCE] = as_of
    changes.slot[c] = u
    changes.part[c] = p
    changes.offset[c] = offset
    changes.cause[c] = cause
    changes.after[c] = after
    changes.occurred[c] = as_of
    changes.version[c] = head[VERSION]
    changes.model[c] = judge.version[p]
    changes.epoch[c] = judge.epoch[p]
    return c + 1


@kernel
def next_boundary(plan: Plan, work: Work, u: int) -> int:
    """Give the next instant at which windows roll off a customer though nothing happens: a midnight, or an hour while hours still count."""
    clock = work.head[u, CLOCK]
    if plan.horizon_hours:
        hour = clock // HOUR_MS + 1
        if hour <= work.head[u, LAST] // HOUR_MS + plan.horizon_hours + 1:
            return hour * HOUR_MS
    return (clock // DAY_MS + 1) * DAY_MS


@kernel
def _due(plan: Plan, judge: Judge, work: Work, u: int, p: int, now: int) -> bool:
    """Tell whether a customer has yet to be judged by the version that the partition has adopted, or as of a boundary up to `now`."""
    if judge.version[p] == 0 or work.head[u, CLOCK] == NEVER:
        return False
    return work.head[u, MODEL] != judge.version[p] or next_boundary(plan, work, u) <= now


@kernel
def _forget(plan: Plan, work: Work, u: int) -> None:
    """Leave a customer's columns as a new customer's."""
    for k in range(len(plan.life_op)):
        work.life[u, k] = NEVER if plan.life_op[k] <= _LAST else 0
    for i in range(work.head.shape[1]):
        work.head[u, i] = 0
    work.head[u, CLOCK] = NEVER
    work.head[u, SINCE] = NEVER
    work.head[u, LAST] = NEVER
    work.id_count[u] = 0
    work.days.count[u] = 0
    work.hours.count[u] = 0
    for s in range(work.seen.shape[1]):
        for bucket in range(work.seen.shape[2]):
            work.seen[u, s, bucket] = -1


@compiled_uncounted
def _leave(
    plan: Plan,
    judge: Judge,
    sums: Sums,
    work: Work,
    u: int,
    p: int,
    offset: int,
    base: int,
    cause: int,
    as_of: int,
    changes: Changes,
    c: int,
) -> int:
    """Let a customer leave, whom the adopted version, if there is one, has judged. Returns the number of changes so far."""
    head = work.head[u]
    code = head[SEGMENT]
    if head[CLOCK] != NEVER and judge.version[p]:
        current = segment_index(judge, p, code)
        sums.members[p, current if current >= 0 else judge.number.shape[1]] -= 1
        if head[HELD]:
            _vote_out(work, u, sums, p)
    changes.slot[c] = u
    changes.part[c] = p
    changes.offset[c] = offset
    changes.cause[c] = cause
    changes.before[c] = code
    changes.after[c] = NO_SEGMENT
    changes.since[c] = head[SINCE]
    changes.occurred[c] = as_of
    changes.version[c] = max(head[VERSION] + 1, base)
    changes.model[c] = judge.version[p]
    changes.epoch[c] = judge.epoch[p]
    changes.distance[c] = 0.0
    changes.margin[c] = 0.0
    for f in range(len(plan.kind)):
        changes.feature[c, f] = 0.0
        changes.vote[c, f] = 0
    _forget(plan, work, u)
    return c + 1


@compiled_uncounted
def settle(plan: Plan, judge: Judge, sums: Sums, work: Work, u: int, p: int, now: int, era: int, changes: Changes, c: int) -> int:
    """Do what has come due for a customer up to `now`, as far as `changes` has room. Returns the number of changes so far."""
    head, offset = work.head[u], judge.at_offset[p]
    if head[MODEL] != judge.version[p]:
        before = head[CLOCK]
        head[CLOCK] = max(before, judge.as_of[p])
        base = era * ERA_VERSIONS + offset * OFFSET_VERSIONS
        c = _judge(plan, judge, sums, work, u, p, before, offset, base, wide(MODEL_RESEED), changes, c)
    boundary = next_boundary(plan, work, u)
    while boundary <= now and c < len(changes.slot):
        before = head[CLOCK]
        head[CLOCK] = boundary
        if boundary % DAY_MS == 0 and boundary - head[LAST] > judge.retention_ms[p]:
            return _leave(plan, judge, sums, work, u, p, offset, wide(0), wide(EXPIRED), boundary, changes, c)
        c = _judge(plan, judge, sums, work, u, p, before, offset, wide(0), wide(DECAY), changes, c)
        boundary = next_boundary(plan, work, u)
    return c


@kernel
def _join(plan: Plan, judge: Judge, sums: Sums, work: Work, rows: Rows, i: int, era: int, tally: I64, changes: Changes, c: int) -> int:
    """Take an event in. Returns the number of changes so far."""
    u, p = wide(rows.slot[i]), wide(rows.part[i])
    if _remember(plan, work, u, rows.event_id[i], rows.time[i]):
        tally[p, DUPLICATE] += 1
        return c
    before = work.head[u, CLOCK]
    tally[p, APPLIED] += 1
    tally[p, LATE] += _apply(plan, work, u, rows, i)
    if judge.version[p] == 0:
        return c
    tally[p, JUDGED] += 1
    base = era * ERA_VERSIONS + (rows.offset[i] + 1) * OFFSET_VERSIONS
    return _judge(plan, judge, sums, work, u, p, before, rows.offset[i], base, wide(BEHAVIOUR), changes, c)


@kernel
def _add_tiles(plan: Plan, tiles: Tiles, u: int, brought: Tiles, j: int) -> None:
    """Join the tiles of customer j of `brought` to those of u; the room has been made."""
    for other in range(brought.start[j], brought.start[j] + brought.count[j]):
        row = _tile(tiles, u, brought.index[other])
        mask = brought.mask[other]
        m = 0
        while mask:
            if mask & 1:
                bit = 1 << m
                value = brought.value[other, m]
                if tiles.mask[row] & bit:
                    value = join(plan.tile_op[m], tiles.value[row, m], value)
                tiles.mask[row] |= bit
                tiles.value[row, m] = value
            mask >>= 1
            m += 1


@compiled_uncounted
def _unite(plan: Plan, work: Work, u: int, brought: Work, j: int) -> None:
    """Join the profile of customer j of `brought` to that of u."""
    for column in (CLOCK, LAST):
        work.head[u, column] = max(work.head[u, column], brought.head[j, column])
    for k in range(len(plan.life_op)):
        mine, other = work.life[u, k], brought.life[j, k]
        if plan.life_op[k] == _FIRST:
            work.life[u, k] = other if mine == NEVER else mine if other == NEVER else min(mine, other)
        elif plan.life_op[k] == _LAST:
            work.life[u, k] = max(mine, other)
        else:
            work.life[u, k] = mine + other
    for s in range(plan.distincts):
        for bucket in range(BUCKETS):
            work.seen[u, s, bucket] = max(work.seen[u, s, bucket], brought.seen[j, s, bucket])
    for i in range(brought.id_count[j]):
        _remember(plan, work, u, brought.ids[j, i] << np.uint64(64 - ID_BITS), brought.id_time[j, i])
    _add_tiles(plan, work.days, u, brought.days, j)
    _add_tiles(plan, work.hours, u, brought.hours, j)


@compiled_uncounted
def _take_in(
    plan: Plan,
    judge: Judge,
    sums: Sums,
    work: Work,
    brought: Work,
    j: int,
    rows: Rows,
    i: int,
    era: int,
    tally: I64,
    changes: Changes,
    c: int,
) -> int:
    """Take in the profile of somebody who was merged into a customer. Returns the number of changes so far."""
    u, p = wide(rows.slot[i]), wide(rows.part[i])
    before = work.head[u, CLOCK]
    if _remember(plan, work, u, rows.event_id[i], max(before, rows.time[i])):  # sent twice, as may be without transactions
        tally[p, DUPLICATE] += 1
        return c
    _unite(plan, work, u, brought, j)
    tally[p, UNITED] += 1
    if judge.version[p] == 0:
        return c
    tally[p, JUDGED] += 1
    base = era * ERA_VERSIONS + (rows.offset[i] + 1) * OFFSET_VERSIONS
    return _judge(plan, judge, sums, work, u, p, before, rows.offset[i], base, wide(MERGER), changes, c)


@compiled_uncounted
def _fold(
    plan: Plan,
    judge: Judge,
    sums: Sums,
    work: Work,
    rows: Rows,
    swept: I32,
    swept_part: I32,
    brought: Work,
    era: int,
    watermark: I64,
    tally: I64,
    changes: Changes,
    done: I64,
    c: int,
) -> int:
    """Go on from where `done` says: swept customers, rows and brought profiles done, and how far the next row is.

    It stops for want of room, and before a customer is merged into another, so that the profile can be taken.
    """
    room = len(changes.slot)
    for i in range(done[SWEPT_DONE], len(swept)):
        u, p = wide(swept[i]), wide(swept_part[i])
        while _due(plan, judge, work, u, p, watermark[p]):
            if c == room:
                return c
            c = settle(plan, judge, sums, work, u, p, watermark[p], era, changes, c)
        done[SWEPT_DONE] = i + 1
    for i in range(done[ROWS_DONE], len(rows.slot)):
        u, p, kind = wide(rows.slot[i]), wide(rows.part[i]), rows.type[i]
        if kind >= 0 or kind in (PASSED, MERGED):
            watermark[p] = max(watermark[p], rows.time[i])
        while _due(plan, judge, work, u, p, watermark[p]):
            if c == room:
                return c
            c = settle(plan, judge, sums, work, u, p, watermark[p], era, changes, c)
        if c == room:
            return c
        base = era * ERA_VERSIONS + (rows.offset[i] + 1) * OFFSET_VERSIONS
        if kind == ERASE:
            c = _leave(plan, judge, sums, work, u, p, rows.offset[i], base, wide(ERASURE), rows.time[i], changes, c)
        elif kind == MERGE and work.head[u, CLOCK] != NEVER:
            if done[ROW_STEP] != TAKEN:
                done[ROW_STEP] = TO_TAKE
                return c
            if judge.version[p]:
                c = _leave(plan, judge, sums, work, u, p, rows.offset[i], base, wide(MERGER), rows.time[i], changes, c)
            else:
                _forget(plan, work, u)
        elif (kind >= 0 or kind == MERGED) and done[ROW_STEP] != TAKEN:
            if kind == MERGED:
                c = _take_in(plan, judge, sums, work, brought, done[BROUGHT_DONE], rows, i, era, tally, changes, c)
                done[BROUGHT_DONE] += 1
            else:
                c = _join(plan, judge, sums, work, rows, i, era, tally, changes, c)
            done[ROW_STEP] = TAKEN
            while _due(plan, judge, work, u, p, watermark[p]):  # who comes for the first time, and late
                if c == room:
                    return c
                c = settle(plan, judge, sums, work, u, p, watermark[p], era, changes, c)
        done[ROWS_DONE] = i + 1
        done[ROW_STEP] = UNTAKEN
    return c


class Away(NamedTuple):
    """What a merge takes from a customer: the packed profile, and its clock."""

    profile: bytes
    clock: int


class Run(NamedTuple):
    """What a fold found: its changes, of which the first `count` rows are filled; by row, the profiles that commands took away."""

    changes: Changes
    count: int  # type: ignore[assignment]  # a tuple's methods are not missed
    away: dict[int, Away]


def fold(
    plan: Plan,
    judge: Judge,
    sums: Sums,
    work: Work,
    rows: Rows,
    swept: I32,
    swept_part: I32,
    era: int,
    watermark: I64,
    tally: I64,
    brought: Work | None = None,
    room: int | None = None,
) -> Run:
    """Fold a batch. First the swept customers are settled, then each event in turn.

    `brought` has the profiles that the rows MERGED bring, in their order. Updates `sums`, `work`, `watermark` (p,) and `tally`
    (p, TALLIES) in place. `room`, one or more, is for how many changes there is room at first: where nobody is judged, the usual room is
    most of the memory.
    """
    joined = rows._replace(  # a batch with gaps would be compiled for anew
        value=np.ascontiguousarray(rows.value),
        there=np.ascontiguousarray(rows.there),
        text=np.ascontiguousarray(rows.text),
        text_there=np.ascontiguousarray(rows.text_there),
    )
    brought = nobody(plan) if brought is None else brought
    done = np.zeros(4, np.int64)
    changes, count = make_changes(2 * len(rows.slot) + len(swept) + 1 if room is None else room, len(plan.kind)), 0
    away: dict[int, Away] = {}
    while True:
        count = _fold(plan, judge, sums, work, joined, swept, swept_part, brought, era, watermark, tally, changes, done, count)
        if done[SWEPT_DONE] == len(swept) and done[ROWS_DONE] == len(rows.slot):
            return Run(changes, count, away)
        if done[ROW_STEP] == TO_TAKE:
            row = int(done[ROWS_DONE])
            away[row] = _travelling(plan, work, int(rows.slot[row]))
            done[ROW_STEP] = TAKEN
        else:
            changes = _roomier(changes)


_NOBODY: dict[int, Work] = {}  # by the plan's tag: laid out once


def nobody(plan: Plan) -> Work:
    """Lay out the columns of no customers."""
    tag = int(plan.tag)
    if tag not in _NOBODY:
        _NOBODY[tag] = unpack(plan, read_only(np.zeros(0, np.uint8)), np.zeros(1, np.int64), np.zeros(0, np.int64))
    return _NOBODY[tag]


def _travelling(plan: Plan, work: Work, u: int) -> Away:
    """Pack what a merge takes from a customer: what events made, and nothing of segments and votes."""
    kept = work.head[u].copy()
    work.head[u, [VERSION, MODEL, EPOCH, SEGMENT, HELD]] = 0
    work.head[u, SINCE] = NEVER
    packed = pack(plan, work, np.array([u]))[0].tobytes()
    work.head[u] = kept
    return Away(packed, int(kept[CLOCK]))


def _roomier(changes: Changes) -> Changes:
    """Double the room."""
    larger: Changes = make_changes(2 * len(changes.slot), changes.vote.shape[1])
    pairs: Iterator[tuple[Any, Any]] = zip(larger, changes, strict=True)
    for new, old in pairs:
        new[: len(old)] = old
    return larger
