"""`streamer archive`: keep history, until told to stop."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Annotated

import typer

from streamer.app.session import session_of

if TYPE_CHECKING:
    from types import FrameType

    from streamer.app.config import Config

app = typer.Typer(add_completion=False)


@app.command()
def archive(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Stop once all that is there now is in history.")] = False,
    idle_exit: Annotated[
        float | None, typer.Option(help="Stop once nothing new has come for so many seconds.", min=0.1, metavar="SECONDS")
    ] = None,
    compact: Annotated[
        bool, typer.Option("--compact", help="Only take out who was erased, put together the files of days that are over, and stop.")
    ] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Only read every byte of history and compare it with the manifest.")] = False,
) -> None:
    """Write events and the journal to history (Parquet files), until SIGTERM or SIGINT; start more of these to scale.

    Where it goes on is what history says, so it can be stopped, killed and started again at any time, and each event is there once.
    """
    told = []

    def stop(number: int, _: FrameType | None) -> None:
        told.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)  # before the imports that take a second
    from streamer.app.logs import set_up
    from streamer.app.wiring import archiver
    from streamer.core.errors import LostOwnership

    config = session_of(context).config()
    set_up(config.log)
    if compact or verify:
        if compact:
            _compact(config)
        if verify:
            _verify(config)
        return
    with archiver(config) as working:
        ends = working.ends() if once else {}
        whole = working.run(lambda: bool(told) or (once and working.reached(ends)) or working.idle(idle_exit))
    if once and not told and not whole:
        message = "another archiver has taken partitions over: run this again"
        raise LostOwnership(message)
    typer.echo(f"{working.rows:,} events written to {config.history.url}")


def _compact(config: Config) -> None:
    from streamer.app.archiver import tidy
    from streamer.app.clock import SystemClock
    from streamer.app.wiring import erasure_rule, history_writer

    history = history_writer(config)
    partitions = sorted({partition for _, partition in history.partitions()})
    less, deleted = tidy(history, partitions, SystemClock().now_ms(), erasure_rule(config))
    typer.echo(f"{less:,} files less after putting days together; {deleted:,} deleted that nobody needs")


def _verify(config: Config) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress

    from streamer.adapters.history import open_history
    from streamer.app.wiring import history_url

    history = open_history(history_url(config))
    manifest = history.manifest()
    files = [e for found in (manifest.events, manifest.journal) for one in found.values() for e in one.entries if e.path]
    total = sum(entry.size_bytes for entry in files)
    console = Console(stderr=True)
    with Progress(BarColumn(), DownloadColumn(), console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("reading", total=total)
        history.verify(lambda size: progress.advance(bar, size))
    typer.echo(f"{len(files):,} files of {total:,} bytes are as the manifest says")
