"""A customer's profile, packed into one string and unpacked into columns.

Law: `pack(unpack(x)) == x` for every profile that `pack` made, and equal working columns pack to equal bytes, whatever the order in which
events made them.

Layout 1, all integers LEB128 varints unless said otherwise, `z` zigzag:

    layout (1 byte), feature version tag (4 bytes, little-endian)
    number of day tiles, of hour tiles, of remembered ids
    clock z, version, model, epoch, segment code, since z
    held (0: no vote, else 1 + the segment's index in the model), if held: the vote, f 16-bit little-endian integers
    lifetime measures: a time as 0 (unknown) or 1 + zigzag(clock - time); a count or sum z
    distinct measures, each: number of hit buckets, then (bucket (1 byte), clock's day - day)
    ids, latest first: 6 bytes of hash, then clock - time for the first, the time before the previous one for the others
    day tiles, latest first: days before the previous (the first: before the clock's day), mask of measures, z of each
    hour tiles likewise
    checksum: the low 32 bits of the XXH64 of all before, little-endian
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from streamer.core.columns import I16, I32, I64, U8, U64
from streamer.core.compiled import compiled, kernel
from streamer.core.hashing import xxh64
from streamer.core.plan import BUCKETS, Plan

LAYOUT = 1
DAY_MS = 86_400_000
HOUR_MS = 3_600_000
NEVER = -(1 << 60)  # a time or clock that is not known
# Columns of `Work.head`.
CLOCK, VERSION, MODEL, EPOCH, SEGMENT, SINCE, HELD = range(7)
HEAD = 7
# Segment codes: none yet, `new`, else FIRST_CODE + the segment's number.
NO_SEGMENT, NEW_SEGMENT, FIRST_CODE = 0, 1, 2
# What `unpack` found of a profile.
ABSENT, PRESENT, OTHER_VERSION, CORRUPT = range(4)
_LIFE_SUMMED = 2  # Lifetime.COUNT and beyond are numbers, before it times


class Tiles(NamedTuple):
    """Rows of tiles of all customers: customer u's are `start[u]` to `start[u] + count[u]`, in order of time, with room for `room[u]`."""

    start: I64  # (u,)
    count: I32  # (u,)
    index: I32  # (rows,) day or hour
    mask: I64  # (rows,) measures that are there
    value: I64  # (rows, m)


class Work(NamedTuple):
    """The working columns of `u` customers."""

    found: U8  # (u,)
    head: I64  # (u, HEAD)
    vote: I16  # (u, f)
    life: I64  # (u, l)
    seen: I32  # (u, s, 64) last day of each bucket, -1 for none
    ids: U64  # (u, ids_max) 48-bit hashes, latest first
    id_time: I64  # (u, ids_max)
    id_count: I32  # (u,)
    days: Tiles
    hours: Tiles


@kernel
def _get(data: U8, at: int, end: int) -> tuple[int, int]:
    """Read a varint; the position is -1 where the bytes end or it has more than ten."""
    value = 0
    for shift in range(0, 70, 7):
        if at < 0 or at >= end:
            return 0, -1
        byte = np.int64(data[at])
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    return 0, -1


@kernel
def _put(data: U8, at: int, value: int) -> int:
    """Write a varint of a number that is not negative."""
    while value >= 0x80:
        data[at] = (value & 0x7F) | 0x80
        value >>= 7
        at += 1
    data[at] = value
    return at + 1


@kernel
def _zig(value: int) -> int:
    return (value << 1) ^ (value >> 63)


@kernel
def _zag(value: int) -> int:
    return (value >> 1) ^ -(value & 1)


@compiled
def _rooms(plan: Plan, values: U8, bounds: I64, extra: I64) -> tuple[U8, I64, I64]:
    """Look at the front of each profile: what was found, and rows of day and hour tiles to make room for."""
    u = len(bounds) - 1
    found = np.zeros(u, np.uint8)
    days = np.zeros(u, np.int64)
    hours = np.zeros(u, np.int64)
    for i in range(u):
        at, end = bounds[i], bounds[i + 1]
        days[i] = extra[i]
        hours[i] = extra[i] if plan.horizon_hours else 0
        if at == end:
            continue
        if end - at < 16 or values[at] != LAYOUT:
            found[i] = CORRUPT
            continue
        kept = np.int64(values[end - 4]) | np.int64(values[end - 3]) << 8 | np.int64(values[end - 2]) << 16 | np.int64(values[end - 1]) << 24
        if np.int64(xxh64(values, at, end - 4 - at) & np.uint64(0xFFFFFFFF)) != kept:
            found[i] = CORRUPT
            continue
        tag = np.int64(values[at + 1]) | np.int64(values[at + 2]) << 8 | np.int64(values[at + 3]) << 16 | np.int64(values[at + 4]) << 24
        if tag != plan.tag:
            found[i] = OTHER_VERSION
            continue
        found[i] = PRESENT
        n_days, at = _get(values, at + 5, end)
        n_hours, at = _get(values, at, end)
        if at < 0 or n_days + n_hours > end - at:
            found[i] = CORRUPT
            continue
        days[i] += n_days
        hours[i] += n_hours
    return found, days, hours


