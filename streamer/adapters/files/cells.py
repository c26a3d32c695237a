"""A chunk's columns as the rules look at them, and the two tools all rules use: codes of combinations, and a growing vocabulary.

Law: a code says which distinct value a row has; -1 says none. Work is done once per distinct value, never once per row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamer.adapters.files.values import text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from streamer.adapters.files.tables import Chunk, Value
    from streamer.adapters.files.values import NumberRule
    from streamer.core.columns import I64

_KEY_MAX = 2**62


class Cells:
    """Columns of a chunk of `n` rows, their distinct values written as text at most once each. A column that isn't there is empty."""

    def __init__(self, chunk: Chunk, numbers: NumberRule) -> None:
        """Look at a chunk; `numbers` says how numbers are written in text."""
        self.rows = chunk.rows
        self.numbers = numbers
        self._columns = chunk.columns
        self._none = np.full(len(chunk.rows), -1, np.int64)
        self._texts: dict[str, tuple[str, ...]] = {}

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.rows)

    def codes(self, column: str) -> I64:
        """Give the code of each row's value, -1 for an empty cell: (n,)."""
        found = self._columns.get(column)
        return self._none if found is None else found.codes

    def values(self, column: str) -> tuple[Value, ...]:
        """Give the distinct values, in the order of their codes."""
        found = self._columns.get(column)
        return () if found is None else found.values

    def texts(self, column: str) -> tuple[str, ...]:
        """Give the distinct values as text, in the order of their codes."""
        if column not in self._texts:
            self._texts[column] = tuple(text_of(value) for value in self.values(column))
        return self._texts[column]


def combined(columns: Sequence[I64]) -> tuple[I64, I64]:
    """Number the distinct combinations of several columns of codes, -1 among them.

    Returns each row's number (n,) and, for each combination, the first row that has it (u,). Combinations are in the order of their codes.
    """
    key = columns[0] + 1
    size = int(key.max(initial=0)) + 1
    for column in columns[1:]:
        width = int(column.max(initial=-1)) + 2
        if size * width > _KEY_MAX:
            _, key = np.unique(key, return_inverse=True)
            size = int(key.max(initial=0)) + 1
        key = key * width + (column + 1)
        size *= width
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    return inverse.astype(np.int64), first.astype(np.int64)


class Vocabulary:
    """Texts numbered in order of appearance, over all chunks of a file."""

    def __init__(self) -> None:
        """Begin without any text."""
        self._numbers: dict[str, int] = {}

    def translate(self, codes: I64, texts: Iterable[str | None]) -> I64:
        """Turn a chunk's codes of `texts` into this vocabulary's; a text that is None gets -1."""
        numbers = self._numbers
        moved = [-1 if text is None else numbers.setdefault(text, len(numbers)) for text in texts]
        return np.array([*moved, -1], np.int64)[codes]

    def texts(self) -> list[str]:
        """List the texts, in the order of their codes."""
        return list(self._numbers)
