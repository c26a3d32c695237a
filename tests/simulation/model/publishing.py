"""Publishing: a transaction of all that was committed, the owners read again, the end of it (2 to 4 of `streamer/app/protocol.py`).

Law: who publishes never guesses. A partition of which it is not known whether it was published is assigned anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.model.servers import Servers, aborted
from tests.simulation.model.values import Entry, Fault, Part, Phase, Position, Publication, Stage, Step, Txn, Worker, World

if TYPE_CHECKING:
    from collections.abc import Iterator


class Publishing(Servers):
    """What workers do in their surroundings once a commit is in Redis."""

    def _again(self, s: World, i: int, p: int) -> World:
        """Run a partition's assignment anew (8a)."""
        part, owner = s.workers[i].parts[p], s.redis[p].owner
        drops = "drop_on_other" in self.without and owner not in {0, part.token}
        return self._withdrawn(s, i, p).part(i, p, Part(Phase.DROPPED if drops else Phase.CLAIM))

    def _send(self, s: World, i: int, w: Worker) -> Iterator[Step]:
        """Send the outboxes of all partitions that committed, in one transaction (2), or without one record by record."""
        unsent = [p for p, part in enumerate(w.parts) if part.phase == Phase.UNSENT]
        if not self.bounds.exactly_once:
            yield self._send_one(s, i, unsent[0])
            return
        if w.stage == Stage.FREE and w.txn != Txn.NONE:
            return  # the coordinator begins none before all markers of the one before have arrived
        t = s
        if w.stage == Stage.OPENED and w.txn == Txn.NONE:
            yield Step(i, "finds its transaction gone", self._handed_back(s, i))
            return
        output, publications = list(t.output), list(t.workers[i].publications)
        for p in unsent:
            part = w.parts[p]
            position = Position(part.nxt, part.cid)
            output[p] += tuple(Entry(record, i + 1, self._stamp(position)) for record in part.outbox)
            publications[p] = Publication(part.token, position, part.outbox)
            t = t.part(i, p, part._replace(phase=Phase.RUN, outbox=()))
        v = t.workers[i]._replace(stage=Stage.OPENED, txn=Txn.OPEN, publications=tuple(publications))
        yield Step(i, "sends the outbox in a transaction", t._replace(output=tuple(output)).worker(i, v))

    def _send_one(self, s: World, i: int, p: int) -> Step:
        """Send one record, and behind the last put the position on its way. A record that comes again the same is no other state."""
        w = s.workers[i]
        part = w.parts[p]
        position = Position(part.nxt, part.cid)
        if part.outbox:
            entry = Entry(part.outbox[0], 0, self._stamp(position))
            log = s.output[p] if entry in s.output[p] else (*s.output[p], entry)
            output = (*s.output[:p], log, *s.output[p + 1 :])
            return Step(i, "sends a record", s._replace(output=output).part(i, p, part._replace(outbox=part.outbox[1:])))
        publications = (*w.publications[:p], Publication(part.token, position), *w.publications[p + 1 :])
        t = s.worker(i, w._replace(publications=publications))
        return Step(i, "all was acknowledged: sends its position on its way", t.part(i, p, part._replace(phase=Phase.RUN)))

    def _stamp(self, position: Position) -> Position:
        return position if self._stamps else position._replace(cid=0)

    def _position(self, s: World, i: int, w: Worker) -> Iterator[Step]:
        """Let a position arrive that is part of no transaction."""
        for p, one in enumerate(w.publications):
            if not one or self.bounds.exactly_once:
                continue
            if w.fresh:
                kafka = (*s.kafka[:p], one.position, *s.kafka[p + 1 :])
                publications = (*w.publications[:p], None, *w.publications[p + 1 :])
                yield Step(i, "its position arrives", s._replace(kafka=kafka).worker(i, w._replace(publications=publications)))
            else:
                yield Step(i, "its position is refused", self._handed_back(s, i))

    def _finish(self, s: World, i: int, w: Worker) -> Iterator[Step]:
        """Add the positions, read the owners again, commit (2, 3)."""
        if w.txn not in {Txn.OPEN, Txn.PENDING}:
            yield Step(i, "finds its transaction gone", self._handed_back(s, i))
            return
        rereads_first = "reread_first" in self.without
        if w.stage == Stage.CHECKED or (w.stage == Stage.SENT and "no_reread" in self.without):
            yield from self._decided(s, i, w)
        elif w.stage == (Stage.OPENED if rereads_first else Stage.SENT):
            yield from self._reread(s, i, w, Stage.FIRST if rereads_first else Stage.CHECKED)
        else:
            if w.fresh or "fetched" in self.without:
                v = w._replace(stage=Stage.CHECKED if rereads_first else Stage.SENT, txn=Txn.PENDING)
                yield Step(i, "adds its positions to the transaction", s.worker(i, v))
            if not w.fresh:
                yield Step(i, "its positions are refused: its membership is out of date", self._handed_back(s, i))

    def _reread(self, s: World, i: int, w: Worker, then: int) -> Iterator[Step]:
        foreign = {p for p, one in enumerate(w.publications) if one and s.redis[p].owner != one.token}
        if not foreign:
            yield Step(i, "reads the owners again: itself", s.worker(i, w._replace(stage=then)))
            return
        t = self._resent(s, i, foreign)
        for p in foreign:
            if t.workers[i].parts[p].phase != Phase.OUT:
                t = self._again(t, i, p)
        yield Step(i, "reads the owners again: another", t)

    def _decided(self, s: World, i: int, w: Worker) -> Iterator[Step]:
        publications = tuple(one and one._replace(outbox=()) for one in w.publications)
        v = w._replace(stage=Stage.FREE, txn=Txn.DECIDED, publications=publications)
        yield Step(i, "commits its transaction", s.worker(i, v))
        if s.budget[Fault.LOST]:
            t = s.spend(Fault.LOST)
            yield Step(i, "commits its transaction: THE REPLY IS LOST", self._unclear(t.worker(i, v), i, w), fault=True)
            yield Step(i, "commits its transaction: THE REQUEST IS LOST", self._unclear(t, i, w), fault=True)

    def _unclear(self, s: World, i: int, w: Worker) -> World:
        """Neither success nor failure: run the assignments anew, without guessing (8c)."""
        for p, one in enumerate(w.publications):
            if one and w.parts[p].phase == Phase.RUN:
                part = w.parts[p]._replace(phase=Phase.UNSENT, outbox=one.outbox) if "republish" in self.without else Part(Phase.CLAIM)
                s = s.part(i, p, part)
        return s.worker(i, s.workers[i]._replace(stage=Stage.UNCLEAR))

    @staticmethod
    def _end(s: World, i: int, w: Worker) -> Iterator[Step]:
        """End what a transaction left open, of which nobody knew whether it was committed (5)."""
        if w.txn in {Txn.NONE, Txn.OPEN, Txn.PENDING}:
            t = aborted(s, i)
            yield Step(i, "ends what it left open", t.worker(i, t.workers[i]._replace(stage=Stage.FREE)))

    def _handed_back(self, s: World, i: int) -> World:
        """Abort, and run the assignments of all that the transaction held anew."""
        held = [p for p, one in enumerate(s.workers[i].publications) if one]
        t = self._resent(s, i, set(held)) if self.bounds.exactly_once else s
        for p in held:
            if t.workers[i].parts[p].phase not in {Phase.OUT, Phase.DROPPED}:
                t = self._again(t, i, p)
        return t

    def _withdrawn(self, s: World, i: int, p: int) -> World:
        """Publish nothing of a partition that is assigned anew."""
        w = s.workers[i]
        if not w.publications[p] or "keeps_publication" in self.without:
            return s
        if not self.bounds.exactly_once:
            return s.worker(i, w._replace(publications=(*w.publications[:p], None, *w.publications[p + 1 :])))
        return s if w.stage in {Stage.FREE, Stage.UNCLEAR} else self._resent(s, i, {p})

    def _resent(self, s: World, i: int, gone: set[int]) -> World:
        """Abort the transaction, and publish what it held of other partitions again (3)."""
        w = s.workers[i]
        t = aborted(s, i)
        t = t.worker(i, t.workers[i]._replace(stage=Stage.FREE, publications=(None,) * len(w.publications)))
        for p, one in enumerate(w.publications):
            if one and p not in gone and w.parts[p].phase == Phase.RUN and "withdraws_all" not in self.without:
                t = t.part(i, p, t.workers[i].parts[p]._replace(phase=Phase.UNSENT, outbox=one.outbox))
        return t
