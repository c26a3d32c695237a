"""Segment changes in Avro, compiled: a batch's changes become an outbox in one pass over the columns.

Laws: every value equals, to the byte, what fastavro writes for the same record and the published SegmentChange schema, in the order of its
fields; the frames around the values are those of `streamer.core.outbox`. Tests hold both.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from streamer.core.columns import I32, I64, U8  # noqa: TC001  # the types of NamedTuples
from streamer.core.compiled import compiled, kernel
from streamer.core.fold import ERASURE, VOTE_ONE, Changes
from streamer.core.hashing import xxh64
from streamer.core.profile import FIRST_CODE, NEW_SEGMENT, NO_SEGMENT

TOP_FEATURES = 3
ID_BYTES = 32  # a change id, as hexadecimal digits
HEAD_BYTES = 17  # of a record in an outbox: topic, then partition, lengths of key and value, and number of headers, 4 bytes each
NUMBER_BYTES = 10
FIXED_BYTES = ID_BYTES + 40 * NUMBER_BYTES


class Strings(NamedTuple):
    """Strings joined: string i is `data[bounds[i]:bounds[i + 1]]`."""

    data: U8
    bounds: I64


class Texts(NamedTuple):
    """The texts that changes are made of, each with its length before it, as Avro has strings."""

    prefix: U8  # the framing
    status: Strings  # entered, exited
    causes: Strings
    features: Strings
    feature_version: U8
    topic: U8
    tail: U8  # origin and run_id
    segment_ids: Strings  # by segment code; those of codes that no known version has are made from the number
    segment_names: Strings


@kernel
def _varint(data: U8, at: int, value: int) -> int:
    """Write a zigzag number."""
    left = np.uint64((value << 1) ^ (value >> 63))
    while left >= np.uint64(0x80):
        data[at] = np.uint8((left & np.uint64(0x7F)) | np.uint64(0x80))
        left >>= np.uint64(7)
        at += 1
    data[at] = np.uint8(left)
    return at + 1


@kernel
def _bytes(data: U8, at: int, source: U8, begin: int, end: int) -> int:
    for i in range(begin, end):
        data[at] = source[i]
        at += 1
    return at


@kernel
def _string(data: U8, at: int, source: U8, begin: int, end: int) -> int:
    return _bytes(data, _varint(data, at, end - begin), source, begin, end)


@kernel
def _of(data: U8, at: int, strings: Strings, i: int) -> int:
    return _string(data, at, strings.data, strings.bounds[i], strings.bounds[i + 1])


@kernel
def _segment_id(data: U8, at: int, texts: Texts, code: int) -> int:
    """Write `new`, or seg_ and the segment's number in at least four digits."""
    if code == NEW_SEGMENT:
        return _of(data, at, texts.segment_ids, code)
    number = code - FIRST_CODE
    digits = 4
    while number >= 10**digits:
        digits += 1
    at = _varint(data, at, 4 + digits)
    at = _bytes(data, at, texts.segment_ids.data, 0, 4)
    for i in range(digits):
        data[at + digits - 1 - i] = 48 + number % 10
        number //= 10
    return at + digits


@kernel
def _doubles(bits: U8, row: int, data: U8, at: int) -> int:
    return _bytes(data, at, bits, 8 * row, 8 * row + 8)


@kernel
def _top(changes: Changes, c: int, order: I64) -> None:
    """Put the features with the greatest |z| first, in the order of the declaration among equals."""
    f = changes.vote.shape[1]
    for rank in range(min(TOP_FEATURES, f)):
        best = -1
        for j in range(f):
            taken = False
            for earlier in range(rank):
                taken = taken or order[earlier] == j
            if not taken and (best < 0 or abs(np.int64(changes.vote[c, j])) > abs(np.int64(changes.vote[c, best]))):
                best = j
        order[rank] = best


