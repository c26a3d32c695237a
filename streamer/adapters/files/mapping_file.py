"""A mapping file's YAML, checked form by form.

Law: every fault of a file is told at once, each with its line; a key that is not known is a fault, never ignored. A scalar that stands for
a text is taken as written (`NO` is Norway, not false).
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import yaml

from streamer.adapters.files import mapping as m
from streamer.adapters.files.conditions import NUMERIC, OPERATIONS
from streamer.adapters.files.tables import FORMATS, TableOptions
from streamer.adapters.files.values import UNITS_PER_SECOND, NumberRule, TimeRule, number_of
from streamer.core.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from decimal import Decimal

    from streamer.adapters.files.values import Refusal

T = TypeVar("T")

SCALE_MAX = 6
DEPTH_MAX = 10
_TIMES = ("time_zone", "ambiguous_times", "nonexistent_times")
_TOP = ("name", "description", "input", *_TIMES, "columns", "group_by", "refund", "skip", "duplicates")
_INPUT = ("format", "delimiter", "encoding", "sheet", "decimal", "thousands")
_FIELDS = ("event_id", "occurred_at", *m.TEXT_FIELDS, "amount", "quantity", "properties")


class MappingError(Misconfigured):
    """A mapping that can't be used, for its writer to mend. The message has every fault with its line."""


def parse_mapping(text: str, source: str) -> m.Mapping:
    """Read a mapping file's text; `source` names it in errors. Raises `MappingError`."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        message = f"{source}: not YAML: {error}"
        raise MappingError(message) from error
    if node is None:
        message = f"{source}: the mapping is empty; docs/ingest.md shows one"
        raise MappingError(message)
    reader = _Reader(source)
    mapping = _mapping(reader, node)
    if reader.faults or mapping is None:
        raise MappingError("\n".join(fault for _, fault in sorted(reader.faults)))
    return mapping


class _Reader:
    """Takes values out of YAML nodes and notes what is wrong with them."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.faults: list[tuple[int, str]] = []

    def fault(self, node: yaml.Node, reason: str) -> None:
        """Note a fault at a node."""
        line = node.start_mark.line + 1
        self.faults.append((line, f"{self.source}:{line}: {reason}"))

    def table(self, node: yaml.Node, what: str, known: Iterable[str] | None, required: Iterable[str] = ()) -> dict[str, yaml.Node]:
        """Take a mapping node's entries; keys outside `known` (None allows any) and keys given twice are faults."""
        if not isinstance(node, yaml.MappingNode):
            self.fault(node, f"{what} is not a mapping of keys to values")
            return {}
        entries: dict[str, yaml.Node] = {}
        names = None if known is None else list(known)
        for key, value in node.value:
            name = str(key.value)
            if names is not None and name not in names:
                near = get_close_matches(name, names, 1)
                hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(names)}"
                self.fault(key, f"{what} has an unknown key `{name}`: {hint}")
            elif name in entries:
                self.fault(key, f"{what} has the key `{name}` twice")
            else:
                entries[name] = value
        for name in required:
            if name not in entries:
                self.fault(node, f"{what} lacks `{name}`")
        return entries

    def text(self, node: yaml.Node | None, what: str) -> str | None:
        """Take a scalar as it is written."""
        if node is None:
            return None
        if not isinstance(node, yaml.ScalarNode) or node.tag == "tag:yaml.org,2002:null":
            self.fault(node, f"{what} is not a text")
            return None
        return str(node.value)

    def texts(self, node: yaml.Node | None, what: str) -> tuple[str, ...]:
        """Take a list of scalars, not empty."""
        if node is None:
            return ()
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            self.fault(node, f"{what} is not a list of texts, such as [A, B]")
            return ()
        found = (self.text(item, what) for item in node.value)
        return tuple(item for item in found if item is not None)

    def choice(self, node: yaml.Node | None, what: str, options: Iterable[str], default: str) -> str:
        """Take one of some words."""
        word = self.text(node, what)
        options = tuple(options)
        if node is not None and word is not None and word not in options:
            self.fault(node, f"{what} is {word!r}; it can be {', '.join(options)}")
        return default if word is None else word

    def whole(self, node: yaml.Node | None, what: str, lowest: int, highest: int) -> int | None:
        """Take a whole number within bounds."""
        word = self.text(node, what)
        if node is None or word is None:
            return None
        if not re.fullmatch(r"-?\d{1,15}", word, re.ASCII) or not lowest <= int(word) <= highest:
            self.fault(node, f"{what} is {word!r}; it is a whole number from {lowest} to {highest}")
            return None
        return int(word)

    def flag(self, node: yaml.Node | None, what: str) -> bool:
        """Take true or false."""
        return self.choice(node, what, ("true", "false"), "false") == "true"


