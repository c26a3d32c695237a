"""`offline`: the command line of the nightly job and its tools."""

from __future__ import annotations

import sys
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from offline import (
    backtest_command,
    drift_command,
    models_command,
    parity_command,
    report_command,
    reseed_command,
    segment_command,
)
from offline.session import Session, session_of
from streamer.core.exits import exit_status, message

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
app.command()(segment_command.segment)
app.command()(reseed_command.reseed)
app.command()(backtest_command.backtest)
app.command()(report_command.report)
app.command()(parity_command.parity)
app.command()(drift_command.drift)
app.add_typer(models_command.app, name="models")


def _version(asked: bool) -> None:  # noqa: FBT001  # typer calls it
    if asked:
        typer.echo(f"offline {version('segment-streamer')}")
        raise typer.Exit


@app.callback()
def offline(
    context: typer.Context,
    settings: Annotated[
        Path | None,
        typer.Option("--settings", "-c", envvar="OFFLINE_SETTINGS", help="The YAML file with the section `offline`.", metavar="FILE"),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,  # noqa: FBT002
    show_version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,  # noqa: ARG001, FBT002
) -> None:
    """Fit segments from the full history, or from one file: tools for data engineers and ML engineers."""
    session = session_of(context)
    session.file, session.debug = settings, debug


def main() -> None:
    """Run the command line; an error that a person can mend is one line on standard error and an exit status."""
    session = Session()
    try:
        app(obj=session)
    except Exception as error:  # noqa: BLE001  # the outermost place: every error ends here as a line and a status
        if session.debug:
            traceback.print_exception(error)
        typer.echo(f"offline: {message(error)}", err=True)
        sys.exit(exit_status(error))
