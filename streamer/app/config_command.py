"""`streamer config`: the effective configuration, and every key there is."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from streamer.app.session import session_of

app = typer.Typer(add_completion=False)


@app.command()
def config(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, values in the units of the keys.")] = False,
    reference: Annotated[bool, typer.Option("--reference", help="Print every key with its default and meaning, as Markdown.")] = False,
) -> None:
    """Show the effective configuration and where each value comes from."""
    if reference:
        from streamer.app.config_reference import tables

        typer.echo(tables())
        return
    from streamer.app.config import shown

    table = shown(session_of(context).config())
    if as_json:
        typer.echo(json.dumps({key: {"value": one.value, "origin": one.origin} for key, one in table.items()}, indent=2))
        return
    widths = [max(len(key) for key in table), max(len(one.text) for one in table.values())]
    for key, one in table.items():
        typer.echo(f"{key:<{widths[0]}}  {one.text:<{widths[1]}}  {one.origin}")
