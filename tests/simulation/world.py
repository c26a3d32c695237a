"""Several workers at once over one fake Kafka, Redis and clock, one call at a time, and what befalls them: all of it under a seed.

Each worker runs the code that `streamer run` runs, in a thread of control of its own that hands over before and after every call to a
server. Who goes on is drawn, and so is what befalls whom: a process dies before, in or after a call, a reply is lost, a process is stalled
past its session's time-out and wakes as a zombie, members come and go, Redis is wiped, rolled back or loses its last writes, a server is
away, a transaction's time is over, markers are late.

Law: the same seed gives the same schedule, to the last call.
"""

from __future__ import annotations

import copy
import logging
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from greenlet import getcurrent, greenlet

from streamer.adapters.avro.model_records import decoded
from streamer.app import journal
from streamer.app.first_model import FirstFit
from streamer.core import outbox
from streamer.core.errors import Unavailable
from streamer.core.model import Decision
from streamer.core.ports import ClientFailed, OffsetOutOfRange, Topic
from tests.fakes.faults import Fault, Faults, Killed
from tests.fakes.job import FEATURES, INPUT, NAME, Job, encoded, shop
from tests.fakes.promoting import renewed
from tests.simulation.profiles import USUAL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamer.app.worker import Worker
    from streamer.core.ports import Commit
    from tests.fakes.state_store import FakeNamespace
    from tests.simulation.profiles import Profile

PARTITIONS = 4
WORKERS = 3
WORKERS_MAX = 5
EVENTS = 300
CUSTOMERS = 30
SESSION_S = 4.0
SNAPSHOTS_MAX = 6
ERASURES_MAX = 3
STRANGER = "a stranger"  # whom nobody knows
MERGES_MAX = 6
ERASES_FROM = 100  # the turn before which nobody is erased or merged
EXPIRIES_MAX = 3
LATE_TURNS = (120, 300)
CUT_OFF_SESSIONS_MAX = 4
# A zombie that commits to a Redis that was put back: beyond the protocol where positions expire then, and where there are no transactions.
ZOMBIES, ROLLBACKS = {"stall", "rebalance", "frozen"}, {"rollback", "loses_writes"}
SETTLE_ROUNDS_MAX = 600
LEARNING = {"epoch_interval_s": 0.6, "poll_interval_s": 0.2, "idle_check_s": 1.0, "tick_after_s": 1.0}
AHEAD_MS = (0, 3_600_000, 20 * 3_600_000, 40 * 3_600_000)  # how far the wall clock may be before the events: idle partitions tick
FORGETFUL = {
    **FEATURES,
    "features": {
        "days_since_event": {"recency": "last_event", "cap": "30d", "transform": "log1p"},
        "views_5d": {"sum": "views", "window": "5d", "transform": "log1p"},
        "spend_9d": {"sum": "spend", "window": "9d", "transform": "log1p"},
    },
}
FIT = FirstFit(NAME, 3, 12, 0, 1000, Decision(dwell_ms=0, retention_ms=11 * 86_400_000))
PUBLISHING = ("store.commit", "transactions.commit", "transactions.positions", "transactions.send")
STORE = {f"store.{method}" for method in ("claim", "read", "owners", "load", "commit", "scan", "count", "announced")}


class Stopped(BaseException):
    """A process is told to end with the schedule."""


class Snapshot(NamedTuple):
    """All that Redis held at a turn."""

    turn: int
    namespaces: dict[tuple[str, str], FakeNamespace]


class CutOff(NamedTuple):
    """A process that is frozen with a copy of Redis, until what it was about to go on from is told of, or for so long."""

    process: Process
    held: Snapshot
    commits: dict[int, str]  # the group's commit ids of the partitions that it was about to commit
    most_s: float


@dataclass(eq=False)
class Process:
    """One worker. While `stalled_until` lies ahead it does nothing; a dead one waits to be started again."""

    name: str
    worker: Worker
    faults: Turns
    control: greenlet
    stalled_until: float = 0.0
    leaving: bool = False

    @property
    def dead(self) -> bool:
        return bool(self.control.dead)


