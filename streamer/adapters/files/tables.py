"""Files of rows, read a chunk at a time: CSV, Excel, Parquet and JSON Lines, each column with its distinct values and a code per row.

Law: row numbers count the records of the file from 1 (a header is no record), every record is either in a chunk or among its broken rows,
and a cell's value is what the file says: text of a CSV file stays text, a JSON number with a fraction is a `Decimal` of the digits written.
An empty cell has code -1; so have null, NaN and text of white space alone. Surrounding white space is not part of a text.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from openpyxl.utils.exceptions import InvalidFileException

from streamer.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

Value: TypeAlias = "str | int | float | Decimal | datetime | date"

FORMATS = ("csv", "excel", "parquet", "jsonl")
CHUNK_ROWS = 65_536
FIELD_CHARACTERS_MAX = 131_072
DEPTH_MAX = 8
SHOWN_CHARACTERS_MAX = 200

_ENDINGS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".xlsx": "excel",
    ".xlsm": "excel",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}


class Unreadable(BadInput):
    """A file can't be read as a whole; the message names the file, the place and the remedy."""


@dataclass(frozen=True, slots=True)
class TableOptions:
    """How to read a file.

    `format` is one of `FORMATS`, or None for what the file's name says; an empty `delimiter` is a tab for `.tsv`, else a comma.
    """

    format: str | None = None
    delimiter: str = ""
    encoding: str = "utf-8-sig"
    sheet: str | None = None


@dataclass(frozen=True, slots=True)
class Coded:
    """One column: row i holds `values[codes[i]]`, or nothing where the code is -1."""

    codes: NDArray[np.int64]
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class BrokenRow:
    """A record that has no columns to speak of: what is wrong with it and the text of it, cut short."""

    row: int
    problem: str
    text: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows of a file.

    `rows` (n,) are their numbers. `closed` says that the file has no other columns than these, in any chunk. `done` is the part of the file
    read so far, from 0 to 1.
    """

    rows: NDArray[np.int64]
    columns: Mapping[str, Coded]
    broken: tuple[BrokenRow, ...]
    closed: bool
    done: float


def read_table(path: Path, options: TableOptions | None = None, chunk_rows: int = CHUNK_ROWS) -> Iterator[Chunk]:
    """Read a file in chunks of at most `chunk_rows` rows; a file without rows gives one empty chunk with its columns.

    Files that end in `.gz` are unpacked while reading (CSV and JSON Lines). Raises `Unreadable`.
    """
    options = options or TableOptions()
    chosen = options.format or format_of(path)
    if not path.is_file():
        message = f"{path}: there is no such file"
        raise Unreadable(message)
    if path.stat().st_size == 0:
        message = f"{path}: the file is empty"
        raise Unreadable(message)
    reader = _READERS[chosen]
    try:
        yield from reader(path, options, chunk_rows)
    except PermissionError as error:
        message = f"{path}: may not be read by this user: {error.strerror}"
        raise Unreadable(message) from error
    except (EOFError, OSError) as error:
        message = f"{path}: reading failed: {error}"
        raise Unreadable(message) from error


def format_of(path: Path) -> str:
    """Tell a file's format by the ending of its name, `.gz` aside; raises `Unreadable` where it says nothing."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    ending = suffixes[-1] if suffixes else ""
    if ending == ".xls":
        message = f"{path}: the old Excel format is not read: save the file as .xlsx"
        raise Unreadable(message)
    if ending not in _ENDINGS:
        message = f"{path}: its name does not tell a format: set `input.format` in the mapping to one of {', '.join(FORMATS)}"
        raise Unreadable(message)
    return _ENDINGS[ending]


def coded(cells: Iterable[Value | None]) -> Coded:
    """Number the distinct values of a column in order of appearance; empty cells get -1."""
    numbers: dict[Value | None, int] = {}
    codes = np.fromiter((numbers.setdefault(cell, len(numbers)) for cell in cells), np.int64)
    return _without_empties(codes, list(numbers))


def _without_empties(codes: NDArray[np.int64], values: Sequence[Value | None]) -> Coded:
    """Give -1 to empty values and one code to texts that differ by surrounding white space."""
    kept: dict[Value, int] = {}
    moved = np.full(len(values) + 1, -1, np.int64)
    for position, value in enumerate(values):
        tidy = value.strip() if isinstance(value, str) else value
        if tidy is None or tidy == "" or (isinstance(tidy, float) and math.isnan(tidy)):
            continue
        moved[position] = kept.setdefault(tidy, len(kept))
    return Coded(moved[codes], tuple(kept))


