from __future__ import annotations

import gzip
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamer.adapters.files.tables import TableOptions, Unreadable, read_table

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.adapters.files.tables import Chunk, Value


def rows(chunks: list[Chunk], column: str) -> list[Value | None]:
    """Give a column's values back, row by row; a chunk without the column has none."""
    found: list[Value | None] = []
    for chunk in chunks:
        coded = chunk.columns.get(column)
        found += [None] * len(chunk.rows) if coded is None else [coded.values[code] if code >= 0 else None for code in coded.codes.tolist()]
    return found


def read(path: Path, options: TableOptions | None = None, chunk_rows: int = 2) -> list[Chunk]:
    return list(read_table(path, options, chunk_rows))


def test_csv_is_read_in_chunks_with_the_numbers_of_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,name\n1, "Ann"\n2,"Bo,\nb"\n3,\n', encoding="utf-8-sig")
    chunks = read(path, TableOptions())
    assert [[1, 2], [3]] == [chunk.rows.tolist() for chunk in chunks]
    assert ['"Ann"', "Bo,\nb", None] == rows(chunks, "name")
    assert 1.0 == chunks[-1].done


def test_a_csv_row_with_other_fields_than_the_header_is_broken_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,2\n3\n4,5,6\n\n7,8\n")
    chunks = read(path, chunk_rows=10)
    assert [1, 4, 5] == chunks[0].rows.tolist()
    assert [(2, "1 fields where the header has 2", "3"), (3, "3 fields where the header has 2", "4,5,6")] == [
        (broken.row, broken.problem, broken.text) for broken in chunks[0].broken
    ]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"a,b\n1,\xa3\n", "line 2: not utf-8-sig"),
        ("a.csv", b'a,b\n1,"open\n', "quotation mark"),
        ("a.csv", b"", "is empty"),
        ("a.csv", b"a,a\n1,2\n", "'a' more than once"),
        ("a.parquet", b"no parquet at all", "not a readable Parquet file"),
        ("a.xlsx", b"no workbook", "not an Excel workbook"),
        ("a.xls", b"old", "save the file as .xlsx"),
        ("a.dat", b"?", "input.format"),
        ("a.csv.gz", b"a,b\n1,2\n", "reading failed"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(Unreadable, match=says):
        read(path)


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="no such file"):
        read(tmp_path / "a.csv")


def test_encoding_and_delimiter_are_options_and_gz_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress("a;b\n1;£2\n".encode("cp1252")))
    assert ["£2"] == rows(read(path, TableOptions(delimiter=";", encoding="cp1252")), "b")


def test_a_header_alone_gives_one_empty_chunk_with_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n")
    chunks = read(path)
    assert [["a", "b"]] == [list(chunk.columns) for chunk in chunks]
    assert 0 == len(chunks[0].rows)


def test_json_lines_keep_digits_name_nested_fields_and_count_bad_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 2.55, "user": {"id": 7}}\nnot json\n[1]\n\n{"a": true, "tags": ["x"]}\n')
    chunks = read(path)
    assert [1, 5] == [row for chunk in chunks for row in chunk.rows.tolist()]
    assert [Decimal("2.55"), "true"] == rows(chunks, "a")
    assert [7, None] == rows(chunks, "user.id")
    assert [None, '["x"]'] == rows(chunks, "tags")
    assert [2, 3, 4] == [broken.row for chunk in chunks for broken in chunk.broken]


def test_excel_is_read_by_sheet_with_its_types(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.title = "Notes"
    sheet = book.create_sheet("Orders")
    moment = datetime(2011, 7, 15, 8, 26)  # noqa: DTZ001  # workbooks know no zones
    for row in (["id", "at", "ok"], [17850.0, moment, True], [None, None, None], ["C1", moment, False]):
        sheet.append(row)
    book.save(tmp_path / "a.xlsx")
    chunks = read(tmp_path / "a.xlsx", TableOptions(sheet="Orders"))
    assert [17850, None, "C1"] == rows(chunks, "id")
    assert [moment, None, moment] == rows(chunks, "at")
    assert ["true", None, "false"] == rows(chunks, "ok")
    with pytest.raises(Unreadable, match="its sheets are 'Notes', 'Orders'"):
        read(tmp_path / "a.xlsx", TableOptions(sheet="orders"))


def test_parquet_is_read_with_its_types_and_empty_cells(tmp_path: Path) -> None:
    moment = datetime(2011, 7, 15, 8, 26)  # noqa: DTZ001  # a local time is what the column holds
    table = pa.table(
        {
            "id": pa.array([1, None, 3], pa.int64()),
            "price": [2.55, float("nan"), 2.55],
            "at": pa.array([moment, None, moment], pa.timestamp("ns")),
            "name": pa.array([" a", "a ", " "]).dictionary_encode(),
            "tags": [["x"], None, []],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    chunks = read(tmp_path / "a.parquet")
    assert [1, None, 3] == rows(chunks, "id")
    assert [2.55, None, 2.55] == rows(chunks, "price")
    assert [moment, None, moment] == rows(chunks, "at")
    assert ["a", "a", None] == rows(chunks, "name")
    assert ["['x']", None, "[]"] == rows(chunks, "tags")
    assert [1, 2, 3] == np.concatenate([chunk.rows for chunk in chunks]).tolist()