def _mapping(reader: _Reader, node: yaml.Node) -> m.Mapping | None:
    top = reader.table(node, "the mapping", _TOP, ("name", "time_zone", "columns"))
    table, numbers = _input(reader, top.get("input"))
    group_by = _group_by(reader, top.get("group_by"))
    refund = _refund(reader, top.get("refund"))
    skips = tuple(skip for skip in (_skip(reader, item) for item in _items(reader, top.get("skip"), "skip")) if skip is not None)
    duplicates = reader.choice(top.get("duplicates"), "duplicates", ("keep", "skip"), "keep")
    zone = _zone(reader, top.get("time_zone"))
    ambiguous = reader.choice(top.get("ambiguous_times"), "ambiguous_times", ("earlier", "later", "reject"), "earlier")
    nonexistent = reader.choice(top.get("nonexistent_times"), "nonexistent_times", ("forward", "reject"), "forward")
    if "columns" not in top:
        return None
    fields = reader.table(top["columns"], "columns", _FIELDS, m.REQUIRED_FIELDS)
    texts: list[tuple[str, m.Text]] = []
    for field in m.TEXT_FIELDS:
        found = _text(reader, fields.get(field), f"columns.{field}")
        if found is not None:
            texts.append((field, found))
    if "properties" in fields:
        for key, value in reader.table(fields["properties"], "columns.properties", None).items():
            found = _text(reader, value, f"columns.properties.{key}")
            if found is not None:
                texts.append((m.PROPERTY + key, found))
    event_id = _text(reader, fields.get("event_id"), "columns.event_id")
    time = _time(reader, fields.get("occurred_at"), zone, ambiguous, nonexistent)
    amount = _amount(reader, fields.get("amount"))
    quantity = _quantity(reader, fields.get("quantity"))
    if group_by is not None and event_id is not None:
        _check_group_id(reader, fields["event_id"], event_id, group_by)
    name = reader.text(top.get("name"), "name")
    if name is None or zone is None or event_id is None or time is None:
        return None
    return m.Mapping(name, event_id, time, tuple(texts), amount, quantity, group_by, refund, skips, duplicates, table, numbers)


def _check_group_id(reader: _Reader, node: yaml.Node, event_id: m.Text, group_by: m.GroupBy) -> None:
    """An id made of what differs within a group would depend on which line leads it."""
    strangers = sorted(set(m.columns_of_text(event_id)) - set(group_by.columns))
    if strangers or (isinstance(event_id, m.Joined) and event_id.row):
        found = ", ".join(strangers) or "row"
        reader.fault(node, f"columns.event_id uses {found}, which may differ within a group: use only columns of `group_by`")


def _items(reader: _Reader, node: yaml.Node | None, what: str) -> list[yaml.Node]:
    if node is None:
        return []
    if not isinstance(node, yaml.SequenceNode):
        reader.fault(node, f"{what} is not a list")
        return []
    return list(node.value)


def _zone(reader: _Reader, node: yaml.Node | None) -> ZoneInfo | None:
    name = reader.text(node, "time_zone")
    if node is None or name is None:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        near = get_close_matches(name, available_timezones(), 1)
        hint = f"did you mean {near[0]}?" if near else "it is an IANA name such as Europe/London, or UTC"
        reader.fault(node, f"time_zone {name!r} is not known: {hint}")
        return None


