"""What a mapping file declares: which columns make which fields of an event, and which rows are left out.

Law: a mapping is data. Nothing in it is evaluated; every form it may take is named here, and docs/ingest.md shows each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from streamer.adapters.files.tables import TableOptions
from streamer.adapters.files.values import NumberRule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamer.adapters.files.values import TimeRule

REQUIRED_FIELDS = ("event_id", "customer_id", "occurred_at", "event_type")
TEXT_FIELDS = ("customer_id", "event_type", "currency", "product_id", "category", "session_id")
PROPERTY = "properties."


@dataclass(frozen=True, slots=True)
class Test:
    """One comparison of a column's value; `operation` is a key of `conditions.OPERATIONS`, `operand` what the file gives for it."""

    __test__ = False  # no test case

    column: str
    operation: str
    operand: object


@dataclass(frozen=True, slots=True)
class AnyOf:
    """True where one of the conditions is."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class AllOf:
    """True where all of the conditions are."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """True where the condition is not."""

    condition: Condition


Condition: TypeAlias = "Test | AnyOf | AllOf | Not"


@dataclass(frozen=True, slots=True)
class Constant:
    """The same text on every row."""

    text: str


@dataclass(frozen=True, slots=True)
class FromColumn:
    """A column's text: its first `first` characters, in `lower` case, looked up in `values`, in this order.

    What `values` doesn't list becomes `otherwise`, or is refused where that is None; an empty cell becomes `default`.
    """

    column: str
    first: int | None = None
    lower: bool = False
    values: tuple[tuple[str, str], ...] | None = None
    otherwise: str | None = None
    default: str | None = None


@dataclass(frozen=True, slots=True)
class Joined:
    """Several columns' texts with a separator between; with `row`, the row's number last; with `hashed`, their BLAKE2b-128 in hex."""

    columns: tuple[str, ...]
    separator: str = ":"
    prefix: str = ""
    row: bool = False
    hashed: bool = False


@dataclass(frozen=True, slots=True)
class Cases:
    """The text of the first case whose condition is true, else `otherwise`; None refuses the row."""

    cases: tuple[tuple[Condition, str], ...]
    otherwise: str | None = None


Text: TypeAlias = "Constant | FromColumn | Joined | Cases"


@dataclass(frozen=True, slots=True)
class Time:
    """A column of times."""

    column: str
    rule: TimeRule


@dataclass(frozen=True, slots=True)
class Amount:
    """The product of one or more columns, in minor units of a currency with `scale` decimals."""

    columns: tuple[str, ...]
    scale: int


@dataclass(frozen=True, slots=True)
class Quantity:
    """A column of whole numbers, or one number for all rows."""

    column: str | None
    constant: int | None = None


@dataclass(frozen=True, slots=True)
class Refund:
    """Rows that take money back: their amounts and quantities change sign, they are of another type, and their ids end with `id_suffix`."""

    when: Condition
    event_type: str = "refund"
    id_suffix: str = ""


@dataclass(frozen=True, slots=True)
class Skip:
    """Rows that are no events, by the user's own rule; `reason` names the rule in the counts."""

    reason: str
    when: Condition


@dataclass(frozen=True, slots=True)
class GroupBy:
    """Rows that agree in these columns (and in customer, type and currency) are one event; `lines_property` receives their number."""

    columns: tuple[str, ...]
    lines_property: str | None = None


@dataclass(frozen=True, slots=True)
class Mapping:
    """A whole mapping file."""

    name: str
    event_id: Text
    occurred_at: Time
    texts: tuple[tuple[str, Text], ...]  # fields of TEXT_FIELDS, and properties as `properties.NAME`
    amount: Amount | None = None
    quantity: Quantity | None = None
    group_by: GroupBy | None = None
    refund: Refund | None = None
    skip: tuple[Skip, ...] = ()
    duplicates: str = "keep"  # or skip
    table: TableOptions = field(default_factory=TableOptions)
    numbers: NumberRule = field(default_factory=NumberRule)

    def columns(self) -> tuple[str, ...]:
        """Name every column of the file that the mapping reads, in order, each once."""
        return tuple(dict.fromkeys(self._columns()))

    def _columns(self) -> Iterator[str]:
        for _, text in (("event_id", self.event_id), *self.texts):
            yield from columns_of_text(text)
        yield self.occurred_at.column
        if self.amount is not None:
            yield from self.amount.columns
        if self.quantity is not None and self.quantity.column is not None:
            yield self.quantity.column
        if self.group_by is not None:
            yield from self.group_by.columns
        if self.refund is not None:
            yield from columns_of_condition(self.refund.when)
        for skip in self.skip:
            yield from columns_of_condition(skip.when)


def columns_of_condition(condition: Condition) -> Iterator[str]:
    """Name the columns that a condition reads."""
    if isinstance(condition, Test):
        yield condition.column
    elif isinstance(condition, Not):
        yield from columns_of_condition(condition.condition)
    else:
        for part in condition.conditions:
            yield from columns_of_condition(part)


def columns_of_text(text: Text) -> Iterator[str]:
    """Name the columns that a text is made of."""
    if isinstance(text, FromColumn):
        yield text.column
    elif isinstance(text, Joined):
        yield from text.columns
    elif isinstance(text, Cases):
        for condition, _ in text.cases:
            yield from columns_of_condition(condition)
