"""Errors that are part of the ports say which record they are about."""

from __future__ import annotations

from streamer.core.ports import OffsetOutOfRange


def test_an_offset_out_of_range_names_partition_and_offset() -> None:
    error = OffsetOutOfRange(3, 17)
    assert (3, 17) == (error.partition, error.offset)
    assert "partition 3 of the input does not hold offset 17" in str(error)
