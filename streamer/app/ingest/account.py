"""The account of a file in words and tables, for people."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from rich.table import Table

from streamer.app.ingest.rejects import remedy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamer.app.ingest.load import Loaded, Totals
    from streamer.app.ingest.mapping import Mapping

CHARACTERS_MAX = 60


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


def nothing_usable(loaded: Loaded) -> str:
    """Say why a file gave no event at all, with an example of the commonest reason."""
    totals = loaded.totals
    if not totals.rows_read:
        return "the file has no rows"
    counts = {**totals.skipped, **totals.rejected}
    reason = max(counts, key=lambda name: counts[name])
    piece = next(piece for piece in loaded.refused if piece.reason == reason)
    value = "" if piece.values[0] is None else f" {piece.values[0][:CHARACTERS_MAX]!r}"
    where = f"row {int(piece.rows[0])}, {piece.column or piece.field or 'the whole row'}{value}"
    advice = remedy(str(reason)) or "it is a skip rule of the mapping"
    return f"none of {totals.rows_read:,} rows makes an event; most ({counts[reason]:,}) because of {reason}, as {where}: {advice}"


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
