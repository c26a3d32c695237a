"""The outbox: what goes in comes out, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.core import outbox
from streamer.core.errors import Corrupt
from streamer.core.ports import OutRecord, Topic

ONE = OutRecord(Topic.CHANGES, 3, b"key", b"value", (("ce_id", b"1"), ("tombstone", None)))

texts = st.none() | st.binary(max_size=20)
records = st.builds(
    OutRecord,
    st.sampled_from(Topic),
    st.none() | st.integers(0, 2**31 - 1),
    texts,
    texts,
    st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), texts), max_size=4).map(tuple),
)


@given(st.lists(records, max_size=5))
def test_what_is_packed_is_unpacked_as_it_was(given_records: list[OutRecord]) -> None:
    assert given_records == outbox.unpack(outbox.pack(given_records))


def test_no_records_are_no_bytes() -> None:
    assert b"" == outbox.pack([])
    assert [] == outbox.unpack(b"")


def test_null_is_not_empty() -> None:
    given_records = [OutRecord(Topic.MODELS, None, b"", None, (("", b""), ("a", None))), OutRecord(Topic.JOURNAL, 0, None, b"", ())]
    assert given_records == outbox.unpack(outbox.pack(given_records))


def test_more_headers_and_longer_names_than_16_bits_count_are_kept() -> None:
    given_records = [
        OutRecord(Topic.DEAD_LETTERS, None, b"k", b"v", tuple((str(i), b"") for i in range(70_000))),
        OutRecord(Topic.DEAD_LETTERS, None, b"k", b"v", (("n" * 70_000, b"x"),)),
    ]
    assert given_records == outbox.unpack(outbox.pack(given_records))


def test_the_bytes_are_those_of_layout_1() -> None:
    expected = (
        "01 00 03000000 03000000 05000000 02000000 6b6579 76616c7565 05000000 01000000 63655f6964 31 09000000 ffffffff 746f6d6273746f6e65"
    )
    assert bytes.fromhex(expected) == outbox.pack([ONE])


def test_another_layout_is_refused() -> None:
    with pytest.raises(Corrupt, match="layout 2, this program reads 1"):
        outbox.unpack(b"\x02" + outbox.pack([ONE])[1:])


def test_an_outbox_that_was_cut_is_refused_wherever_it_was_cut() -> None:
    packed = outbox.pack([ONE])
    for length in range(2, len(packed)):
        with pytest.raises(Corrupt, match="damaged"):
            outbox.unpack(packed[:length])


@pytest.mark.parametrize(
    ("at", "value"),
    [(1, b"\x09"), (2, b"\xfe\xff\xff\xff"), (6, b"\xfe\xff\xff\xff"), (10, b"\xff\xff\xff\x7f"), (26, b"\xf0\xff\xff\xff"), (34, b"\xff")],
)
def test_a_topic_partition_length_or_name_that_cannot_be_is_refused(at: int, value: bytes) -> None:
    packed = outbox.pack([ONE])
    with pytest.raises(Corrupt, match="damaged"):
        outbox.unpack(packed[:at] + value + packed[at + len(value) :])


@given(st.binary(max_size=60))
def test_no_bytes_bring_anything_but_records_or_a_refusal(data: bytes) -> None:
    try:
        found = outbox.unpack(b"\x01" + data)
    except Corrupt:
        return
    assert all(isinstance(record, OutRecord) for record in found)
