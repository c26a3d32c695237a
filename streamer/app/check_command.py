"""`streamer check`: compare the model's sums with the profiles."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from streamer.app.session import session_of

app = typer.Typer(add_completion=False)

FOUND = 1


@app.command()
def check(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare the model's sums with the profiles, and name profiles that are damaged or were altered."""
    from streamer.app.wiring import check_all

    config = session_of(context).config()
    columns = SpinnerColumn(), TextColumn("{task.completed:,} profiles read")
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("reading", total=None)
        report = check_all(config, lambda n: progress.advance(bar, n))
    if as_json:
        typer.echo(json.dumps({"clean": report.clean, **asdict(report)}, indent=2))
    else:
        for finding in report.findings:
            customer = "" if finding.customer is None else f"customer {finding.customer}: "
            typer.echo(f"partition {finding.partition}: {customer}{finding.what}")
        for partition in report.busy:
            typer.echo(f"partition {partition}: changed while it was read; run this again when there is less traffic")
        verdict = "sums and profiles agree" if report.clean else "NOT as it should be"
        typer.echo(f"{report.customers:,} customers, {report.votes:,} votes: {verdict}")
    if not report.clean:
        raise typer.Exit(FOUND)
