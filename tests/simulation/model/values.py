"""The protocol as a small system of values: what Redis, Kafka and the workers hold, and what a commit makes of it.

Two customers share a partition's events in turns. Every event tells a change of its customer; one may be bad and become a dead letter.
A partition begins under model version 1 and adopts version 2 somewhere on the way, which moves no offset, is journaled, and makes a sweep
tell a change of each customer. So commits differ in all that commits differ in: events, bounds of batches, decisions, sweeps, letters.

Law: what is told depends on the events and on the offset of the adoption alone; `sequential` says what that is.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

CUSTOMERS = 2
NEVER = -1
FIRST_MODEL, NEXT_MODEL, UNJUDGED = 1, 2, 0
SPAN = 4
"""Versions reserved to each offset: more than a customer can need."""
LETTER, SWEPT, ADOPTED = 10, 20, 30
"""What a record is: the change of an event is known by its offset, its dead letter by 10 + offset, a sweep's change by 20 + customer."""
CHANGES, LETTERS, JOURNAL = TOPICS = range(3)
NUMBERED = 256
"""A commit id is the commit's number among those at its offset, times this, and a name that no other has."""


class Phase:
    """What a worker does next for a partition."""

    OUT, DROPPED, CLAIM, ASK, READ, EMPTY, REBUILD, SETTLE, RUN, UNSENT, READ_BACK = range(11)


class Stage:
    """How far a worker is in publishing.

    FIRST is between the owners' reading and the positions, where a rule left out has these the other way round; UNCLEAR is where nobody
    knows whether the transaction was committed.
    """

    FREE, OPENED, FIRST, SENT, CHECKED, UNCLEAR = range(6)


class Txn:
    """A transaction, as the broker has it. From DECIDED on it is committed, and its two markers arrive one by one."""

    NONE, OPEN, PENDING, DECIDED, POSITIONS_DUE, OUTPUT_DUE = range(6)


class Fault:
    """What may befall; the numbers are places in a budget."""

    CRASH, MOVE, LOST, ROLLBACK, WIPE, EXPIRE = range(6)


FAULTS = ("crash", "move", "lost", "rollback", "wipe", "expire")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of everything; `faults` are as many as `FAULTS`. `adopts` are the offsets at which version 2 may be adopted.

    `letter` is the event that is bad. `exactly_once` is `transactions: on`.
    """

    faults: tuple[int, ...] = (0,) * len(FAULTS)
    events: int = 2
    partitions: int = 1
    workers: int = 2
    adopts: tuple[int, ...] = ()
    letter: int = NEVER
    exactly_once: bool = True


class Record(NamedTuple):
    """One record of the output: what it is, its customer's version, and the model version; an adoption's `version` is its offset."""

    what: int
    version: int = 0
    model: int = 0


class Profile(NamedTuple):
    """One customer."""

    version: int = 0
    judged: int = UNJUDGED  # by which model version
    events: tuple[int, ...] = ()


class Data(NamedTuple):
    """What a partition's commits amount to."""

    model: int = FIRST_MODEL
    at_offset: int = 0
    swept: bool = True
    profiles: tuple[Profile, ...] = (Profile(),) * CUSTOMERS


Outbox = tuple[Record, ...]
BEGUN = Data()


class Position(NamedTuple):
    """The group's committed position with its metadata; there is none where the id is 0."""

    nxt: int = 0
    cid: int = 0


class Redis(NamedTuple):
    """The keys of one partition."""

    owner: int = 0
    cid: int = 0
    prev: int = 0
    nxt: int = 0
    data: Data = BEGUN
    outbox: Outbox = ()


class Call(NamedTuple):
    """A guarded call to Redis: write `redis` if `token` owns the partition and the commit id is `expected`."""

    partition: int
    token: int
    expected: int
    redis: Redis


class Entry(NamedTuple):
    """One entry of an output partition. `by` is 0 once it is committed, before that 1 + the worker whose transaction it is in."""

    record: Record
    by: int = 0
    stamp: Position = Position()


class Publication(NamedTuple):
    """A commit on its way to Kafka."""

    token: int
    position: Position
    outbox: Outbox = ()


class Part(NamedTuple):
    """A partition in a worker's memory. `until` is C, on assignment and in a rebuild; `script` where an adoption is to be followed."""

    phase: int = Phase.OUT
    token: int = 0
    cid: int = 0
    nxt: int = 0
    until: Position = Position()
    script: int = NEVER
    outbox: Outbox = ()
    told: tuple[Record, ...] = ()
    call: Call | None = None


class Worker(NamedTuple):
    """A process, and the broker's side of its transaction, which outlives it.

    `fresh`: its membership, as of the last poll, is valid. `lost` are partitions that were taken away since, whether or not they are back.
    """

    parts: tuple[Part, ...]
    alive: bool = True
    fresh: bool = True
    stage: int = Stage.FREE
    txn: int = Txn.NONE
    publications: tuple[Publication | None, ...] = ()
    lost: tuple[int, ...] = ()


