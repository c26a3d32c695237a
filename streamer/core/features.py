"""Features of a customer as of a time, as docs/features.md specifies.

Law: `evaluate` gives, to the bit, what `feature` defines one by one. It takes one pass over the customer's tiles, latest first: a measure
joined over the tiles of a window is joined, with the tiles before them, over every longer one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamer.core.compiled import kernel, wide
from streamer.core.declaration import Kind, Tiling
from streamer.core.profile import DAY_MS, HOUR_MS, NEVER, Tiles, Work

if TYPE_CHECKING:
    from streamer.core.columns import F64, I32, I64
    from streamer.core.plan import Plan

_SUM, _MIN = int(Tiling.SUM), int(Tiling.MIN)
_WINDOW, _RATIO, _RECENCY, _ACTIVE, _GAP, _DISTINCT = (int(kind) for kind in list(Kind)[:6])
_DAY = float(DAY_MS)


@kernel
def join(op: int, value: int, other: int) -> int:
    """Join two values of a tile measure."""
    if op == _SUM:
        return value + other
    if op == _MIN:
        return min(value, other)
    return max(value, other)


@kernel
def feature(plan: Plan, work: Work, u: int, f: int, as_of: int) -> float:
    """Compute one feature of one customer as of a time: the definition."""
    kind = plan.kind[f]
    a = wide(plan.first[f])
    tiles = work.hours if plan.hourly[f] else work.days
    now = as_of // HOUR_MS if plan.hourly[f] else as_of // DAY_MS
    window = plan.window[f]
    if kind == _WINDOW:
        value, there = _windowed(tiles, u, now, window, a, plan.tile_op[a])
        return float(value) if there else plan.default[f]
    if kind == _RATIO:
        above = _windowed(tiles, u, now, window, a, _SUM)[0]
        below = _windowed(tiles, u, now, window, wide(plan.second[f]), _SUM)[0]
        return _ratio(above, below, plan.prior[f], plan.weight[f], plan.default[f])
    if kind == _ACTIVE:
        return float(_days_active(tiles, u, now, window))
    return _without_tiles(plan, work, u, f, as_of)


@kernel
def evaluate(plan: Plan, work: Work, u: int, as_of: int, out: F64) -> None:
    """Compute every feature of one customer as of a time into `out`, (f,)."""
    for j in range(plan.days_from):
        f = wide(plan.order[j])
        out[f] = _without_tiles(plan, work, u, f, as_of)
    _evaluate_tiled(plan, work.joined, work.days, u, as_of // DAY_MS, plan.days_from, plan.hours_from, out)
    if plan.horizon_hours:
        _evaluate_tiled(plan, work.joined, work.hours, u, as_of // HOUR_MS, plan.hours_from, len(plan.order), out)


@kernel
def _evaluate_tiled(plan: Plan, joined: I64, tiles: Tiles, u: int, now: int, begin: int, end: int, out: F64) -> None:
    """Compute the features `order[begin:end]`, which stand by window, the shortest first."""
    there, active = 0, 0
    first = tiles.start[u]
    row = first + tiles.count[u] - 1
    for j in range(begin, end):
        f = wide(plan.order[j])
        while row >= first and tiles.index[row] >= now - plan.window[f]:
            if tiles.index[row] <= now:
                there = _join_tile(plan, tiles, row, there, joined)
                active += 1
            row -= 1
        out[f] = _tiled(plan, joined, there, active, f)


@kernel
def _join_tile(plan: Plan, tiles: Tiles, row: int, there: int, joined: I64) -> int:
    """Join a tile's measures to `joined`; `there` says which of them it has, before and in what is returned after."""
    left = tiles.mask[row]
    m = 0
    while left:
        if left & 1:
            joined[m] = join(plan.tile_op[m], joined[m], tiles.value[row, m]) if there >> m & 1 else tiles.value[row, m]
        left >>= 1
        m += 1
    return there | tiles.mask[row]


@kernel
def _tiled(plan: Plan, joined: I64, there: int, active: int, f: int) -> float:
    """Compute a feature from the measures joined over its window."""
    if plan.kind[f] == _ACTIVE:
        return float(active)
    a = wide(plan.first[f])
    if plan.kind[f] == _WINDOW:
        return float(joined[a]) if there >> a & 1 else plan.default[f]
    b = wide(plan.second[f])
    above = joined[a] if there >> a & 1 else 0
    below = joined[b] if there >> b & 1 else 0
    return _ratio(above, below, plan.prior[f], plan.weight[f], plan.default[f])


@kernel
def _ratio(above: int, below: int, prior: float, weight: float, default: float) -> float:
    if float(below) + weight <= 0.0:
        return default
    return (float(above) + prior * weight) / (float(below) + weight)


@kernel
def _without_tiles(plan: Plan, work: Work, u: int, f: int, as_of: int) -> float:
    """Compute a feature of lifetime measures or of buckets."""
    kind = plan.kind[f]
    a = wide(plan.first[f])
    if kind == _DISTINCT:
        return float(_hit(work.seen[u, a], as_of // DAY_MS, plan.window[f]))
    if kind == _RECENCY:
        return float(plan.cap_ms[f] if work.life[u, a] == NEVER else min(as_of - work.life[u, a], plan.cap_ms[f])) / _DAY
    if kind == _GAP:
        cap = float(plan.cap_ms[f])
        first, last, count = work.life[u, a], work.life[u, wide(plan.second[f])], work.life[u, wide(plan.third[f])]
        if count < 2 or NEVER in (first, last):
            return cap / _DAY
        return min(float(last - first) / float(count - 1), cap) / _DAY
    return float(work.life[u, a])


@kernel
def _hit(seen: I32, now: int, window: int) -> int:
    """Count the buckets last hit on a day of the window."""
    oldest, latest = np.int32(max(now - window, 0)), np.int32(now)
    n = 0
    for bucket in range(len(seen)):
        n += oldest <= seen[bucket] <= latest
    return n


@kernel
def _windowed(tiles: Tiles, u: int, now: int, window: int, m: int, op: int) -> tuple[int, bool]:
    """Join a measure over the tiles of a window; False where no tile has it."""
    value = 0
    there = False
    for row in range(tiles.start[u] + tiles.count[u] - 1, tiles.start[u] - 1, -1):
        if tiles.index[row] < now - window:
            break
        if tiles.index[row] <= now and tiles.mask[row] >> m & 1:
            value = join(op, value, tiles.value[row, m]) if there else tiles.value[row, m]
            there = True
    return value, there


@kernel
def _days_active(tiles: Tiles, u: int, now: int, window: int) -> int:
    n = 0
    for row in range(tiles.start[u], tiles.start[u] + tiles.count[u]):
        n += now - window <= tiles.index[row] <= now
    return n