@compiled
def _tiles(rooms: I64, measures: int) -> Tiles:
    start = np.zeros(len(rooms), np.int64)
    total = 0
    for i in range(len(rooms)):
        start[i] = total
        total += rooms[i]
    return Tiles(
        start,
        np.zeros(len(rooms), np.int32),
        np.empty(total, np.int32),
        np.zeros(total, np.int64),
        np.empty((total, measures), np.int64),
    )


@kernel
def _read_tiles(tiles: Tiles, u: int, n: int, values: U8, at: int, end: int, clock_tile: int) -> int:
    """Read `n` tiles, latest first, into rows in order of time."""
    index = clock_tile
    for row in range(tiles.start[u] + n - 1, tiles.start[u] - 1, -1):
        gap, at = _get(values, at, end)
        index -= gap
        tiles.index[row] = index
        mask, at = _get(values, at, end)
        tiles.mask[row] = mask
        m = 0
        while mask and m < tiles.value.shape[1]:
            if mask & 1:
                value, at = _get(values, at, end)
                tiles.value[row, m] = _zag(value)
            mask >>= 1
            m += 1
    tiles.count[u] = n
    return at


@kernel
def _write_tiles(tiles: Tiles, u: int, data: U8, at: int, clock_tile: int, horizon: int) -> int:
    """Write the tiles inside the horizon, latest first."""
    index = clock_tile
    for row in range(tiles.start[u] + tiles.count[u] - 1, tiles.start[u] - 1, -1):
        if tiles.index[row] < clock_tile - horizon:
            break
        at = _put(data, at, index - tiles.index[row])
        index = np.int64(tiles.index[row])
        mask = tiles.mask[row]
        at = _put(data, at, mask)
        m = 0
        while mask:
            if mask & 1:
                at = _put(data, at, _zig(tiles.value[row, m]))
            mask >>= 1
            m += 1
    return at


@kernel
def _kept(tiles: Tiles, u: int, clock_tile: int, horizon: int) -> int:
    """Count the tiles inside the horizon."""
    n = 0
    for row in range(tiles.start[u], tiles.start[u] + tiles.count[u]):
        if tiles.index[row] >= clock_tile - horizon:
            n += 1
    return n