class World(NamedTuple):
    """A state. `copy` is an earlier Redis that a rollback may bring back, `late` a request that may still arrive there."""

    redis: tuple[Redis, ...]
    kafka: tuple[Position, ...]
    output: tuple[tuple[Entry, ...], ...]
    workers: tuple[Worker, ...]
    assigned: tuple[int, ...]
    budget: tuple[int, ...]
    copy: tuple[Redis, ...] = ()
    late: Call | None = None

    def worker(self, i: int, w: Worker) -> World:
        return self._replace(workers=(*self.workers[:i], w, *self.workers[i + 1 :]))

    def part(self, i: int, p: int, part: Part) -> World:
        w = self.workers[i]
        return self.worker(i, w._replace(parts=(*w.parts[:p], part, *w.parts[p + 1 :])))

    def store(self, p: int, redis: Redis) -> World:
        return self._replace(redis=(*self.redis[:p], redis, *self.redis[p + 1 :]))

    def spend(self, fault: int) -> World:
        return self._replace(budget=(*self.budget[:fault], self.budget[fault] - 1, *self.budget[fault + 1 :]))

    def calls(self) -> list[Call]:
        """Give the calls to Redis that somebody may still make."""
        held = [part.call for w in self.workers for part in w.parts if part.call]
        return [*held, self.late] if self.late else held

    def fresh_id(self, number: int) -> int:
        """Choose a commit id that nobody knows; `number` counts the commits at its offset."""
        known = [x for r in (*self.redis, *self.copy) for x in (r.cid, r.prev)]
        known += [c.cid for c in self.kafka]
        known += [x for call in self.calls() for x in (call.expected, call.redis.cid)]
        known += [x for w in self.workers for part in w.parts for x in (part.cid, part.until.cid)]
        known += [one.position.cid for w in self.workers for one in w.publications if one]
        known += [entry.stamp.cid for log in self.output for entry in log]
        return number * NUMBERED + 1 + max(cid % NUMBERED for cid in known)

    def fresh_token(self) -> int:
        """Choose an owner token that nobody knows."""
        known = [r.owner for r in (*self.redis, *self.copy)] + [call.token for call in self.calls()]
        known += [part.token for w in self.workers for part in w.parts]
        known += [one.token for w in self.workers for one in w.publications if one]
        return 1 + max(known)


class Step(NamedTuple):
    """What happens, to which worker (None: to a server), and what comes of it. A fault need not happen."""

    worker: int | None
    what: str
    world: World
    fault: bool = False


# What commits amount to


@cache
def fold(data: Data, first: int, end: int, letter: int) -> tuple[Data, Outbox]:
    """Take the events from `first` to before `end` in; the one at `letter` is bad. A customer not judged yet is judged first."""
    profiles, records = list(data.profiles), []
    for offset in range(first, end):
        c = offset % CUSTOMERS
        if offset == letter:
            records.append(Record(LETTER + offset))
            continue
        profiles[c], told = _judged(data, c, profiles[c])
        version = max(profiles[c].version + 1, SPAN * (offset + 1))
        records += [*told, Record(offset, version, data.model)]
        profiles[c] = Profile(version, data.model, (*profiles[c].events, offset))
    return data._replace(profiles=tuple(profiles)), tuple(records)


@cache
def sweep(data: Data) -> tuple[Data, Outbox]:
    """Judge everybody who is not judged yet."""
    judged = [_judged(data, c, profile) for c, profile in enumerate(data.profiles)]
    return data._replace(swept=True, profiles=tuple(one for one, _ in judged)), tuple(record for _, told in judged for record in told)


def adopt(data: Data, offset: int) -> tuple[Data, Outbox]:
    """Adopt the next model version; a sweep begins."""
    return data._replace(model=NEXT_MODEL, at_offset=offset, swept=False), (Record(ADOPTED, offset, NEXT_MODEL),)


def _judged(data: Data, c: int, profile: Profile) -> tuple[Profile, Outbox]:
    if not profile.events or profile.judged == data.model:
        return profile, ()
    version = max(profile.version + 1, SPAN * data.at_offset)
    return profile._replace(version=version, judged=data.model), (Record(SWEPT + c, version, data.model),)


@cache
def sequential(events: int, letter: int, adopted: int) -> tuple[Data, frozenset[Record]]:
    """Say what one reader of all events comes to, and tells, that adopts at an offset; NEVER: that does not."""
    data, told = fold(BEGUN, 0, events if adopted == NEVER else adopted, letter)
    if adopted == NEVER:
        return data, frozenset(told)
    data, journaled = adopt(data, adopted)
    data, swept = sweep(data)
    data, after = fold(data, adopted, events, letter)
    return data, frozenset((*told, *journaled, *swept, *after))