def _input(reader: _Reader, node: yaml.Node | None) -> tuple[TableOptions, NumberRule]:
    if node is None:
        return TableOptions(), NumberRule()
    entries = reader.table(node, "input", _INPUT)
    kind = reader.choice(entries.get("format"), "input.format", FORMATS, "") or None
    delimiter = reader.text(entries.get("delimiter"), "input.delimiter") or ""
    if len(delimiter) > 1:
        reader.fault(entries["delimiter"], f"input.delimiter is {delimiter!r}; it is one character")
    encoding = reader.text(entries.get("encoding"), "input.encoding") or "utf-8-sig"
    try:
        wide = len("a".encode(encoding)) != 1 and encoding != "utf-8-sig"
    except LookupError:
        wide = True
    if wide:
        reader.fault(entries["encoding"], f"input.encoding {encoding!r} is not known or not based on single bytes; cp1252 is an example")
    decimal = reader.choice(entries.get("decimal"), "input.decimal", (".", ","), ".")
    thousands = reader.text(entries.get("thousands"), "input.thousands") or ""
    if len(thousands) > 1 or thousands == decimal:
        reader.fault(entries["thousands"], "input.thousands is one character and not the decimal one")
    return TableOptions(kind, delimiter, encoding, reader.text(entries.get("sheet"), "input.sheet")), NumberRule(decimal, thousands)


def _one_form(
    reader: _Reader,
    node: yaml.Node,
    what: str,
    forms: dict[str, Callable[[dict[str, yaml.Node]], T]],
    extras: dict[str, tuple[str, ...]],
) -> T | None:
    """Read a node that has one of several forms, told apart by their first key."""
    if not isinstance(node, yaml.MappingNode):
        reader.fault(node, f"{what} takes one of the forms {{{', '.join(f'{form}: ...' for form in forms)}}}")
        return None
    present = [str(key.value) for key, _ in node.value]
    chosen = [form for form in forms if form in present]
    if len(chosen) != 1:
        known = [*forms, *(extra for names in extras.values() for extra in names)]
        strange = next((name for name in present if name not in known), None)
        near = get_close_matches(strange, known, 1) if strange is not None else []
        hint = f"`{strange}` is not known, did you mean `{near[0]}`?" if near else f"it takes exactly one of {', '.join(forms)}"
        reader.fault(node, f"{what}: {hint}")
        return None
    entries = reader.table(node, what, (chosen[0], *extras.get(chosen[0], ())))
    return forms[chosen[0]](entries)


def _text(reader: _Reader, node: yaml.Node | None, what: str) -> m.Text | None:
    if node is None:
        return None

    def column(entries: dict[str, yaml.Node]) -> m.Text | None:
        name = reader.text(entries["column"], f"{what}.column")
        listed = None
        if "values" in entries:
            table = reader.table(entries["values"], f"{what}.values", None)
            listed = tuple((key, reader.text(value, f"{what}.values.{key}") or "") for key, value in table.items())
        if "otherwise" in entries and listed is None:
            reader.fault(entries["otherwise"], f"{what}.otherwise needs `values`")
        first = reader.whole(entries.get("first"), f"{what}.first", 1, 1000)
        lower = reader.flag(entries.get("lower"), f"{what}.lower")
        otherwise = reader.text(entries.get("otherwise"), f"{what}.otherwise")
        default = reader.text(entries.get("default"), f"{what}.default")
        return None if name is None else m.FromColumn(name, first, lower, listed, otherwise, default)

    def constant(entries: dict[str, yaml.Node]) -> m.Text | None:
        word = reader.text(entries["constant"], f"{what}.constant")
        return None if word is None else m.Constant(word)

    def join(entries: dict[str, yaml.Node]) -> m.Text | None:
        separator = reader.text(entries.get("separator"), f"{what}.separator")
        prefix = reader.text(entries.get("prefix"), f"{what}.prefix") or ""
        row, hashed = reader.flag(entries.get("row"), f"{what}.row"), reader.flag(entries.get("hash"), f"{what}.hash")
        names = reader.texts(entries["join"], f"{what}.join")
        return m.Joined(names, ":" if separator is None else separator, prefix, row, hashed)

    def cases(entries: dict[str, yaml.Node]) -> m.Text | None:
        found: list[tuple[m.Condition, str]] = []
        for item in _items(reader, entries["cases"], f"{what}.cases"):
            case = reader.table(item, f"{what}.cases", ("when", "then"), ("when", "then"))
            condition = _condition(reader, case.get("when"), f"{what}.cases.when", DEPTH_MAX)
            word = reader.text(case.get("then"), f"{what}.cases.then")
            if condition is not None and word is not None:
                found.append((condition, word))
        return m.Cases(tuple(found), reader.text(entries.get("otherwise"), f"{what}.otherwise"))

    extras = {
        "column": ("first", "lower", "values", "otherwise", "default"),
        "join": ("separator", "prefix", "row", "hash"),
        "cases": ("otherwise",),
    }
    return _one_form(reader, node, what, {"column": column, "constant": constant, "join": join, "cases": cases}, extras)


