"""Quarantine: a record that ends the processes that read it becomes a dead letter unread.

What kills a process leaves no error behind, only a partition that is claimed again and again and never gets further. Then its records are
taken one at a time, each noted in Redis before it is touched, together with the process that is about to touch it. An offset at which
`limits.deaths_max` different processes began, and none committed, is passed over; the journal says so, for whoever reads the log again.

Laws: what a process survives, such as a server that does not answer, never counts however often it comes, since it is the same process. Nor
does a partition that changes hands while nothing is left to be read: no record of it can have ended anybody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from streamer.core.ports import PartitionState

CLAIMS_MAX = 2
"""Claims without a commit between them, from which on a partition's records are taken one at a time."""


class Attempts(NamedTuple):
    """Which processes began the record at an offset, each once."""

    offset: int
    lives: tuple[str, ...]

    def pack(self) -> bytes:
        """Pack as ASCII: the offset, then the names of the processes, with spaces between."""
        return " ".join((str(self.offset), *self.lives)).encode()

    def by(self, offset: int, life: str) -> Attempts:
        """Add an attempt."""
        lives = self.lives if offset == self.offset else ()
        return Attempts(offset, lives if life in lives else (*lives, life))


def attempts(packed: bytes) -> Attempts:
    """Unpack; nothing is no attempt."""
    offset, *lives = packed.decode().split() or ["-1"]
    return Attempts(int(offset), tuple(lives))


def suspicious(state: PartitionState, next_offset: int) -> bool:
    """Tell whether a partition's next records, if there are any, may be what ends processes."""
    return state.claims >= CLAIMS_MAX or attempts(state.attempts).offset == next_offset
