"""Tables written for others to read: Parquet or CSV, a part at a time.

Law: the file appears whole, under its name, or not at all.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from streamer.core.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

_TYPES = {
    "text": pa.string(),
    "whole": pa.int64(),
    "number": pa.float64(),
    "time": pa.timestamp("ms", "UTC"),
    "features": pa.list_(pa.struct([("name", pa.string()), ("value", pa.float64()), ("z", pa.float64())])),
}
ENDINGS = (".parquet", ".csv")


@contextmanager
def exported(path: Path, columns: Mapping[str, str]) -> Iterator[Callable[[Sequence[Mapping[str, Any]]], None]]:
    """Write a table for the length of a block: gives what takes rows.

    Args:
        path: ends in `.parquet` or `.csv`; a file that is there is written over at the end.
        columns: each column's sort: `text`, `whole`, `number`, `time` (given in ms) or `features` (in CSV, a JSON list).

    Raises:
        Misconfigured: of another ending, or there is no such directory.

    """
    if path.suffix not in ENDINGS:
        message = f"{path} must end in {' or '.join(ENDINGS)}"
        raise Misconfigured(message)
    as_csv = path.suffix == ".csv"
    types = {name: pa.string() if as_csv and sort == "features" else _TYPES[sort] for name, sort in columns.items()}
    schema = pa.schema(list(types.items()))
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        writer = pa_csv.CSVWriter(str(unfinished), schema) if as_csv else pq.ParquetWriter(str(unfinished), schema, compression="zstd")
    except OSError as error:
        message = f"{path} can't be written: {error}"
        raise Misconfigured(message) from error

    def take(rows: Sequence[Mapping[str, Any]]) -> None:
        found = {name: [_cell(row[name], texts=as_csv and sort == "features") for row in rows] for name, sort in columns.items()}
        if rows:
            writer.write_table(pa.table([pa.array(found[name], types[name]) for name in columns], schema=schema))

    try:
        with writer:
            yield take
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _cell(value: Any, *, texts: bool) -> Any:  # noqa: ANN401  # a row's
    return json.dumps(value, ensure_ascii=False) if texts else value