def _time(reader: _Reader, node: yaml.Node | None, zone: ZoneInfo | None, ambiguous: str, nonexistent: str) -> m.Time | None:
    if node is None:
        return None
    what = "columns.occurred_at"
    entries = reader.table(node, what, ("column", "format", "unit"), ("column",))
    name = reader.text(entries.get("column"), f"{what}.column")
    unit = reader.choice(entries.get("unit"), f"{what}.unit", UNITS_PER_SECOND, "") or None
    pattern = reader.text(entries.get("format"), f"{what}.format")
    if unit is not None and pattern is not None:
        reader.fault(entries["unit"], f"{what} has both `format` and `unit`: a time is either text or a number")
    if pattern is not None and "%" not in pattern:
        reader.fault(entries["format"], f"{what}.format is {pattern!r}; it is a pattern such as %d/%m/%Y %H:%M")
    return None if name is None or zone is None else m.Time(name, TimeRule(zone, pattern, unit, ambiguous, nonexistent))


def _amount(reader: _Reader, node: yaml.Node | None) -> m.Amount | None:
    if node is None:
        return None
    what = "columns.amount"

    def amount(names: tuple[str, ...], entries: dict[str, yaml.Node]) -> m.Amount | None:
        scale = reader.whole(entries.get("scale"), f"{what}.scale", 0, SCALE_MAX)
        if "scale" not in entries:
            reader.fault(node, f"{what} lacks `scale`: the currency's number of decimals, such as 2; 0 where minor units are given")
        return m.Amount(names, scale or 0) if names else None

    def column(entries: dict[str, yaml.Node]) -> m.Amount | None:
        name = reader.text(entries["column"], f"{what}.column")
        return amount(() if name is None else (name,), entries)

    def product(entries: dict[str, yaml.Node]) -> m.Amount | None:
        return amount(reader.texts(entries["product"], f"{what}.product"), entries)

    return _one_form(reader, node, what, {"column": column, "product": product}, {"column": ("scale",), "product": ("scale",)})


def _quantity(reader: _Reader, node: yaml.Node | None) -> m.Quantity | None:
    if node is None:
        return None
    what = "columns.quantity"

    def column(entries: dict[str, yaml.Node]) -> m.Quantity | None:
        name = reader.text(entries["column"], f"{what}.column")
        return None if name is None else m.Quantity(name)

    def constant(entries: dict[str, yaml.Node]) -> m.Quantity | None:
        number = reader.whole(entries["constant"], f"{what}.constant", 0, 10**12)
        return None if number is None else m.Quantity(None, number)

    return _one_form(reader, node, what, {"column": column, "constant": constant}, {})


