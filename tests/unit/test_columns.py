"""Columns between stages: views that can't be written, and parts of a batch."""

from __future__ import annotations

import numpy as np
import pytest

from streamer.core.columns import Fetched, read_only, select

VALUES = (b"one", None, b"", b"three")
FETCHED = Fetched(
    partition=np.array([0, 1, 0, 2], np.int32),
    offset=np.array([10, 20, 11, 30]),
    timestamp=np.array([5, 6, 7, 8]),
    values=b"onethree",
    bounds=np.array([0, 3, 3, 3, 8]),
    empty=np.array([value is None for value in VALUES]),
    keys=(b"a", None, b"c", b"d"),
    headers={0: (("h", b"0"),), 3: (("h", None),)},
)


def values(fetched: Fetched) -> list[bytes | None]:
    """Each record's value."""
    cut = [fetched.values[begin:end] for begin, end in zip(fetched.bounds[:-1], fetched.bounds[1:], strict=True)]
    return [None if null else value for value, null in zip(cut, fetched.empty, strict=True)]


def test_a_read_only_view_shares_its_array_and_cannot_be_written() -> None:
    array = np.zeros(3, np.uint8)
    view = read_only(array)
    array[1] = 7
    assert [0, 7, 0] == view.tolist()
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1
    array[0] = 1


def test_a_batch_has_the_length_of_its_offsets() -> None:
    assert 4 == len(FETCHED)
    assert list(VALUES) == values(FETCHED)


@pytest.mark.parametrize("rows", [[0, 1], [3, 1, 0], [2], [], [3, 2, 1, 0]])
def test_rows_are_selected_in_the_order_given_with_all_that_is_theirs(rows: list[int]) -> None:
    found = select(FETCHED, np.array(rows, np.int64))
    assert [VALUES[i] for i in rows] == values(found)
    assert [FETCHED.keys[i] for i in rows] == list(found.keys)
    assert [(FETCHED.partition[i], FETCHED.offset[i], FETCHED.timestamp[i]) for i in rows] == list(
        zip(found.partition, found.offset, found.timestamp, strict=True)
    )
    assert {new: FETCHED.headers[old] for new, old in enumerate(rows) if old in FETCHED.headers} == found.headers


def test_all_rows_in_their_order_are_not_copied() -> None:
    assert select(FETCHED, np.arange(4)) is FETCHED
