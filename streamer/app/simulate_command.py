"""`streamer simulate`: a shop's traffic with a known truth, sent to the topic of events or written to a file.

The order of work: 1. the options are checked; 2. the truth about customers is written; 3. records are sent; 4. the counts are written and
shown, also where sending was stopped.
"""

from __future__ import annotations

import json
import signal
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from streamer.app.session import session_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    import pandas as pd
    from rich.progress import Progress

    from streamer.app.clock import Clock
    from streamer.app.config import Config
    from streamer.app.simulation import Counts, Options, Sale
    from streamer.app.simulation.sending import Feed

app = typer.Typer(add_completion=False)

DAY_MS = 86_400_000
FOLLOW_RATE = 100.0
CALENDAR, NO_SALES = "calendar", "none"


@dataclass(frozen=True, slots=True)
class Request:
    """What the command was asked."""

    options: Options
    rate: float | None = None
    count: int | None = None
    dry_run: Path | None = None
    truth: Path | None = None


@app.command()
def simulate(  # noqa: PLR0913, PLR0917  # each is an option
    context: typer.Context,
    customers: Annotated[int, typer.Option(help="How many customers.")] = 2_000,
    days: Annotated[int, typer.Option(help="How many days of traffic.")] = 30,
    start: Annotated[str | None, typer.Option(help="The first day, such as 2026-01-31; without it, the period ends now.")] = None,
    events_per_second: Annotated[
        float | None, typer.Option(min=0.01, help="Send so many records a second; else as fast as it goes.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help=f"Events happen now, at the given rate ({FOLLOW_RATE:.0f}), until SIGINT or SIGTERM.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Equal seeds and options give equal traffic.")] = 1,
    late: Annotated[float, typer.Option(help="Share of events that are sent after later ones.")] = 0.01,
    duplicates: Annotated[float, typer.Option(help="Share of events that are sent twice.")] = 0.005,
    malformed: Annotated[float, typer.Option(help="Malformed records, as a share of the events.")] = 0.001,
    changes: Annotated[float, typer.Option(help="Share of customers who change persona once.")] = 0.1,
    sales: Annotated[
        list[str] | None, typer.Option(help="Days of a sale, FIRST..LAST; repeatable. `none`, or `calendar`: winter, summer, November.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Send at most so many records.")] = None,
    dry_run: Annotated[Path | None, typer.Option(dir_okay=False, help="Send nothing: write the records to this Parquet file.")] = None,
    truth: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Write who is what when to this file, .parquet or .csv; counts go to FILE.counts.json."),
    ] = None,
) -> None:
    """Send a shop's traffic, made up from personas whose behaviour is known."""
    from streamer.app.clock import SystemClock
    from streamer.app.simulation import Options
    from streamer.app.simulation.rhythm import date_of, midnight_ms

    config = session_of(context).config()
    clock = SystemClock()
    begin_ms = midnight_ms(_day(start)) if start is not None else clock.now_ms() - (0 if follow else days * DAY_MS)
    years = [date_of(max(0, time_ms) // DAY_MS).year for time_ms in (begin_ms, begin_ms + days * DAY_MS)]
    options = Options(
        customers, days, begin_ms, seed, late, duplicates, malformed, changes, sales=_sales(sales or [CALENDAR], *years), follow=follow
    )
    request = Request(options, events_per_second, count, dry_run, truth)
    with _told_to_stop() as stopped:
        run(request, config, Console(), Console(stderr=True), connected, clock, stopped)


def run(
    request: Request,
    config: Config,
    out: Console,
    err: Console,
    connect: Callable[[Config], AbstractContextManager[Feed]],
    clock: Clock,
    stopped: Callable[[], bool],
) -> Counts:
    """Do what the command was asked; returns what was sent. Raises a `StreamerError` where it can't."""
    from streamer.app.simulation import Counts, truth
    from streamer.core.errors import Misconfigured

    options, counts = request.options, Counts()
    _check(request, config, clock.now_ms())
    phases = truth(options)
    if request.truth is not None:
        _write_truth(request.truth, phases)
    begun_s = clock.monotonic_s()
    try:
        if request.dry_run is None:
            _send(request, config, counts, err, connect, clock, stopped)
        else:
            _write(request, request.dry_run, counts, err, stopped)
    except OSError as error:
        message = f"the traffic cannot be written: {error}"
        raise Misconfigured(message) from error
    finally:
        if request.truth is not None:
            _counts_path(request.truth).write_text(json.dumps(counts.as_tree(), indent=2) + "\n", encoding="utf-8")
    where = f"written to {request.dry_run}" if request.dry_run is not None else f"sent to {config.topics.events}"
    took_s = max(clock.monotonic_s() - begun_s, 1e-3)
    out.print(_table(phases, counts))
    out.print(
        f"{counts.records():,} records {where} in {took_s:.1f} s, {counts.records() / took_s:,.0f} a second: {counts.events:,} events, "
        f"{counts.late:,} of them late; {counts.duplicates:,} duplicates; {counts.malformed.total():,} malformed",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if request.truth is not None:
        names = f"{request.truth} and {_counts_path(request.truth)}"
        out.print(f"the truth is in {names}", markup=False, highlight=False, soft_wrap=True)
    return counts


def _check(request: Request, config: Config, now_ms: int) -> None:
    from streamer.core.errors import Misconfigured

    options = request.options
    if options.follow and request.dry_run is not None:
        message = "--follow sends what happens now: leave out --follow or --dry-run"
        raise Misconfigured(message)
    if not options.follow and request.dry_run is None and options.until_ms > now_ms + config.limits.future_s_max * 1000:
        message = "the period ends in the future, and workers refuse such events: choose an earlier --start, or fewer --days"
        raise Misconfigured(message)
    if request.truth is not None and request.truth.suffix not in {".parquet", ".csv"}:
        message = f"--truth {request.truth}: name a file that ends in .parquet or .csv"
        raise Misconfigured(message)


def _send(
    request: Request,
    config: Config,
    counts: Counts,
    err: Console,
    connect: Callable[[Config], AbstractContextManager[Feed]],
    clock: Clock,
    stopped: Callable[[], bool],
) -> None:
    from streamer.app.simulation import traffic
    from streamer.app.simulation.sending import Pace, send

    options = request.options
    rate = request.rate or (FOLLOW_RATE if options.follow else None)
    with connect(config) as feed, _progress(request, err) as told:
        pace = Pace(clock, rate, options.follow, stopped)
        send(traffic(options, request.count), feed, pace, counts, told, config.kafka.timeout_s)


def _write(request: Request, path: Path, counts: Counts, err: Console, stopped: Callable[[], bool]) -> None:
    from streamer.app.simulation import traffic
    from streamer.app.simulation.sending import parquet
    from streamer.app.simulation.traffic import packaged_schema_id

    schema_id = packaged_schema_id()
    with parquet(path) as write, _progress(request, err) as told:
        for batch in traffic(request.options, request.count):
            if stopped():
                return
            write(batch, schema_id)
            counts.add(batch)
            told(counts.records())


def _write_truth(path: Path, phases: pd.DataFrame) -> None:
    from streamer.core.errors import Misconfigured

    try:
        if path.suffix == ".csv":
            phases.to_csv(path, index=False, date_format="%Y-%m-%dT%H:%M:%S.%fZ")
        else:
            phases.to_parquet(path, index=False)
    except OSError as error:
        message = f"--truth {path} cannot be written: {error}"
        raise Misconfigured(message) from error


def _counts_path(truth: Path) -> Path:
    return truth.with_name(f"{truth.name}.counts.json")


def _table(phases: pd.DataFrame, counts: Counts) -> Table:
    """Show the personas: their customers at the end of the period, and their events by type."""
    from streamer.app.simulation import PERSONAS
    from streamer.app.simulation.visits import TYPES

    customers = Counter(phases.drop_duplicates("customer_id", keep="last")["persona"])
    table = Table(title=f"{customers.total():,} customers", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("persona", "customers", "searches", "views", "carts", "purchases", "refunds", "events"):
        table.add_column(column, justify="left" if column == "persona" else "right", no_wrap=True)
    for persona in PERSONAS:
        numbers = [counts.by_persona[persona.name, kind] for kind in TYPES]
        table.add_row(persona.name, *(f"{number:,}" for number in (customers[persona.name], *numbers, sum(numbers))))
    return table


@contextmanager
def _progress(request: Request, console: Console) -> Iterator[Callable[[int], None]]:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    from streamer.app.simulation import expected_events

    options = request.options
    total = request.count if options.follow else min(expected_events(options), request.count or 2**62)
    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[count]}")]
    progress: Progress = Progress(*columns, TimeElapsedColumn(), console=console)
    with progress:
        bar = progress.add_task("sending" if request.dry_run is None else "writing", total=total, count="")

        def told(sent: int) -> None:
            progress.update(bar, completed=sent, count=f"{sent:,} records")

        yield told
        progress.update(bar, total=progress.tasks[bar].completed)  # the total was an estimate


@contextmanager
def _told_to_stop() -> Iterator[Callable[[], bool]]:
    """Tell whether SIGINT or SIGTERM has come; the former handlers are put back."""
    told: list[int] = []
    before = {number: signal.signal(number, lambda got, _: told.append(got)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(told)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _day(text: str) -> date:
    from streamer.core.errors import Misconfigured

    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date()
    except ValueError as error:
        message = f"--start is a day, such as 2026-01-31, not {text!r}"
        raise Misconfigured(message) from error


def _sales(texts: list[str], first_year: int, last_year: int) -> tuple[Sale, ...]:
    from streamer.app.simulation import Sale, calendar_sales

    named = [Sale.parse(text) for text in texts if text not in {CALENDAR, NO_SALES}]
    return (*(calendar_sales(first_year, last_year) if CALENDAR in texts else ()), *named)


@contextmanager
def connected(config: Config) -> Iterator[Feed]:
    """Connect to Kafka as the configuration says."""
    import schemas
    from streamer.app.ingest.channel import event_channel
    from streamer.app.simulation.sending import Feed
    from streamer.app.simulation.writing import SCHEMA, SCHEMA_VERSION
    from streamer.app.wiring import schema_source

    source = schema_source(config)
    schema_id = source.register(f"{config.topics.events}-value", schemas.text(SCHEMA, SCHEMA_VERSION))
    with event_channel(config, source) as channel:
        yield Feed(channel.sink, schema_id)
