"""What the real code decides, on what a state of the model amounts to: `protocol.recover` and `journal.leads_to`.

Law: nothing is decided here. A state is put into the words of the real code, whose answers are remembered: it is asked time and again.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from streamer.app import journal
from streamer.app.protocol import Seen, looked_back, number_of, numbered, recover
from streamer.core.partition import PartitionData
from streamer.core.ports import Committed, PartitionState
from tests.simulation.model.values import FIRST_MODEL, NEXT_MODEL, NUMBERED, Position

if TYPE_CHECKING:
    from streamer.app.protocol import Recovery
    from tests.simulation.model.values import Data, Entry


@cache
def recovered(cid: int, prev: int, nxt: int, c: Position, told: tuple[Position, ...], exactly_once: bool, whole: bool) -> Recovery:
    """Ask `recover` (6).

    `told` are the commits that the output speaks of, which count where there is no C; `whole`: the last of them is taken to be there whole.
    """
    state = PartitionState("", _id(cid), _id(prev), nxt, b"", b"")
    heard = [Committed(one.nxt, _id(one.cid)) for one in told]
    seen = Seen(state, Committed(c.nxt, _id(c.cid))) if c.cid else looked_back(state, heard, exactly_once=whole)
    return recover(seen, exactly_once=exactly_once)


def _id(cid: int) -> str:
    number, name = divmod(cid, NUMBERED)
    return numbered(number, str(name)) if cid else ""


def read_id(commit_id: str) -> int:
    """Read what was put into the words of the real code."""
    return number_of(commit_id) * NUMBERED + int(commit_id.partition(".")[2])


@cache
def told_in(output: tuple[Entry, ...]) -> tuple[Position, ...]:
    """Give the commits that the output speaks of, in its order."""
    return tuple(dict.fromkeys(entry.stamp for entry in output if not entry.by and entry.stamp.cid))


@cache
def led_to(adopted: tuple[int, ...], data: Data, nxt: int) -> bool:
    """Ask `journal.leads_to` (6c): `adopted` is where the journal says that version 2 was adopted. Version 1 is there from the start."""
    centroids = {model: np.full((1, 1), model, np.int64) for model in (FIRST_MODEL, NEXT_MODEL)}
    entries = [journal.Entry(journal.VERSION, 0, 0, FIRST_MODEL, 0, b"")]
    entries += [journal.Entry(journal.VERSION, offset, 0, NEXT_MODEL, 1, b"") for offset in adopted]
    state = PartitionData(
        "", model=data.model, epoch=int(data.model == NEXT_MODEL), at_offset=data.at_offset, centroids=centroids[data.model]
    )
    return journal.leads_to(entries, state, nxt, centroids[data.model] if data.model in {entry.model for entry in entries} else None)
