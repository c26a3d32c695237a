"""What the options before a command say, and how a command reads its own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from streamer.core.errors import Misconfigured

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Literal

    import typer

    from offline.settings import Settings


@dataclass(slots=True)
class Session:
    """One run of the command line."""

    file: Path | None = None
    debug: bool = False

    def settings(self) -> Settings:
        """Load the settings; raises `Misconfigured` with all their faults."""
        from offline.settings import load  # noqa: PLC0415  # a command that needs none does not pay for them

        return load(self.file)


def session_of(context: typer.Context) -> Session:
    """Give the session of a command's context; a new one where it has none."""
    return context.ensure_object(Session)


def end_of(day: str) -> int:
    """Read a day such as 2026-03-31 and give its end, the midnight after it (UTC), in milliseconds; raises `Misconfigured`."""
    try:
        found = date.fromisoformat(day)
    except ValueError:
        message = f"--as-of: {day!r} is no day such as 2026-03-31"
        raise Misconfigured(message) from None
    midnight = datetime(found.year, found.month, found.day, tzinfo=UTC) + timedelta(days=1)
    return int(midnight.timestamp() * 1000)


def last_midnight(now_s: float) -> int:
    """Give the end of the last complete day (UTC), in milliseconds."""
    return int(now_s // 86_400) * 86_400_000


def number_of_segments(given: str | None) -> int | Literal["auto"] | None:
    """Read `--k`: a number from 2 to 256, `auto`, or None; raises `Misconfigured`."""
    if given is None or given == "auto":
        return given  # type: ignore[return-value]  # mypy does not narrow a text to the word
    if not given.isdecimal() or not 2 <= int(given) <= 256:  # noqa: PLR2004  # the bounds of the message
        message = f"--k: {given!r} is neither `auto` nor a whole number from 2 to 256"
        raise Misconfigured(message)
    return int(given)
