"""The fold: events of a batch, one after another, into profiles, votes and changes.

Laws:
1. Tiles, lifetime measures and features depend on the events alone, not on their order (sums, least and greatest are commutative).
2. Each customer's path depends on that customer's events, the model that its partition had adopted at each, and nothing else: not on batch
   bounds, on other customers, or on when a sweep came by. What has come due for a customer is settled before that customer's next event.
3. A partition's sums are the sum of its customers' votes, each customer one vote, exact to the bit: a vote is taken out as it was put in.

Distances and votes are fixed-point integers, so that every machine decides alike; docs/model.md gives the scales.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from streamer.core.columns import F64, I16, I32, I64, U8, U64
from streamer.core.compiled import compiled, kernel
from streamer.core.declaration import Kind, Lifetime, Tiling, Transform
from streamer.core.plan import BUCKETS, COUNTED, Plan
from streamer.core.profile import (
    CLOCK,
    DAY_MS,
    EPOCH,
    FIRST_CODE,
    HELD,
    HOUR_MS,
    MODEL,
    NEVER,
    NEW_SEGMENT,
    NO_SEGMENT,
    SEGMENT,
    SINCE,
    VERSION,
    Tiles,
    Work,
)

VOTE_ONE = 1 << 12  # a vote's unit: 1.0 in standardised space
VOTE_MAX = (1 << 15) - 1
FINER = 1 << 8  # centroids are this much finer than votes
CENTROID_ONE = VOTE_ONE * FINER
OFFSET_VERSIONS = 1 << 10  # versions reserved to each offset
ERA_VERSIONS = 1 << 46
OTHER_SEGMENT = -1  # no segment of this model
ID_BITS = 48

# Causes of a change, in the order of `CAUSES`.
FIRST_SEEN, BEHAVIOUR, DECAY, MODEL_DRIFT, MODEL_RESEED = range(5)
CAUSES = ("first_seen", "behaviour", "decay", "model_drift", "model_reseed")
# What became of the rows, per partition.
APPLIED, DUPLICATE, LATE, JUDGED = range(4)
TALLIES = 4

_SUM, _MIN = int(Tiling.SUM), int(Tiling.MIN)
_FIRST, _LAST, _COUNT = int(Lifetime.FIRST), int(Lifetime.LAST), int(Lifetime.COUNT)
_WINDOW, _RATIO, _RECENCY, _ACTIVE, _GAP, _DISTINCT = (int(kind) for kind in list(Kind)[:6])
_LOG1P = int(Transform.LOG1P)


class Rows(NamedTuple):
    """The valid events of a batch, `n` rows in log order within a partition; `v` sources and `s` distinct texts as the plan lists them."""

    part: I32  # (n,) which of the batch's partitions
    slot: I32  # (n,) which of the batch's customers
    offset: I64  # (n,)
    time: I64  # (n,)
    type: I32  # (n,) declared event type, or t for others
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


class Sums(NamedTuple):
    """What `p` partitions have learned: votes per segment of the adopted version, and customers by published segment (`new` last)."""

    count: I64  # (p, k)
    total: I64  # (p, k, f) in units of 1 / VOTE_ONE
    square: I64  # (p, k, f) in units of 1 / VOTE_ONE^2
    members: I64  # (p, k + 1)


class Changes(NamedTuple):
    """Room for segment changes, `c` rows, in the order of publication per partition."""

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
    if plan.ids_max == 0 or time < max(work.head[u, CLOCK], time) - plan.ids_age_ms:
        return False
    known = event_id >> np.uint64(64 - ID_BITS)
    n = np.int64(work.id_count[u])
    place = n
    for i in range(n):
        if work.ids[u, i] == known:
            return True
        later = work.id_time[u, i] < time or (work.id_time[u, i] == time and work.ids[u, i] < known)
        if later and place == n:
            place = i
    if place < plan.ids_max:
        last = min(n, plan.ids_max - 1)
        for i in range(last, place, -1):
            work.ids[u, i] = work.ids[u, i - 1]
            work.id_time[u, i] = work.id_time[u, i - 1]
        work.ids[u, place] = known
        work.id_time[u, place] = time
        work.id_count[u] = last + 1
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
            elif plan.tile_op[m] == _SUM:
                tiles.value[row, m] += value
            elif plan.tile_op[m] == _MIN:
                tiles.value[row, m] = min(tiles.value[row, m], value)
            else:
                tiles.value[row, m] = max(tiles.value[row, m], value)
        mask >>= 1
        m += 1


@kernel
def _apply(plan: Plan, work: Work, u: int, rows: Rows, i: int) -> bool:
    """Join an event to a profile; tells whether its tile was beyond the horizon."""
    time = rows.time[i]
    kind = rows.type[i]
    clock = max(work.head[u, CLOCK], time)
    work.head[u, CLOCK] = clock
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
            bucket = np.int64(rows.text[s, i] & np.uint64(BUCKETS - 1))
            work.seen[u, s, bucket] = max(np.int64(work.seen[u, s, bucket]), day)
    late = day < clock // DAY_MS - plan.horizon_days
    if not late:
        _add(plan, work.days, _tile(work.days, u, day), plan.day_mask, rows, i)
    if plan.horizon_hours and time // HOUR_MS >= clock // HOUR_MS - plan.horizon_hours:
        _add(plan, work.hours, _tile(work.hours, u, time // HOUR_MS), plan.hour_mask, rows, i)
    return late


@kernel
def _windowed(tiles: Tiles, u: int, now: int, window: int, m: int, op: int) -> tuple[int, bool]:
    """Join a measure over the tiles of a window; False where no tile has it."""
    value = 0
    there = False
    for row in range(tiles.start[u] + tiles.count[u] - 1, tiles.start[u] - 1, -1):
        if tiles.index[row] < now - window:
            break
        if tiles.index[row] <= now and tiles.mask[row] >> m & 1:
            if not there:
                value = tiles.value[row, m]
            elif op == _SUM:
                value += tiles.value[row, m]
            elif op == _MIN:
                value = min(value, tiles.value[row, m])
            else:
                value = max(value, tiles.value[row, m])
            there = True
    return value, there


@kernel
def _days_active(tiles: Tiles, u: int, now: int, window: int) -> int:
    n = 0
    for row in range(tiles.start[u] + tiles.count[u] - 1, tiles.start[u] - 1, -1):
        if tiles.index[row] < now - window:
            break
        if tiles.index[row] <= now:
            n += 1
    return n


@kernel
def feature(plan: Plan, work: Work, u: int, f: int, as_of: int) -> float:
    """Compute one feature of one customer as of a time, as docs/features.md specifies."""
    kind = plan.kind[f]
    a = np.int64(plan.first[f])
    tiles = work.hours if plan.hourly[f] else work.days
    now = as_of // HOUR_MS if plan.hourly[f] else as_of // DAY_MS
    if kind == _WINDOW:
        value, there = _windowed(tiles, u, now, plan.window[f], a, plan.tile_op[a])
        return float(value) if there else plan.default[f]
    if kind == _RATIO:
        above = float(_windowed(tiles, u, now, plan.window[f], a, _SUM)[0])
        below = float(_windowed(tiles, u, now, plan.window[f], np.int64(plan.second[f]), _SUM)[0])
        if below + plan.weight[f] <= 0.0:
            return plan.default[f]
        return (above + plan.prior[f] * plan.weight[f]) / (below + plan.weight[f])
    if kind == _RECENCY:
        age = plan.cap_ms[f] if work.life[u, a] == NEVER else min(as_of - work.life[u, a], plan.cap_ms[f])
        return float(age) / 86_400_000.0
    if kind == _ACTIVE:
        return float(_days_active(work.days, u, now, plan.window[f]))
    if kind == _GAP:
        count, last = work.life[u, np.int64(plan.third[f])], work.life[u, np.int64(plan.second[f])]
        if count < 2 or NEVER in (work.life[u, a], last):
            return float(plan.cap_ms[f]) / 86_400_000.0
        gap = float(last - work.life[u, a]) / float(count - 1)
        return min(gap, float(plan.cap_ms[f])) / 86_400_000.0
    if kind == _DISTINCT:
        n = 0
        for bucket in range(BUCKETS):
            last = work.seen[u, a, bucket]
            if last >= 0 and now - plan.window[f] <= last <= now:
                n += 1
        return float(n)
    return float(work.life[u, a])


@kernel
def transformed(kind: int, value: float, low: float, high: float, mean: float, scale: float, weight: float) -> float:
    """Clip, transform and standardise one feature."""
    clipped = min(max(value, low), high)
    if kind == _LOG1P:
        clipped = math.copysign(math.log1p(abs(clipped)), clipped)
    return (clipped - mean) / scale * weight


@kernel
def quantised(z: float) -> int:
    """Round a standardised feature to a vote's 16 bits."""
    return int(math.floor(min(max(z * VOTE_ONE, -float(VOTE_MAX)), float(VOTE_MAX)) + 0.5))  # clipped first: a huge number has no integer


