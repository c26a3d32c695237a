"""Watching a run: how far the workers are and the changes as they come, on the screen; with a bound on every wait."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from streamer.app.demo.subscriber import Subscriber
from streamer.core.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.console import Console

    from streamer.app.config import Config
    from streamer.app.demo.stage import Workers

TIMEOUT_S = 300.0
PAUSE_S = 0.05


class Watch:
    """Looks at a run from outside; `done` and `judged` are as of the last look."""

    def __init__(self, config: Config, console: Console, workers: Workers, total: int | None) -> None:
        """Connect; `total` is how many events there will be, if that is known."""
        from streamer.app.wiring import Watcher  # noqa: PLC0415  # slow to import

        self.subscriber = Subscriber()
        self.done = 0
        self.judged = False
        self.owned = False
        self.end_s = time.monotonic() + TIMEOUT_S
        self._workers = workers
        self._watcher = Watcher(config)
        self._next = [0] * self._watcher.partitions
        self._progress = Progress(TextColumn("   events"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console)
        self._bar = self._progress.add_task("events", total=total)
        self._live = Live(console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        """Take the screen for the length of the block."""
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back, and disconnect."""
        self._live.stop()
        self._watcher.__exit__()

    def say(self, text: str) -> None:
        """Print above what moves."""
        self._live.console.print(text)

    def look(self) -> None:
        """See how far the run is, and take in the changes since the last look."""
        self._workers.check()
        states = self._watcher.states()
        self.owned = all(state.owner for state in states)
        self.done = sum(state.next_offset for state in states)
        self.judged = self._watcher.settled(states, least=1)
        for partition, first in enumerate(self._next):
            self._next[partition], changes = self._watcher.changes(partition, first)
            for change in changes:
                self.subscriber.apply(change)
        self._progress.update(self._bar, completed=self.done)
        self._live.update(Group(self._progress, changes_table(self.subscriber.latest)))

    def until(self, what: str, holds: Callable[[], bool], within_s: float | None = None) -> bool:
        """Look until something holds; False if it did not `within_s`.

        Raises:
            Unavailable: no time was given, and the demo's own is over; or a worker has ended.

        """
        end_s = self.end_s if within_s is None else time.monotonic() + within_s
        self.look()
        while not holds():
            if time.monotonic() >= end_s:
                if within_s is not None:
                    return False
                message = f"{what} did not come within {TIMEOUT_S:.0f} s; the last that the workers said:\n{self._workers.said()}"
                raise Unavailable(message)
            time.sleep(PAUSE_S)
            self.look()
        return True

    def follow(self, for_s: float) -> None:
        """Look for a while."""
        self.until("a while", lambda: False, for_s)

    def everything(self) -> list[dict[str, Any]]:
        """Read all changes from the beginning of the topic, as they are: nothing is taken out."""
        return [change for partition in range(self._watcher.partitions) for change in self._watcher.changes(partition, 0)[1]]


def day(time_ms: int) -> str:
    """Write a time's day."""
    return time.strftime("%Y-%m-%d", time.gmtime(time_ms / 1000))


def changes_table(changes: Any) -> Table:  # noqa: ANN401  # any iterable of changes
    """Lay changes out, fit for eighty columns."""
    found = Table(box=None, pad_edge=True, padding=(0, 1), expand=True)
    for column, width in (("customer", 9), ("from", 9), ("to", None), ("why", 12), ("when", 10)):
        found.add_column(column, no_wrap=True, width=width, ratio=None if width else 1)
    for change in changes:
        _add(found, change)
    return found


def _add(found: Table, change: Mapping[str, Any]) -> None:
    before = change["previous_segment_id"] or ""
    found.add_row(change["customer_id"], before, change["segment_name"], change["cause"], day(change["occurred_at"]))
