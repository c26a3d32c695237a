"""`streamer`: the command line.

Law: a command's module is imported when the command runs, so that help is quick. To add a command, export a `typer.Typer` named `app`
from a module of `streamer.app` and give it a line in `COMMANDS`.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
import typer.core

from streamer import __version__
from streamer.app.session import Session, session_of
from streamer.core.exits import exit_status, message


class Command(NamedTuple):
    """Where a command is and its line in the list of commands."""

    module: str
    help: str


COMMANDS = {
    "check": Command(
        "streamer.app.check_command", "Compare the model's sums with the profiles, and name profiles that are damaged or were altered."
    ),
    "demo": Command(
        "streamer.app.demo_command",
        "Run the whole job on real servers started for it: simulated customers in, segments out, a worker killed on the way.",
    ),
    "demo-retail": Command(
        "streamer.app.demo_retail_command", "Run the whole job on real servers started for it: a shop's real orders in, segments out."
    ),
    "reconcile": Command(
        "streamer.app.reconcile_command",
        "Tell everybody's present segment again, for subscribers who may have lost something; those who have not pass it over.",
    ),
    "erase": Command(
        "streamer.app.erase_command",
        "Erase a customer: profile, vote and later events, with a notice and a tombstone for subscribers.",
    ),
    "merge": Command(
        "streamer.app.merge_command",
        "Merge a customer's id into another: what is known of OLD becomes NEW's, and so do OLD's events for a while.",
    ),
    "ingest": Command(
        "streamer.app.ingest_command",
        "Turn a file of rows into events by a mapping and send them, each customer's in the order of their time.",
    ),
    "run": Command(
        "streamer.app.run_command",
        "Consume events, keep profiles, publish segment changes, until SIGTERM or SIGINT; start more of these to scale.",
    ),
    "archive": Command(
        "streamer.app.archive_command",
        "Write events and the journal to history (Parquet files), until SIGTERM or SIGINT; start more of these to scale.",
    ),
    "status": Command("streamer.app.status_command", "Show how far the job is: partitions, lag, model, sizes of segments."),
    "segments": Command("streamer.app.segments_command", "Show the segments: name, size, and what sets each apart."),
    "customer": Command(
        "streamer.app.customer_command", "Show what is known of a customer: profile, features, segment, distances, recent changes and why."
    ),
    "tail": Command("streamer.app.tail_command", "Show segment changes as they come, a line each, until Ctrl-C."),
    "export": Command("streamer.app.export_command", "Write segments to a Parquet or CSV file: who is in which, and what changed."),
    "dlq": Command("streamer.app.dlq_command", "Look at dead letters, and send them round again after a fix."),
    "simulate": Command("streamer.app.simulate_command", "Send a shop's traffic, made up from personas whose behaviour is known."),
    "config": Command("streamer.app.config_command", "Show the effective configuration and where each value comes from."),
    "features": Command("streamer.app.features_command", "Show the measures and features of a declaration, and its feature version."),
    "schemas": Command("streamer.app.schemas_command", "The Avro schemas of the topics."),
    "servers": Command("streamer.app.servers_command", "Start and stop a real Kafka and a real Valkey, without root, Docker or Java."),
}


class LazyCommand(typer.core.TyperCommand):
    """A command that is imported when it is called."""

    def __init__(self, name: str, command: Command) -> None:
        super().__init__(name, help=command.help)
        self.module = command.module

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:  # noqa: ANN401  # as it is inherited
        """Import the command and hand over to it."""
        real = typer.main.get_command(importlib.import_module(self.module).app)
        real.name = self.name
        return real.make_context(info_name, args, parent=parent, **extra)


class LazyGroup(typer.core.TyperGroup):
    """The root command, which knows its commands by name only."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401, ARG002  # as it is inherited
        """Name the commands, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> LazyCommand | None:  # noqa: ANN401, ARG002
        """Give a command by its name."""
        return LazyCommand(cmd_name, COMMANDS[cmd_name]) if cmd_name in COMMANDS else None


app = typer.Typer(cls=LazyGroup, add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


def _version(asked: bool) -> None:  # noqa: FBT001  # typer calls it
    if asked:
        typer.echo(f"streamer {__version__}")
        raise typer.Exit


@app.callback()
def streamer(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", envvar="STREAMER_CONFIG", help="The YAML file with the configuration.", metavar="FILE")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,  # noqa: FBT002
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,  # noqa: ARG001, FBT002
) -> None:
    """Segment customers as they behave: events in on Kafka, segment changes out."""
    session = session_of(context)
    session.file = config
    session.debug = debug


def main() -> None:
    """Run the command line; an error that a person can mend is one line on standard error and an exit status."""
    session = Session(environment=dict(os.environ))
    logging.getLogger("streamer").addHandler(logging.NullHandler())  # `streamer run` shows log lines, other commands say what matters
    try:
        app(obj=session)
    except Exception as error:  # noqa: BLE001  # the outermost place: every error ends here as a line and a status
        if session.debug:
            traceback.print_exception(error)
        typer.echo(f"streamer: {message(error)}", err=True)
        sys.exit(exit_status(error))
