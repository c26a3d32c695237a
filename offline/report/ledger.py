"""Who did what when, for a report: the log of whole customers, as many as memory is meant for, and who they are.

Law: a customer is in it with all its events or not at all. Which are depends on the hashes of their ids and on how many events there are,
never on the order in which they come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from offline.events import customer_hashes
from offline.replaying import Spending, log_of_whom
from streamer.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa

    from offline.events import Reading
    from offline.replaying import Log
    from streamer.core.columns import I32, I64, U64

ROWS_MAX = 3_000_000  # events held, about 300 bytes each
HALVINGS_MAX = 30


@dataclass(frozen=True, slots=True)
class Ledger:
    """The events of one customer in `one_in`; `ids` names the customers by the log's slots.

    `orders` are the purchases with an amount in the declared currency, each event id once, in the order of time.
    """

    log: Log
    ids: tuple[str, ...]
    orders: Spending
    batches: tuple[pa.RecordBatch, ...]
    one_in: int = 1


def ledger_of(reading: Reading, batches: Iterable[pa.RecordBatch], as_of: int, rows_max: int = ROWS_MAX) -> Ledger:
    """Read batches in the order of the log, and keep what happened before an instant (ms) and `rows_max` has room for.

    Raises:
        BadInput: there is no valid event, or one customer alone has more.

    """
    held: list[pa.RecordBatch] = []
    rows, one_in = 0, 1
    for batch in batches:
        kept = _of_some(batch.filter(pc.less(batch.column("occurred_at"), as_of)), one_in)
        held.append(kept)
        rows += kept.num_rows
        while rows > rows_max:
            one_in *= 2
            if one_in > 2**HALVINGS_MAX:
                message = f"a single customer has more than {rows_max:,} events: look at who that is with `streamer customer`, and erase it"
                raise BadInput(message)
            held = [_of_some(piece, one_in) for piece in held]
            rows = sum(piece.num_rows for piece in held)
    log, ids, row = log_of_whom(reading, held)
    once = _first_of_each(log.rows.slot[row], log.rows.event_id[row])
    whole = log.spending
    return Ledger(log, ids, Spending(whole.slot[once], whole.time[once], whole.amount[once]), tuple(held), one_in)


def _first_of_each(slot: I32, event_id: U64) -> I64:
    """Find the first of each customer's events with one id, in order."""
    order = np.lexsort((event_id, slot))
    same = (np.diff(slot[order]) == 0) & (np.diff(event_id[order]) == 0)
    return np.sort(order[np.append(True, ~same)] if len(order) else order)


def _of_some(batch: pa.RecordBatch, one_in: int) -> pa.RecordBatch:
    if one_in == 1:
        return batch
    chosen = np.flatnonzero(customer_hashes(batch) % np.uint64(one_in) == 0)
    return batch.take(chosen)
