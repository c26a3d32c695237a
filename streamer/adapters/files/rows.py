"""One chunk of rows to lines: what each row says of its event, or why it says nothing.

Law: every row of a chunk is either in its lines or in exactly one piece of its refused rows. Skip rules are asked first, in their order;
then the fields, in the order event_id, customer_id, event_type, the other texts, occurred_at, amount, quantity, the columns of `group_by`;
the first fault is the row's reason.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np

from streamer.adapters.files.cells import Cells, Vocabulary, combined
from streamer.adapters.files.conditions import holds
from streamer.adapters.files.mapping import Cases, Constant, FromColumn, Joined, columns_of_condition, columns_of_text
from streamer.adapters.files.values import TIME_MS_MAX, Refusal, minor_units, number_of, product, time_of, whole_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from streamer.adapters.files import mapping as m
    from streamer.adapters.files.tables import Chunk
    from streamer.core.columns import I64, Bool

SKIPPED = "skipped"
REJECTED = "rejected"
GROUP = "group_by"
TEXT_BYTES_MAX = 10_000

_CURRENCY = re.compile(r"[A-Z]{3}", re.ASCII)
_CELL_CHARACTERS_MAX = 200


@dataclass(frozen=True, slots=True)
class Limits:
    """What the worker accepts, so that nothing is sent that it would refuse."""

    event_id_bytes_max: int = 128
    customer_id_bytes_max: int = 256
    event_type_bytes_max: int = 64
    time_ms_max: int = TIME_MS_MAX  # later times are in the future


@dataclass(frozen=True, slots=True)
class Refused:
    """Rows left out for one reason: `values[i]` is what row i has in `column` (several are named with commas, as their values are)."""

    rows: I64  # (n,)
    outcome: str  # SKIPPED or REJECTED
    reason: str
    field: str
    column: str
    values: tuple[str | None, ...]
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Lines:
    """What `n` rows say of their events. Codes are of the file's vocabularies, -1 where there is no text."""

    rows: I64  # (n,)
    occurred_at: I64  # (n,) ms
    amount: I64  # (n,) minor units, 0 where none is given
    amount_given: Bool  # (n,)
    quantity: I64  # (n,)
    quantity_given: Bool  # (n,)
    codes: Mapping[str, I64]  # by field, `event_id` and `group_by.0` onward among them
    whole: Mapping[str, I64]  # by column of the file; only where duplicates are skipped


class Vocabularies:
    """One vocabulary for each field, and for each of the file's columns where duplicates are skipped."""

    def __init__(self) -> None:
        """Begin empty."""
        self.fields: dict[str, Vocabulary] = {}
        self.columns: dict[str, Vocabulary] = {}


@dataclass(frozen=True, slots=True)
class _Texts:
    """A field's text on each row: `texts[codes[i]]`, a `Refusal` where the text is not to be had, None where it is empty."""

    codes: I64
    texts: list[str | Refusal | None]


class _Sieve:
    """Which rows are still in, and the pieces that went out."""

    def __init__(self, cells: Cells) -> None:
        self.cells = cells
        self.open: Bool = np.ones(len(cells), np.bool_)
        self.pieces: list[Refused] = []

    def drop(self, where: Bool, outcome: str, reason: str, field: str, columns: Iterable[str]) -> None:
        """Take rows out for a reason, showing what they have in the columns."""
        where = where & self.open
        if not where.any():
            return
        self.open &= ~where
        names = tuple(dict.fromkeys(columns))
        shown = [_shown(self.cells, name, where) for name in names]
        count = int(where.sum())
        values: Sequence[str | None] = [None] * count
        if names:
            values = shown[0] if len(shown) == 1 else [", ".join(part or "" for part in parts) for parts in zip(*shown, strict=True)]
        self.pieces.append(Refused(self.cells.rows[where], outcome, reason, field, ", ".join(names), tuple(values)))

    def judge(self, codes: I64, verdicts: Sequence[object], field: str, columns: Iterable[str], *, required: bool) -> None:
        """Take out the rows whose verdict is a `Refusal`, and the empty ones where the field is required."""
        names = tuple(columns)
        for refusal in dict.fromkeys(verdict for verdict in verdicts if isinstance(verdict, Refusal)):
            hits = [verdict is refusal for verdict in verdicts]
            self.drop(np.array([*hits, False], np.bool_)[codes], REJECTED, refusal, field, names)
        if required:
            empties = [verdict is None for verdict in verdicts]
            self.drop(np.array([*empties, True], np.bool_)[codes], REJECTED, Refusal.MISSING, field, names)


def _shown(cells: Cells, column: str, where: Bool) -> list[str | None]:
    texts = [text[:_CELL_CHARACTERS_MAX] for text in cells.texts(column)]
    return [texts[code] if code >= 0 else None for code in cells.codes(column)[where].tolist()]


