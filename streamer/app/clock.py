"""Time and chance, passed in so that tests can hold them still."""

from __future__ import annotations

import secrets
import time
from typing import Protocol


class Clock(Protocol):
    """What the worker asks of the world besides servers."""

    def now_ms(self) -> int:
        """Tell the wall clock's time, milliseconds since 1970."""

    def monotonic_s(self) -> float:
        """Tell a time that never goes back."""

    def sleep(self, seconds: float) -> None:
        """Wait."""

    def token(self) -> str:
        """Give a name that nobody else has: an owner token or a commit id."""


class SystemClock:
    """The real one."""

    def now_ms(self) -> int:
        """Tell the wall clock's time, milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Tell a time that never goes back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def token(self) -> str:
        """Give a name that nobody else has: 96 random bits."""
        return secrets.token_hex(12)
