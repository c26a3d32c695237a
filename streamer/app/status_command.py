"""`streamer status`: how far the job is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from streamer.app.session import session_of
from streamer.core.errors import Unavailable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from streamer.app.looking import AdoptionLook, ReconcileLook, Sources, Status

app = typer.Typer(add_completion=False)

SWEEPS = {"none": "-", "running": "running", "done": "done", "rebuilding": "rebuilding"}


@app.command()
def status(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object; with --watch, one a line.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again and again, until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option("--interval", min=0.1, max=3600, help="Seconds between two looks of --watch.")] = 2.0,
) -> None:
    """Show how far the job is: partitions, lag, model, sizes of segments."""
    from streamer.app.showing import as_json as written
    from streamer.app.wiring import sources

    with sources(session_of(context).config()) as found:
        if not watch:
            seen = look(found)
            if as_json:
                typer.echo(written(seen))
            else:
                Console().print(screen(seen))
            return
        try:
            _watch(found, interval, as_json=as_json)
        except KeyboardInterrupt:
            return


def look(found: Sources) -> Status:
    """Look once."""
    from streamer.app.looking import read_facts, status_of

    return status_of(read_facts(found))


def _watch(found: Sources, interval_s: float, *, as_json: bool) -> None:
    """Look until interrupted; a server that is away for a while is told, and looked for again."""
    from streamer.app.showing import as_json as written

    if as_json:
        while True:
            typer.echo(written(look(found), indent=None))
            time.sleep(interval_s)
    with Live(console=Console(), auto_refresh=False) as live:
        while True:
            try:
                live.update(screen(look(found)), refresh=True)
            except Unavailable as error:
                live.update(Text(str(error), style="red"), refresh=True)
            time.sleep(interval_s)


def reconcile_line(seen: ReconcileLook) -> str:
    """Say how far telling everybody's segment again is."""
    progress = "done" if seen.done else f"{seen.partitions_done} of {seen.partitions} partitions done"
    return f"everybody's segment is told again (request {seen.request}): {progress}, {seen.customers:,} customers so far"


def adoption_line(seen: AdoptionLook) -> str:
    """Say how far the adoption of a version is."""
    progress = f"{seen.partitions_done} of {seen.partitions} partitions done, {seen.judged:,} of {seen.customers:,} customers judged by it"
    return f"version {seen.model} is being adopted: {progress}"


MINUTE = "2026-01-31 23:59"  # seconds would not fit eighty columns


def screen(seen: Status) -> RenderableType:
    """Lay a status out."""
    from streamer.app.showing import table, utc

    parts: list[RenderableType] = [Text(f"{seen.app} in namespace {seen.namespace}, events from {seen.topic}", style="bold")]
    if seen.partitions:
        columns = table(
            ("part", "right"),
            ("owner", ""),
            ("next", "right"),
            ("end", "right"),
            ("lag", "right"),
            ("watermark (UTC)", ""),
            ("model", "right"),
            ("sweep", ""),
            ("customers", "right"),
        )
        for p in seen.partitions:
            columns.add_row(
                str(p.partition),
                "known" if p.owned else "never",
                f"{p.next_offset:,}",
                f"{p.end_offset:,}",
                f"{p.lag_records:,}",
                utc(p.watermark_ms)[: len(MINUTE)],
                f"{p.model}.{p.epoch}" if p.model else "-",
                SWEEPS[p.sweep],
                f"{p.customers:,}",
            )
        columns.add_section()
        model = f"{seen.model}.{seen.epoch}" if seen.model else "-"
        totals = f"{seen.next_offset:,}", f"{seen.end_offset:,}", f"{seen.lag_records:,}"
        columns.add_row("all", "", *totals, "", model, "", f"{seen.customers:,}", style="bold")
        parts.append(columns)
    if seen.segments:
        sizes = table(("segment", ""), ("name", ""), ("customers", "right"), ("share", "right"))
        for segment in seen.segments:
            sizes.add_row(segment.segment_id, escape(segment.name), f"{segment.customers:,}", f"{segment.share:.1%}")
        if seen.not_judged:
            sizes.add_row("", "not judged yet: the sweep will come by", f"{seen.not_judged:,}", "")
        parts.append(sizes)
    if seen.adoption is not None:
        parts.append(Text(adoption_line(seen.adoption)))
    if seen.reconcile is not None:
        parts.append(Text(reconcile_line(seen.reconcile)))
    parts += [Text(advice, style="yellow") for advice in seen.advice]
    return Group(*parts)
