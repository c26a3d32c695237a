"""What a worker does: assignment, rebuild, and commits to Redis (1 and 5 to 8 of `streamer/app/protocol.py`).

Law: a worker that stalls is one that takes no step, so whatever a worker does between two of its polls may happen between any two steps of
another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamer.app.protocol import Base, Recovery
from tests.simulation.model.decisions import led_to, read_id, recovered, told_in
from tests.simulation.model.publishing import Publishing
from tests.simulation.model.values import (
    ADOPTED,
    BEGUN,
    CHANGES,
    FIRST_MODEL,
    JOURNAL,
    LETTERS,
    NEVER,
    NEXT_MODEL,
    NUMBERED,
    TOPICS,
    Bounds,
    Call,
    Data,
    Fault,
    Outbox,
    Part,
    Phase,
    Position,
    Redis,
    Stage,
    Step,
    Txn,
    Worker,
    World,
    adopt,
    agree,
    fold,
    is_open,
    last_told,
    sweep,
    topic,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BATCH = 2
"""The most events of a commit: one repeated may have other bounds."""


class Protocol(Publishing):
    """The protocol, less the rules that `without` names."""

    def __init__(self, bounds: Bounds, without: frozenset[str] = frozenset()) -> None:
        """Leave rules out by their names in `left_out.py`."""
        super().__init__(bounds, without)
        self._act: dict[int, Callable[[World, int, int], Iterator[Step]]] = {
            Phase.CLAIM: self._claim,
            Phase.ASK: self._ask,
            Phase.READ: self._read,
            Phase.EMPTY: self._empty,
            Phase.REBUILD: self._rebuild,
            Phase.SETTLE: self._settle,
            Phase.RUN: self._run,
            Phase.READ_BACK: self._read_back,
        }
        if "token_last" in without:
            self._act |= {Phase.CLAIM: self._ask, Phase.ASK: self._claim}

    @property
    def initial(self) -> World:
        """Give the first worker all partitions, and nothing done."""
        b = self.bounds
        nothing = (None,) * b.partitions
        owner = Worker((Part(Phase.CLAIM),) * b.partitions, publications=nothing)
        other = Worker((Part(),) * b.partitions, publications=nothing)
        workers = (owner, *[other] * (b.workers - 1))
        return World((Redis(),) * b.partitions, (Position(),) * b.partitions, ((),) * b.partitions, workers, (0,) * b.partitions, b.faults)

    def successors(self, s: World) -> Iterator[Step]:
        """Give every next step. A Redis that was written over may be one that a later rollback brings back."""
        for step in self._steps(s):
            yield step
            if step.world.redis != s.redis and step.world.budget[Fault.ROLLBACK] and not s.copy and s.budget[Fault.ROLLBACK]:
                yield step._replace(what=f"{step.what} (after a copy of Redis)", world=step.world._replace(copy=s.redis))

    def _steps(self, s: World) -> Iterator[Step]:
        for i, w in enumerate(s.workers):
            yield from self._broker(s, i, w)
            if w.alive:
                yield from self._works(s, i, w)
        yield from self._late(s)
        yield from self._faults(s)

    def _works(self, s: World, i: int, w: Worker) -> Iterator[Step]:
        """Give the steps of one thread: what blocks it, as an assignment or the end of a transaction, keeps it from all else."""
        phases = [part.phase for part in w.parts]
        blocking = next((phase for phase in (Phase.READ_BACK, Phase.READ, Phase.ASK) if phase in phases), None)
        if w.stage in {Stage.FIRST, Stage.SENT, Stage.CHECKED}:
            yield from self._finish(s, i, w)
        elif w.stage == Stage.UNCLEAR:
            yield from self._end(s, i, w)
            yield from self._poll(s, i, w)
        elif blocking is not None:
            yield from self._act[blocking](s, i, phases.index(blocking))
        elif Phase.UNSENT in phases:
            yield from self._send(s, i, w)
            early = "early_outbox" in self.without
            for p, phase in enumerate(phases):
                if (phase == Phase.RUN and w.stage == Stage.FREE) or (phase == Phase.UNSENT and early):
                    yield from self._run(s, i, p)
        else:
            yield from self._goes_on(s, i, w)

    def _goes_on(self, s: World, i: int, w: Worker) -> Iterator[Step]:
        """Give the steps of a thread that nothing blocks."""
        if w.stage == Stage.OPENED:
            yield from self._finish(s, i, w)
        yield from self._poll(s, i, w)
        yield from self._position(s, i, w)
        for p, part in enumerate(w.parts):
            if part.phase in self._act:
                yield from self._act[part.phase](s, i, p)
            yield from self._idle(s, i, p)

    def _poll(self, s: World, i: int, w: Worker) -> Iterator[Step]:
        """Learn what the group did."""
        held = [part.phase != Phase.OUT for part in w.parts]
        mine = [owner == i for owner in s.assigned]
        if w.fresh and held == mine:
            return
        t = s.worker(i, w._replace(fresh=True, lost=()))
        for p in range(len(mine)):
            if held[p] and p in w.lost:
                t = self._withdrawn(t, i, p).part(i, p, Part())
            if mine[p] and t.workers[i].parts[p].phase == Phase.OUT:
                t = t.part(i, p, Part(Phase.CLAIM))
        yield Step(i, "polls, and learns of its assignment", t)

    def _idle(self, s: World, i: int, p: int) -> Iterator[Step]:
        """Look whether Redis still says what the worker knows (8e)."""
        part, r = s.workers[i].parts[p], s.redis[p]
        looks = part.phase in {Phase.RUN, Phase.REBUILD, Phase.SETTLE} and "no_idle_check" not in self.without
        if looks and (r.owner, r.cid) != (part.token, part.cid):
            yield Step(i, "looks at Redis, which is not as it left it: begins the assignment anew", self._again(s, i, p))

    # Assignment

    def _claim(self, s: World, i: int, p: int) -> Iterator[Step]:
        """Write a new owner token (5)."""
        token = s.fresh_token()
        part = s.workers[i].parts[p]._replace(phase=Phase.READ if "token_last" in self.without else Phase.ASK, token=token)
        yield Step(i, "writes a new owner token", s.store(p, s.redis[p]._replace(owner=token)).part(i, p, part))

    def _ask(self, s: World, i: int, p: int) -> Iterator[Step]:
        """Read C, once it is stable (5)."""
        waits = any(w.txn in {Txn.PENDING, Txn.DECIDED, Txn.POSITIONS_DUE} and w.publications[p] for w in s.workers)
        if waits and "unstable_read" not in self.without:
            yield from self._in_vain(s, i, p)
        else:
            part = s.workers[i].parts[p]
            last = "token_last" in self.without
            yield Step(i, "reads Kafka's position", s.part(i, p, part._replace(phase=Phase.ASK if last else Phase.READ, until=s.kafka[p])))

    def _read(self, s: World, i: int, p: int) -> Iterator[Step]:
        """Read R, and where that is not enough the output; then decide (6)."""
        part, r, c = s.workers[i].parts[p], s.redis[p], s.workers[i].parts[p].until
        if r.owner != part.token:
            yield Step(i, "finds another owner in Redis: begins the assignment anew", self._again(s, i, p))
            return
        looks_back = not c.cid and "no_look_back" not in self.without
        recovery = self._decide(r, c, told_in(s.output[p]) if looks_back else ())
        if (looks_back and is_open(s.output[p], *TOPICS)) or (recovery.until and is_open(s.output[p], JOURNAL)):
            yield from self._in_vain(s, i, p)
            return
        adopted = [e.record.version for e in s.output[p] if e.record.what == ADOPTED and not e.by]
        until = Position(recovery.until.next_offset, read_id(recovery.until.commit_id)) if recovery.until else Position()
        base = recovery.base
        if recovery.until and base is Base.STATE and "not_led_to" not in self.without and not led_to(tuple(adopted[:1]), r.data, r.nxt):
            base = Base.NOTHING
        follows = recovery.until is not None or not (self.bounds.exactly_once or "journal_unread" in self.without)
        script = adopted[0] if follows and adopted and "journal_not_followed" not in self.without else NEVER
        kept = NEVER if r.data.model != FIRST_MODEL else script  # it was taken already
        begins = Part(Phase.RUN, part.token, r.cid, r.nxt, script=kept)
        if recovery.publishes:
            yield Step(i, "finds a commit that was not published", s.part(i, p, begins._replace(phase=Phase.UNSENT, outbox=r.outbox)))
            return
        if not recovery.until:
            what, begins = "goes on from Redis", begins if base is Base.STATE else begins._replace(nxt=0, script=script)
        elif base is Base.STATE:
            what, begins = "rebuilds from what Redis holds", begins._replace(phase=Phase.REBUILD, until=until)
        else:
            what, begins = "rebuilds from nothing", Part(Phase.EMPTY if r.cid else Phase.REBUILD, part.token, r.cid, 0, until, script)
        yield Step(i, f"reads Redis, and {what}", s.part(i, p, begins))

    def _in_vain(self, s: World, i: int, p: int) -> Iterator[Step]:
        """Wait for a transaction to end, and in the end no longer: with several partitions two workers may wait for each other."""
        if self.bounds.partitions > 1:
            yield Step(i, "waits in vain for a transaction to end: begins the assignment anew", self._again(s, i, p))

    def _decide(self, r: Redis, c: Position, told: tuple[Position, ...]) -> Recovery:
        """Ask the real `recover`; it is shown something else, or not listened to, where a rule of it is left out."""
        prev = 0 if "no_previous" in self.without else r.prev
        whole = self.bounds.exactly_once or "last_is_whole" in self.without
        found = recovered(r.cid, prev, r.nxt, c, told, self.bounds.exactly_once, whole)
        r_is_told = not c.cid and r.cid in {one.cid for one in told}
        both = bool(r.cid and c.cid)
        instead = {
            "offsets_only": (both and r.nxt == c.nxt, Recovery(Base.STATE)),
            "publishes_nothing_left": (found.publishes, Recovery(Base.STATE)),
            "loud_rebuild": (both and found.until is not None, Recovery(Base.STATE)),
            "trust_beyond_c": (both and found.until is not None, Recovery(Base.STATE, until=found.until)),
            "behind_output": (bool(r.cid and not c.cid), Recovery(Base.STATE, publishes=not r_is_told)),
            "sent_in_part": (r_is_told, Recovery(Base.STATE)),
        }
        return next((other for rule, (differs, other) in instead.items() if differs and rule in self.without), found)

    # Rebuild

    def _empty(self, s: World, i: int, p: int) -> Iterator[Step]:
        """Delete what an earlier life left."""
        yield from self._commit(s, i, p, "empties Redis", 0, BEGUN, ())

    def _rebuild(self, s: World, i: int, p: int) -> Iterator[Step]:
        """Take the log in again up to C's offset, following the journal (7b, 7c)."""
        part, r = s.workers[i].parts[p], s.redis[p]
        end = self.bounds.events if "beyond_batch" in self.without else part.until.nxt
        if part.script == part.nxt:
            yield from self._commit(s, i, p, "follows the journal", part.nxt, adopt(r.data, part.nxt)[0], ())
        elif part.nxt < part.until.nxt:
            end = min(end, part.script) if part.script >= part.nxt else end
            for nxt in range(part.nxt + 1, min(part.nxt + BATCH, end) + 1):
                yield from self._commit(s, i, p, "takes events in again", nxt, fold(r.data, part.nxt, nxt, self.bounds.letter)[0], ())
        elif "settle_after_id" in self.without:
            t = s.store(p, r._replace(cid=part.until.cid, prev=r.cid, nxt=part.until.nxt, outbox=()))
            t = t.part(i, p, part._replace(phase=Phase.SETTLE, cid=part.until.cid))
            yield Step(i, "takes C's id", t if self._applies(r, part.token, part.cid) else self._again(s, i, p))
        elif "read_to_lso" in self.without or not is_open(s.output[p], CHANGES):
            told = self._told(s, p, part)
            yield Step(i, "reads what was published, to the end", s.part(i, p, part._replace(phase=Phase.SETTLE, told=told)))

    def _told(self, s: World, p: int, part: Part) -> Outbox:
        return last_told(s.output[p], self.bounds.events if "told_beyond" in self.without else part.until.nxt)

    def _settle(self, s: World, i: int, p: int) -> Iterator[Step]:
        """Take C's id and make the state agree with what was told, in one call (7d)."""
        part, r = s.workers[i].parts[p], s.redis[p]
        reads_late = "settle_after_id" in self.without
        if not self._applies(r, part.token, part.cid):
            yield Step(i, "its commit is refused", self._again(s, i, p))
        elif not (reads_late and is_open(s.output[p], CHANGES)):
            told = self._told(s, p, part) if reads_late else part.told
            data = r.data if "state_wins" in self.without else agree(r.data, told)
            nxt = part.nxt if "beyond_batch" in self.without else part.until.nxt
            after = Part(Phase.RUN, part.token, part.until.cid, nxt, script=part.script if part.script > nxt else NEVER)
            t = s.store(p, Redis(r.owner, part.until.cid, r.cid, nxt, data)).part(i, p, after)
            yield Step(i, "takes C's id and agrees with what was told", t)

    # Commits to Redis

    def _run(self, s: World, i: int, p: int) -> Iterator[Step]:
        """Fold a batch, sweep or adopt, and commit (1); only when the transaction before is over (4)."""
        part, r, b = s.workers[i].parts[p], s.redis[p], self.bounds
        if s.workers[i].stage != Stage.FREE and "early_outbox" not in self.without:
            return
        if part.call:  # it was published already
            t = self._called(s, part.call)
            done = t.part(i, p, part._replace(call=None)) if t else self._again(s, i, p)
            yield Step(i, "commits to Redis at last" if t else "its commit is refused", done)
            return
        end = min(b.events, part.script) if part.script >= part.nxt else b.events
        for nxt in range(part.nxt + 1, min(part.nxt + BATCH, end) + 1):
            yield from self._commit(s, i, p, "folds events and commits to Redis", nxt, *fold(r.data, part.nxt, nxt, b.letter))
        if not r.data.swept:
            yield from self._commit(s, i, p, "sweeps and commits to Redis", part.nxt, *sweep(r.data))
        elif part.script == part.nxt:
            yield from self._commit(s, i, p, "follows the journal", part.nxt, adopt(r.data, part.nxt)[0], ())
        elif r.data.model == FIRST_MODEL and part.nxt in b.adopts and part.script == NEVER and self._decides(s, p):
            yield from self._commit(s, i, p, "adopts a model and commits to Redis", part.nxt, *adopt(r.data, part.nxt))

    def _decides(self, s: World, p: int) -> bool:
        """Tell whether anything may be decided: without transactions events beyond it may have been told of."""
        free = self.bounds.exactly_once or "decides_below" in self.without
        return free or all(entry.stamp.nxt <= s.redis[p].nxt for entry in s.output[p])

    def _commit(self, s: World, i: int, p: int, what: str, nxt: int, data: Data, records: Outbox) -> Iterator[Step]:
        """Commit to Redis. A rebuild publishes nothing, and its commits have ids of their own (7a)."""
        w = s.workers[i]
        part = w.parts[p]
        rebuilds = part.phase in {Phase.EMPTY, Phase.REBUILD}
        if w.stage != Stage.FREE and "early_outbox" not in self.without:
            return
        if "kafka_first" in self.without and not rebuilds:
            yield from self._publish_first(s, i, p, nxt, data, records)
            return
        kept = tuple(one for one in records if topic(one) != LETTERS) if "letters_in_memory" in self.without else records
        cid = part.until.cid if rebuilds and "id_first" in self.without else s.fresh_id(0 if rebuilds else _number(part, nxt))
        call = Call(p, part.token, part.cid, Redis(0, cid, part.cid, nxt, data, kept))
        t = self._called(s, call)
        if t is None:
            yield Step(i, "its commit is refused", self._again(s, i, p))
            return
        script = NEVER if data.model == NEXT_MODEL and part.script == nxt else part.script
        if rebuilds:
            yield Step(i, what, t.part(i, p, part._replace(phase=Phase.REBUILD, cid=cid, nxt=nxt, script=script)))
            return
        outbox = part.outbox + records if part.phase == Phase.UNSENT else records
        after = Part(Phase.UNSENT, part.token, cid, nxt, script=script, outbox=outbox)
        yield Step(i, what, t.part(i, p, after))
        if s.budget[Fault.LOST] and not s.late:
            waits = after._replace(phase=Phase.READ_BACK, call=call, until=Position(part.nxt, 0))
            yield Step(i, f"{what}: THE REPLY IS LOST", t.spend(Fault.LOST).part(i, p, waits), fault=True)
            yield Step(i, f"{what}: THE REQUEST IS LATE", s.spend(Fault.LOST)._replace(late=call).part(i, p, waits), fault=True)

    def _publish_first(self, s: World, i: int, p: int, nxt: int, data: Data, records: Outbox) -> Iterator[Step]:
        part = s.workers[i].parts[p]
        cid = s.fresh_id(_number(part, nxt))
        call = Call(p, part.token, part.cid, Redis(0, cid, part.cid, nxt, data, records))
        after = Part(Phase.UNSENT, part.token, cid, nxt, script=part.script, outbox=records, call=call)
        yield Step(i, "folds, and commits to Redis only later", s.part(i, p, after))

    def _read_back(self, s: World, i: int, p: int) -> Iterator[Step]:
        """Find out what became of a commit whose reply was lost (8b)."""
        part, r = s.workers[i].parts[p], s.redis[p]
        call = part.call
        if call is None:
            return
        if "reapply_reloaded" in self.without:
            yield Step(i, "takes it for a failure", s.part(i, p, Part(Phase.RUN, part.token, r.cid, part.until.nxt, script=part.script)))
            return
        sent = part._replace(phase=Phase.UNSENT, call=None, until=Position())
        if r.cid == part.cid:
            yield Step(i, "reads back: it was applied", s.part(i, p, sent))
        elif (r.owner, r.cid) != (call.token, call.expected):
            yield Step(i, "reads back: somebody else has written", self._again(s, i, p))
        elif (t := self._called(s, call)) is not None:
            yield Step(i, "reads back: it was not applied, and sends it again", t.part(i, p, sent))


def _number(part: Part, nxt: int) -> int:
    """Count the commits at an offset, with the next one of a partition."""
    return 1 + part.cid // NUMBERED if nxt == part.nxt else 1
