"""`streamer run`: work until told to stop."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Annotated

import typer

from streamer.app.session import session_of

if TYPE_CHECKING:
    from types import FrameType

app = typer.Typer(add_completion=False)


@app.command()
def run(
    context: typer.Context,
    until_idle_s: Annotated[
        float | None, typer.Option(help="Stop once everything is done and nothing new has come for so many seconds.", min=0.1)
    ] = None,
) -> None:
    """Consume events, keep profiles, publish segment changes, until SIGTERM or SIGINT; start more of these to scale."""
    told = []

    def stop(number: int, _: FrameType | None) -> None:
        told.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)  # before the imports that take a second
    from streamer.app.logs import set_up
    from streamer.app.wiring import watched, worker

    config = session_of(context).config()
    set_up(config.log)
    with watched(config) as recorder, worker(config, recorder) as working:
        working.run(lambda: bool(told) or working.idle(until_idle_s))
