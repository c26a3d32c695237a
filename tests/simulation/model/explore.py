"""Walks every state that the model can reach within bounds, breadth first, so that what breaks has a shortest trace.

Laws, in each state: no change is told twice (`doubled`), versions grow (`versions`), and what Redis holds took in every event before its
offset once (`stale`: a write went on from something else). Where all work is done: nothing is missing from what was told (`lost`), and what
was told and what Redis holds are those of one reader of the whole log (`differs`). From each state, with no further fault, all work can
still be done (`stuck`). Without transactions a record may come again, and `doubled` is one that comes again under another version.
"""

from __future__ import annotations

from array import array
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tests.simulation.model.values import ADOPTED, CHANGES, CUSTOMERS, NEVER, NEXT_MODEL, Keys, Phase, Stage, Txn, sequential, topic, whole

if TYPE_CHECKING:
    from tests.simulation.model.steps import Protocol
    from tests.simulation.model.values import Bounds, Outbox, Step, World

LOST, DOUBLED, STALE, VERSIONS, DIFFERS, STUCK = "lost", "doubled", "stale", "versions", "differs", "stuck"
LAWS = (LOST, DOUBLED, STALE, VERSIONS, DIFFERS, STUCK)
STATES_MAX = 5_000_000


class TooLarge(Exception):  # noqa: N818  # says what happened
    """There are more states than may be looked at, so nothing is known."""


class Explored(NamedTuple):
    """What came of it: `broken` is the law that does not hold, or empty, and `trace` leads there."""

    broken: str
    states: int
    depth: int
    completed: int
    trace: list[Step]


def explore(protocol: Protocol, seeking: str = "", states_max: int = STATES_MAX) -> Explored:
    """Explore until a law is found broken; with `seeking`, until that one is.

    Raises:
        TooLarge: there is no end to it within so many states.

    """
    key, bounds, first = Keys(), protocol.bounds, protocol.initial
    seen, parents, done = {key(first): 0}, array("I", [0]), bytearray(1)
    sources, targets, depth, level = array("I"), array("I"), 0, [first]
    base = 0
    while level:
        following: list[World] = []
        near: dict[World, int] = {}  # most steps lead where another of the same level leads, and a key costs more than a look
        for here, s in enumerate(level, base):
            for step in protocol.successors(s):
                there = near.get(step.world, NEVER)
                if there == NEVER:
                    there = near[step.world] = seen.setdefault(key(step.world), len(parents))
                if not step.fault:
                    sources.append(here)
                    targets.append(there)
                if there < len(parents):
                    continue
                parents.append(here)
                following.append(step.world)
                done.append(completed(bounds, step.world))
                broken = violated(bounds, step.world)
                if broken and (not seeking or seeking in broken):
                    law = seeking or min(broken)
                    return Explored(law, len(seen), depth + 1, sum(done), traced(key, protocol, list(seen), parents, there))
        if len(parents) > states_max:
            message = f"more than {states_max} states at depth {depth}"
            raise TooLarge(message)
        base, level, depth = base + len(level), following, depth + bool(following)
    dead_end = stuck(done, sources, targets) if seeking in {"", STUCK} else NEVER
    trace = [] if dead_end == NEVER else traced(key, protocol, list(seen), parents, dead_end)
    return Explored("" if dead_end == NEVER else STUCK, len(seen), depth, sum(done), trace)


def completed(bounds: Bounds, s: World) -> bool:
    """Tell whether all work is done: everything is in Redis and published, the owners know it, and nothing is on its way."""
    for p, i in enumerate(s.assigned):
        w, r, c = s.workers[i], s.redis[p], s.kafka[p]
        part = w.parts[p]
        if not w.alive or part.phase != Phase.RUN or part.call or part.nxt != bounds.events or r.nxt != bounds.events or not r.data.swept:
            return False
        if (r.owner, r.cid) != (part.token, part.cid) or c.cid not in {0, r.cid}:
            return False
        if r.data.model != NEXT_MODEL and r.nxt in bounds.adopts:
            return False
    return all(w.txn == Txn.NONE and w.stage == Stage.FREE and not any(w.publications) for w in s.workers)


def violated(bounds: Bounds, s: World) -> frozenset[str]:
    """Give the laws that do not hold in a state."""
    found = frozenset(STALE for r in s.redis if not whole(r.data, r.nxt, bounds.letter))
    told = [_told(s, p) for p in range(len(s.output))]
    for records in told:
        found |= _said(records, bounds.exactly_once)
    if completed(bounds, s):
        for records, r in zip(told, s.redis, strict=True):
            adopted = next((one.version for one in records if one.what == ADOPTED), NEVER)
            data, expected = sequential(bounds.events, bounds.letter, r.data.at_offset if r.data.model == NEXT_MODEL else adopted)
            if {one.what for one in expected} - {one.what for one in records}:
                found |= {LOST}
            elif r.data != data or frozenset(records) != expected:
                found |= {DIFFERS}
    return found


def _told(s: World, p: int) -> Outbox:
    """Give the records of committed transactions, whether or not their markers have arrived."""
    return tuple(entry.record for entry in s.output[p] if not entry.by or s.workers[entry.by - 1].txn >= Txn.DECIDED)


@cache
def _said(records: Outbox, exactly_once: bool) -> frozenset[str]:
    """Hold what a subscriber reads to the laws."""
    first = dict.fromkeys(records)  # without those that come again the same
    found = set()
    if len({one.what for one in first}) != (len(records) if exactly_once else len({(one.what, one.version) for one in first})):
        found.add(DOUBLED)
    last = [0] * CUSTOMERS
    for one in first:
        if topic(one) == CHANGES:
            if one.version <= last[one.what % CUSTOMERS]:
                found.add(VERSIONS)
            last[one.what % CUSTOMERS] = one.version
    return frozenset(found)


def stuck(done: bytearray, sources: array[int], targets: array[int]) -> int:
    """Give the first state from which no state is reached where all work is done, or NEVER: backwards from those, against every step."""
    good, source, target = np.frombuffer(done, np.bool_).copy(), np.frombuffer(sources, np.uint32), np.frombuffer(targets, np.uint32)
    while True:
        before = int(good.sum())
        good[source[good[target]]] = True
        if int(good.sum()) == before:
            return NEVER if good.all() else int(good.argmin())


def traced(key: Keys, protocol: Protocol, keys: list[bytes], parents: array[int], at: int) -> list[Step]:
    """Walk from the beginning to a state, by the keys on the way."""
    path = [at]
    while path[-1]:
        path.append(parents[path[-1]])
    s, steps = protocol.initial, []
    for k in reversed(path[:-1]):
        step = next(step for step in protocol.successors(s) if key(step.world) == keys[k])
        steps.append(step)
        s = step.world
    return steps
