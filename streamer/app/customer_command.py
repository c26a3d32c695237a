"""`streamer customer`: what is known of one customer."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from streamer.app.session import session_of

if TYPE_CHECKING:
    from rich.console import Group

    from streamer.app.customer import Customer, Tile
    from streamer.app.looking import Recent

app = typer.Typer(add_completion=False)

UNKNOWN_CUSTOMER = 1


@app.command()
def customer(
    context: typer.Context,
    customer_id: Annotated[str, typer.Argument(help="The customer's id.", metavar="ID")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    now: Annotated[bool, typer.Option("--now", help="Features as of now, not as of when the customer was last judged.")] = False,
    changes: Annotated[int, typer.Option("--changes", "-n", min=0, max=1000, help="How many of the last changes to show.")] = 10,
    scan: Annotated[
        int, typer.Option("--scan", min=1, max=100_000_000, help="How many of the partition's last changes to look through for them.")
    ] = 100_000,
) -> None:
    """Show what is known of a customer: profile, features, segment, distances, recent changes and why.

    Exit status 1 if the customer is not known.
    """
    from streamer.app.clock import SystemClock
    from streamer.app.customer import find_customer, merged_into
    from streamer.app.looking import Recent, recent_changes
    from streamer.app.showing import utc
    from streamer.app.wiring import sources

    with sources(session_of(context).config()) as found:
        place = found.place
        seen = find_customer(found, customer_id, SystemClock().now_ms() if now else None)
        if seen is None:
            told = f"customer {customer_id} is not known to {place.app} in namespace {place.namespace}"
            remedy = "check the id; if events were just sent, see `streamer status` for the lag"
            merged = merged_into(found, customer_id)
            if merged is not None:
                new, until = merged
                told = f"customer {customer_id} was merged into {new}, and events before {utc(until)} UTC are sent on"
                remedy = f"see `streamer customer {new}`"
            typer.echo(f"streamer: {told}: {remedy}", err=True)
            raise typer.Exit(UNKNOWN_CUSTOMER)
        there = found.log.partitions(place.changes) is not None
        recent = (
            recent_changes(found.log, place.changes, seen.partition, customer_id.encode(), changes, scan)
            if there
            else Recent((), 0, 0, complete=True)
        )
    if as_json:
        typer.echo(json.dumps({**asdict(seen), "recent_changes": asdict(recent)}, indent=2, ensure_ascii=False))
    else:
        _show(Console(), seen, recent)


def _show(console: Console, seen: Customer, recent: Recent) -> None:
    from streamer.app.showing import utc

    console.print(Text(f"Customer {seen.customer_id}", style="bold"))
    console.print(f"partition {seen.partition}, clock {utc(seen.clock_ms)} UTC, last event {utc(seen.last_event_ms)} UTC")
    console.print(f"{seen.events_remembered} event ids remembered")
    if seen.partition != seen.partition_expected:
        console.print(
            Text(
                f"murmur2 puts this customer in partition {seen.partition_expected}: its producer uses another partitioner", style="yellow"
            )
        )
    if seen.segment_id is None:
        console.print("in no segment: there is no model yet, or the customer has not been judged (see `streamer status`)")
    else:
        name = "" if seen.segment_name == seen.segment_id else f" ({escape(str(seen.segment_name))})"
        console.print(
            f"in segment [b]{seen.segment_id}[/b]{name} since {utc(seen.since_ms)} UTC; "
            f"judged by model version {seen.model}, epoch {seen.epoch}; change version {seen.change_version}"
        )
    words = ", ".join(f"{rule.measure} {rule.value:,} of {rule.at_least:,}" for rule in seen.rules)
    console.print(f"{'eligible' if seen.eligible else 'not eligible'}{f' ({words})' if words else ''}")
    console.print(_features(seen))
    if seen.distances:
        console.print(_distances(seen))
    _profile(console, seen)
    _recent(console, recent)


def _features(seen: Customer) -> Group:
    from streamer.app.showing import number, table, titled, utc

    of = "now" if seen.as_of == "now" else "the profile's clock"
    columns = [("feature", ""), ("value", "right"), ("z", "right")]
    found = table(*columns, ("vote", "right"))
    for feature in seen.features:
        vote = "" if seen.vote is None or feature.name not in seen.vote else f"{seen.vote[feature.name]:+.2f}"
        found.add_row(feature.name, number(feature.value), "" if feature.z is None else f"{feature.z:+.2f}", vote)
    return titled(f"Features as of {of}, {utc(seen.as_of_ms)} UTC", found)


def _distances(seen: Customer) -> Group:
    from streamer.app.showing import table, titled

    of = "the vote" if seen.distances_of == "vote" else "the features above"
    title = f"Distances of {of} to the centroids of version {seen.partition_model}, epoch {seen.partition_epoch}"
    found = table(("segment", ""), ("name", ""), ("distance", "right"), ("", ""))
    for distance in seen.distances:
        marks = [
            words for words, segment in (("is here", seen.segment_id), ("votes here", seen.vote_for)) if segment == distance.segment_id
        ]
        found.add_row(distance.segment_id, escape(distance.name), f"{distance.distance:.2f}", ", ".join(marks))
    return titled(title, found)


def _profile(console: Console, seen: Customer) -> None:
    from streamer.app.showing import table, titled, utc

    lifetimes = table(("measure", ""), ("value", "right"))
    for measure in seen.lifetimes:
        value = utc(measure.value) if measure.is_time else "-" if measure.value is None else f"{measure.value:,}"
        lifetimes.add_row(measure.name, value)
    for name, buckets in seen.distinct.items():
        lifetimes.add_row(f"{name} (buckets ever hit)", f"{buckets:,}")
    console.print(titled("Lifetime", lifetimes))
    for title, tiles in (("Days", seen.days), ("Hours", seen.hours)):
        if tiles:
            console.print(_tiles(title, tiles))


def _tiles(title: str, tiles: tuple[Tile, ...]) -> Group:
    from streamer.app.showing import table, titled, utc

    names = list(dict.fromkeys(name for tile in tiles for name in tile.measures))
    found = table((f"{title.lower()[:-1]} (UTC)", ""), *((name, "right") for name in names))
    for tile in tiles:
        begin = utc(tile.begin_ms)
        found.add_row(
            begin[:10] if title == "Days" else begin[:16], *(f"{tile.measures[n]:,}" if n in tile.measures else "" for n in names)
        )
    return titled(title, found)


def _recent(console: Console, recent: Recent) -> None:
    from streamer.app.tail_command import line

    bound = (
        "" if recent.complete else f" (older ones may be on the topic: only offsets {recent.first:,} to {recent.end:,} were looked through)"
    )
    if not recent.changes:
        console.print(f"No changes found{bound}")
        return
    console.print(Text(f"Last changes, the latest first{bound}", style="bold"))
    for change in recent.changes:
        console.print(Text(line(change)), soft_wrap=True)
