"""`streamer erase`: erase a customer, and see what is left of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from streamer.app.session import session_of

if TYPE_CHECKING:
    from streamer.app.config import Config
    from streamer.app.erasing import Left

app = typer.Typer(add_completion=False)

LEFT = 1


@app.command()
def erase(
    context: typer.Context,
    customer_id: Annotated[str, typer.Argument(help="The customer's id.", metavar="ID")],
    status: Annotated[bool, typer.Option("--status", help="Erase nobody: tell what was deleted, and what still waits.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    scan: Annotated[
        int,
        typer.Option("--scan", min=1, max=100_000_000, help="How many of the last records of each partition `--status` looks through."),
    ] = 1_000_000,
) -> None:
    """Erase a customer: profile, vote and later events, with a notice and a tombstone for subscribers.

    The command goes to every partition of the events and is carried out in its place among them. With --status: exit status 1 while
    anything is left.
    """
    config = session_of(context).config()
    if status:
        left = _look(config, customer_id, scan)
        if as_json:
            body = {"clean": left.clean, **asdict(left)}
            typer.echo(json.dumps(body, indent=2))
        else:
            _show(Console(), left)
        if not left.clean:
            raise typer.Exit(LEFT)
        return
    partitions = send(config, customer_id)
    if as_json:
        typer.echo(json.dumps({"topic": config.topics.events, "partitions": partitions}))
    else:
        typer.echo(f"sent to all {partitions} partitions of {config.topics.events}: `streamer erase --status ID` tells what is left")


def send(config: Config, customer_id: str) -> int:
    """Send the command to every partition; returns how many, once all are acknowledged.

    Raises:
        BadInput: no event can have such an id.
        Misconfigured: there is no topic of events.
        Unavailable: Kafka or the schema registry doesn't answer.

    """
    from streamer.app.clock import SystemClock
    from streamer.app.erasing import commands
    from streamer.app.wiring import event_producer, events_schema, input_partitions, schema_source
    from streamer.core.errors import BadInput

    if not 0 < len(customer_id.encode()) <= config.limits.customer_id_bytes_max:
        message = f"an id has 1 to {config.limits.customer_id_bytes_max} bytes, this one {len(customer_id.encode())}: check it"
        raise BadInput(message)
    partitions = input_partitions(config)
    schema_id = events_schema(config, schema_source(config))
    producer = event_producer(config)
    try:
        producer.send(commands(customer_id, partitions, schema_id, SystemClock().now_ms()))
        producer.wait(config.kafka.timeout_s)
    finally:
        producer.close()
    return partitions


def _look(config: Config, customer_id: str, scan: int) -> Left:
    from streamer.app.erasing import look
    from streamer.app.wiring import erasure_rule, history_writer, sources

    history = None if config.history.url is None else history_writer(config)
    with sources(config) as found:
        rows = None if history is None else lambda partition: history.rows_of(partition, customer_id)
        return look(found, erasure_rule(config), customer_id, scan, rows)


def _show(console: Console, left: Left) -> None:
    from streamer.app.showing import table

    columns = table(
        ("part", "right"), ("command", ""), ("offset", "right"), ("profile", ""), ("outbox", ""), ("changes", ""), ("history", "right")
    )
    for p in left.partitions:
        changes = f"{p.changes:,} before the tombstone" if p.tombstone and p.changes else f"{p.changes:,}" if p.changes else "none"
        columns.add_row(
            str(p.partition),
            p.command,
            "" if p.command_offset is None else f"{p.command_offset:,}",
            "there" if p.profile else "gone",
            "named in it" if p.outbox else "clean",
            changes,
            "-" if p.history_rows is None else f"{p.history_rows:,}",
        )
    console.print(columns)
    if not left.complete:
        console.print("Topics reach further back than was looked: `--scan` looks further.")
    if left.clean:
        console.print("Nothing is left.")
        return
    if any(p.command == "not found" for p in left.partitions):
        console.print("Some partitions have no command: send it with `streamer erase ID`.")
    if any(p.command == "waiting" for p in left.partitions):
        console.print("Some partitions have still to come to the command: see `streamer status` for the lag.")
    if any(p.changes for p in left.partitions):
        console.print("The broker has still to compact the topic of changes: `topics.change_compaction_lag_s` says how long that may take.")
    if any(p.history_rows for p in left.partitions):
        console.print("History has still to be scrubbed: an archiver does so each hour, and `streamer archive --compact` at once.")
