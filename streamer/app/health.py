"""Whether a worker lives and is ready, from what it tells of its rounds.

Laws: a worker lives while its loop turns. It is ready when all its partitions are taken over and the servers answered lately; one that the
group gave no partition is ready as well, for it waits to take over from others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamer.app.clock import Clock

NAMED_MAX = 20


class Health:
    """Remembers when what was last heard of; the worker's thread writes whole values, others read them."""

    def __init__(self, clock: Clock, live_within_s: float, ready_within_s: float) -> None:
        """Begin as one that has just started."""
        self._clock = clock
        self._live_within_s = live_within_s
        self._ready_within_s = ready_within_s
        self._turned_s = clock.monotonic_s()
        self._turns = 0
        self._answered_s: float | None = None
        self._away = False
        self._owned: tuple[int, ...] = ()
        self._waiting: tuple[int, ...] = ()

    def turned(self, owned: tuple[int, ...], waiting: tuple[int, ...]) -> None:
        """Take in that a round begins."""
        if self._turns and not (self._away or owned or waiting):
            self.answered()  # nothing is asked of Redis for no partitions: that the round came to its end is all there is
        self._away = self._away and bool(owned or waiting)
        self._turned_s = self._clock.monotonic_s()
        self._turns += 1
        self._owned, self._waiting = owned, waiting

    def answered(self) -> None:
        """Take in that the servers answered."""
        self._answered_s = self._clock.monotonic_s()
        self._away = False

    def unavailable(self) -> None:
        """Take in that one did not."""
        self._away = True

    def dead(self) -> list[str]:
        """Say why the worker is not alive; empty where it is."""
        still_s = self._clock.monotonic_s() - self._turned_s
        if still_s <= self._live_within_s:
            return []
        return [f"the loop has not turned for {still_s:.0f} s, which is more than `metrics.live_within_s` ({self._live_within_s:g} s)"]

    def unready(self) -> list[str]:
        """Say why the worker is not ready; empty where it is."""
        if not self._turns:
            return ["the worker is starting"]
        reasons = self.dead()
        if self._waiting:
            named = ", ".join(map(str, sorted(self._waiting)[:NAMED_MAX]))
            reasons.append(f"{len(self._waiting)} of {len(self._waiting) + len(self._owned)} partitions are not taken over yet: {named}")
        if self._away:
            reasons.append("a server did not answer when it was last asked: the log says which")
        elif self._answered_s is not None or self._owned:
            silent_s, most_s = self._clock.monotonic_s() - (self._answered_s or 0.0), self._ready_within_s
            if self._answered_s is None:
                reasons.append("the servers have not answered yet")
            elif silent_s > most_s:
                reasons.append(f"no server has answered for {silent_s:.0f} s, more than `metrics.ready_within_s` ({most_s:g} s)")
        return reasons

    @property
    def partitions(self) -> tuple[int, ...]:
        """Give the partitions in hand."""
        return self._owned