def _header(path: Path, names: Sequence[object]) -> list[str]:
    """Check a header: names are there and differ."""
    header = [str(name).strip() if name is not None else "" for name in names]
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        message = f"{path}: the header names {', '.join(map(repr, twice))} more than once: rename one of them"
        raise Unreadable(message)
    if not any(header):
        message = f"{path}: the first line has no column names"
        raise Unreadable(message)
    return header


def _chunk_of_rows(
    header: Sequence[str],
    rows: Sequence[Sequence[Value | None]],
    numbers: Sequence[int],
    broken: Sequence[BrokenRow],
    done: float,
) -> Chunk:
    """Turn rows of equal length into columns; columns without a name are left out."""
    cells: Sequence[Sequence[Value | None]] = list(zip(*rows, strict=True)) if rows else [()] * len(header)
    columns = {name: coded(column) for name, column in zip(header, cells, strict=True) if name}
    return Chunk(np.array(numbers, np.int64), columns, tuple(broken), closed=True, done=done)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], Callable[[], float]]]:
    """Open a file, unpacking `.gz`, with a function that tells which part of it has been read."""
    size = max(1, path.stat().st_size)
    with path.open("rb") as raw:
        stream = cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if path.suffix.lower() == ".gz" else raw
        yield stream, lambda: min(1.0, raw.tell() / size)


def _text_lines(path: Path, stream: IO[bytes], encoding: str) -> Iterator[str]:
    """Decode lines one by one, so that a fault can be named by its line; only for encodings whose line ends are a byte."""
    number = 0
    try:
        for number, line in enumerate(stream, start=1):
            yield line.decode(encoding if number == 1 else encoding.removesuffix("-sig"))
    except UnicodeDecodeError as error:
        message = f"{path}, line {number}: not {encoding} (byte {error.start} of the line): set `input.encoding`, for example cp1252"
        raise Unreadable(message) from error


def _read_csv(path: Path, options: TableOptions, chunk_rows: int) -> Iterator[Chunk]:
    delimiter = options.delimiter or ("\t" if ".tsv" in [suffix.lower() for suffix in path.suffixes] else ",")
    with _opened(path) as (stream, done):
        lines = csv.reader(_text_lines(path, stream, options.encoding), delimiter=delimiter, strict=True)
        try:
            header = _header(path, next(lines))
            row = 0
            first = True
            while first or row:
                rows: list[list[str]] = []
                numbers: list[int] = []
                broken: list[BrokenRow] = []
                taken = 0
                for cells in islice(lines, chunk_rows):
                    taken += 1
                    if not cells:
                        cells = [""] * len(header)  # noqa: PLW2901  # an empty line is a record without values
                    if len(cells) == len(header):
                        rows.append(cells)
                        numbers.append(row + taken)
                    else:
                        problem = f"{len(cells)} fields where the header has {len(header)}"
                        broken.append(BrokenRow(row + taken, problem, delimiter.join(cells)[:SHOWN_CHARACTERS_MAX]))
                if not taken and not first:
                    return
                row += taken
                first = False
                yield _chunk_of_rows(header, rows, numbers, broken, done())
        except csv.Error as error:
            message = f"{path}, line {lines.line_num}: {error}: look for a quotation mark that is never closed, or set `input.delimiter`"
            raise Unreadable(message) from error


def _read_excel(path: Path, options: TableOptions, chunk_rows: int) -> Iterator[Chunk]:
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (InvalidFileException, zipfile.BadZipFile, KeyError, ValueError) as error:
        message = f"{path}: not an Excel workbook (.xlsx): {error}"
        raise Unreadable(message) from error
    try:
        if options.sheet is not None and options.sheet not in book.sheetnames:
            message = f"{path}: there is no sheet {options.sheet!r}; its sheets are {', '.join(map(repr, book.sheetnames))}"
            raise Unreadable(message)
        sheet = book[options.sheet or book.sheetnames[0]]
        total = max(1, (sheet.max_row or 2) - 1)
        lines = sheet.iter_rows(values_only=True)
        top = next(lines, None)
        if top is None:
            message = f"{path}: the sheet {sheet.title!r} is empty"
            raise Unreadable(message)
        header = _header(path, top)
        row = 0
        while True:
            rows = [_excel_row(cells, len(header)) for cells in islice(lines, chunk_rows)]
            if not rows and row:
                return
            numbers = range(row + 1, row + len(rows) + 1)
            row += len(rows)
            yield _chunk_of_rows(header, rows, numbers, (), min(1.0, row / total))
            if not rows:
                return
    finally:
        book.close()


