"""A clock that stands still until a test moves it, and names that are numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class FakeClock:
    """One clock for all workers of a test, so that no two of their names are equal."""

    wall_ms: int = 1_700_000_000_000
    passed_s: float = 0.0
    names: int = 0

    def now_ms(self) -> int:
        return self.wall_ms + int(self.passed_s * 1000)

    def monotonic_s(self) -> float:
        return self.passed_s

    def sleep(self, seconds: float) -> None:
        self.passed_s += seconds

    def token(self) -> str:
        self.names += 1
        return f"n{self.names}"
