"""What `streamer erase --status` says of what is left."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from streamer.app.config import load
from streamer.app.erase_command import _show, send
from streamer.app.erasing import DONE, NOT_FOUND, WAITING, Left, PartitionLeft
from streamer.core.errors import BadInput

GONE = PartitionLeft(0, DONE, 7, profile=False, outbox=False, changes=0, tombstone=True, history_rows=0)


def shown(*partitions: PartitionLeft, complete: bool = True) -> str:
    console = Console(file=StringIO(), width=120)
    _show(console, Left(partitions, complete))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_nothing_left_is_said_to_be_so() -> None:
    assert Left((GONE, replace(GONE, history_rows=None)), complete=True).clean
    assert "Nothing is left." in shown(GONE)


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (replace(GONE, command=NOT_FOUND, command_offset=None), "send it with `streamer erase ID`"),
        (replace(GONE, command=WAITING, profile=True), "see `streamer status` for the lag"),
        (replace(GONE, changes=3), "has still to compact"),
        (replace(GONE, history_rows=2), "`streamer archive --compact` at once"),
        (replace(GONE, outbox=True), "named in it"),
    ],
)
def test_what_is_left_is_said_with_what_it_waits_for(left: PartitionLeft, said: str) -> None:
    assert not Left((GONE, left), complete=True).clean
    text = shown(GONE, left)
    assert said in text
    assert "Nothing is left." not in text


def test_topics_that_were_not_looked_through_leave_it_open() -> None:
    assert not Left((GONE,), complete=False).clean
    text = shown(GONE, complete=False)
    assert "`--scan` looks further" in text
    assert "Nothing is left." not in text


@pytest.mark.parametrize("customer", ["", "c" * 257])
def test_an_id_that_no_event_can_have_is_refused_before_anything_is_sent(customer: str) -> None:
    with pytest.raises(BadInput, match="1 to 256 bytes"):
        send(load(None, {}), customer)