def _excel_row(cells: Sequence[object], width: int) -> list[Value | None]:
    """Give a sheet's row the header's width; a time of day or an error cell becomes its text."""
    padded = [*cells[:width], *([None] * (width - len(cells)))]
    return [_scalar(cell) for cell in padded]


def _scalar(cell: object) -> Value | None:
    """Keep a value that a mapping understands, turn any other into text."""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if cell is None or isinstance(cell, (str, int, float, Decimal, datetime, date)):
        return cell
    return str(cell)


def _read_parquet(path: Path, _options: TableOptions, chunk_rows: int) -> Iterator[Chunk]:
    try:
        with pq.ParquetFile(path) as file:
            header = _header(path, file.schema_arrow.names)
            total = max(1, file.metadata.num_rows)
            row = 0
            for batch in file.iter_batches(batch_size=chunk_rows):
                columns = {name: _arrow_column(batch.column(position)) for position, name in enumerate(header) if name}
                rows = np.arange(row + 1, row + batch.num_rows + 1, dtype=np.int64)
                row += batch.num_rows
                yield Chunk(rows, columns, (), closed=True, done=row / total)
            if not row:
                yield _chunk_of_rows(header, [], [], (), 1.0)
    except pa.ArrowException as error:
        message = f"{path}: not a readable Parquet file: {error}"
        raise Unreadable(message) from error


def _arrow_column(column: Any) -> Coded:  # noqa: ANN401  # pyarrow has no types
    """Take a column of a Parquet file with its distinct values, as Python's own types."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_duration(kind):
        return coded([None if cell is None else str(cell)[:SHOWN_CHARACTERS_MAX] for cell in column.to_pylist()])
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        column = pc.cast(pc.floor_temporal(column, unit="microsecond"), pa.timestamp("us", kind.tz))
    encoded = column.dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return _without_empties(codes, [_scalar(value) for value in encoded.dictionary.to_pylist()])


def _read_jsonl(path: Path, options: TableOptions, chunk_rows: int) -> Iterator[Chunk]:
    with _opened(path) as (stream, done):
        lines = enumerate(_text_lines(path, stream, options.encoding), start=1)
        first = True
        while True:
            taken = list(islice(lines, chunk_rows))
            if not taken and not first:
                return
            first = False
            yield _jsonl_chunk(taken, done())


def _jsonl_chunk(lines: Sequence[tuple[int, str]], done: float) -> Chunk:
    """Parse lines to columns; a nested object's field is named with dots. Empty lines are no records, but they count as lines."""
    records: list[dict[str, Value | None]] = []
    numbers: list[int] = []
    broken: list[BrokenRow] = []
    for number, line in lines:
        if not line.strip():
            broken.append(BrokenRow(number, "the line is empty", ""))
            continue
        try:
            record: dict[str, Value | None] = {}
            _flatten(json.loads(line, parse_float=Decimal), "", record, DEPTH_MAX)
        except (ValueError, RecursionError) as error:
            broken.append(BrokenRow(number, f"not a JSON object: {error}", line.strip()[:SHOWN_CHARACTERS_MAX]))
            continue
        records.append(record)
        numbers.append(number)
    names = dict.fromkeys(name for record in records for name in record)
    columns = {name: coded(record.get(name) for record in records) for name in names}
    return Chunk(np.array(numbers, np.int64), columns, tuple(broken), closed=False, done=done)


def _flatten(value: object, prefix: str, into: dict[str, Value | None], depth: int) -> None:
    """Write an object's fields into `into`; raises ValueError where it is no object or nests too deep."""
    if not isinstance(value, dict):
        message = f"it is {type(value).__name__}"
        raise ValueError(message)  # noqa: TRY004  # the caller's one kind of fault
    if depth == 0:
        message = f"it nests deeper than {DEPTH_MAX} levels"
        raise ValueError(message)
    for name, item in value.items():
        if isinstance(item, dict):
            _flatten(item, f"{prefix}{name}.", into, depth - 1)
        elif isinstance(item, list):
            into[prefix + name] = json.dumps(item, default=str)
        else:
            into[prefix + name] = _scalar(item)


_READERS: dict[str, Callable[[Path, TableOptions, int], Iterator[Chunk]]] = {
    "csv": _read_csv,
    "excel": _read_excel,
    "parquet": _read_parquet,
    "jsonl": _read_jsonl,
}
