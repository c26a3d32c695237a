"""Lines to events: duplicates taken out, order lines summed to one event, events put in the order of their time.

Law: of the lines given, each is used in exactly one event or refused in exactly one piece. Sums are whole minor units. The order is event
time, then the number of the event's first row, so it depends on the file alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from streamer.adapters.files.cells import combined
from streamer.adapters.files.mapping import PROPERTY, TEXT_FIELDS
from streamer.adapters.files.rows import GROUP, REJECTED, SKIPPED, Lines, Refused
from streamer.adapters.files.values import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from streamer.adapters.files import mapping as m
    from streamer.adapters.files.rows import Vocabularies
    from streamer.core.columns import I64, Bool

DUPLICATE_LINE = "duplicate_line"


class Record(TypedDict):
    """One event as the schema BehaviourEvent has it; `occurred_at` in milliseconds, `amount` in minor units."""

    event_id: str
    customer_id: str
    event_type: str
    occurred_at: int
    amount: int | None
    currency: str | None
    quantity: int | None
    product_id: str | None
    category: str | None
    session_id: str | None
    properties: dict[str, str]


@dataclass(frozen=True, slots=True)
class Events:
    """`n` events in the order of their time, in columns.

    A text is None where the event has none; `lines` is how many rows each is made of.
    """

    occurred_at: I64  # (n,) ms
    amount: I64  # (n,) minor units, 0 where none is given
    amount_given: Bool  # (n,)
    quantity: I64  # (n,)
    quantity_given: Bool  # (n,)
    lines: I64  # (n,)
    event_id: tuple[str, ...]
    texts: dict[str, tuple[str | None, ...]]  # by field; properties as `properties.NAME`
    lines_property: str | None

    def __len__(self) -> int:
        """Count the events."""
        return len(self.occurred_at)

    def records(self, first: int = 0, last: int | None = None) -> Iterator[Record]:
        """Give events one by one, from `first` up to but not including `last`."""
        part = slice(first, last)
        ids = self.event_id[part]
        none: tuple[None, ...] = (None,) * len(ids)
        fields = [self.texts[field][part] if field in self.texts else none for field in TEXT_FIELDS]
        names = [name for name in self.texts if name.startswith(PROPERTY)]
        keys = [name.removeprefix(PROPERTY) for name in names]
        columns = list(zip(*(self.texts[name][part] for name in names), strict=True)) if names else [()] * len(ids)
        amounts = _optional(self.amount[part], self.amount_given[part])
        quantities = _optional(self.quantity[part], self.quantity_given[part])
        whole = zip(ids, *fields, self.occurred_at[part].tolist(), amounts, quantities, columns, self.lines[part].tolist(), strict=True)
        for event_id, customer, kind, currency, product, category, session, time, amount, quantity, properties, lines in whole:
            extras = {key: value for key, value in zip(keys, properties, strict=True) if value is not None}
            if self.lines_property is not None:
                extras[self.lines_property] = str(lines)
            yield Record(
                event_id=event_id,
                customer_id=str(customer),
                event_type=str(kind),
                occurred_at=time,
                amount=amount,
                currency=currency,
                quantity=quantity,
                product_id=product,
                category=category,
                session_id=session,
                properties=extras,
            )


def _optional(numbers: I64, given: Bool) -> list[int | None]:
    return [number if there else None for number, there in zip(numbers.tolist(), given.tolist(), strict=True)]


def without_duplicates(lines: Lines) -> tuple[Lines, list[Refused]]:
    """Keep the first of the rows that have the same text in every column of the file."""
    if not lines.whole or not len(lines.rows):
        return lines, []
    number, first = combined(list(lines.whole.values()))
    origin = first[number]
    again = origin != np.arange(len(lines.rows))
    if not again.any():
        return lines, []
    values = tuple(f"row {row}" for row in lines.rows[origin[again]].tolist())
    return taken(lines, ~again), [Refused(lines.rows[again], SKIPPED, DUPLICATE_LINE, "", "", values, "equal in every column")]


def taken(lines: Lines, where: Bool | I64) -> Lines:
    """Take some rows of the lines."""
    return Lines(
        lines.rows[where],
        lines.occurred_at[where],
        lines.amount[where],
        lines.amount_given[where],
        lines.quantity[where],
        lines.quantity_given[where],
        {field: codes[where] for field, codes in lines.codes.items()},
        {name: codes[where] for name, codes in lines.whole.items()},
    )


def joined(parts: Sequence[Lines]) -> Lines:
    """Join the chunks' lines; a column that a chunk does not have is empty there."""
    fields = dict.fromkeys(field for part in parts for field in part.codes)
    names = dict.fromkeys(name for part in parts for name in part.whole)

    def column(part: Lines, codes: I64 | None) -> I64:
        return np.full(len(part.rows), -1, np.int64) if codes is None else codes

    return Lines(
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.occurred_at for part in parts]),
        np.concatenate([part.amount for part in parts]),
        np.concatenate([part.amount_given for part in parts]),
        np.concatenate([part.quantity for part in parts]),
        np.concatenate([part.quantity_given for part in parts]),
        {field: np.concatenate([column(part, part.codes.get(field)) for part in parts]) for field in fields},
        {name: np.concatenate([column(part, part.whole.get(name)) for part in parts]) for name in names},
    )


