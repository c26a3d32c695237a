"""`streamer segments`: who they are and how big."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from streamer.app.session import session_of

app = typer.Typer(add_completion=False)


@app.command()
def segments(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the segments: name, size, and what sets each apart.

    Shares are of the customers that have been judged. What sets a segment apart are the features whose centroid differs most from the
    average customer: z is by how many standard deviations, and the value before it is what that comes to in the feature's own unit.
    """
    from streamer.app.looking import read_facts, status_of
    from streamer.app.showing import segments_table
    from streamer.app.wiring import sources

    with sources(session_of(context).config()) as found:
        seen = status_of(read_facts(found))
    if as_json:
        whole = asdict(seen)
        chosen = ("state", "model", "epoch", "customers", "not_judged", "segments", "waiting", "advice")
        typer.echo(json.dumps({name: whole[name] for name in chosen}, indent=2, ensure_ascii=False))
        return
    console = Console()
    if seen.segments:
        console.print(segments_table(seen.segments))
        judged = sum(segment.customers for segment in seen.segments)
        left = f"; {seen.not_judged:,} more are not judged yet" if seen.not_judged else ""
        console.print(f"{judged:,} customers, model version {seen.model}, epoch {seen.epoch}{left}")
    for advice in seen.advice:
        console.print(Text(advice, style="yellow"))