class Turns(Faults):
    """Hands over to the schedule before and after each call of a port."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.freezes = False  # before it commits next what time alone brings

    def call(self, name: str, method: str, port: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.freezes and method == "commit" and name == "store":
            self.world.freeze_passing(self, args[0])
        self.world.hand_over()
        found = super().call(name, method, port, args, kwargs)
        self.world.hand_over()
        return found


@dataclass
class World:
    """A schedule: `World(seed).run()` leaves the job at rest, to be compared with what it must come to."""

    seed: int
    trace: Callable[[str], None] | None = None
    profile: Profile = USUAL
    rng: random.Random = field(init=False)
    erasures: dict[int, str] = field(default_factory=dict)  # whom, by turn
    merges: dict[int, tuple[str, str]] = field(default_factory=dict)  # who into whom, by turn
    job: Job = field(init=False)
    processes: list[Process] = field(default_factory=list)
    expelled: list[tuple[float, str]] = field(default_factory=list)
    returns: list[tuple[float, Snapshot]] = field(default_factory=list)  # when Redis comes back as it was
    cut_off: list[CutOff] = field(default_factory=list)
    hurries: bool = False  # the next events come at once
    snapshots: list[Snapshot] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    befallen: list[str] = field(default_factory=list)
    resting: bool = False
    made: int = 0
    requests: int = 0
    turn: int = 0
    spared: set[str] = field(default_factory=set)  # what can't befall this schedule
    expiries: list[int] = field(default_factory=list)  # the turns at which the group's positions are deleted
    loses_meanwhile: bool = False  # Redis, as soon as changes wait for their transaction's marker
    late_until: int = 0  # the turn before which no marker of records arrives
    redis_back: float = 0.0
    broker_back: float = 0.0

    def __post_init__(self) -> None:
        """Draw the job's settings, and start the workers."""
        self.rng = random.Random(self.seed)
        self.main = getcurrent()
        settings: dict[str, Any] = LEARNING | {"exactly_once": self.profile.exactly_once}
        promotes = self.profile.promotions is not None
        self.job = Job(partitions=PARTITIONS, features=FORGETFUL, settings=settings, first_fit=FIT, promotes=promotes)
        self.promotions = sorted(self._promotions())
        self.job.broker.arrival = self.rng.choice(self.profile.arrival)
        self.events = list(shop(EVENTS, CUSTOMERS, self.seed))
        apart = random.Random(f"erasures of {self.seed}")  # else a schedule without them would be another for their sake
        if apart.random() < self.profile.erases:
            whom = apart.sample(sorted({event["customer_id"] for event in self.events}), apart.randint(1, ERASURES_MAX))
            self.erasures = {apart.randrange(ERASES_FROM, self.profile.turns): customer for customer in whom}
            self.erasures |= {self.profile.turns: STRANGER} if apart.random() < 0.5 else {}  # with nothing after it
        apart = random.Random(f"merges of {self.seed}")
        if apart.random() < self.profile.merges:
            few = apart.sample(sorted({event["customer_id"] for event in self.events}), 6)  # so that some are merged on, and back
            pairs = [tuple(apart.sample([*few, STRANGER], 2)) for _ in range(apart.randint(1, MERGES_MAX))]
            self.merges = {apart.randrange(ERASES_FROM, self.profile.turns + 1): (old, new) for old, new in pairs}
        self.fates = random.Random(f"expiry {self.seed}")
        expires = self.fates.random() < self.profile.expires
        if expires or not self.profile.exactly_once:
            self.spared = self.fates.choice((ZOMBIES, ROLLBACKS))
        if expires:
            self.expiries = sorted(self.fates.randrange(100, self.profile.turns) for _ in range(self.fates.randint(1, EXPIRIES_MAX)))
        for _ in range(WORKERS):
            self.start()

    # Who goes on

    def hand_over(self) -> None:
        """Let another process go on, or this one again; called within a process."""
        if not self.resting:
            self.main.switch()

    def start(self, name: str | None = None) -> None:
        """Start a process; one that died starts again under its own name."""
        if name is None:
            name = f"w{self.made}"
            self.made += 1
        faults = Turns(self)
        control = greenlet(self._live)
        sizes = {"records_max": self.rng.choice(self.profile.records_max), "sweep_records": self.rng.choice(self.profile.sweep_records)}
        self.resting, resting = True, self.resting  # joining is no turn of anybody's
        worker = self.job.worker(name, faults, **sizes)
        self.resting = resting
        process = Process(name, worker, faults, control)
        control.parent = self.main
        self.processes.append(process)
        control.switch(process)

    def _live(self, process: Process) -> None:
        def stopping() -> bool:
            if self.resting:
                self.main.switch()
            return process.leaving

        try:
            self.main.switch()
            process.worker.run(stopping)
        except Killed:
            self.expelled.append((self.now + SESSION_S * self.rng.random(), process.name))
        except (ClientFailed, OffsetOutOfRange) as failed:  # its service manager starts it again
            self._say(f"{process.name} ended: {failed}")
            self.job.gone(process.name)
        except Stopped:
            return

    @property
    def now(self) -> float:
        return self.job.clock.passed_s

    def _say(self, what: str) -> None:
        if self.trace:
            self.trace(f"{self.now:8.2f} {what}")

    # What befalls them

    def run(self) -> None:
        """Go through the schedule, then let everything come to rest."""
        quiet = logging.getLogger("streamer")
        level = quiet.level
        quiet.setLevel(logging.CRITICAL)
        try:
            self._go_on()
            self._rest()
        finally:
            quiet.setLevel(level)
            for process in self.processes:
                if not process.dead:
                    process.control.throw(Stopped)

    def _go_on(self) -> None:
        rng, profile = self.rng, self.profile
        count = rng.randint(*profile.faults)
        due = sorted(rng.randrange(profile.faults_from, profile.turns) for _ in range(count))
        sent = 0
        for turn in range(profile.turns):
            self.turn = turn
            while due and due[0] <= turn:
                due.pop(0)
                self._befall()
            while self.promotions and self.promotions[0] <= turn:
                self.promotions.pop(0)
                self._promote()
            if turn in self.expiries:
                self._expire()
            if (rng.random() < profile.sends or self.hurries) and sent < EVENTS:
                self.hurries = False
                size = rng.randint(1, 16)
                self._send(self.events[sent : sent + size])
                sent += size
            if turn % 40 == 0 and len(self.snapshots) < SNAPSHOTS_MAX:
                self.snapshots.append(self._snapshot(turn))
            elif turn % 40 == 20 and self.snapshots:
                self.snapshots[rng.randrange(len(self.snapshots))] = self._snapshot(turn)
            self._erase(turn)
            self._merge(turn)
            self._turn()
        self._send(self.events[sent:])

    def _promotions(self) -> list[int]:
        """Draw the turns at which a person promotes a version, from a stream of their own: they change no other draw."""
        self.person = random.Random(f"{self.seed} promotes")
        few, many = self.profile.promotions or (0, 0)
        turns = self.profile.turns
        return [self.person.randrange(turns // 4, turns) for _ in range(self.person.randint(few, many))]

    def _promote(self) -> None:
        """Promote a version of a night, or go back to an older one."""
        rng, bodies = self.person, self.job.on_topic().bodies
        if not bodies:
            return  # nothing to come after yet
        numbers = sorted(bodies)
        if len(numbers) > 1 and rng.random() < 0.4:
            version = decoded(bodies[rng.choice(numbers)])
        else:
            version = renewed(decoded(bodies[rng.choice(numbers)]), numbers[-1] + 1, self.seed)
        self.job.promote(version)
        self._say(f"version {version.version} is promoted")

    def _snapshot(self, turn: int) -> Snapshot:
        return Snapshot(turn, copy.deepcopy(self.job.redis.namespaces))

    def _send(self, events: list[dict[str, Any]]) -> None:
        """Put events into the log, now and then one twice and one that is nonsense; the wall clock is a little ahead of them."""
        if events:
            self._wall(events[-1]["occurred_at"] + self.rng.choice(AHEAD_MS))
        for event in events:
            partition = int.from_bytes(event["customer_id"].encode(), "big") % PARTITIONS
            for _ in range(2 if self.rng.random() < 0.03 else 1):
                self.job.broker.append(INPUT, partition, event["customer_id"].encode(), encoded(event))
            if self.rng.random() < 0.03:
                self.job.broker.append(INPUT, partition, b"bad", b"nonsense")

    def _erase(self, turn: int) -> None:
        """Erase whose turn has come."""
        customer = self.erasures.get(turn)
        if customer is not None:
            self.job.erase(customer, self.job.clock.now_ms())
            self.befallen.append("erasure")
            self._say(f"erasure: {customer}")

    def _merge(self, turn: int) -> None:
        """Merge whose turn has come."""
        if turn in self.merges:
            old, new = self.merges[turn]
            self.job.merge(old, new, self.job.clock.now_ms())
            self.befallen.append("merge")
            self._say(f"merge: {old} into {new}")

    def _wall(self, now_ms: int) -> None:
        """Move the wall clock on."""
        clock = self.job.clock
        clock.wall_ms = max(clock.wall_ms, now_ms - int(clock.passed_s * 1000))

    def _turn(self) -> None:
        """Let one process go on to its next call, and time pass."""
        self._time()
        now = self.now
        able = [process for process in self.processes if process.stalled_until <= now and not process.control.dead]
        if able:
            self.rng.choice(able).control.switch()
        self.job.later(self.rng.choice([0.0, 0.0, 0.01, 0.05]) if able else 0.5)

    def _time(self) -> None:
        """Do what is due: sessions end, servers come back, dead processes start again, markers arrive."""
        now, rng = self.now, self.rng
        for at, name in [one for one in self.expelled if one[0] <= now]:
            self.expelled.remove((at, name))
            self.job.gone(name)
        self._thaw()
        for process in [one for one in self.processes if one.control.dead]:
            if rng.random() < 0.02 and all(name != process.name for _, name in self.expelled):
                self.processes.remove(process)
                if not process.leaving:
                    self.start(process.name)
        if len(self.processes) < WORKERS - 1:
            self.start()
        self.job.broker.down = now < self.broker_back
        down = STORE if now < self.redis_back else set[str]()
        for process in self.processes:
            process.faults.down = down
        self._markers()

    def _markers(self) -> None:
        """Let markers arrive, or lose Redis while they don't."""
        rng = self.rng
        under_way = self.job.broker.under_way()
        if self.profile.positions_first:
            for marker in [one for one in under_way if one.partition < 0]:
                under_way.remove(marker)
                self.job.broker.arrive(marker)
        if self.loses_meanwhile and any(marker.name == self.job.topics(self.job.run)[Topic.CHANGES] for marker in under_way):
            self.loses_meanwhile, self.late_until = False, self.turn + rng.randint(*LATE_TURNS)
            self.job.redis.namespaces.clear()
        if under_way and self.turn >= self.late_until and rng.random() < self.profile.arrives:
            self.job.broker.arrive(rng.choice(under_way))

    def _thaw(self) -> None:
        """Let Redis be what it was when somebody was cut off with it."""
        for at, held in [one for one in self.returns if one[0] <= self.now]:
            self.returns.remove((at, held))
            self.job.redis.namespaces = copy.deepcopy(held.namespaces)
            self._forget_later_than(held)
        positions = self.job.broker.groups[self.job.run].committed
        for one in [*self.cut_off]:
            told = any(positions[p].commit_id != known for p, known in one.commits.items() if p in positions)
            if told or one.most_s <= self.now:
                self.cut_off.remove(one)
                self.job.redis.namespaces = copy.deepcopy(one.held.namespaces)
                self._forget_later_than(one.held)
                one.process.stalled_until = self.now
                if not one.process.dead:
                    one.process.control.switch()  # and it is the first that Redis hears of

    def _befall(self) -> None:
        """Draw what befalls whom."""
        rng, befalls = self.rng, self.profile.befalls
        name = rng.choices([one[0] for one in befalls], [one[1] for one in befalls])[0]
        if name in self.spared:
            return
        alive = [process for process in self.processes if not process.dead]
        if alive:
            said = getattr(self, f"_{name}")(rng.choice(alive))
            self.befallen.append(name)
            self._say(f"{name}: {said}")

    def _expire(self) -> None:
        """Delete positions of the group, all or a partition's, as their retention does or somebody by hand; what is pending still comes."""
        held = self.job.broker.groups[self.job.run]
        gone = range(PARTITIONS) if self.fates.random() < 0.5 else [self.fates.randrange(PARTITIONS)]
        for partition in gone:
            held.committed.pop(partition, None)
        self.befallen.append("expire")
        self._say(f"expire: the positions of partitions {[*gone]}")

    def _crash(self, process: Process) -> str:
        call = len(process.faults.calls) + self.rng.randint(1, 8)
        process.faults.plan[call] = Fault(Killed, self.rng.choice(["before", "midway", "after"]))
        return f"{process.name} in its call {call}"

    def _dies(self, process: Process) -> str:
        process.control.throw(Killed)
        return f"{process.name} between two calls"

    def _lost_reply(self, process: Process) -> str:
        for _ in range(self.rng.randint(1, 3)):
            call = len(process.faults.calls) + self.rng.randint(1, 8)
            process.faults.plan[call] = Fault(Unavailable, self.rng.choice(["before", "midway", "after"]))
        return f"{process.name} soon"

    def _lost_commit(self, process: Process) -> str:
        call = self.rng.choice(PUBLISHING if self.profile.exactly_once else ("store.commit", "publisher.wait", "log.commit"))
        process.faults.plan[call] = Fault(Unavailable, self.rng.choice(["before", "midway", "after"]))
        return f"{process.name}, {call}"

    def _lost_start(self, process: Process) -> str:
        process.faults.plan["log.start"] = Fault(Unavailable, self.rng.choice(["before", "after"]))
        return f"{process.name}, its next start of a partition"

    def _stall(self, process: Process) -> str:
        process.stalled_until = self.now + SESSION_S * self.rng.uniform(1.0, 3.5)
        self.expelled.append((self.now + SESSION_S * self.rng.random(), process.name))
        return f"{process.name} until {process.stalled_until:.2f}"

    def _joins(self, _: Process) -> str:
        if len(self.processes) < WORKERS_MAX:
            self.start()
        return f"there are {len(self.processes)}"

    def _leaves(self, process: Process) -> str:
        process.leaving = True
        return process.name

    def _rebalance(self, process: Process) -> str:
        """Its session ended and it does not know; its next poll joins again."""
        self.job.gone(process.name)
        return process.name

    def _wipe(self, _: Process) -> str:
        self.job.redis.namespaces.clear()
        return "Redis is empty"

    def _rollback(self, _: Process) -> str:
        if self.snapshots:
            chosen = self.rng.choice(self.snapshots)
            self.job.redis.namespaces = copy.deepcopy(chosen.namespaces)
            self._forget_later_than(chosen)
            self._rehash()
        return "Redis is an earlier one"

    def _loses_writes(self, _: Process) -> str:
        """One partition is as it was a little ago, as of a cluster's node that failed over."""
        if not self.snapshots or not self.job.redis.namespaces:
            return "nothing"
        earlier = copy.deepcopy(self.snapshots[-1].namespaces)
        self._forget_later_than(self.snapshots[-1])
        partition = self.rng.randrange(PARTITIONS)
        for name, namespace in earlier.items():
            here = self.job.redis.namespaces.get(name)
            if here is not None and partition in namespace.partitions:
                here.partitions[partition] = namespace.partitions[partition]
                if partition == 0:
                    here.announced = namespace.announced
        self._rehash()
        return f"partition {partition}"

    def _forget_later_than(self, snapshot: Snapshot) -> None:
        """Let what is undone never come back, unless the profile has it so."""
        if not self.profile.forth:
            self.snapshots = [one for one in self.snapshots if one.turn <= snapshot.turn]

    def _rehash(self) -> None:
        """Let the server that comes back count cursors otherwise, as each does that starts."""
        self.job.redis.hashing += self.profile.rehashes

    def _frozen(self, process: Process) -> str:
        """It is stalled, and wakes up to the Redis that it knew: as where both were cut off, and that side of Redis is kept."""
        held = Snapshot(self.turn, copy.deepcopy(self.job.redis.namespaces))
        self.job.gone(process.name)
        process.stalled_until = self.now + SESSION_S * self.rng.uniform(0.3, 1.5)
        self.returns.append((process.stalled_until, held))
        return f"{process.name} and a copy of Redis until {process.stalled_until:.2f}"

    def _frozen_passing(self, process: Process) -> str:
        """A day passes, and it is frozen before it commits what time alone brings, until another has told of something else."""
        process.faults.freezes = True
        self._wall(self.job.clock.now_ms() + 86_400_000)
        return f"{process.name}, before a sweep or a tick"

    def freeze_passing(self, faults: Turns, commits: Sequence[Commit]) -> None:
        """Freeze the process that is about to commit, if time alone brings what it would tell: a tick, or changes without an event."""
        [process] = [one for one in self.processes if one.faults is faults]
        quiet = [commit for commit in commits if commit.next_offset == process.worker.owned[commit.partition].next_offset]
        told = [record for commit in quiet for record in outbox.unpack(commit.outbox)]
        if not self.resting and any(record.topic is Topic.CHANGES or record.key == journal.TICK.encode() for record in told):
            faults.freezes = False
            self._say(f"frozen: {self._cut_off(process, [commit.partition for commit in quiet])}")

    def _cut_off(self, process: Process, partitions: Sequence[int]) -> str:
        """It is stalled with a copy of Redis until another has told something of one of these; now and then events come meanwhile."""
        positions = self.job.broker.groups[self.job.run].committed
        commits = {p: positions[p].commit_id if p in positions else "" for p in partitions}
        held = Snapshot(self.turn, copy.deepcopy(self.job.redis.namespaces))
        self.cut_off.append(CutOff(process, held, commits, self.now + SESSION_S * CUT_OFF_SESSIONS_MAX))
        self.job.gone(process.name)
        process.stalled_until = self.cut_off[-1].most_s + 1.0
        self.hurries = self.rng.random() < 0.5
        return f"{process.name} and a copy of Redis until something else is told of one of {partitions}"

    def _dies_rebuilding(self, process: Process) -> str:
        """One that is rebuilding dies soon."""
        rebuilding = [one for one in self.processes if not one.dead and any(owned.until for owned in one.worker.owned.values())]
        return self._crash(self.rng.choice(rebuilding)) if rebuilding else f"nobody, not even {process.name}"

    def _asks(self, _: Process) -> str:
        """Somebody asks to be told everybody's segment again, unless Redis is away."""
        if self.now < self.redis_back:
            return "nobody"
        self.requests += 1
        self.job.ask(f"r{self.requests}")
        return self.job.asked[0]

    def _late_records(self, _: Process) -> str:
        """Redis is emptied while changes wait for their transaction's marker, and they go on waiting, as where there is no leader."""
        self.loses_meanwhile = True
        return "soon"

    def _restarts(self, _: Process) -> str:
        """Redis starts again, with all that it had, and counts the cursors of its scans otherwise."""
        self.job.redis.hashing += 1
        return "Redis"

    def _forgets(self, process: Process) -> str:
        """Redis is empty, and one partition's log does not reach back to its start any more; what has still to be read is there."""
        partition = self.rng.randrange(PARTITIONS)
        workers = [one.worker for one in self.processes if not one.dead]
        if any(partition in worker._waiting and partition not in worker.owned for worker in workers):
            return "nothing"  # somebody is about to begin with it
        committed = self.job.broker.groups[self.job.run].committed.get(partition)
        owned = [worker.owned[partition].next_offset for worker in workers if partition in worker.owned]
        first = min([0 if committed is None else committed.next_offset, *owned])
        first = self.rng.randint(first - first // 4, first)
        self.job.broker.expire(INPUT, partition, first)
        return f"{self._wipe(process)}, and partition {partition} begins at {first}"

    def _redis_away(self, _: Process) -> str:
        self.redis_back = self.now + self.rng.uniform(0.2, 3.0)
        return f"until {self.redis_back:.2f}"

    def _broker_away(self, _: Process) -> str:
        self.broker_back = self.now + self.rng.uniform(0.2, 3.0)
        return f"until {self.broker_back:.2f}"

    def _time_out(self, process: Process) -> str:
        """Time passes for the brokers, and its transaction's is over."""
        self.job.broker.now_ms += 10_000
        return process.name

    # Rest

    def _rest(self) -> None:
        """Let nothing more befall anybody, and everybody work until nothing moves."""
        broker = self.job.broker
        broker.down, broker.arrival = False, "at once"
        while broker.under_way():
            broker.arrive(broker.under_way()[0])
        self.resting = True
        for _, name in self.expelled:
            self.job.gone(name)
        for process in self.processes:
            process.faults.plan.clear()
            process.faults.down = set()
            if not process.dead:
                process.control.switch()
        for process in self.processes:
            if process.dead:
                self.job.gone(process.name)
        if all(process.dead for process in self.processes):
            self.start()
        working = [process.worker for process in self.processes if not process.dead]
        self._settle(working)
        if self.profile.turns in {*self.erasures, *self.merges}:
            self._erase(self.profile.turns)
            self._merge(self.profile.turns)
            self._settle(working)
        if self.rng.random() < 0.5:  # a day on which nothing happens
            self._wall(self.job.clock.now_ms() + 86_400_000)
            self._settle(working)

    def _settle(self, workers: list[Worker]) -> None:
        calm = 0
        for _ in range(SETTLE_ROUNDS_MAX):
            before = self.job._moved()
            for worker in workers:
                try:
                    worker.step()
                except Unavailable:
                    worker._drop_all()
            calm = calm + 1 if before == self.job._moved() else 0
            self.job.later(11.0 if calm else 0.2)
            if calm == 4:
                return
        message = "the workers did not come to rest"
        raise TimeoutError(message)
