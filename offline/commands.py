"""Events of the history as commands leave them: who was erased is not there, and two ids that were merged are one customer.

Laws: a customer's events are, but for repetitions across two ids, those that the customer's profile in the stream was made of. What the
stream took from an id counts for the customer who got it, from when the profile has arrived; an event that was sent on counts once.

Commands are found in the column of event types, which is read before all else. Where some were merged, the rows of those whom commands
concern are held, without their properties.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamer.adapters.history import ERASE, INTO, MERGE, MERGED, hops_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd

    from streamer.core.columns import Bool

COMMANDS = (ERASE, MERGE, MERGED)
COLUMNS = ("partition", "offset", "event_id", "customer_id", "event_type", "properties")
PLACED = ("partition", "offset", "event_id", "customer_id", "properties")
_BROUGHT = re.compile(r"merged-(\d+)-(\d+)")


class History(Protocol):
    """What was archived."""

    def events(
        self, cutoff: Mapping[int, int], columns: Sequence[str] | None = None, *, first: Mapping[int, int] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Read the events before a cut-off, in the order of (partition, offset)."""


def events_of(history: History, cutoff: Mapping[int, int], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Give the events before a cut-off, in the order of (partition, offset), each with the customer whose it is now.

    `columns` are those of `History.events`, whose errors are raised; `partition`, `offset` and `customer_id` are among them.
    """
    commands = _read(history, cutoff)
    concerned = pa.array(sorted(commands.names), pa.string())
    for batch in history.events(cutoff, columns=columns):
        left = commands.applied(batch, concerned) if commands.names else batch
        if left.num_rows:
            yield left


def _read(history: History, cutoff: Mapping[int, int]) -> Commands:
    commands = Commands()
    for batch in history.events(cutoff, columns=("partition", "offset", "event_type")):
        found = np.flatnonzero(pc.is_in(batch.column("event_type"), pa.array(COMMANDS)).to_numpy(zero_copy_only=False))
        if not len(found):
            continue
        partition, offsets = batch.column("partition")[0].as_py(), batch.column("offset").to_numpy()
        reach = {partition: int(offsets[found[-1]]) + 1}
        for rows in history.events(reach, columns=COLUMNS, first={partition: int(offsets[found[0]])}):
            commands.take(rows)
    if commands.merged_at:
        names = pa.array(sorted(commands.names), pa.string())
        batches = history.events(cutoff, columns=PLACED)
        placed = [hops_in(batch.filter(pc.is_in(batch.column("customer_id"), names))) for batch in batches]
        commands.find_sent_on(pa.Table.from_batches(placed).to_pandas())
    return commands


@dataclass
class Commands:
    """What commands say, by partition and customer or by partition and offset."""

    names: set[str] = field(default_factory=set)  # whom the commands concern
    erased_at: dict[tuple[int, str], int] = field(default_factory=dict)
    merged_at: dict[tuple[int, str], list[int]] = field(default_factory=lambda: defaultdict(list))
    arrived: dict[tuple[int, int], tuple[int, int, int, str]] = field(default_factory=dict)  # what a command took: hops, where, whose it is
    sent_on: set[tuple[int, int]] = field(default_factory=set)  # where events are that were sent on

    def take(self, batch: pa.RecordBatch) -> None:
        """Take in the commands among some rows, which come in the order of (partition, offset)."""
        chosen = batch.filter(pc.is_in(batch.column("event_type"), pa.array(COMMANDS)))
        for row, hops in zip(chosen.to_pylist(), hops_in(chosen).column("hops").to_pylist(), strict=True):
            partition, offset, customer = row["partition"], row["offset"], row["customer_id"]
            self.names.add(customer)
            if row["event_type"] == ERASE:
                self.erased_at[partition, customer] = offset
            elif row["event_type"] == MERGE:
                self.names.add(dict(row["properties"] or []).get(INTO, customer))
                self.merged_at[partition, customer].append(offset)
            elif brought := _BROUGHT.fullmatch(row["event_id"]):
                place = int(brought[1]), int(brought[2])
                now = hops, partition, offset, customer
                self.arrived[place] = max(self.arrived.get(place, now), now)  # what was sent on from there comes again

    def find_sent_on(self, rows: pd.DataFrame) -> None:
        """Find, among all rows of those whom merges concern, the events that were sent on, since they are there again."""
        places = zip(rows.partition.tolist(), rows.offset.tolist(), rows.customer_id.tolist(), strict=True)
        rows = rows.assign(merged=[offset > self.merged_at.get((partition, one), [offset])[0] for partition, offset, one in places])
        again = rows[rows.event_id.isin(rows.event_id[rows.merged])]
        for _, same in again.groupby("event_id"):
            moved = same[same.merged]
            if len(moved) == len(same):  # who got it was merged before, too: the last one keeps it
                moved = moved[moved.hops < moved.hops.max()]
            if len(set(same.customer_id)) > 1:
                self.sent_on |= set(zip(moved.partition.tolist(), moved.offset.tolist(), strict=True))

    def whose(self, partition: int, offset: int, customer: str) -> str | None:
        """Tell whose an event is now; None where it is nobody's: its customer was erased, it was sent on, or is on its way."""
        seen = 0
        while True:
            if offset < self.erased_at.get((partition, customer), -1) or (partition, offset) in self.sent_on:
                return None
            at = self.merged_at.get((partition, customer), [])
            place = bisect_right(at, offset)
            if place == len(at):
                return customer
            arrived = self.arrived.get((partition, at[place]))
            seen += 1
            if arrived is None or seen > len(self.arrived):  # who forges an event's id could lead round in a circle
                return None
            _, partition, offset, customer = arrived

    def applied(self, batch: pa.RecordBatch, names: pa.Array) -> pa.RecordBatch:
        """Give a batch's events under the ids that they have now; `names` are those whom the commands concern."""
        ids = batch.column("customer_id").cast(pa.string())
        concerned = np.flatnonzero(pc.is_in(ids, names).to_numpy(zero_copy_only=False))
        if not len(concerned):
            return batch
        partitions, offsets = batch.column("partition").to_numpy(), batch.column("offset").to_numpy()
        given = ids.take(pa.array(concerned)).to_pylist()
        now = [self.whose(int(partitions[row]), int(offsets[row]), one) for row, one in zip(concerned.tolist(), given, strict=True)]
        kept: Bool = np.ones(batch.num_rows, np.bool_)
        kept[concerned[[one is None for one in now]]] = False
        changed = np.zeros(batch.num_rows, np.bool_)
        changed[concerned[[one is not None and one != name for one, name in zip(now, given, strict=True)]]] = True
        others = pa.array([one for one, name in zip(now, given, strict=True) if one is not None and one != name], pa.string())
        renamed = pc.replace_with_mask(ids, pa.array(changed), others)
        place = batch.schema.get_field_index("customer_id")
        return batch.set_column(place, pa.field("customer_id", pa.string()), renamed).filter(pa.array(kept))
