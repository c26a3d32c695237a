"""`offline`: the command line of the nightly job and its tools."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


def _version(asked: bool) -> None:  # noqa: FBT001  # typer calls it
    if asked:
        typer.echo(f"offline {version('segment-streamer')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def offline(
    show_version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,  # noqa: FBT002
) -> None:
    """Fit segments from the full history: tools for data engineers and ML engineers."""


def main() -> None:
    """Run the command line."""
    app()