@kernel
def _change(
    texts: Texts,
    changes: Changes,
    c: int,
    ids: U8,
    id_bounds: I64,
    change_ids: U8,
    reals: U8,
    partition: int,
    now_ms: int,
    order: I64,
    data: U8,
    at: int,
) -> int:
    """Write one change."""
    f = changes.vote.shape[1]
    first, last = id_bounds[changes.slot[c]], id_bounds[changes.slot[c] + 1]
    before, after = changes.before[c], changes.after[c]
    at = _bytes(data, at, texts.prefix, 0, len(texts.prefix))
    at = _string(data, at, change_ids, ID_BYTES * c, ID_BYTES * (c + 1))
    at = _string(data, at, ids, first, last)
    at = _varint(data, at, changes.version[c])
    left = after == NO_SEGMENT
    named = before if left else after  # who leaves is told of the segment left
    at = _of(data, at, texts.status, 1 if left else 0)
    at = _segment_id(data, at, texts, named)
    at = _of(data, at, texts.segment_names, named)
    at = _varint(data, at, 0 if before == NO_SEGMENT else 1)
    if before != NO_SEGMENT:
        at = _segment_id(data, at, texts, before)
    at = _varint(data, at, 0 if before == NO_SEGMENT else 1)
    if before != NO_SEGMENT:
        at = _varint(data, at, changes.since[c])
    at = _of(data, at, texts.causes, changes.cause[c])
    at = _varint(data, at, changes.occurred[c])
    at = _varint(data, at, now_ms)
    at = _varint(data, at, changes.model[c])
    at = _varint(data, at, changes.epoch[c])
    at = _bytes(data, at, texts.feature_version, 0, len(texts.feature_version))
    row = c * (2 + 2 * f)
    at = _doubles(reals, row, data, at)
    at = _doubles(reals, row + 1, data, at)
    _top(changes, c, order)
    top = 0 if left else min(TOP_FEATURES, f)
    if top:
        at = _varint(data, at, top)
    for rank in range(top):
        at = _of(data, at, texts.features, order[rank])
        at = _doubles(reals, row + 2 + order[rank], data, at)
        at = _doubles(reals, row + 2 + f + order[rank], data, at)
    at = _varint(data, at, 0)
    at = _bytes(data, at, texts.topic, 0, len(texts.topic))
    at = _varint(data, at, partition)
    at = _varint(data, at, changes.offset[c])
    return _bytes(data, at, texts.tail, 0, len(texts.tail))


@kernel
def _int32(data: U8, at: int, value: int) -> int:
    for b in range(4):
        data[at + b] = (value >> (8 * b)) & 0xFF
    return at + 4


@compiled
def _encode(
    texts: Texts,
    changes: Changes,
    ids: U8,
    id_bounds: I64,
    change_ids: U8,
    reals: U8,
    chosen: I64,
    partition: int,
    now_ms: int,
    topic: int,
    headers: U8,
    headers_count: int,
    stamp: U8,
    stamp_count: int,
) -> tuple[U8, I64]:
    room = 0
    widest = 0
    for strings in (texts.segment_names, texts.features, texts.causes, texts.segment_ids):
        for i in range(len(strings.bounds) - 1):
            widest = max(widest, strings.bounds[i + 1] - strings.bounds[i])
    fixed = FIXED_BYTES + 10 * widest + len(texts.topic) + len(texts.tail) + len(texts.feature_version) + len(texts.prefix)
    fixed += len(texts.status.data) + 2 * HEAD_BYTES + len(headers) + ID_BYTES + len(stamp)
    for c in chosen:
        room += fixed + 3 * (id_bounds[changes.slot[c] + 1] - id_bounds[changes.slot[c]])
    data = np.empty(room, np.uint8)
    values = np.zeros((len(chosen), 2), np.int64)
    order = np.zeros(TOP_FEATURES, np.int64)
    at = 0
    for i in range(len(chosen)):
        c = chosen[i]
        first, last = id_bounds[changes.slot[c]], id_bounds[changes.slot[c] + 1]
        if changes.cause[c] != ERASURE or changes.before[c] != NO_SEGMENT:
            data[at] = topic
            lengths = _int32(data, _int32(data, at + 1, partition), last - first)
            at = _int32(data, lengths + 4, headers_count)
            at = _bytes(data, at, ids, first, last)
            values[i, 0] = at
            at = _change(texts, changes, c, ids, id_bounds, change_ids, reals, partition, now_ms, order, data, at)
            values[i, 1] = at
            _int32(data, lengths, at - values[i, 0])
            at = _bytes(data, at, headers, 0, len(headers))
            at = _bytes(data, at, change_ids, ID_BYTES * c, ID_BYTES * (c + 1))
        if changes.cause[c] == ERASURE:
            data[at] = topic
            lengths = _int32(data, _int32(data, at + 1, partition), last - first)
            at = _int32(data, _int32(data, lengths, -1), stamp_count)
            at = _bytes(data, at, ids, first, last)
            at = _bytes(data, at, stamp, 0, len(stamp))
    return data[:at], values


