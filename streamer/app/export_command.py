"""`streamer export`: segments as files for SQL and BI."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamer.app.session import session_of
from streamer.core.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Iterable

ABOUT = "Write segments to a Parquet or CSV file: who is in which, and what changed."
app = typer.Typer(add_completion=False, no_args_is_help=True, help=ABOUT)

ENDLESS_MS = 2**62
TO = Annotated[Path, typer.Argument(help="The file; its ending, .parquet or .csv, says which sort.", metavar="FILE", show_default=False)]


@app.command()
def membership(context: typer.Context, file: TO) -> None:
    """Write each customer's segment as it is now, a row each, from Redis."""
    from streamer.app.exporting import MEMBERSHIP
    from streamer.app.exporting import membership as members
    from streamer.app.wiring import sources

    with sources(session_of(context).config()) as found:
        _write(file, MEMBERSHIP, members(found), "customers")


@app.command()
def changes(
    context: typer.Context,
    file: TO,
    begin: Annotated[str | None, typer.Option("--from", help="Of this time on (UTC), such as 2026-11-01 or 2026-11-01T12:30.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="Before this time.")] = None,
) -> None:
    """Write the segment changes that occurred in a period of event time, as far as the topic still has them."""
    from streamer.app.exporting import CHANGES
    from streamer.app.exporting import changes as told
    from streamer.app.wiring import kafka_tail

    period = _time(begin, -ENDLESS_MS), _time(end, ENDLESS_MS)
    config = session_of(context).config()
    tail = kafka_tail(config)
    try:
        _write(file, CHANGES, told(tail, config.topics.changes, *period), "changes")
    finally:
        tail.close()


def _write(file: Path, columns: dict[str, str], parts: Iterable[list[dict[str, Any]]], what: str) -> None:
    from streamer.adapters.exports import exported

    rows = 0
    with exported(file, columns) as take:
        for part in parts:
            take(part)
            rows += len(part)
    typer.echo(f"{rows:,} {what} written to {file}")


def _time(text: str | None, otherwise: int) -> int:
    """Read a time, UTC where it names no zone; in ms."""
    if text is None:
        return otherwise
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        message = f"{text!r} is no time: give one such as 2026-11-01 or 2026-11-01T12:30"
        raise Misconfigured(message) from None
    return round((read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp() * 1000)
