"""`streamer servers up|down|status`: real servers from nothing, in the background."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from streamer.adapters.servers.background import ServerStatus

app = typer.Typer(
    help="Start and stop a real Kafka and a real Valkey, without root, Docker or Java.", no_args_is_help=True, add_completion=False
)

NOT_RUNNING = 3  # as `systemctl status` has it

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def up(
    kafka_port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of Kafka; a free one by default.")] = None,
    redis_port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of Redis; a free one by default.")] = None,
    data_dir: Annotated[Path | None, typer.Option(file_okay=False, help="Keep data here, over stops and starts.")] = None,
    as_json: AsJson = False,
) -> None:
    """Start the servers and leave them running; prints lines for a shell: eval "$(streamer servers up)"."""
    from streamer.adapters.servers import ServersError, background, progress_bar

    console = Console(stderr=True)
    try:
        with progress_bar(console) as report:
            found, notes = background.up(os.environ, kafka_port=kafka_port, redis_port=redis_port, data_directory=data_dir, progress=report)
    except ServersError as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    for note in notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        typer.echo(_as_json(found))
        return
    for server in found:
        typer.echo(f"# {server.name}: {server.address} ({server.state})")
    exports = (f"{background.VARIABLES[server.name]}={shlex.quote(server.address)}" for server in found)
    typer.echo(f"export {' '.join(exports)}")


@app.command()
def down() -> None:
    """Stop the servers that `up` started; their data go too, unless --data-dir kept them."""
    from streamer.adapters.servers import ServersError, background

    try:
        ended = background.down(os.environ)
    except ServersError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    typer.echo(f"stopped {' and '.join(ended)}" if ended else "nothing was running")


@app.command()
def status(as_json: AsJson = False) -> None:
    """Say what runs and whether it answers; the exit code is 3 unless both do."""
    from streamer.adapters.servers import background

    found = background.status(os.environ)
    if as_json:
        typer.echo(_as_json(found))
    else:
        for server in found:
            known = (server.address, f"pid {server.pid}" if server.pid else "", f"log {server.log}" if server.log else "")
            typer.echo(f"{server.name}: {server.state} {' '.join(part for part in known if part)}".rstrip())
    if any(server.state != "running" for server in found):
        raise typer.Exit(NOT_RUNNING)


def _as_json(found: list[ServerStatus]) -> str:
    return json.dumps({server.name: {key: value for key, value in asdict(server).items() if key != "name"} for server in found}, indent=2)
