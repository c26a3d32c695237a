"""`streamer tail`: segment changes as they come."""

from __future__ import annotations

import json
import os
import select
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamer.app.session import session_of
from streamer.core.errors import Corrupt, Misconfigured

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamer.adapters.kafka.tailing import Came, KafkaTail

app = typer.Typer(add_completion=False)

WAIT_S = 0.25
TAKEN_MAX = 1000
TOP_MAX = 2


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which changes are shown: those that every filter lets through; an empty one lets all."""

    segments: frozenset[str]
    customers: frozenset[str]
    causes: frozenset[str]

    def lets(self, change: Mapping[str, Any]) -> bool:
        """Tell whether a change is wanted: a segment by its id or name, the one entered or the one left."""
        names = {change["segment_id"], change["segment_name"], change["previous_segment_id"]}
        return (
            (not self.segments or bool(self.segments & names))
            and (not self.customers or change["customer_id"] in self.customers)
            and (not self.causes or change["cause"] in self.causes)
        )


@app.command()
def tail(
    context: typer.Context,
    segment: Annotated[list[str] | None, typer.Option("--segment", help="Only to or from this segment (id or name).", metavar="ID")] = None,
    customer: Annotated[list[str] | None, typer.Option("--customer", help="Only of this customer.", metavar="ID")] = None,
    cause: Annotated[list[str] | None, typer.Option("--cause", help="Only for this cause: behaviour, decay, ...", metavar="CAUSE")] = None,
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="Begin with the oldest change that the topic has.")] = False,
    count: Annotated[int | None, typer.Option("-n", "--count", min=1, help="End after this many changes.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one change a line; times in milliseconds.")] = False,
) -> None:
    """Show segment changes as they come, a line each, until Ctrl-C.

    Filters can be given several times: one of each kind must fit.
    """
    from streamer.app.wiring import kafka_tail

    wanted = Wanted(frozenset(segment or ()), frozenset(customer or ()), frozenset(cause or ()))
    config = session_of(context).config()
    followed = kafka_tail(config)
    try:
        _begin(followed, config.topics.changes, from_beginning=from_beginning)
        _follow(followed, wanted, count, as_json=as_json)
    except KeyboardInterrupt:
        return
    except BrokenPipeError:  # whoever read this has gone; what is still buffered has nowhere to go either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        followed.close()


def _begin(followed: KafkaTail, topic: str, *, from_beginning: bool) -> None:
    partitions = followed.partitions(topic)
    if partitions is None:
        message = f"there is no topic {topic}: `streamer run` makes it; see `streamer status`"
        raise Misconfigured(message)
    followed.follow(topic, {p: followed.bounds(topic, p)[0 if from_beginning else 1] for p in range(partitions)})


def _follow(followed: KafkaTail, wanted: Wanted, count: int | None, *, as_json: bool) -> None:
    """Show what comes, until as many as wanted were shown or nobody reads any more."""
    left = count
    while left != 0 and not _unread():
        for came in followed.take(WAIT_S, TAKEN_MAX):
            text = shown(came, wanted, as_json=as_json)
            if text is None:
                continue
            sys.stdout.write(f"{text}\n")
            left = None if left is None else left - 1
            if left == 0:
                break
        sys.stdout.flush()


def _unread() -> bool:
    """Tell whether standard output is a pipe that nobody reads any more, which writing alone would tell too late on a quiet topic."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):  # standard output is no file
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def shown(came: Came, wanted: Wanted, *, as_json: bool) -> str | None:
    """Write a record of the topic as a line; None for what is not wanted. What can't be read is told on standard error."""
    from streamer.app.looking import readable

    try:
        change = readable(came.record)
    except Corrupt as error:
        typer.echo(f"streamer: partition {came.partition}: {error}", err=True)
        return None
    if change is None:  # a tombstone
        customer = (came.record.key or b"").decode(errors="replace")
        if wanted.segments or wanted.causes or (wanted.customers and customer not in wanted.customers):
            return None
        return json.dumps({"customer_id": customer, "erased": True}, ensure_ascii=False) if as_json else f"{customer}: erased"
    if not wanted.lets(change):
        return None
    return json.dumps(change, ensure_ascii=False) if as_json else line(change)


def line(change: Mapping[str, Any]) -> str:
    """Tell a change in a line: when, who, where to and from, why, and the features that speak most for it."""
    from streamer.app.showing import number, utc

    to = change["segment_id"] if change["segment_id"] == change["segment_name"] else f"{change['segment_id']} ({change['segment_name']})"
    before = f" from {change['previous_segment_id']}" if change["previous_segment_id"] else ""
    top = ", ".join(f"{f['name']} {number(f['value'])} ({f['z']:+.1f})" for f in change["top_features"][:TOP_MAX])
    return f"{utc(change['occurred_at'])}  {change['customer_id']}  {change['cause']}: to {to}{before}{f'; {top}' if top else ''}"