@compiled
def _name(topic: U8, ids: U8, id_bounds: I64, slots: I32, versions: I64) -> U8:
    names = np.empty(len(slots) * ID_BYTES, np.uint8)
    longest = 0
    for c in range(len(slots)):
        longest = max(longest, id_bounds[slots[c] + 1] - id_bounds[slots[c]])
    whole = np.empty(len(topic) + longest + 11, np.uint8)
    for c in range(len(slots)):
        at = _bytes(whole, 1, topic, 0, len(topic))
        whole[at] = 0
        at = _bytes(whole, at + 1, ids, id_bounds[slots[c]], id_bounds[slots[c] + 1])
        whole[at] = 0
        at += 1
        for b in range(8):
            whole[at + b] = (versions[c] >> (8 * b)) & 0xFF
        for half in range(2):
            whole[0] = half
            hashed = np.uint64(xxh64(whole, 0, at + 8))
            for digit in range(16):
                value = np.int64(hashed >> np.uint64(60 - 4 * digit)) & 15
                names[c * ID_BYTES + half * 16 + digit] = value + (48 if value < 10 else 87)
    return names


def name_changes(topic: bytes, ids: U8, id_bounds: I64, slots: I32, versions: I64) -> bytes:
    """Name changes: 32 hexadecimal digits each, joined.

    They are two XXH64, of the bytes 0 and 1, each followed by the topic, a zero, the customer's id, a zero and the version in 8 bytes,
    little-endian.

    Args:
        topic: The input topic's name.
        ids: The customers' joined ids.
        id_bounds: (u + 1,) their bounds.
        slots: (c,) whose each change is.
        versions: (c,) the customers' versions.

    """
    named: U8 = _name(np.frombuffer(topic, np.uint8), ids, id_bounds, slots, versions)
    return named.tobytes()


class Place(NamedTuple):
    """Where changes go: their Kafka partition, the topic's number in an outbox, and their headers as an outbox has them.

    The headers lack the value of the last one, which is the change's id, of 32 bytes. A tombstone bears the commit's stamp alone.
    """

    partition: int
    topic: int
    headers: U8
    headers_count: int
    stamp: U8
    stamp_count: int


def encode_changes(
    texts: Texts, changes: Changes, count: int, ids: U8, id_bounds: I64, change_ids: bytes, chosen: I64, place: Place, now_ms: int
) -> tuple[bytes, list[list[int]]]:
    """Write some changes of one partition as an outbox without its first byte.

    Args:
        texts: The texts they are made of.
        changes: The batch's changes, `count` of them.
        count: How many rows of `changes` are filled.
        ids: The customers' joined ids.
        id_bounds: (u + 1,) their bounds.
        change_ids: The changes' ids, 32 digits each, joined.
        chosen: (n,) which changes.
        place: Where they go.
        now_ms: When they were detected.

    Returns:
        The outbox, and where in it each change's value begins and ends; at 0 both where only a tombstone is told of.

    """
    real = np.column_stack([changes.distance[:count], changes.margin[:count], changes.feature[:count], changes.vote[:count] / VOTE_ONE])
    reals = np.ascontiguousarray(real, "<f8").view(np.uint8).reshape(-1)
    identities = np.frombuffer(change_ids, np.uint8)
    where = place.topic, place.headers, place.headers_count, place.stamp, place.stamp_count
    data, values = _encode(texts, changes, ids, id_bounds, identities, reals, chosen, place.partition, now_ms, *where)
    return data.tobytes(), values.tolist()