def lines_of(mapping: m.Mapping, chunk: Chunk, vocabularies: Vocabularies, limits: Limits) -> tuple[Lines, list[Refused]]:
    """Apply a mapping to a chunk; new texts are added to the vocabularies."""
    cells = Cells(chunk, mapping.numbers)
    sieve = _Sieve(cells)
    for rule in mapping.skip:
        sieve.drop(holds(rule.when, cells), SKIPPED, rule.reason, "", columns_of_condition(rule.when))
    refunds = holds(mapping.refund.when, cells) if mapping.refund is not None else np.zeros(len(cells), np.bool_)
    texts = _text_fields(mapping, cells, refunds, sieve, limits)
    time_codes = cells.codes(mapping.occurred_at.column)
    read = (time_of(value, mapping.occurred_at.rule) for value in cells.values(mapping.occurred_at.column))
    times = [Refusal.FUTURE if not isinstance(time, Refusal) and time > limits.time_ms_max else time for time in read]
    sieve.judge(time_codes, times, "occurred_at", (mapping.occurred_at.column,), required=True)
    amount, amount_given = _amounts(mapping, cells, sieve)
    quantity, quantity_given = _quantities(mapping, cells, sieve)
    signs = np.where(refunds, -1, 1)
    codes = {field: _translated(vocabularies.fields, field, found.codes, found.texts, sieve.open) for field, found in texts.items()}
    for position, column in enumerate(mapping.group_by.columns if mapping.group_by is not None else ()):
        field = f"{GROUP}.{position}"
        sieve.drop(cells.codes(column) < 0, REJECTED, Refusal.MISSING, GROUP, (column,))
        codes[field] = _translated(vocabularies.fields, field, cells.codes(column), cells.texts(column), sieve.open)
    whole: dict[str, I64] = {}
    if mapping.duplicates == "skip":
        whole = {name: _translated(vocabularies.columns, name, cells.codes(name), cells.texts(name), sieve.open) for name in chunk.columns}
    kept = sieve.open
    lines = Lines(
        cells.rows[kept],
        _numbers(time_codes, times)[kept],
        (amount * signs)[kept],
        amount_given[kept],
        (quantity * signs)[kept],
        quantity_given[kept],
        {field: column[kept] for field, column in codes.items()},
        {name: column[kept] for name, column in whole.items()},
    )
    return lines, [*_broken(chunk), *sieve.pieces]


def _broken(chunk: Chunk) -> list[Refused]:
    rows = ((np.array([broken.row], np.int64), broken) for broken in chunk.broken)
    return [Refused(row, REJECTED, Refusal.UNREADABLE, "", "", (broken.text,), broken.problem) for row, broken in rows]


def _translated(vocabularies: dict[str, Vocabulary], name: str, codes: I64, texts: Sequence[str | Refusal | None], kept: Bool) -> I64:
    """Translate codes into the file's vocabulary, which learns only texts of rows that are kept."""
    used = np.zeros(len(texts) + 1, np.bool_)
    used[codes[kept]] = True
    words = [None if not hit or isinstance(text, Refusal) else text for text, hit in zip(texts, used.tolist(), strict=False)]
    return vocabularies.setdefault(name, Vocabulary()).translate(codes, words)


def _numbers(codes: I64, verdicts: Sequence[int | Refusal | None]) -> I64:
    plain = [verdict if isinstance(verdict, int) else 0 for verdict in verdicts]
    return np.array([*plain, 0], np.int64)[codes]


def _text_fields(mapping: m.Mapping, cells: Cells, refunds: Bool, sieve: _Sieve, limits: Limits) -> dict[str, _Texts]:
    """Make every text field and take out the rows whose text can't be sent."""
    bounds = {"event_id": limits.event_id_bytes_max, "customer_id": limits.customer_id_bytes_max, "event_type": limits.event_type_bytes_max}
    found: dict[str, _Texts] = {}
    for field, source in (("event_id", mapping.event_id), *mapping.texts):
        texts = _evaluated(source, cells)
        if mapping.refund is not None and field == "event_id" and mapping.refund.id_suffix:
            texts = _changed_where(texts, refunds, _with_suffix(texts.texts, mapping.refund.id_suffix))
        if mapping.refund is not None and field == "event_type":
            texts = _changed_where(texts, refunds, [mapping.refund.event_type] * len(texts.texts))
        checked = _Texts(texts.codes, [_checked(field, text, bounds.get(field, TEXT_BYTES_MAX)) for text in texts.texts])
        sieve.judge(checked.codes, checked.texts, field, columns_of_text(source), required=field in bounds)
        found[field] = checked
    return found


def _with_suffix(texts: Sequence[str | Refusal | None], suffix: str) -> list[str | Refusal | None]:
    return [text if text is None or isinstance(text, Refusal) else text + suffix for text in texts]


def _changed_where(texts: _Texts, where: Bool, others: list[str | Refusal | None]) -> _Texts:
    moved = np.where(where & (texts.codes >= 0), texts.codes + len(texts.texts), texts.codes)
    return _Texts(moved, [*texts.texts, *others])