@cache
def whole(data: Data, nxt: int, letter: int) -> bool:
    """Tell whether a state has taken in each event before an offset, once and in order, and no other."""
    expected = [tuple(offset for offset in range(c, nxt, CUSTOMERS) if offset != letter) for c in range(CUSTOMERS)]
    return expected == [profile.events for profile in data.profiles]


def topic(record: Record) -> int:
    """Tell which topic a record is written to."""
    return JOURNAL if record.what == ADOPTED else LETTERS if LETTER <= record.what < SWEPT else CHANGES


@cache
def is_open(output: tuple[Entry, ...], *topics: int) -> bool:
    """Tell whether a reader of topics has to wait for a transaction to end."""
    return any(entry.by and topic(entry.record) in topics for entry in output)


@cache
def last_told(output: tuple[Entry, ...], until: int) -> Outbox:
    """Give the last change of each customer that was told in commits up to an offset, as far as no transaction is open."""
    told = [Record(NEVER)] * CUSTOMERS
    for entry in output:
        if topic(entry.record) == CHANGES:
            if entry.by:
                break
            c = entry.record.what % CUSTOMERS
            if entry.stamp.nxt <= until and entry.record.version > told[c].version:
                told[c] = entry.record
    return tuple(told)


@cache
def agree(data: Data, told: tuple[Record, ...]) -> Data:
    """Make a state agree with what was told: who knows less learns it, who knows more goes back and is judged anew (7d)."""
    profiles, swept = list(data.profiles), data.swept
    for c, (profile, record) in enumerate(zip(data.profiles, told, strict=True)):
        if not profile.events or (profile.version, profile.judged) == (record.version, record.model):
            continue
        taught = record.version > profile.version
        profiles[c] = Profile(record.version, data.model if taught else UNJUDGED, profile.events)
        swept = swept and taught
    return data._replace(profiles=tuple(profiles), swept=swept)


# States that differ only in the names of ids, tokens and workers are one


class Names(dict[object, int]):
    """Numbers things in the order in which they are met; 0 stands for none."""

    def __init__(self) -> None:
        """Nothing has a number yet."""
        super().__init__({0: 0})

    def __missing__(self, thing: object) -> int:
        """Give a thing the next number."""
        number = self[thing] = len(self)
        return number


class Ids(Names):
    """Numbers commit ids, whose own numbers are no mere names."""

    def __missing__(self, thing: object) -> int:
        """Give an id the next number."""
        assert isinstance(thing, int)
        number = self[thing] = NUMBERED * (thing // NUMBERED) + len(self)
        return number


class Keys:
    """Makes keys of states: equal for the same state under other names, and for no other state."""

    def __init__(self) -> None:
        """Values without names are numbered for as long as this object lives."""
        self._values = Names()

    def __call__(self, s: World) -> bytes:
        """Make a state's key."""
        order = sorted(range(len(s.workers)), key=lambda i: _rank(s, i))
        slot = [0] * (1 + len(order))
        for seat, i in enumerate(order, 1):
            slot[i + 1] = seat
        ids, tokens, value = Ids(), Names(), self._values
        flat = [*s.budget, *(slot[i + 1] for i in s.assigned), len(s.copy)]
        for r in (*s.redis, *s.copy):
            flat += (tokens[r.owner], ids[r.cid], ids[r.prev], r.nxt, value[r.data], value[r.outbox])
        for c in s.kafka:
            flat += (c.nxt, ids[c.cid])
        for i in order:
            w = s.workers[i]
            flat += (w.alive, w.fresh, w.stage, w.txn, value[w.lost])
            for part in w.parts:
                flat += (part.phase, tokens[part.token], ids[part.cid], part.nxt, part.until.nxt, ids[part.until.cid], part.script + 1)
                flat += (value[part.outbox], value[part.told])
                flat += _call(part.call, ids, tokens, value)
            for one in w.publications:
                flat += (tokens[one.token], one.position.nxt, ids[one.position.cid], value[one.outbox]) if one else (0,)
        for log in s.output:
            flat.append(len(log))
            for entry in log:
                flat += (value[entry.record], slot[entry.by], entry.stamp.nxt, ids[entry.stamp.cid])
        flat += _call(s.late, ids, tokens, value)
        return array("H", flat).tobytes()


def _rank(s: World, i: int) -> tuple[object, ...]:
    """Order workers by what does not depend on names, so far as that tells them apart."""
    w = s.workers[i]
    mine = [(part.phase, part.nxt, part.token == r.owner, part.cid == r.cid) for part, r in zip(w.parts, s.redis, strict=True)]
    return w.alive, w.fresh, w.stage, w.txn, mine, [one == i for one in s.assigned]


def _call(call: Call | None, ids: Names, tokens: Names, value: Names) -> tuple[int, ...]:
    if call is None:
        return (0,)
    r = call.redis
    return 1 + call.partition, tokens[call.token], ids[call.expected], ids[r.cid], r.nxt, value[r.data], value[r.outbox]