def _group_by(reader: _Reader, node: yaml.Node | None) -> m.GroupBy | None:
    if node is None:
        return None
    entries = reader.table(node, "group_by", ("columns", "lines_property"), ("columns",))
    columns = reader.texts(entries.get("columns"), "group_by.columns")
    return m.GroupBy(columns, reader.text(entries.get("lines_property"), "group_by.lines_property")) if columns else None


def _refund(reader: _Reader, node: yaml.Node | None) -> m.Refund | None:
    if node is None:
        return None
    entries = reader.table(node, "refund", ("when", "event_type", "id_suffix"), ("when",))
    condition = _condition(reader, entries.get("when"), "refund.when", DEPTH_MAX)
    word = reader.text(entries.get("event_type"), "refund.event_type") or "refund"
    suffix = reader.text(entries.get("id_suffix"), "refund.id_suffix") or ""
    return None if condition is None else m.Refund(condition, word, suffix)


def _skip(reader: _Reader, node: yaml.Node) -> m.Skip | None:
    entries = reader.table(node, "skip", ("reason", "when"), ("reason", "when"))
    reason = reader.text(entries.get("reason"), "skip.reason")
    condition = _condition(reader, entries.get("when"), "skip.when", DEPTH_MAX)
    return None if reason is None or condition is None else m.Skip(reason, condition)


def _condition(reader: _Reader, node: yaml.Node | None, what: str, depth: int) -> m.Condition | None:
    if node is None:
        return None
    if depth == 0:
        reader.fault(node, f"{what} nests deeper than {DEPTH_MAX} levels")
        return None

    def several(key: str) -> Callable[[dict[str, yaml.Node]], m.Condition | None]:
        def read(entries: dict[str, yaml.Node]) -> m.Condition | None:
            parts = [_condition(reader, item, what, depth - 1) for item in _items(reader, entries[key], f"{what}.{key}")]
            found = tuple(part for part in parts if part is not None)
            return m.AnyOf(found) if key == "any" else m.AllOf(found)

        return read

    def negated(entries: dict[str, yaml.Node]) -> m.Condition | None:
        part = _condition(reader, entries["not"], what, depth - 1)
        return None if part is None else m.Not(part)

    def column(entries: dict[str, yaml.Node]) -> m.Condition | None:
        return _test(reader, node, entries, what)

    forms: dict[str, Callable[[dict[str, yaml.Node]], m.Condition | None]]
    forms = {"column": column, "any": several("any"), "all": several("all"), "not": negated}
    return _one_form(reader, node, what, forms, {"column": tuple(OPERATIONS)})


def _test(reader: _Reader, node: yaml.Node, entries: dict[str, yaml.Node], what: str) -> m.Condition | None:
    name = reader.text(entries["column"], f"{what}.column")
    chosen = [operation for operation in OPERATIONS if operation in entries]
    if len(chosen) != 1:
        reader.fault(node, f"{what} compares `column` in exactly one way: {', '.join(OPERATIONS)}")
        return None
    operation = chosen[0]
    operand_node = entries[operation]
    operand: object
    if operation == "is_empty":
        operand = reader.flag(operand_node, f"{what}.is_empty")
    elif operation == "one_of":
        operand = frozenset(reader.texts(operand_node, f"{what}.one_of"))
    else:
        operand = reader.text(operand_node, f"{what}.{operation}")
        if operand is None:
            return None
        if operation in NUMERIC:
            operand = _decimal(reader, operand_node, str(operand), f"{what}.{operation}")
        elif operation == "matches":
            operand = _pattern(reader, operand_node, str(operand), what)
    return None if name is None or operand is None else m.Test(name, operation, operand)


def _decimal(reader: _Reader, node: yaml.Node, word: str, what: str) -> Decimal | None:
    number: Decimal | Refusal = number_of(word, NumberRule())
    if isinstance(number, str):
        reader.fault(node, f"{what} is {word!r}; it is a number")
        return None
    return number


def _pattern(reader: _Reader, node: yaml.Node, word: str, what: str) -> re.Pattern[str] | None:
    try:
        return re.compile(word)
    except re.error as error:
        reader.fault(node, f"{what}.matches is no regular expression: {error}")
        return None
