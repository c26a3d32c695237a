"""What the options before a command say, handed to the command."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import typer

    from streamer.app.config import Config


@dataclass(slots=True)
class Session:
    """One run of the command line; the options fill it before the command starts."""

    environment: Mapping[str, str] = field(repr=False)
    file: Path | None = None
    debug: bool = False

    def config(self) -> Config:
        """Load the configuration; raises `ConfigError` with all its faults."""
        from streamer.app.config import load  # noqa: PLC0415  # a command that needs no configuration does not pay for it

        return load(self.file, self.environment)


def session_of(context: typer.Context) -> Session:
    """Give the session of a command's context.

    Raises:
        TypeError: If the command was not started through the root command.
    """
    session = context.find_object(Session)
    if session is None:
        problem = "the command was not started through `streamer`"
        raise TypeError(problem)
    return session
