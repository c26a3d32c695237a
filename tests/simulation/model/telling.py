"""A counterexample as text: a line a step, with what it changed in Redis, in Kafka and in the output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.model.values import ADOPTED, LETTER, NEXT_MODEL, NUMBERED, SWEPT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.simulation.model.values import Entry, Record, Step, World

CUSTOMERS = WORKERS = "ABC"
WIDTH = 66


def told(first: World, steps: Sequence[Step]) -> Iterator[str]:
    """Tell steps. Faults are in capitals; a record with a worker's letter behind it is in that worker's open transaction."""
    before = first
    for number, step in enumerate(steps, 1):
        who = "" if step.worker is None else f"{WORKERS[step.worker]} "
        changed = "; ".join(after for was, after in zip(_facts(before), _facts(step.world), strict=True) if was != after)
        yield f"{number:3}  {who + step.what:<{WIDTH}} {changed}".rstrip()
        before = step.world


def _facts(s: World) -> list[str]:
    """Say what is where."""
    several = len(s.redis) > 1
    facts = []
    for p, (r, c, log) in enumerate(zip(s.redis, s.kafka, s.output, strict=True)):
        of = f" {p}" if several else ""
        at = f"c{r.cid % NUMBERED} after c{r.prev % NUMBERED} at {r.nxt}" if r.cid else "no commit"
        model = f", model 2 from {r.data.at_offset}{'' if r.data.swept else ', sweeping'}" if r.data.model == NEXT_MODEL else ""
        facts.append(f"Redis{of}: {at}, owner t{r.owner}{model}" if r.owner else f"Redis{of}: nothing")
        facts.append(f"Kafka{of}: c{c.cid % NUMBERED} at {c.nxt}" if c.cid else f"Kafka{of}: no position")
        facts.append(f"output{of}: {', '.join(_entry(entry) for entry in log) or 'nothing'}")
    return facts


def _entry(entry: Entry) -> str:
    return _record(entry.record) + (f" ({WORKERS[entry.by - 1]})" if entry.by else "")


def _record(record: Record) -> str:
    if record.what == ADOPTED:
        return f"adopted at {record.version}"
    if record.what >= SWEPT:
        return f"swept {CUSTOMERS[record.what - SWEPT].lower()} v{record.version}"
    return f"letter {record.what - LETTER}" if record.what >= LETTER else f"event {record.what} v{record.version}"