@kernel
def _read_one(plan: Plan, work: Work, u: int, values: U8, at: int, end: int) -> bool:
    """Read what follows the tag; False where the bytes end early. The checksum has been verified, so only a foreign writer could do that."""
    n_days, at = _get(values, at, end)
    n_hours, at = _get(values, at, end)
    n_ids, at = _get(values, at, end)
    for i in range(HEAD):
        value, at = _get(values, at, end)
        work.head[u, i] = _zag(value) if i in (CLOCK, SINCE) else value
    if work.head[u, HELD]:
        if at + 2 * work.vote.shape[1] > end:
            return False
        for f in range(work.vote.shape[1]):
            low, high = np.int64(values[at]), np.int64(values[at + 1])
            work.vote[u, f] = (low | high << 8) - ((high & 0x80) << 9)
            at += 2
    clock = work.head[u, CLOCK]
    for i in range(len(plan.life_op)):
        value, at = _get(values, at, end)
        if plan.life_op[i] >= _LIFE_SUMMED:
            work.life[u, i] = _zag(value)
        elif value:
            work.life[u, i] = clock - _zag(value - 1)
    for s in range(work.seen.shape[1]):
        n, at = _get(values, at, end)
        for _ in range(n):
            if at < 0 or at >= end:
                return False
            bucket = values[at] & 63
            gap, at = _get(values, at + 1, end)
            work.seen[u, s, bucket] = clock // DAY_MS - gap
    time = clock
    if n_ids > plan.ids_max:
        return False
    for i in range(n_ids):
        if at < 0 or at + 6 > end:
            return False
        known = np.uint64(0)
        for b in range(6):
            known |= np.uint64(values[at + b]) << np.uint64(8 * b)
        gap, at = _get(values, at + 6, end)
        time -= gap
        work.ids[u, i] = known
        work.id_time[u, i] = time
    work.id_count[u] = n_ids
    at = _read_tiles(work.days, u, n_days, values, at, end, clock // DAY_MS)
    at = _read_tiles(work.hours, u, n_hours, values, at, end, clock // HOUR_MS)
    return bool(at == end)


@compiled
def unpack(plan: Plan, values: U8, bounds: I64, extra: I64) -> Work:
    """Unpack profiles into working columns with room for `extra[u]` more tiles each.

    `found[u]` says ABSENT, PRESENT, OTHER_VERSION or CORRUPT; all but PRESENT leave the customer's columns as a new customer's.
    """
    u = len(bounds) - 1
    found, days, hours = _rooms(plan, values, bounds, extra)
    m, n_life, f = len(plan.tile_op), len(plan.life_op), len(plan.kind)
    work = Work(
        found,
        np.zeros((u, HEAD), np.int64),
        np.zeros((u, f), np.int16),
        np.zeros((u, n_life), np.int64),
        np.full((u, plan.distincts, BUCKETS), -1, np.int32),
        np.empty((u, plan.ids_max), np.uint64),
        np.empty((u, plan.ids_max), np.int64),
        np.zeros(u, np.int32),
        _tiles(days, m),
        _tiles(hours, m),
    )
    for i in range(u):
        work.head[i, CLOCK] = NEVER
        work.head[i, SINCE] = NEVER
        for k in range(n_life):
            if plan.life_op[k] < _LIFE_SUMMED:
                work.life[i, k] = NEVER
        if found[i] == PRESENT and not _read_one(plan, work, i, values, bounds[i] + 5, bounds[i + 1] - 4):
            found[i] = CORRUPT
    return work


@kernel
def _size_max(plan: Plan, work: Work, u: int) -> int:
    m = len(plan.tile_op)
    tiles = np.int64(work.days.count[u]) + np.int64(work.hours.count[u])
    fixed = 9 + 10 * (3 + HEAD) + 2 * work.vote.shape[1] + 10 * len(plan.life_op) + work.seen.shape[1] * (2 + BUCKETS * 6)
    return fixed + 16 * np.int64(work.id_count[u]) + tiles * (20 + 10 * m)


@kernel
def _write_one(plan: Plan, work: Work, u: int, data: U8, at: int) -> int:
    begin = at
    data[at] = LAYOUT
    for b in range(4):
        data[at + 1 + b] = (plan.tag >> (8 * b)) & 0xFF
    clock = work.head[u, CLOCK]
    day, hour = clock // DAY_MS, clock // HOUR_MS
    n_ids = 0
    while n_ids < work.id_count[u] and work.id_time[u, n_ids] >= clock - plan.ids_age_ms:
        n_ids += 1
    at = _put(data, at + 5, _kept(work.days, u, day, plan.horizon_days))
    at = _put(data, at, _kept(work.hours, u, hour, plan.horizon_hours))
    at = _put(data, at, n_ids)
    for i in range(HEAD):
        value = work.head[u, i]
        at = _put(data, at, _zig(value) if i in (CLOCK, SINCE) else value)
    if work.head[u, HELD]:
        for f in range(work.vote.shape[1]):
            vote = np.int64(work.vote[u, f])
            data[at] = vote & 0xFF
            data[at + 1] = (vote >> 8) & 0xFF
            at += 2
    for i in range(len(plan.life_op)):
        value = work.life[u, i]
        if plan.life_op[i] >= _LIFE_SUMMED:
            at = _put(data, at, _zig(value))
        else:
            at = _put(data, at, 0 if value == NEVER else 1 + _zig(clock - value))
    for s in range(work.seen.shape[1]):
        n = 0
        for bucket in range(BUCKETS):
            if work.seen[u, s, bucket] >= max(0, day - plan.horizon_days):
                n += 1
        at = _put(data, at, n)
        for bucket in range(BUCKETS):
            if work.seen[u, s, bucket] >= max(0, day - plan.horizon_days):
                data[at] = bucket
                at = _put(data, at + 1, day - work.seen[u, s, bucket])
    time = clock
    for i in range(n_ids):
        for b in range(6):
            data[at + b] = np.int64((work.ids[u, i] >> np.uint64(8 * b)) & np.uint64(0xFF))
        at = _put(data, at + 6, time - work.id_time[u, i])
        time = work.id_time[u, i]
    at = _write_tiles(work.days, u, data, at, day, plan.horizon_days)
    at = _write_tiles(work.hours, u, data, at, hour, plan.horizon_hours)
    check = np.int64(xxh64(data, begin, at - begin) & np.uint64(0xFFFFFFFF))
    for b in range(4):
        data[at + b] = (check >> (8 * b)) & 0xFF
    return at + 4


@compiled
def pack(plan: Plan, work: Work, chosen: I64) -> tuple[U8, I64]:
    """Pack the profiles of the chosen customers: joined bytes and bounds, (len(chosen) + 1,)."""
    room = 0
    for i in range(len(chosen)):
        room += _size_max(plan, work, chosen[i])
    data = np.empty(room, np.uint8)
    bounds = np.zeros(len(chosen) + 1, np.int64)
    at = 0
    for i in range(len(chosen)):
        at = _write_one(plan, work, chosen[i], data, at)
        bounds[i + 1] = at
    return data[:at], bounds
