"""What happens to workers: brokers that commit and time out, a group that rebalances, a Redis that checks and loses, processes that die.

Law: whether Redis answers, when a marker arrives and when a session ends is nobody's to choose: each possibility is a step of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.model.values import Fault, Part, Position, Redis, Stage, Step, Txn, Worker, World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.simulation.model.values import Bounds, Call, Publication


class Servers:
    """The surroundings of workers, less the rules that `without` names."""

    def __init__(self, bounds: Bounds, without: frozenset[str] = frozenset()) -> None:
        """Nothing is kept between steps: a state says all."""
        self.bounds, self.without = bounds, without
        # Where nobody asks which commit a record is of, states that differ in that alone are one.
        self._stamps = bool(bounds.faults[Fault.EXPIRE]) or not bounds.exactly_once

    # Redis

    def _applies(self, r: Redis, token: int, expected: int) -> bool:
        """Check as the Lua call does."""
        mine = r.owner == token or "no_owner_check" in self.without
        return mine and (r.cid == expected or "no_id_check" in self.without)

    def _called(self, s: World, call: Call) -> World | None:
        """Make a guarded call; None where it is refused."""
        r = s.redis[call.partition]
        if not self._applies(r, call.token, call.expected):
            return None
        return s.store(call.partition, call.redis._replace(owner=r.owner, prev=r.cid))

    # What the broker and the group do

    def _broker(self, s: World, i: int, w: Worker) -> Iterator[Step]:
        """Let markers arrive, time out what a dead process left, and let it come back."""
        if w.txn in {Txn.DECIDED, Txn.POSITIONS_DUE}:
            kafka = tuple(one.position if one else c for one, c in zip(w.publications, s.kafka, strict=True))
            left = w._replace(txn=Txn.OUTPUT_DUE) if w.txn == Txn.DECIDED else _over(w)
            yield Step(i, "its transaction's positions are committed", s._replace(kafka=kafka).worker(i, left))
        if w.txn in {Txn.DECIDED, Txn.OUTPUT_DUE}:
            output = tuple(tuple(e._replace(by=0) if e.by == i + 1 else e for e in log) for log in s.output)
            left = w._replace(txn=Txn.POSITIONS_DUE) if w.txn == Txn.DECIDED else _over(w)
            yield Step(i, "its transaction's records are committed", s._replace(output=output).worker(i, left))
        if w.txn in {Txn.OPEN, Txn.PENDING} and w.stage in {Stage.FREE, Stage.UNCLEAR}:
            yield Step(i, "the transaction that it has left times out", aborted(s, i))
        if not w.alive:
            if w.txn in {Txn.NONE, Txn.OPEN, Txn.PENDING}:
                yield Step(i, "starts again", aborted(s, i).worker(i, self._newborn(fresh=False)))
            for p, owner in enumerate(s.assigned):
                if owner == i:
                    yield from (Step(j, "is given what a dead process had", moved(s, (p,), j)) for j, v in enumerate(s.workers) if v.alive)

    def _newborn(self, *, fresh: bool) -> Worker:
        n = self.bounds.partitions
        return Worker((Part(),) * n, fresh=fresh, publications=(None,) * n)

    def _late(self, s: World) -> Iterator[Step]:
        """Let a request arrive that its sender has given up, or that it still waits for."""
        if s.late:
            yield Step(None, "a late request reaches Redis", (self._called(s, s.late) or s)._replace(late=None))

    def _faults(self, s: World) -> Iterator[Step]:
        for i, w in enumerate(s.workers):
            if s.budget[Fault.CRASH] and w.alive:
                dead = self._newborn(fresh=False)._replace(alive=False, txn=w.txn, publications=_left(w))
                yield Step(i, "CRASHES", s.spend(Fault.CRASH).worker(i, dead), fault=True)
            if s.budget[Fault.LOST] and w.alive and w.txn in {Txn.OPEN, Txn.PENDING}:
                yield Step(i, "ITS TRANSACTION TIMES OUT", aborted(s.spend(Fault.LOST), i), fault=True)
        if s.budget[Fault.MOVE]:
            yield from self._moves(s.spend(Fault.MOVE))
        if s.budget[Fault.ROLLBACK] and s.copy:
            t = s.spend(Fault.ROLLBACK)._replace(copy=())
            yield Step(None, "REDIS IS PUT BACK TO THE COPY", t._replace(redis=s.copy), fault=True)
            if len(s.redis) > 1:
                for p, redis in enumerate(s.copy):
                    yield Step(None, f"REDIS IS PUT BACK TO THE COPY, partition {p} alone", t.store(p, redis), fault=True)
        if s.budget[Fault.WIPE] and any(r != Redis() for r in s.redis):
            yield Step(None, "REDIS LOSES EVERYTHING", s.spend(Fault.WIPE)._replace(redis=(Redis(),) * len(s.redis)), fault=True)
        if s.budget[Fault.EXPIRE] and any(c.cid for c in s.kafka):
            yield Step(None, "THE GROUP'S POSITIONS EXPIRE", s.spend(Fault.EXPIRE)._replace(kafka=(Position(),) * len(s.kafka)), fault=True)

    @staticmethod
    def _moves(s: World) -> Iterator[Step]:
        """Rebalance: some or all partitions of a worker go to another, which the worker does not notice; or all stay where they are."""
        bumped = s._replace(workers=tuple(w._replace(fresh=False) for w in s.workers))
        yield Step(None, "THE GROUP REBALANCES, and all stay where they are", bumped, fault=True)
        for i in sorted(set(s.assigned)):
            if s.workers[i].alive:
                had = tuple(p for p, owner in enumerate(s.assigned) if owner == i)
                for some in {had, *((p,) for p in had)}:
                    for j, v in enumerate(s.workers):
                        if j != i and v.alive:
                            yield Step(i, "IS TAKEN FOR DEAD: another is given its partitions", moved(s, some, j), fault=True)


def moved(s: World, partitions: tuple[int, ...], j: int) -> World:
    """Give partitions to worker j. Nobody's membership is valid before its next poll."""
    assigned = tuple(j if p in partitions else owner for p, owner in enumerate(s.assigned))
    lost = [tuple(p for p in partitions if s.assigned[p] == i != j) if w.alive else () for i, w in enumerate(s.workers)]
    workers = tuple(w._replace(fresh=False, lost=tuple(sorted({*w.lost, *some}))) for w, some in zip(s.workers, lost, strict=True))
    return s._replace(assigned=assigned, workers=workers)


def aborted(s: World, i: int) -> World:
    """Abort a worker's transaction, unless it is decided. What a living worker believes of it stays as it is."""
    w = s.workers[i]
    if w.txn not in {Txn.OPEN, Txn.PENDING}:
        return s
    output = tuple(tuple(entry for entry in log if entry.by != i + 1) for log in s.output)
    publications = w.publications if w.stage not in {Stage.FREE, Stage.UNCLEAR} else (None,) * len(w.publications)
    return s._replace(output=output).worker(i, w._replace(txn=Txn.NONE, publications=publications))


def _over(w: Worker) -> Worker:
    """End a transaction whose markers have all arrived."""
    return w._replace(txn=Txn.NONE, publications=(None,) * len(w.publications))


def _left(w: Worker) -> tuple[Publication | None, ...]:
    """Say what the broker knows of a dead process's transaction."""
    if w.txn == Txn.NONE:
        return (None,) * len(w.publications)
    return tuple(one and one._replace(outbox=()) for one in w.publications)