def _checked(field: str, text: str | Refusal | None, bytes_max: int) -> str | Refusal | None:
    if text is None or isinstance(text, Refusal):
        return text
    if len(text.encode(errors="surrogatepass")) > bytes_max:
        return Refusal.TOO_LONG
    if field == "event_type" and text.startswith("$"):
        return Refusal.RESERVED
    if field == "currency" and not _CURRENCY.fullmatch(text):
        return Refusal.BAD_CURRENCY
    return text or None


def _evaluated(source: m.Text, cells: Cells) -> _Texts:
    if isinstance(source, Constant):
        return _Texts(np.zeros(len(cells), np.int64), [source.text])
    if isinstance(source, FromColumn):
        return _from_column(source, cells)
    if isinstance(source, Joined):
        return _joined(source, cells)
    return _cased(source, cells)


def _from_column(source: FromColumn, cells: Cells) -> _Texts:
    codes = cells.codes(source.column)
    listed = None if source.values is None else dict(source.values)
    texts: list[str | Refusal | None] = []
    for cell in cells.texts(source.column):
        text = cell if source.first is None else cell[: source.first]
        text = text.lower() if source.lower else text
        if listed is None:
            texts.append(text)
        elif text in listed:
            texts.append(listed[text])
        else:
            texts.append(Refusal.NOT_LISTED if source.otherwise is None else source.otherwise)
    if source.default is not None:
        codes = np.where(codes < 0, len(texts), codes)
        texts.append(source.default)
    return _Texts(codes, texts)


def _joined(source: Joined, cells: Cells) -> _Texts:
    columns = [cells.codes(name) for name in source.columns]
    codes, first = combined(columns)
    words = [cells.texts(name) for name in source.columns]
    parts = [[words[place][code] if code >= 0 else None for code in column[first].tolist()] for place, column in enumerate(columns)]
    rows: list[tuple[str | None, ...]] = list(zip(*parts, strict=True))
    if source.row:
        rows = [(*rows[code], str(row)) for code, row in zip(codes.tolist(), cells.rows.tolist(), strict=True)]
        codes = np.arange(len(cells), dtype=np.int64)
    return _Texts(codes, [_join(source, row) for row in rows])


def _join(source: Joined, parts: tuple[str | None, ...]) -> str | None:
    """Join one row's parts; a part that is empty makes the whole empty."""
    words = [part for part in parts if part is not None]
    if len(words) < len(parts):
        return None
    if source.hashed:
        digest = hashlib.blake2b(digest_size=16)
        for word in words:
            data = word.encode(errors="surrogatepass")
            digest.update(len(data).to_bytes(8, "big") + data)
        return source.prefix + digest.hexdigest()
    return source.prefix + source.separator.join(words)


def _cased(source: Cases, cells: Cells) -> _Texts:
    codes = np.full(len(cells), len(source.cases), np.int64)
    for position in reversed(range(len(source.cases))):
        codes[holds(source.cases[position][0], cells)] = position
    return _Texts(codes, [*(text for _, text in source.cases), Refusal.NOT_LISTED if source.otherwise is None else source.otherwise])


def _amounts(mapping: m.Mapping, cells: Cells, sieve: _Sieve) -> tuple[I64, Bool]:
    """Work amounts out once per distinct combination of their columns, exactly; an empty factor makes no amount."""
    if mapping.amount is None:
        return np.zeros(len(cells), np.int64), np.zeros(len(cells), np.bool_)
    names = mapping.amount.columns
    columns = [cells.codes(name) for name in names]
    codes, first = combined(columns)
    numbers = [[number_of(value, cells.numbers) for value in cells.values(name)] for name in names]
    verdicts: list[int | Refusal | None] = []
    for row in zip(*(column[first].tolist() for column in columns), strict=True):
        factors = [numbers[place][code] if code >= 0 else None for place, code in enumerate(row)]
        verdicts.append(_amount(factors, mapping.amount.scale))
    sieve.judge(codes, verdicts, "amount", names, required=False)
    given = np.array([*(isinstance(verdict, int) for verdict in verdicts), False], np.bool_)[codes]
    return _numbers(codes, verdicts), given


def _amount(factors: Sequence[Decimal | Refusal | None], scale: int) -> int | Refusal | None:
    total = Decimal(1)
    for factor in factors:
        if factor is None or isinstance(factor, Refusal):
            return factor
        total = product(total, factor)
    return minor_units(total, scale)


def _quantities(mapping: m.Mapping, cells: Cells, sieve: _Sieve) -> tuple[I64, Bool]:
    if mapping.quantity is None:
        return np.zeros(len(cells), np.int64), np.zeros(len(cells), np.bool_)
    if mapping.quantity.column is None:
        return np.full(len(cells), mapping.quantity.constant or 0, np.int64), np.ones(len(cells), np.bool_)
    codes = cells.codes(mapping.quantity.column)
    verdicts = [whole_of(value, cells.numbers) for value in cells.values(mapping.quantity.column)]
    sieve.judge(codes, verdicts, "quantity", (mapping.quantity.column,), required=False)
    return _numbers(codes, verdicts), codes >= 0
