"""A customer's profile, packed into one string and unpacked into columns.

Law: `pack(unpack(x)) == x` for every profile that `pack` made, and equal working columns pack to equal bytes, whatever the order in which
events made them. A customer without a clock, of whom nothing is known, packs to no bytes: the profile is deleted.

Layout 2, all integers LEB128 varints of 64 bits unless said otherwise, `z` zigzag:

    layout (1 byte), feature version tag (4 bytes, little-endian)
    number of day tiles, of hour tiles, of remembered ids
    clock z, version, model, epoch, segment code, since z, clock - time of the latest event
    held (0: no vote, else 1 + the segment's index in the model), if held: the vote, f 16-bit little-endian integers
    lifetime measures: a time as 0 (unknown) or 1 + clock - time; a count or sum z
    distinct measures, each: number of hit buckets, then (bucket (1 byte), clock's day - day)
    ids, latest first: 6 bytes of hash, then clock - time for the first, the time before the previous one for the others
    day tiles, latest first: days before the previous (the first: before the clock's day), mask of measures, z of each
    hour tiles likewise
    checksum: the low 32 bits of the XXH64 of all before, little-endian
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from streamer.core.compiled import compiled, kernel, wide
from streamer.core.hashing import xxh64
from streamer.core.plan import BUCKETS, Plan

if TYPE_CHECKING:
    from streamer.core.columns import I16, I32, I64, U8, U64

LAYOUT = 2
DAY_MS = 86_400_000
HOUR_MS = 3_600_000
NEVER = -(1 << 60)  # a time or clock that is not known
# Columns of `Work.head`. The clock is the latest instant as of which the customer was judged, or of an event; LAST is that of events alone.
CLOCK, VERSION, MODEL, EPOCH, SEGMENT, SINCE, LAST, HELD = range(8)
HEAD = 8
# Segment codes: none yet, `new`, else FIRST_CODE + the segment's number.
NO_SEGMENT, NEW_SEGMENT, FIRST_CODE = 0, 1, 2
# What `unpack` found of a profile.
ABSENT, PRESENT, OTHER_VERSION, CORRUPT = range(4)
_LIFE_SUMMED = 2  # Lifetime.COUNT and beyond are numbers, before it times


class Tiles(NamedTuple):
    """Rows of tiles of all customers: customer u's are `start[u]` to `start[u] + count[u]`, in order of time, with room for more."""

    start: I64  # (u,)
    count: I32  # type: ignore[assignment]  # (u,); a tuple's methods are not missed
    index: I32  # type: ignore[assignment]  # (rows,) day or hour
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
    joined: I64  # (m,) scratch: the measures of one customer, joined over the tiles of a window


@kernel
def _get(data: U8, at: int, end: int) -> tuple[int, int]:
    """Read a varint; the position is -1 where the bytes end or it has more than ten."""
    value = 0
    for shift in range(0, 70, 7):
        if at < 0 or at >= end:
            return 0, -1
        byte = wide(data[at])
        at += 1
        value |= (byte & 0x7F) << shift if shift < 63 else -((byte & 1) << 63)
        if byte < 0x80:
            return value, at
    return 0, -1


@kernel
def _get_to(data: U8, at: int, end: int, most: int) -> tuple[int, int]:
    """Read a varint from 0 to `most`; the position is -1 where it is none."""
    value, at = _get(data, at, end)
    if value < 0 or value > most:
        return 0, -1
    return value, at


@kernel
def _put(data: U8, at: int, value: int) -> int:
    """Write a varint; a negative number as the unsigned one of the same 64 bits."""
    left = wide(value)
    while left < 0 or left >= 0x80:
        data[at] = (left & 0x7F) | 0x80
        left = (left >> 7) & ((1 << 57) - 1)
        at += 1
    data[at] = left
    return at + 1


@kernel
def _zig(value: int) -> int:
    return (value << 1) ^ (value >> 63)


@kernel
def _zag(value: int) -> int:
    return ((value >> 1) & ((1 << 63) - 1)) ^ -(value & 1)


@kernel
def _get_4(data: U8, at: int) -> int:
    return wide(data[at]) | wide(data[at + 1]) << 8 | wide(data[at + 2]) << 16 | wide(data[at + 3]) << 24


@kernel
def _put_4(data: U8, at: int, value: int) -> int:
    for b in range(4):
        data[at + b] = (value >> (8 * b)) & 0xFF
    return at + 4


