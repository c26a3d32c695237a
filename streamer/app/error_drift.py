"""Has the stream's quantisation error changed for good? River's ADWIN over it, by its mean in an adaptive window.

Law: nothing that the worker does depends on it. It is fed once in `EVERY_S`, whatever the load, with the share of the variance that the
centroids leave unexplained: the mean squared distance of this worker's votes from their centroids, over the number of features that have
weight, each of which had variance 1 at the fit. It begins anew with another version and other partitions, and waits while a sweep is
under way, since the votes are then of two instants or two versions.

Source: A. Bifet and R. Gavaldà, Learning from Time-Changing Data with Adaptive Windowing, SDM 2007.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Hashable

    from river.drift import ADWIN

EVERY_S: Final = 60.0
DELTA: Final = 0.002  # how likely a change is seen where there is none; the authors' and river's own
UP, DOWN = "up", "down"
DIRECTIONS: Final = (UP, DOWN)


def _window() -> ADWIN:
    from river.drift import ADWIN  # noqa: PLC0415  # it imports scikit-learn, half of what a command that measures nothing takes to start

    made: ADWIN = ADWIN(delta=DELTA, clock=1)  # type: ignore[no-untyped-call]  # river's; it is looked at with every value, one a minute
    return made


@dataclass(slots=True)
class ErrorDrift:
    """Watches the error."""

    _window: ADWIN = field(default_factory=_window)
    _of: Hashable = None
    _due_s: float = float("-inf")

    def due(self, now_s: float) -> bool:
        """Tell whether it is time for another value."""
        return now_s >= self._due_s

    def take(self, unexplained: float, of: Hashable, now_s: float) -> str | None:
        """Take in a share of variance; `of` names what it is of. Tells which way it has changed for good, if that shows now."""
        self._due_s = now_s + EVERY_S
        if of != self._of:
            self._window, self._of = _window(), of
        before = self._window.estimation
        self._window.update(min(max(unexplained, 0.0), 1.0))  # type: ignore[no-untyped-call]
        if not self._window.drift_detected:
            return None
        return UP if self._window.estimation > before else DOWN

    @property
    def mean(self) -> float | None:
        """Give the mean in the window; None while it is empty."""
        return float(self._window.estimation) if self._window.width else None
