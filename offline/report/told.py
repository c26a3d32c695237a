"""What subscribers were told, from a file of `streamer export changes`: who was in which segment at any time.

Law: of two changes of a customer the one with the greater `version` counts, and one who `exited` is in no segment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from streamer.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd

COLUMNS = ("customer_id", "version", "status", "segment_id", "cause", "occurred_at")
CHANGES_MAX = 20_000_000
EXITED = "exited"


class Told:
    """Changes, as subscribers have them."""

    def __init__(self, frame: pd.DataFrame) -> None:
        """Take changes with the columns COLUMNS; `occurred_at` in ms."""
        self._frame = frame.sort_values(["customer_id", "version"], kind="stable").reset_index(drop=True)

    def __len__(self) -> int:
        """Count the changes."""
        return len(self._frame)

    @property
    def first_ms(self) -> int:
        """Give the time of the first change."""
        return int(self._frame["occurred_at"].min()) if len(self._frame) else 0

    def at(self, instant_ms: int) -> pd.Series[str]:
        """Give each customer's segment as of an instant, boundaries at that instant included; who was in none is not in it."""
        before = self._frame[self._frame["occurred_at"] <= instant_ms]
        last = before.drop_duplicates("customer_id", keep="last")
        inside = last[last["status"] != EXITED]
        return inside.set_index("customer_id")["segment_id"]

    def causes(self, begin_ms: int, end_ms: int) -> Mapping[str, int]:
        """Count the changes after an instant up to another by cause, the most frequent first."""
        within = self._frame[(self._frame["occurred_at"] > begin_ms) & (self._frame["occurred_at"] <= end_ms)]
        counted = within["cause"].value_counts()
        return {str(cause): int(count) for cause, count in sorted(counted.items(), key=lambda item: (-item[1], str(item[0])))}


def read_told(path: Path) -> Told:
    """Read a file of `streamer export changes`, Parquet or CSV.

    Raises:
        BadInput: it can't be read, lacks a column, or is larger than memory is meant for.

    """
    try:
        table = pq.read_table(path, columns=list(COLUMNS)) if path.suffix == ".parquet" else _csv(path)
    except (pa.ArrowException, OSError, KeyError) as error:
        message = f"{path}: not a file of `streamer export changes`: {error}"
        raise BadInput(message) from error
    if table.num_rows > CHANGES_MAX:
        message = f"{path}: {table.num_rows:,} changes, at most {CHANGES_MAX:,}: export a shorter period with --from"
        raise BadInput(message)
    times = table["occurred_at"].cast(pa.timestamp("ms", "UTC")).cast(pa.int64())
    return Told(table.set_column(table.schema.get_field_index("occurred_at"), "occurred_at", times).to_pandas())


def _csv(path: Path) -> pa.Table:
    texts = dict.fromkeys(("customer_id", "status", "segment_id", "cause"), pa.string())
    options = pa_csv.ConvertOptions(column_types=texts | {"version": pa.int64()}, include_columns=list(COLUMNS))
    return pa_csv.read_csv(path, convert_options=options)
