"""The account of a file in words and tables, for people."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from rich.table import Table

from streamer.adapters.files.rejects import remedy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamer.adapters.files.load import Totals
    from streamer.adapters.files.mapping import Mapping


def account(totals: Totals, mapping: Mapping) -> Table:
    """Show where every row went, and what became of the rows used."""
    table = Table(title=f"Rows, by the mapping {mapping.name}", title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    table.add_row("read", f"{totals.rows_read:,}", "")
    table.add_row("used in events", f"{totals.rows_used:,}", "; ".join(_events(totals, mapping)))
    for reason, count in totals.skipped.items():
        table.add_row(f"skipped: {reason}", f"{count:,}", "by a rule of the mapping")
    for reason, count in totals.rejected.items():
        table.add_row(f"rejected: {reason}", f"{count:,}", remedy(reason))
    return table


def _events(totals: Totals, mapping: Mapping) -> Iterator[str]:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in totals.event_types.items())
    yield f"{totals.events:,} events ({kinds}) of {totals.customers:,} customers"
    if totals.first_ms is not None and totals.last_ms is not None:
        yield f"{_day(totals.first_ms)} to {_day(totals.last_ms)}"
    if mapping.amount is not None:
        for (kind, currency), amount in totals.amounts.items():
            yield f"{kind} {Decimal(amount).scaleb(-mapping.amount.scale):,f} {currency}".rstrip()


def _day(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d")
