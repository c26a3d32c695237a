"""`streamer reconcile`: tell everybody's present segment again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from streamer.app.session import session_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from streamer.app.looking import Sources, Status

app = typer.Typer(add_completion=False)

OVERTAKEN = 1


@app.command()
def reconcile(
    context: typer.Context,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until every partition has told, or only ask for it.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object, a line each time something has moved.")] = False,
    interval: Annotated[float, typer.Option("--interval", min=0.1, max=3600, help="Seconds between two looks while it waits.")] = 1.0,
) -> None:
    """Tell everybody's present segment again, for subscribers who may have lost something; those who have not pass it over."""
    from streamer.app.wiring import sources

    with sources(session_of(context).config()) as found:
        request = ask(found)
        if not wait:
            typer.echo(_line(request, None) if as_json else f"request {request}: `streamer status` shows how far it is")
            return
        try:
            ended = _show(request, looks(found, request, interval), as_json=as_json)
        except KeyboardInterrupt:
            typer.echo(f"request {request} goes on: `streamer status` shows how far it is", err=True)
            return
    if not ended:
        typer.echo(f"request {request} is not known any more: another one took its place, or Redis lost it; ask again", err=True)
        raise typer.Exit(OVERTAKEN)


def ask(found: Sources) -> str:
    """Ask the workers; returns the request's id.

    Raises:
        Misconfigured: there is no topic of events.
        Unavailable: Redis or Kafka doesn't answer.

    """
    from secrets import token_hex

    from streamer.app.changes import RECONCILE
    from streamer.app.looking import partition_counts
    from streamer.core.errors import Misconfigured

    if partition_counts(found)[1] is None:
        message = f"there is no topic {found.place.events}: nobody has a segment yet"
        raise Misconfigured(message)
    request = token_hex(6)
    found.store.ask(RECONCILE, request.encode())
    return request


def looks(found: Sources, request: str, interval_s: float) -> Iterator[Status]:
    """Look until all partitions have told, or the request is not the latest any more; who counts is who looks last."""
    from streamer.app.status_command import look

    while True:
        seen = look(found)
        yield seen
        if seen.reconcile is None or seen.reconcile.request != request or seen.reconcile.done:
            return
        time.sleep(interval_s)


def _show(request: str, seen: Iterator[Status], *, as_json: bool) -> bool:
    """Show how far it is until it is over; tells whether it came to its end."""
    latest: Status | None = None
    if as_json:
        told = ""
        for latest in seen:
            line = _line(request, latest)
            if line != told:
                typer.echo(line)
            told = line
    else:
        with Live(console=Console(stderr=True), auto_refresh=False) as live:
            for latest in seen:
                live.update(screen(latest), refresh=True)
    return latest is not None and latest.reconcile is not None and latest.reconcile.request == request


def screen(seen: Status) -> RenderableType:
    """Lay out how far each partition is."""
    from streamer.app.showing import table
    from streamer.app.status_command import reconcile_line

    columns = table(("part", "right"), ("told again", ""), ("customers so far", "right"), ("of", "right"))
    for p in seen.partitions:
        waits = f"{p.reconcile}, the sweep first" if p.reconcile != "done" and p.sweep in {"running", "rebuilding"} else p.reconcile
        columns.add_row(str(p.partition), waits, f"{p.reconciled:,}", f"{p.customers:,}")
    return Group(columns, Text("" if seen.reconcile is None else reconcile_line(seen.reconcile)))


def _line(request: str, seen: Status | None) -> str:
    """Write how far it is for machines."""
    import json

    partitions = () if seen is None else seen.partitions
    mine = seen is not None and seen.reconcile is not None and seen.reconcile.request == request
    return json.dumps(
        {
            "request": request,
            "done": mine and all(p.reconcile == "done" for p in partitions),
            "partitions": [
                {"partition": p.partition, "state": p.reconcile, "reconciled": p.reconciled, "customers": p.customers} for p in partitions
            ],
        }
    )
