"""Requests in the Redis protocol, packed without a Python object per customer, and replies as columns.

Law: what is packed here is byte for byte what a client would send for the same arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamer.core.columns import read_only
from streamer.core.compiled import compiled
from streamer.core.ports import Packed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from streamer.core.columns import I64, U8

FIELD_OVERHEAD_BYTES = 16
"""More than the protocol adds to one argument shorter than 10^9 bytes: `$`, its length, and two line ends."""


def arguments(*values: bytes) -> bytes:
    """Pack arguments, without the array's head."""
    return b"".join(b"$%d\r\n%b\r\n" % (len(value), value) for value in values)


def request(*values: bytes) -> bytes:
    r"""Pack a whole request.

    >>> request(b"HLEN", b"a")
    b'*2\r\n$4\r\nHLEN\r\n$1\r\na\r\n'
    """
    return b"*%d\r\n%b" % (len(values), arguments(*values))


@compiled
def pack_fields(ids: U8, bounds: I64, out: U8) -> int:
    """Write every id as an argument into `out`; returns how many bytes were written."""
    at = 0
    for i in range(bounds.shape[0] - 1):
        size = bounds[i + 1] - bounds[i]
        digits = 1
        rest = size
        while rest > 9:  # noqa: PLR2004  # decimal digits
            rest //= 10
            digits += 1
        out[at] = 36  # $
        rest = size
        for j in range(digits, 0, -1):
            out[at + j] = 48 + rest % 10
            rest //= 10
        at += digits + 1
        out[at] = 13
        out[at + 1] = 10
        at += 2
        for j in range(bounds[i], bounds[i + 1]):
            out[at] = ids[j]
            at += 1
        out[at] = 13
        out[at + 1] = 10
        at += 2
    return at


def hmget(key: bytes, ids: U8, bounds: I64) -> memoryview:
    """Pack an HMGET of all these fields."""
    fields = len(bounds) - 1
    head = b"*%d\r\n%b" % (fields + 2, arguments(b"HMGET", key))
    out = np.empty(len(head) + len(ids) + fields * FIELD_OVERHEAD_BYTES, np.uint8)
    out[: len(head)] = np.frombuffer(head, np.uint8)
    end = len(head) + pack_fields(read_only(ids), bounds, out[len(head) :])
    return out.data[:end]


def lengths(profiles: Packed) -> bytes:
    """Two little-endian uint32 a customer: the length of the id, then of the profile."""
    both = np.empty((len(profiles.id_bounds) - 1, 2), np.dtype("<u4"))
    np.subtract(profiles.id_bounds[1:], profiles.id_bounds[:-1], out=both[:, 0], casting="unsafe")
    np.subtract(profiles.bounds[1:], profiles.bounds[:-1], out=both[:, 1], casting="unsafe")
    return both.tobytes()


def bytes_view(array: U8) -> memoryview:
    """View an array's bytes."""
    return np.ascontiguousarray(array).data


def bounds_of(values: Sequence[bytes]) -> I64:
    """Where each value begins and ends once they are joined."""
    bounds = np.zeros(len(values) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, values), np.int64, len(values)), out=bounds[1:])
    return bounds


def packed(ids: U8, id_bounds: I64, reply: list[bytes | None]) -> Packed:
    """Make columns of an HMGET's reply; an absent profile is an empty one."""
    values: Iterable[bytes] = [value or b"" for value in reply] if None in reply else reply  # type: ignore[assignment]  # no None is left
    joined = list(values)
    return Packed(ids, id_bounds, np.frombuffer(b"".join(joined), np.uint8), bounds_of(joined))


def packed_pairs(reply: Sequence[bytes]) -> Packed:
    """Make columns of an HSCAN's alternating ids and profiles."""
    ids, values = reply[0::2], reply[1::2]
    return Packed(np.frombuffer(b"".join(ids), np.uint8), bounds_of(ids), np.frombuffer(b"".join(values), np.uint8), bounds_of(values))
