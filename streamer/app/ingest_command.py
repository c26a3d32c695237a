"""`streamer ingest FILE`: rows of a file to events on the topic.

The order of work: 1. the mapping and the configuration are checked; 2. the file is read whole and every row judged; 3. the rejects file is
written; 4. events are sent. Nothing is sent before 3 is done.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from streamer.adapters.files import ROWS_MAX, ROWS_MAX_HIGHEST
from streamer.app.session import session_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from streamer.adapters.files.load import Loaded
    from streamer.adapters.files.mapping import Mapping
    from streamer.app.config import Config
    from streamer.app.ingest.sending import Channel

app = typer.Typer(add_completion=False)

SHOWN_EVENTS = 3


@dataclass(frozen=True, slots=True)
class Request:
    """What the command was asked."""

    file: Path
    mapping: str
    dry_run: bool = False
    limit: int | None = None
    rejects: Path | None = None
    rows_max: int = ROWS_MAX


@app.command()
def ingest(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="CSV, Excel, Parquet or JSON Lines; .gz is unpacked.")],
    mapping: Annotated[str, typer.Option("--mapping", "-m", help="A mapping file, or the name of a packaged one: online_retail.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Send nothing: judge every row and write the rejects file.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Send only the first so many events.")] = None,
    rejects: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Where the rows go that are in no event; FILE.rejects.jsonl.")
    ] = None,
    rows_max: Annotated[int, typer.Option(min=1, max=ROWS_MAX_HIGHEST, help="Refuse larger files; rows are held in memory.")] = ROWS_MAX,
) -> None:
    """Turn a file of rows into events by a mapping and send them, each customer's in the order of their time."""
    config = session_of(context).config()
    request = Request(file, mapping, dry_run, limit, rejects, rows_max)
    run(request, config, Console(), Console(stderr=True), connected, time.time())


def run(
    request: Request,
    config: Config,
    out: Console,
    err: Console,
    connect: Callable[[Config], AbstractContextManager[Channel]],
    now_s: float,
) -> int:
    """Do what the command was asked; returns how many events were sent. Raises a `StreamerError` where it can't."""
    from streamer.adapters.files.mappings import load_mapping
    from streamer.adapters.files.rejects import nothing_usable, rejects_path, write_rejects
    from streamer.app.ingest.account import account
    from streamer.core.errors import BadInput, Misconfigured

    mapping = load_mapping(request.mapping)
    rejects = request.rejects or rejects_path(request.file)
    if rejects.resolve() == request.file.resolve():
        message = f"{rejects}: the rejects file would replace the input: name another with --rejects"
        raise Misconfigured(message)
    with _progress(err) as progress:
        loaded = _read(request, mapping, config, progress, now_s)
        write_rejects(rejects, loaded.refused)
    out.print(account(loaded.totals, mapping))
    refused = loaded.totals.rows_read - loaded.totals.rows_used
    out.print(f"{refused:,} rows that are in no event, each with its reason: {rejects}", markup=False, highlight=False, soft_wrap=True)
    if not len(loaded.events):
        message = f"{request.file}: {nothing_usable(loaded)}"
        raise BadInput(message)
    if request.dry_run:
        for record in loaded.events.records(0, min(SHOWN_EVENTS, request.limit or SHOWN_EVENTS)):
            out.print(dict(record), markup=False, soft_wrap=True)
        out.print("nothing was sent (--dry-run)")
        return 0
    return _send(request, config, loaded, out, err, connect)


def _read(request: Request, mapping: Mapping, config: Config, progress: Progress, now_s: float) -> Loaded:
    from streamer.adapters.files.load import load
    from streamer.adapters.files.rows import Limits

    limits = Limits(
        config.limits.event_id_bytes_max,
        config.limits.customer_id_bytes_max,
        config.limits.event_type_bytes_max,
        int(now_s * 1000) + config.limits.future_s_max * 1000,
    )
    bar = progress.add_task("reading", total=1.0, count="")

    def told(rows: int, done: float) -> None:
        progress.update(bar, completed=done, count=f"{rows:,} rows")

    loaded = load(request.file, mapping, limits=limits, rows_max=request.rows_max, progress=told)
    progress.update(bar, completed=1.0)
    return loaded


def _send(
    request: Request,
    config: Config,
    loaded: Loaded,
    out: Console,
    err: Console,
    connect: Callable[[Config], AbstractContextManager[Channel]],
) -> int:
    from streamer.app.ingest.sending import send_events

    wanted = min(len(loaded.events), request.limit or len(loaded.events))
    begun_s = time.monotonic()
    with connect(config) as channel, _progress(err) as progress:
        bar = progress.add_task("sending", total=wanted, count="")

        def told(sent: int) -> None:
            progress.update(bar, completed=sent, count=f"{sent:,} events, {_rate(sent, begun_s)}")

        sent = send_events(loaded, channel, limit=request.limit, timeout_s=config.kafka.timeout_s, progress=told)
    held = len(loaded.events) - sent
    rest = f"; {held:,} held back by --limit" if held else ""
    out.print(
        f"{sent:,} events sent to {config.topics.events}, {_rate(sent, begun_s)}{rest}", markup=False, highlight=False, soft_wrap=True
    )
    return sent


def _rate(count: int, begun_s: float) -> str:
    return f"{count / max(time.monotonic() - begun_s, 1e-3):,.0f} events/s"


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[count]}"), TimeElapsedColumn())
    return Progress(*columns, console=console)


def connected(config: Config) -> AbstractContextManager[Channel]:
    """Connect to Kafka as the configuration says."""
    from streamer.app.ingest.channel import event_channel
    from streamer.app.wiring import schema_source

    return event_channel(config, schema_source(config))
