"""What a command says, and the status it exits with, when it fails.

Statuses are those of BSD's sysexits.h: the precedent that service managers and shells know.
"""

from __future__ import annotations

from streamer.core.errors import BadInput, Corrupt, LostOwnership, Misconfigured, StreamerError, Unavailable
from streamer.core.ports import ClientFailed, OffsetOutOfRange

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
PROGRAM_FAULT = 70  # EX_SOFTWARE

STATUSES: dict[type[StreamerError], int] = {
    BadInput: 65,  # EX_DATAERR
    OffsetOutOfRange: 66,  # EX_NOINPUT
    Unavailable: 69,  # EX_UNAVAILABLE
    ClientFailed: 71,  # EX_OSERR: start it again
    Corrupt: 74,  # EX_IOERR
    LostOwnership: 75,  # EX_TEMPFAIL: try again
    Misconfigured: 78,  # EX_CONFIG
}


def exit_status(error: BaseException) -> int:
    """Give the status a command exits with after an error: its kind's, 130 when interrupted, else 70."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return next((status for kind, status in STATUSES.items() if isinstance(error, kind)), PROGRAM_FAULT)


def message(error: BaseException) -> str:
    """Say what went wrong: an error's own words if it is one of ours, else that this program is at fault."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, StreamerError):
        return str(error)
    return f"a fault of this program: {type(error).__name__}: {error} (--debug shows where)"
