"""`streamer merge`: make one customer of two ids."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from streamer.app.session import session_of

if TYPE_CHECKING:
    from streamer.app.config import Config

app = typer.Typer(add_completion=False)

WORD = "into"


@app.command()
def merge(
    context: typer.Context,
    old: Annotated[str, typer.Argument(help="The id that goes.", metavar="OLD")],
    words: Annotated[list[str], typer.Argument(help="The id that stays; `into` may stand before it.", metavar="[into] NEW")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Merge a customer's id into another: what is known of OLD becomes NEW's, and so do OLD's events for a while.

    The command goes to every partition of the events and is carried out in its place among them. OLD leaves its segment with the cause
    `merged`; NEW is judged anew when OLD's profile has arrived. `merge.redirect_s` says for how long events of OLD are sent on to NEW.
    """
    from streamer.core.errors import BadInput

    new = words[-1]
    if len(words) > 2 or (len(words) == 2 and words[0].lower() != WORD):  # noqa: PLR2004
        message = f"give two ids, as in `streamer merge OLD {WORD} NEW`, not {' '.join([old, *words])!r}"
        raise BadInput(message)
    config = session_of(context).config()
    partitions = send(config, old, new)
    if as_json:
        typer.echo(json.dumps({"topic": config.topics.events, "partitions": partitions, "old": old, "new": new}))
    else:
        typer.echo(f"sent to all {partitions} partitions of {config.topics.events}: `streamer customer {new}` shows when it is done")


def send(config: Config, old: str, new: str) -> int:
    """Send the command to every partition; returns how many, once all are acknowledged.

    Raises:
        BadInput: no event can have such an id, or both are the same.
        Misconfigured: there is no topic of events.
        Unavailable: Kafka or the schema registry doesn't answer.

    """
    from streamer.app.clock import SystemClock
    from streamer.app.merging import commands
    from streamer.app.wiring import event_producer, events_schema, input_partitions, schema_source
    from streamer.core.errors import BadInput

    for customer in (old, new):
        if not 0 < len(customer.encode()) <= config.limits.customer_id_bytes_max:
            message = f"an id has 1 to {config.limits.customer_id_bytes_max} bytes, this one {len(customer.encode())}: check it"
            raise BadInput(message)
    if old == new:
        message = f"{old!r} can't be merged into itself: give another id"
        raise BadInput(message)
    partitions = input_partitions(config)
    schema_id = events_schema(config, schema_source(config))
    producer = event_producer(config)
    try:
        producer.send(commands(old, new, partitions, schema_id, SystemClock().now_ms()))
        producer.wait(config.kafka.timeout_s)
    finally:
        producer.close()
    return partitions