@kernel
def squared_distance(vote: I16, centroid: I64) -> int:
    """Square the distance of a vote from a centroid, in units of 1 / CENTROID_ONE^2."""
    total = 0
    for f in range(len(vote)):
        gap = np.int64(vote[f]) * FINER - centroid[f]
        total += gap * gap
    return total


@kernel
def nearest(vote: I16, centroid: I64, size: int) -> int:
    """Find the nearest of the first `size` centroids; the first of equals."""
    best, least = 0, squared_distance(vote, centroid[0])
    for k in range(1, size):
        distance = squared_distance(vote, centroid[k])
        if distance < least:
            best, least = k, distance
    return best


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

    A customer leaves a segment for a nearer one that is nearer by `margin`, if it has been in its segment for `dwell_ms` or the other is nearer
    by `margin_large`. From no segment, from `new` and from a segment that the model no longer has, it joins the nearest.
    """
    near = nearest(vote, judge.centroid[p], judge.size[p])
    current = segment_index(judge, p, code)
    if current in (OTHER_SEGMENT, near):
        return near
    there = float(squared_distance(vote, judge.centroid[p, current]))
    here = float(squared_distance(vote, judge.centroid[p, near]))
    if here > there * (1.0 - judge.margin[p]) ** 2:
        return current
    if as_of - since < judge.dwell_ms[p] and here > there * (1.0 - judge.margin_large[p]) ** 2:
        return current
    return near


@kernel
def _vote_out(work: Work, u: int, sums: Sums, p: int) -> None:
    k = work.head[u, HELD] - 1
    sums.count[p, k] -= 1
    for f in range(work.vote.shape[1]):
        vote = np.int64(work.vote[u, f])
        sums.total[p, k, f] -= vote
        sums.square[p, k, f] -= vote * vote
    work.head[u, HELD] = 0


@kernel
def _vote_in(work: Work, u: int, vote: I16, k: int, sums: Sums, p: int) -> None:
    sums.count[p, k] += 1
    for f in range(len(vote)):
        wide = np.int64(vote[f])
        sums.total[p, k, f] += wide
        sums.square[p, k, f] += wide * wide
        work.vote[u, f] = vote[f]
    work.head[u, HELD] = k + 1


@kernel
def _eligible(judge: Judge, p: int, work: Work, u: int) -> bool:
    for e in range(judge.eligible.shape[1]):
        if work.life[u, judge.eligible[p, e, 0]] < judge.eligible[p, e, 1]:
            return False
    return True


@kernel
def _explain(judge: Judge, p: int, vote: I16, k: int, changes: Changes, c: int) -> None:
    """Record the distance to the segment, and how much nearer it is than the nearest other (negative: farther)."""
    here = math.sqrt(float(squared_distance(vote, judge.centroid[p, k])))
    other = math.inf
    for j in range(judge.size[p]):
        if j != k:
            other = min(other, math.sqrt(float(squared_distance(vote, judge.centroid[p, j]))))
    changes.distance[c] = here / CENTROID_ONE
    changes.margin[c] = 1.0 - here / other if other > 0.0 else 0.0


@kernel
def _cause(judge: Judge, p: int, work: Work, u: int, code: int, target: int, as_of: int, due: int) -> int:
    """Say why a customer with segment `code` moves to `target`; `due` is the cause if nothing else moved them."""
    head = work.head[u]
    if code == NO_SEGMENT:
        return FIRST_SEEN
    if due != MODEL_RESEED and head[HELD] and head[EPOCH] != judge.epoch[p] and decide(judge, p, work.vote[u], code, head[SINCE], as_of) == target:
        return MODEL_DRIFT
    return due


@kernel
def _judge(
    plan: Plan, judge: Judge, sums: Sums, work: Work, u: int, p: int, as_of: int, offset: int, base: int, due: int, changes: Changes, c: int
) -> int:
    """Evaluate a customer as of a time: replace the vote, decide, record a change. Returns the number of changes so far.

    `offset` is the change's source, `base` the least version it may have, `due` its cause if neither newness nor the model explains it.
    """
    code = work.head[u, SEGMENT]
    known = work.head[u, MODEL] == judge.version[p]
    if known:
        old = segment_index(judge, p, code)
        sums.members[p, old if old >= 0 else judge.number.shape[1]] -= 1
    else:
        work.head[u, HELD] = 0
    features = len(plan.kind)
    for f in range(features):
        changes.feature[c, f] = feature(plan, work, u, f, as_of)
        z = transformed(
            plan.transform[f], changes.feature[c, f], judge.low[p, f], judge.high[p, f], judge.mean[p, f], judge.scale[p, f], judge.weight[p, f]
        )
        changes.vote[c, f] = quantised(z)
    vote = changes.vote[c]
    target = -1
    after = NEW_SEGMENT
    if _eligible(judge, p, work, u):
        target = decide(judge, p, vote, code, work.head[u, SINCE], as_of)
        after = FIRST_CODE + judge.number[p, target]
    cause = _cause(judge, p, work, u, code, target, as_of, due) if after != code else due
    if work.head[u, HELD]:
        _vote_out(work, u, sums, p)
    if target >= 0:
        _vote_in(work, u, vote, nearest(vote, judge.centroid[p], judge.size[p]), sums, p)
    sums.members[p, target if target >= 0 else judge.number.shape[1]] += 1
    work.head[u, MODEL] = judge.version[p]
    work.head[u, EPOCH] = judge.epoch[p]
    if after == code:
        return c
    if target >= 0:
        _explain(judge, p, vote, target, changes, c)
    else:
        changes.distance[c] = 0.0
        changes.margin[c] = 0.0
    work.head[u, VERSION] = max(work.head[u, VERSION] + 1, base)
    changes.slot[c] = u
    changes.part[c] = p
    changes.offset[c] = offset
    changes.cause[c] = cause
    changes.before[c] = code
    changes.after[c] = after
    changes.since[c] = work.head[u, SINCE]
    changes.occurred[c] = as_of
    changes.version[c] = work.head[u, VERSION]
    changes.model[c] = judge.version[p]
    changes.epoch[c] = judge.epoch[p]
    work.head[u, SEGMENT] = after
    work.head[u, SINCE] = as_of
    return c + 1


@kernel
def settle(plan: Plan, judge: Judge, sums: Sums, work: Work, u: int, p: int, era: int, changes: Changes, c: int) -> int:
    """Do what has come due for a customer: be judged by the version that the partition has adopted. Returns the number of changes so far."""
    if judge.version[p] == 0 or work.head[u, MODEL] == judge.version[p] or work.head[u, CLOCK] == NEVER:
        return c
    as_of = max(work.head[u, CLOCK], judge.as_of[p])
    work.head[u, CLOCK] = as_of
    base = era * ERA_VERSIONS + judge.at_offset[p] * OFFSET_VERSIONS
    return _judge(plan, judge, sums, work, u, p, as_of, judge.at_offset[p], base, MODEL_RESEED, changes, c)


@kernel
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
    changes: Changes,
) -> int:
    """Fold a batch. First the swept customers are settled, then each event in turn.

    Updates `sums`, `work`, `watermark` (p,) and `tally` (p, TALLIES) in place; `changes` must have room for one row per swept customer, per
    event and per customer, and one more. Returns how many changes there are.
    """
    c = 0
    for i in range(len(swept)):
        c = settle(plan, judge, sums, work, swept[i], swept_part[i], era, changes, c)
    for i in range(len(rows.slot)):
        u, p = rows.slot[i], rows.part[i]
        c = settle(plan, judge, sums, work, u, p, era, changes, c)
        watermark[p] = max(watermark[p], rows.time[i])
        if _remember(plan, work, u, rows.event_id[i], rows.time[i]):
            tally[p, DUPLICATE] += 1
            continue
        tally[p, APPLIED] += 1
        tally[p, LATE] += _apply(plan, work, u, rows, i)
        if judge.version[p]:
            tally[p, JUDGED] += 1
            base = era * ERA_VERSIONS + (rows.offset[i] + 1) * OFFSET_VERSIONS
            c = _judge(plan, judge, sums, work, u, p, work.head[u, CLOCK], rows.offset[i], base, BEHAVIOUR, changes, c)
    return c
