"""The columns that travel between the stages of a batch, one frozen dataclass per stage.

Law: row i of every column of a stage is the same record, and rows keep log order within a partition.
Shapes: `n` records, `c` projected columns. Times are milliseconds since 1970-01-01 UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping

Bool: TypeAlias = NDArray[np.bool_]
U8: TypeAlias = NDArray[np.uint8]
I16: TypeAlias = NDArray[np.int16]
I32: TypeAlias = NDArray[np.int32]
I64: TypeAlias = NDArray[np.int64]
U64: TypeAlias = NDArray[np.uint64]
F64: TypeAlias = NDArray[np.float64]

Headers: TypeAlias = "tuple[tuple[str, bytes | None], ...]"


def read_only(array: U8) -> U8:
    """Give a view that can't be written, so that compiled code is compiled once for arrays over bytes and for others."""
    view = array.view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True, slots=True)
class Fetched:
    """Records as the event log gave them.

    `values` is every record's value, joined; record i is `values[bounds[i]:bounds[i + 1]]`. `empty[i]` is true where the value is null,
    false where one is there, if only of no bytes. `headers` has only the rows that carry any.
    """

    partition: I32  # (n,)
    offset: I64  # (n,)
    timestamp: I64  # (n,) Kafka's own, ms
    values: bytes
    bounds: I64  # (n + 1,)
    empty: Bool  # (n,)
    keys: tuple[bytes | None, ...]
    headers: Mapping[int, Headers]

    def __len__(self) -> int:
        """Count the records."""
        return len(self.offset)


@dataclass(frozen=True, slots=True)
class Decoded:
    """Projected fields of `n` records, one row of each array per column of the projection.

    A number's cell holds its value (a float's, its IEEE 754 double bit pattern; a boolean's, 0 or 1); a string's or bytes' cell, its first
    byte's position in the joined values. `lengths` is a string's length in bytes, 0 for a number that is there, -1 for null or absent.
    `hashes` is the XXH64 (seed 0) of a string's bytes where the projection asks for it. `status[i]` is 0 or a `Reason`; the other cells of
    a refused record mean nothing.
    """

    cells: I64  # (c, n)
    lengths: I32  # (c, n)
    hashes: U64  # (c, n)
    status: I16  # (n,)


def select(fetched: Fetched, rows: I64) -> Fetched:
    """Take some rows of a batch, in the order given; their values are copied, unless all are taken as they are."""
    if len(rows) == len(fetched) and (rows == np.arange(len(rows))).all():
        return fetched
    parts = [fetched.values[fetched.bounds[i] : fetched.bounds[i + 1]] for i in rows]
    bounds = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=bounds[1:])
    headers = {new: fetched.headers[int(old)] for new, old in enumerate(rows) if int(old) in fetched.headers}
    keys = tuple(fetched.keys[i] for i in rows)
    return Fetched(
        fetched.partition[rows], fetched.offset[rows], fetched.timestamp[rows], b"".join(parts), bounds, fetched.empty[rows], keys, headers
    )