@kernel
def _checksum(data: U8, begin: int, length: int) -> int:
    return wide(xxh64(data, begin, length) & 0xFFFFFFFF)


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
        if end - at < 9 or values[at] != LAYOUT or _get_4(values, end - 4) != _checksum(values, at, end - 4 - at):
            found[i] = CORRUPT
            continue
        if _get_4(values, at + 1) != plan.tag:
            found[i] = OTHER_VERSION
            continue
        n_days, at = _get_to(values, at + 5, end, end - at)
        n_hours, at = _get_to(values, at, end, end - at)
        if at < 0:
            found[i] = CORRUPT
            continue
        found[i] = PRESENT
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
        gap, at = _get_to(values, at, end, index)
        index -= gap
        tiles.index[row] = index
        mask, at = _get_to(values, at, end, (1 << tiles.value.shape[1]) - 1)
        tiles.mask[row] = mask
        m = 0
        while mask:
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
        index = wide(tiles.index[row])
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
    """Read what follows the tag; False where it is no profile. The checksum is right, so only a foreign writer could do that."""
    n_days, at = _get(values, at, end)
    n_hours, at = _get(values, at, end)
    n_ids, at = _get_to(values, at, end, plan.ids_max)
    for i in range(HEAD):
        value, at = _get(values, at, end)
        work.head[u, i] = _zag(value) if i in (CLOCK, SINCE) else value
    if work.head[u, HELD]:
        if at < 0 or at + 2 * work.vote.shape[1] > end:
            return False
        for f in range(work.vote.shape[1]):
            low, high = wide(values[at]), wide(values[at + 1])
            work.vote[u, f] = (low | high << 8) - ((high & 0x80) << 9)
            at += 2
    clock = wide(work.head[u, CLOCK])
    if abs(clock) > -NEVER or work.head[u, LAST] < 0:
        return False
    work.head[u, LAST] = clock - work.head[u, LAST]
    for i in range(len(plan.life_op)):
        value, at = _get(values, at, end)
        if plan.life_op[i] >= _LIFE_SUMMED:
            work.life[u, i] = _zag(value)
        elif value > 0:
            work.life[u, i] = clock - (value - 1)
    day, hour = clock // DAY_MS, clock // HOUR_MS
    for s in range(work.seen.shape[1]):
        n, at = _get_to(values, at, end, BUCKETS)
        for _ in range(n):
            bucket, at = _get_to(values, at, end, BUCKETS - 1)
            gap, at = _get_to(values, at, end, day)
            work.seen[u, s, bucket] = day - gap
    time = clock
    for i in range(n_ids):
        if at < 0 or at + 6 > end:
            return False
        known = np.uint64(0)
        for b in range(6):
            known |= np.uint64(values[at + b]) << np.uint64(8 * b)
        gap, at = _get_to(values, at + 6, end, plan.ids_age_ms)
        time -= gap
        work.ids[u, i] = known
        work.id_time[u, i] = time
    work.id_count[u] = n_ids
    at = _read_tiles(work.days, u, n_days, values, at, end, day)
    at = _read_tiles(work.hours, u, n_hours, values, at, end, hour)
    return at == end


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
        np.zeros(m, np.int64),
    )
    for i in range(u):
        work.head[i, CLOCK] = NEVER
        work.head[i, SINCE] = NEVER
        work.head[i, LAST] = NEVER
        for k in range(n_life):
            if plan.life_op[k] < _LIFE_SUMMED:
                work.life[i, k] = NEVER
        if found[i] == PRESENT and not _read_one(plan, work, i, values, bounds[i] + 5, bounds[i + 1] - 4):
            found[i] = CORRUPT
    return work


@kernel
def _size_max(plan: Plan, work: Work, u: int) -> int:
    m = len(plan.tile_op)
    tiles = wide(work.days.count[u]) + wide(work.hours.count[u])
    fixed = 9 + 10 * (3 + HEAD) + 2 * work.vote.shape[1] + 10 * len(plan.life_op) + work.seen.shape[1] * (2 + BUCKETS * 6)
    return fixed + 16 * wide(work.id_count[u]) + tiles * (20 + 10 * m)


@kernel
def _write_one(plan: Plan, work: Work, u: int, data: U8, at: int) -> int:
    begin = at
    clock = work.head[u, CLOCK]
    if clock == NEVER:
        return at
    data[at] = LAYOUT
    at = _put_4(data, at + 1, plan.tag)
    day, hour = clock // DAY_MS, clock // HOUR_MS
    n_ids = 0
    while n_ids < work.id_count[u] and work.id_time[u, n_ids] >= clock - plan.ids_age_ms:
        n_ids += 1
    at = _put(data, at, _kept(work.days, u, day, plan.horizon_days))
    at = _put(data, at, _kept(work.hours, u, hour, plan.horizon_hours))
    at = _put(data, at, n_ids)
    for i in range(HEAD):
        value = clock - work.head[u, i] if i == LAST else work.head[u, i]
        at = _put(data, at, _zig(value) if i in (CLOCK, SINCE) else value)
    if work.head[u, HELD]:
        for f in range(work.vote.shape[1]):
            vote = wide(work.vote[u, f])
            data[at] = vote & 0xFF
            data[at + 1] = (vote >> 8) & 0xFF
            at += 2
    for i in range(len(plan.life_op)):
        value = work.life[u, i]
        if plan.life_op[i] >= _LIFE_SUMMED:
            at = _put(data, at, _zig(value))
        elif value == NEVER:
            at = _put(data, at, 0)
        else:
            at = _put(data, at, 1 + clock - value)
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
            data[at + b] = wide((work.ids[u, i] >> np.uint64(8 * b)) & np.uint64(0xFF))
        at = _put(data, at + 6, time - work.id_time[u, i])
        time = work.id_time[u, i]
    at = _write_tiles(work.days, u, data, at, day, plan.horizon_days)
    at = _write_tiles(work.hours, u, data, at, hour, plan.horizon_hours)
    return _put_4(data, at, _checksum(data, begin, at - begin))


@compiled
def pack(plan: Plan, work: Work, chosen: I64) -> tuple[U8, I64]:
    """Pack the profiles of the chosen customers: joined bytes and bounds, (len(chosen) + 1,)."""
    room = 0
    for i in range(len(chosen)):
        room += _size_max(plan, work, chosen[i])
    data = np.empty(room, np.uint8)
    bounds = np.zeros(len(chosen) + 1, np.int64)
    at = wide(0)
    for i in range(len(chosen)):
        at = _write_one(plan, work, chosen[i], data, at)
        bounds[i + 1] = at
    return data[:at], bounds
