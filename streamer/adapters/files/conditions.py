"""Conditions over a chunk's columns, each judged once per distinct value.

Law: an empty cell answers only `is_empty`, and a value that is no number answers no numeric comparison: both are false elsewhere. Texts are
compared as `values.text_of` writes them, case and all.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, cast

import numpy as np

from streamer.adapters.files.mapping import AnyOf, Not, Test
from streamer.adapters.files.values import number_of

if TYPE_CHECKING:
    import re
    from collections.abc import Callable

    from streamer.adapters.files.cells import Cells
    from streamer.adapters.files.mapping import Condition
    from streamer.core.columns import Bool

NUMERIC: dict[str, Callable[[Decimal, Decimal], bool]] = {
    "less_than": lambda number, bound: number < bound,
    "at_most": lambda number, bound: number <= bound,
    "greater_than": lambda number, bound: number > bound,
    "at_least": lambda number, bound: number >= bound,
}
TEXTUAL: dict[str, Callable[[str, object], bool]] = {
    "equals": lambda text, operand: text == operand,
    "one_of": lambda text, operand: text in cast("frozenset[str]", operand),
    "starts_with": lambda text, operand: text.startswith(cast("str", operand)),
    "matches": lambda text, operand: cast("re.Pattern[str]", operand).fullmatch(text) is not None,
}
OPERATIONS = ("is_empty", *TEXTUAL, *NUMERIC)


def holds(condition: Condition, cells: Cells) -> Bool:
    """Judge a condition on every row of a chunk: (n,)."""
    if isinstance(condition, Test):
        return _tested(condition, cells)
    if isinstance(condition, Not):
        return ~holds(condition.condition, cells)
    parts = [holds(part, cells) for part in condition.conditions]
    if isinstance(condition, AnyOf):
        return np.logical_or.reduce(parts) if parts else np.zeros(len(cells), np.bool_)
    return np.logical_and.reduce(parts) if parts else np.ones(len(cells), np.bool_)


def _tested(test: Test, cells: Cells) -> Bool:
    codes = cells.codes(test.column)
    if test.operation == "is_empty":
        return (codes < 0) if test.operand else (codes >= 0)
    if test.operation in NUMERIC:
        compare = NUMERIC[test.operation]
        bound = cast("Decimal", test.operand)
        numbers = (number_of(value, cells.numbers) for value in cells.values(test.column))
        answers = [isinstance(number, Decimal) and compare(number, bound) for number in numbers]
    else:
        says = TEXTUAL[test.operation]
        answers = [says(text, test.operand) for text in cells.texts(test.column)]
    return np.array([*answers, False], np.bool_)[codes]
