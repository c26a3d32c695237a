"""How well a grouping agrees with another: the adjusted Rand index, and who is where.

Law: names do not matter, only who is together with whom; equal groupings score 1, and chance scores 0 on average.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.core.columns import I64


@dataclass(frozen=True, slots=True)
class Confusion:
    """How many are in group `rows[i]` of one grouping and in group `columns[j]` of the other: `count[i, j]`."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    count: I64  # (r, c)


def confusion(left: Sequence[str], right: Sequence[str]) -> Confusion:
    """Count who is where; both name the group of the same n members in the same order.

    >>> confusion(["a", "a", "b"], ["x", "y", "y"]).count.tolist()
    [[1, 1], [0, 1]]

    """
    rows, row = np.unique(np.array(left, dtype=np.str_), return_inverse=True)
    columns, column = np.unique(np.array(right, dtype=np.str_), return_inverse=True)
    count = np.zeros((len(rows), len(columns)), np.int64)
    np.add.at(count, (row, column), 1)
    return Confusion(tuple(rows.tolist()), tuple(columns.tolist()), count)


def adjusted_rand(left: Sequence[str], right: Sequence[str]) -> float:
    """Give the adjusted Rand index of two groupings of the same n members: Hubert and Arabie, Comparing partitions, 1985.

    >>> adjusted_rand(["a", "a", "b", "b"], ["y", "y", "x", "x"])
    1.0

    """
    count = confusion(left, right).count
    together, rows, columns = _pairs(count), _pairs(count.sum(axis=1)), _pairs(count.sum(axis=0))
    every = len(left) * (len(left) - 1) / 2
    expected = rows * columns / every if every else 0.0
    most = (rows + columns) / 2
    return 1.0 if most == expected else float((together - expected) / (most - expected))


def _pairs(sizes: I64) -> float:
    return float((sizes * (sizes - 1) / 2).sum())