@dataclass(frozen=True, slots=True)
class _Sums:
    """What each of `g` groups adds up to, by its number; `leader` is the position of its leading line."""

    leader: I64
    first_row: I64
    occurred_at: I64
    amount: I64
    amount_given: Bool
    quantity: I64
    quantity_given: Bool
    lines: I64


def events_of(mapping: m.Mapping, lines: Lines, vocabularies: Vocabularies) -> tuple[Events, list[Refused]]:
    """Group lines to events and order them.

    A group's event has the sum of its lines' amounts and quantities and their earliest time. Its texts are those of the leading line: the
    one with the greatest amount, the first of them where several have it. Of events of a customer with the same id the first is kept.
    """
    group = _groups(mapping, lines)
    sums = _sums(group, lines)
    ids = lines.codes["event_id"][sums.leader]
    negative = sums.amount < 0
    sound = np.flatnonzero(~negative)
    in_time = sound[np.lexsort((sums.first_row[sound], sums.occurred_at[sound]))]
    number, firsts = combined([ids[in_time], lines.codes["customer_id"][sums.leader[in_time]]])
    fresh = firsts[number] == np.arange(len(in_time))
    again = np.zeros(len(negative), np.bool_)
    again[in_time[~fresh]] = True
    refused = []
    if negative.any():
        where = negative[group]
        values = tuple(str(total) for total in sums.amount[group[where]].tolist())
        refused.append(Refused(lines.rows[where], REJECTED, Refusal.NEGATIVE, "amount", "", values, "the event's total in minor units"))
    if again.any():
        where = again[group]
        names = vocabularies.fields["event_id"].texts()
        values = tuple(names[code] for code in ids[group[where]].tolist())
        detail = "an earlier event of the customer has this id"
        refused.append(Refused(lines.rows[where], REJECTED, Refusal.DUPLICATE_ID, "event_id", "", values, detail))
    return _finished(mapping, lines, vocabularies, sums, in_time[fresh]), refused


def _groups(mapping: m.Mapping, lines: Lines) -> I64:
    """Number each line's event from 0, without gaps."""
    if mapping.group_by is None:
        return np.arange(len(lines.rows), dtype=np.int64)
    fields = [*(f"{GROUP}.{position}" for position in range(len(mapping.group_by.columns))), "customer_id", "event_type", "currency"]
    number, _ = combined([lines.codes[field] for field in fields if field in lines.codes])
    return number


def _sums(group: I64, lines: Lines) -> _Sums:
    order = np.lexsort((lines.rows, -lines.amount, group))
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    if not len(starts):
        none = np.zeros(0, np.int64)
        return _Sums(none, none, none, none, none.astype(np.bool_), none, none.astype(np.bool_), none)
    return _Sums(
        order[starts],
        np.minimum.reduceat(lines.rows[order], starts),
        np.minimum.reduceat(lines.occurred_at[order], starts),
        np.add.reduceat(lines.amount[order], starts),
        np.logical_or.reduceat(lines.amount_given[order], starts),
        np.add.reduceat(lines.quantity[order], starts),
        np.logical_or.reduceat(lines.quantity_given[order], starts),
        np.diff(starts, append=len(order)),
    )


def _finished(mapping: m.Mapping, lines: Lines, vocabularies: Vocabularies, sums: _Sums, chosen: I64) -> Events:
    leaders = sums.leader[chosen]
    texts: dict[str, tuple[str | None, ...]] = {}
    for field, vocabulary in vocabularies.fields.items():
        if not field.startswith(GROUP):
            words: list[str | None] = [*vocabulary.texts(), None]
            texts[field] = tuple(words[code] for code in lines.codes[field][leaders].tolist())
    ids = tuple(str(text) for text in texts.pop("event_id"))
    return Events(
        sums.occurred_at[chosen],
        sums.amount[chosen],
        sums.amount_given[chosen],
        sums.quantity[chosen],
        sums.quantity_given[chosen],
        sums.lines[chosen],
        ids,
        texts,
        mapping.group_by.lines_property if mapping.group_by is not None else None,
    )
