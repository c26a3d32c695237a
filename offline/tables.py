"""Plain tables of features: one row a customer, one column a feature, from any file of rows.

Law: a value is what the file says or an error that names its row. Nothing is guessed but what is told as a warning: a value that is missing
counts as the column's median, a column of text alone is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from streamer.adapters.files.tables import read_table
from streamer.adapters.files.values import NumberRule, number_of, text_of
from streamer.core.declaration import Transform
from streamer.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from streamer.adapters.files.tables import Chunk, Coded
    from streamer.core.columns import F64, I64

MISSING = frozenset({"na", "n/a", "nan", "null", "none", "-", "?"})  # lower case
YES_NO = {"true": 1.0, "false": 0.0}
CUSTOMER_NAMES = ("customer_id", "customerid", "customer", "user_id", "userid", "user", "client_id", "id")
SKEW_MIN = 2.0  # from here on a feature has a heavy tail
EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Table:
    """Features of `n` customers, in the order of their ids, and what was done to get them."""

    features: pd.DataFrame
    transforms: tuple[Transform, ...]
    warnings: tuple[str, ...]


@dataclass(slots=True)
class _Column:
    """A column's numbers so far, NaN where there is none; `text` counts cells that are no number, the first is in row `row`."""

    parts: list[F64]
    text: int = 0
    row: int = 0
    value: str = ""


def read_features(path: Path, customer: str | None = None, without: Collection[str] = ()) -> Table:
    """Read a table. `customer` names the column of ids, by default one of the usual names; `without` columns that are no features.

    Raises:
        BadInput: the file can't be read, has no rows or no column of ids or of numbers, an id is missing or there twice, or a column has
            text among its numbers.

    """
    columns: dict[str, _Column] = {}
    ids: list[str | None] = []
    rows: list[I64] = []
    key = ""
    for chunk in read_table(path):
        if chunk.broken:
            broken = chunk.broken[0]
            message = f"{path}: row {broken.row} can't be read ({broken.problem}): mend it"
            raise BadInput(message)
        key = key or _key(path, tuple(chunk.columns), customer)
        ids += _ids(chunk, key)
        rows.append(chunk.rows)
        for name in [name for name in chunk.columns if name != key and name not in without]:
            known = columns.setdefault(name, _Column([np.full(len(ids) - len(chunk.rows), np.nan)]))
            _add(known, chunk.columns[name], chunk.rows)
        for name, column in columns.items():
            if name not in chunk.columns:
                column.parts.append(np.full(len(chunk.rows), np.nan))
    _check_ids(path, key, ids, np.concatenate(rows))
    return _table(path, [str(one) for one in ids], {name: column for name, column in columns.items() if name})


def _key(path: Path, names: Sequence[str], customer: str | None) -> str:
    if customer is not None:
        if customer not in names:
            message = f"{path}: there is no column {customer!r}: its columns are {', '.join(map(repr, names))}"
            raise BadInput(message)
        return customer
    folded = {name.casefold().replace(" ", "_"): name for name in reversed(names)}
    found = next((folded[name] for name in CUSTOMER_NAMES if name in folded), None)
    if found is None:
        message = f"{path}: no column is named customer_id: name the column of ids with --customer (columns: {', '.join(map(repr, names))})"
        raise BadInput(message)
    return found


def _ids(chunk: Chunk, key: str) -> list[str | None]:
    if key not in chunk.columns:
        return [None] * len(chunk.rows)
    column = chunk.columns[key]
    texts: list[str | None] = [*(text_of(value) for value in column.values), None]
    return [texts[code] for code in column.codes.tolist()]


def _add(known: _Column, column: Coded, rows: I64) -> None:
    """Take a chunk of a column: each distinct value is read once."""
    numbers = np.full(len(column.values) + 1, np.nan)
    wrong = np.zeros(len(column.values) + 1, np.bool_)
    for place, value in enumerate(column.values):
        if isinstance(value, str) and value.casefold() in MISSING:
            continue
        if isinstance(value, str) and value.casefold() in YES_NO:
            numbers[place] = YES_NO[value.casefold()]
            continue
        number = number_of(value, NumberRule())
        wrong[place] = not isinstance(number, Decimal)
        numbers[place] = float(number) if isinstance(number, Decimal) else np.nan
    bad = np.flatnonzero(wrong[column.codes])
    if len(bad) and not known.text:
        known.row, known.value = int(rows[bad[0]]), text_of(column.values[column.codes[bad[0]]])[:60]
    known.text += len(bad)
    known.parts.append(numbers[column.codes])


def _check_ids(path: Path, key: str, ids: Sequence[str | None], rows: I64) -> None:
    if not ids:
        message = f"{path}: the file has no rows"
        raise BadInput(message)
    empty = [int(rows[place]) for place, one in enumerate(ids) if one is None]
    if empty:
        message = f"{path}: {len(empty):,} rows have no {key}, the first is row {empty[0]}: give every row a customer"
        raise BadInput(message)
    for place, one in enumerate(ids):
        if not str(one).isprintable() and not _is_utf8(str(one)):
            message = f"{path}: row {int(rows[place])}: the {key} {one!r} can't be written as UTF-8: mend it"
            raise BadInput(message)
    first: dict[str | None, int] = {}
    again = [(one, first[one], place) for place, one in enumerate(ids) if first.setdefault(one, place) != place]
    if again:
        shown = ", ".join(f"{one!r} in rows {int(rows[a])} and {int(rows[b])}" for one, a, b in again[:EXAMPLES])
        message = f"{path}: {len(again):,} rows repeat a customer ({shown}): one row a customer; for events or orders give a --mapping"
        raise BadInput(message)


def _is_utf8(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


def _table(path: Path, ids: Sequence[str], columns: dict[str, _Column]) -> Table:
    warnings: list[str] = []
    found: dict[str, F64] = {}
    for name, column in columns.items():
        values = np.concatenate(column.parts)
        there = np.isfinite(values)
        if not there.any():
            what = f"has only text, such as {column.value!r}" if column.text else "has no value at all"
            warnings.append(f"the column {name!r} {what}: it is left out")
            continue
        if column.text:
            message = (
                f"{path}: the column {name!r} has numbers, and text in {column.text:,} rows, the first is row {column.row}: "
                f"{column.value!r}: mend it, or leave the column out with --without {name}"
            )
            raise BadInput(message)
        if not there.all():
            warnings.append(f"the column {name!r} has no value in {int((~there).sum()):,} rows: they count as its median")
            values = np.where(there, values, np.median(values[there]))
        found[name] = values
    if not found:
        message = f"{path}: there is no column of numbers besides the customers: {' '.join(warnings) or 'add one'}"
        raise BadInput(message)
    order = sorted(range(len(ids)), key=[one.encode() for one in ids].__getitem__)
    index = pd.Index([ids[i] for i in order], dtype="object", name="customer_id")
    frame = pd.DataFrame({name: values[order] for name, values in found.items()}).set_axis(index)
    transforms = tuple(heavy_tailed(values) for values in found.values())
    return Table(frame, transforms, tuple(warnings))


def heavy_tailed(values: F64) -> Transform:
    """Choose log1p for a feature (n,) that is never negative and whose skewness is over 2, as counts and money are."""
    deviation = values.std()
    if values.min() < 0 or deviation == 0.0:
        return Transform.NONE
    skew = float((((values - values.mean()) / deviation) ** 3).mean())
    return Transform.LOG1P if skew > SKEW_MIN else Transform.NONE
