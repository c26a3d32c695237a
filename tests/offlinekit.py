"""Events laid out as the history gives them, and a shop that sells evenly, for tests of the nightly job."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from offline.events import batch_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

DAY_MS = 86_400_000
BEGIN_DAY = 20_000  # 2024-10-04
PERSONAS = ("buyer", "browser", "returner")


def batches(events: Sequence[Mapping[str, Any]], size: int = 1000) -> list[pa.RecordBatch]:
    """Lay events out in batches of up to `size`, in the order given."""
    return [batch_of(list(events[begin : begin + size]), 0, begin) for begin in range(0, max(len(events), 1), size)]


def event(customer: str, kind: str, at: int, event_id: str, amount: int | None = None) -> dict[str, Any]:
    """Make an event as the history has it."""
    return {"event_id": event_id, "customer_id": customer, "event_type": kind, "occurred_at": at, "amount": amount, "category": "a"}


def shop(days: int = 60, customers: int = 90, seed: int = 1) -> list[dict[str, Any]]:
    """Let customers of three personas shop, about as much every day, in the order of time; customer `c003` is a PERSONAS[3 % 3]."""
    rng = np.random.default_rng(seed)
    found = []
    for day in range(BEGIN_DAY, BEGIN_DAY + days):
        for n in range(customers):
            persona = PERSONAS[n % 3]
            kinds = ["view"] * int(rng.poisson({"buyer": 0.3, "browser": 2.0, "returner": 0.3}[persona]))
            kinds += ["purchase"] * int(rng.random() < {"buyer": 0.8, "browser": 0.1, "returner": 0.25}[persona])
            kinds += ["refund"] * int(persona == "returner" and rng.random() < 0.4)
            for i, kind in enumerate(kinds):
                amount = None if kind == "view" else int(rng.lognormal(8, 0.3))
                at = day * DAY_MS + int(rng.integers(0, DAY_MS))
                found.append(event(f"c{n:03d}", kind, at, f"{day}:{n}:{i}", amount))
    return sorted(found, key=lambda one: int(one["occurred_at"]))


def end_of(events: Sequence[Mapping[str, Any]]) -> int:
    """Give the midnight after the last event."""
    return (max(int(one["occurred_at"]) for one in events) // DAY_MS + 1) * DAY_MS


@dataclass
class FakeManifest:
    """A manifest that is the hash of what is there; everything is before any cut-off."""

    digest: str
    offsets: dict[int, int]

    def cutoff(self, as_of_ms: int) -> dict[int, int]:
        """Take all."""
        assert as_of_ms
        return self.offsets


@dataclass
class FakeHistory:
    """A history in memory, of one partition."""

    records: list[dict[str, Any]]
    digest: str = "0" * 64
    read: list[int] = field(default_factory=list)
    decisions: list[Any] = field(default_factory=list)

    def manifest(self) -> FakeManifest:
        """Give its manifest."""
        return FakeManifest(self.digest, {0: len(self.records)})

    def journal(self, partition: int) -> list[Any]:
        """Give what the owner of the one partition decided."""
        assert partition == 0
        return self.decisions

    def events(
        self, cutoff: Mapping[int, int], columns: Sequence[str] | None = None, *, first: Mapping[int, int] | None = None
    ) -> Iterator[Any]:
        """Give the wanted columns of the events before the cut-off, all of them."""
        assert first is None
        self.read.append(cutoff[0])
        for batch in batches(self.records[: cutoff[0]]):
            yield batch.select(list(columns or batch.schema.names))
