"""One run of chaos: workers on servers of their own, events that keep coming, a script of what befalls, and a verdict once all is at rest.

Weeks pass meanwhile: the workers' wall clock (`worker.py`) goes on with the events, and now and then without them, while they are held
back. So customers fall silent, change segment and leave, idle partitions' clocks tick, and events come late.

Law: whatever is hurt is hurt from outside, or by the launcher at a call (`worker.py`); the workers run the code that `streamer run` runs. A
worker that ends by itself is started again, as a service manager would, but only where the protocol has it end.
"""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confluent_kafka import Producer

import schemas
from streamer.adapters.avro import codec, wire
from streamer.adapters.avro.model_records import MODEL, Promotion, decoded, encoded, promotion_record, version_record
from streamer.app import erasing, merging, wiring
from streamer.app.models import ANNOUNCED
from streamer.core.partition import unpack_state
from tests.chaos.cluster import SESSION_S, Cluster
from tests.chaos.script import Script
from tests.chaos.verdict import judge, models_of
from tests.chaos.worker import CLOCK
from tests.fakes.promoting import renewed
from tests.integration.kit import Job
from tests.integration.test_job import BEGIN_MS, DAY_MS, shop
from tests.simulation.verdict import Violated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.chaos.script import Counts, Happening, Point
    from tests.chaos.verdict import Verdict

PARTITIONS = 6
WORKERS = 3
TICK_S = 0.05
HAPPENING_S = 3.0  # what one takes, as long as nothing is known of it
FIRE_S = 6.0  # how long a planned call is waited for
HEED_S = 0.2  # how long a process may take to read that a plan is taken back
READY_S = 60.0
FIRST_READY_S = 300.0  # where nothing is compiled yet
REST_S = 150.0
CALM_S = 7.0  # longer than an idle worker takes to notice a loss
GHOST_S = 15.0  # how long one whose name was taken may go on
STOP_S = 40.0
STARTS_MAX = 400
SESSION_TIMEOUT = "STREAMER_KAFKA__CONSUMER__SESSION.TIMEOUT.MS"  # the broker's to say, in the new group protocol
SEEN, SUBSCRIBER_LOG = "seen.jsonl", "subscriber.log"
# Statuses with which a service manager starts a worker again: a server is away, the client can't go on, ownership is lost.
AGAIN = (69, 71, 75)
NAME_TAKEN = (78, "group.instance.id")  # what is wrong with the configuration is that another process has the same name
LEARNING = {
    "STREAMER_MODEL__FIRST_FIT__CUSTOMERS_MIN": "200",
    "STREAMER_MODEL__FIRST_FIT__HISTORY_DAYS_MIN": "3d",
    "STREAMER_MODEL__EPOCH_INTERVAL_S": "1s",
    "STREAMER_MODEL__K": "4",
    "STREAMER_METRICS__PORT": "0",
    "STREAMER_KAFKA__TIMEOUT_S": "15s",
    "STREAMER_REDIS__TIMEOUT_S": "2s",
}
# Windows, and the time after which a customer leaves, that many are silent for longer than in the days of a run.
DAYS = 40
FORGETFUL = """
measures:
  events: {lifetime_count: any}
  views: {count: view}
  purchases: {count: purchase}
  spend: {sum: amount, of: purchase}
  last_event: {last: any}
features:
  events_ever: {lifetime: events, transform: log1p}
  days_since_event: {recency: last_event, cap: 30d, transform: log1p}
  views_5d: {sum: views, window: 5d, transform: log1p}
  purchases_9d: {sum: purchases, window: 9d, transform: log1p}
  spend_9d: {sum: spend, window: 9d, transform: log1p}
eligibility:
  events: 3
"""
TIME = {"STREAMER_MODEL__RETENTION_S": "11d", "STREAMER_TIME__TICK_AFTER_S": "1s"}
COMMANDED = 12
BACK_SHARE = 0.4
LULLS = 8
LULL_SHARE = 0.3  # of the time between the begins of two
# What the logs tell of: the line, and what it is called in a summary.
TOLD = {
    "assignments": re.compile(r": from offset \d+"),
    "rebuilds": re.compile(r": rebuilding from "),
    "refused writes": re.compile(r"a commit was refused"),
    "refused publications": re.compile(r"have another owner: publishing without them"),
    "aborted transactions": re.compile(r"was not committed: "),
    "lost replies": re.compile(r"a reply of Redis was lost"),
}


class ChaosJob(Job):
    """A job whose group has short sessions, in the protocol that the script says."""

    @property
    def environment(self) -> dict[str, str]:
        """What a worker is configured with."""
        return {name: value for name, value in super().environment.items() if name != SESSION_TIMEOUT or name in self.settings}


def subscribe(job: Job) -> subprocess.Popen[str]:
    """Start the independent subscriber; what it sees goes into the job's directory."""
    schema = job.directory / "segment_change.avsc"
    schema.write_text(schemas.text("segment_change", schemas.latest("segment_change")), encoding="utf-8")
    script, seen = Path(__file__).with_name("subscriber.py"), job.directory / SEEN
    seen.touch()
    with (job.directory / SUBSCRIBER_LOG).open("w") as log:
        command = [sys.executable, "-I", str(script), job.bootstrap, job.config.topics.changes, str(schema), str(seen)]
        return subprocess.Popen(command, stderr=log, text=True)


def end(subscriber: subprocess.Popen[str], directory: Path) -> Path:
    """Let the subscriber read its topic to the end; returns the file with what it saw.

    Raises:
        Violated: it failed, as it does where a record is not what the schema says.

    """
    subscriber.terminate()
    if subscriber.wait(STOP_S):
        message = f"the subscriber failed: {(directory / SUBSCRIBER_LOG).read_text()[-1000:]}"
        raise Violated(message)
    return directory / SEEN


@dataclass(eq=False)
class Slot:
    """One worker's place: its name, and the process that has it now."""

    name: str
    process: subprocess.Popen[str]
    log: Path
    log_begin: int
    wakes_at: float | None = None
    works: bool = False
    began_s: float = field(default_factory=time.monotonic)

    @property
    def working(self) -> bool:
        """Tell whether it is awake and has been given partitions since it started."""
        if not self.works:
            with self.log.open("rb") as log:
                log.seek(self.log_begin)
                self.works = b": from offset" in log.read()
        return self.works and self.wakes_at is None and self.process.poll() is None

    def plan(self, line: str) -> None:
        """Tell the process to die or to freeze by itself at a call, or never."""
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.write(f"{line}\n")
                self.process.stdin.flush()

    def close(self) -> None:
        """End the process, if it has not ended."""
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()

    @property
    def stopped(self) -> bool:
        """Tell whether it is frozen."""
        try:
            stat = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] == "T"


@dataclass
class Outcome:
    """What a run came to."""

    script: Script
    verdict: Verdict
    befallen: Counter[str]
    points: Counter[str]
    commands: Counter[str]
    told: Counter[str]
    took_s: float

    def line(self) -> str:
        """Sum it up."""
        v, b = self.verdict, self.befallen
        return (
            f"seed {self.script.seed} ({self.script.protocol} protocol, {'static' if self.script.static else 'other'} members, batches of "
            f"{self.script.records_max}): {v.events:,} events, {v.customers:,} customers, {v.changes:,} changes, {v.letters} dead letters, "
            f"{v.epochs} epochs, {v.ticks} ticks, {v.decayed} moved and {v.expired} left by time alone; "
            f"{self.commands['erasures']} erasures, {self.commands['merges']} merges, {v.sent} events sent on; "
            f"{b['kill']} kills, {self.points.total()} of them at named calls, {b['zombie']} zombies, "
            f"{b['broker']} broker restarts, {b['loss']} losses of Redis, {b['cut']} connections cut, {b['promotion']} promotions of "
            f"{v.versions} versions; "
            f"{', '.join(f'{self.told[name]} {name}' for name in TOLD)}; in {self.took_s:.0f} s: "
            "0 lost, 0 twice, versions grow, profiles as the oracle's to the byte"
        )


class Run:
    """Drives one script."""

    def __init__(self, script: Script, counts: Counts, directory: Path, say: Callable[[str], None]) -> None:
        """Prepare."""
        self.cluster: Cluster
        self.job: Job
        self.script = script
        self.counts = counts
        self.directory = directory
        self._clock = directory / "clock"
        self.slots: list[Slot] = []
        self.ghosts: list[tuple[Slot, float]] = []
        self.befallen: Counter[str] = Counter()
        self.points: Counter[str] = Counter()
        self.starts = 0
        self._say = say
        self._rng = random.Random(script.seed)
        self._events: list[tuple[bytes, bytes, int]] = []  # key, value, and the partition, or -1 where the key decides
        self.commands: Counter[str] = Counter()
        self.erased: set[str] = set()
        self._sent = 0
        self._due = 0  # events whose time has come; those of a lull are held back
        self._topic = ""
        self._producer: Any = None
        self._planned: list[Point] = []  # for processes that are yet to be started
        self._begun_s = 0.0
        self._done = 0

    def run(self) -> Outcome:
        """Go through the script, let everything come to rest, and judge.

        Raises:
            Violated: something was lost, came twice, or a worker ended that should not have.

        """
        self._begun_s = time.monotonic()
        declaration = self.directory / "counting.yaml"
        declaration.write_text(FORGETFUL, encoding="utf-8")
        with Cluster(self.directory) as cluster:
            self.cluster = cluster
            self.job = ChaosJob(
                cluster.kafka.address, cluster.redis_url, self.directory, PARTITIONS, self._settings(), "chaos", declaration=declaration
            )
            self.job.create()
            self._prepare_events()
            self._pass(0)
            subscriber = subscribe(self.job)
            try:
                self.slots = [self._start(f"w{i}") for i in range(WORKERS)]
                self._until("every worker works", lambda: all(slot.working for slot in self.slots), FIRST_READY_S)
                for happening in self.script.happenings:
                    self._pause(happening.pause_s)
                    getattr(self, f"_{happening.what}")(happening)
                    self.befallen[happening.what] += 1
                    self._done += 1
                self._rest()
                self._stop()
                verdict = judge(self._direct(), end(subscriber, self.directory), self.erased)
            except BaseException:
                self._show_threads()
                raise
            finally:
                for slot in [*self.slots, *(ghost for ghost, _ in self.ghosts)]:
                    slot.close()
                subscriber.kill()
                subscriber.wait()
                if self._producer is not None:
                    self._producer.purge()
        took_s = time.monotonic() - self._begun_s
        return Outcome(self.script, verdict, self.befallen, self.points, self.commands, self._told(), took_s)

    def _show_threads(self) -> None:
        """Have each worker that is still there say where it is, in its log."""
        for slot in self.slots:
            if slot.process.poll() is None:
                slot.process.send_signal(signal.SIGUSR1)
        time.sleep(HEED_S)

    def _settings(self) -> dict[str, str]:
        group = (
            {"GROUP.PROTOCOL": "consumer"}
            if self.script.protocol == "consumer"
            else {"SESSION.TIMEOUT.MS": str(int(SESSION_S * 1000)), "HEARTBEAT.INTERVAL.MS": "1000"}
        )
        consumer = {f"STREAMER_KAFKA__CONSUMER__{name}": value for name, value in group.items()}
        return {**LEARNING, **TIME, **consumer, "STREAMER_BATCH__RECORDS_MAX": str(self.script.records_max)}

    def _direct(self) -> Job:
        """The job, past the proxy."""
        job = self.job
        return ChaosJob(
            job.bootstrap, self.cluster.redis.address, job.directory, job.partitions, job.settings, job.name, declaration=job.declaration
        )

    # Events

    def _prepare_events(self) -> None:
        """Write all events, some of them twice, and some that are nonsense."""
        rng, count = self._rng, self.counts.events
        for event in shop(int(count * 0.98), max(300, count // 15), self.script.seed):
            record = event["customer_id"].encode(), wire.framed(codec.encode("behaviour_event", event), 1), -1
            self._events.append(record)
            if rng.random() < 0.01:
                self._events.insert(rng.randrange(max(0, len(self._events) - 300), len(self._events)), record)
            if rng.random() < 0.01:
                self._events.append((record[0], b"nonsense", -1))
        self._command()
        self._topic = self.job.config.topics.events
        self._producer = Producer(
            {
                "bootstrap.servers": self.job.bootstrap,
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "delivery.timeout.ms": 600_000,
                "log_level": 0,
            }
        )

    def _command(self) -> None:
        """Erase and merge some customers, in the midst of their events, and now and then somebody who was merged or erased already."""
        rng = random.Random(f"commands of {self.script.seed}")
        few = [key.decode() for key, _, _ in rng.sample(self._events, COMMANDED)]
        for n in range(COMMANDED):
            at = rng.randrange(len(self._events) // 5, len(self._events))
            when = BEGIN_MS + int(at / len(self._events) * DAYS * DAY_MS)
            old, new = rng.sample(few, 2)
            what = "erasures" if n % 3 == 0 and old != new else "merges"
            sent = erasing.commands(old, PARTITIONS, 1, when) if what == "erasures" else merging.commands(old, new, PARTITIONS, 1, when)
            self._events[at:at] = [(one.key or b"", one.value or b"", one.partition) for one in sent]
            self.commands[what] += 1
            self.erased |= {old} if what == "erasures" else set()

    def _pass(self, count: int) -> None:
        """Let the time of so many more events come, and send those that are due, unless it is a lull."""
        if self._sent == len(self._events):
            return
        self._due = min(self._due + count, len(self._events))
        share = self._due / len(self._events)
        self._wall(BEGIN_MS + int(share * DAYS * DAY_MS))
        if share < 1.0 and share * LULLS % 1.0 > 1.0 - LULL_SHARE:
            return
        for key, value, partition in self._events[self._sent : self._due]:
            self._producer.produce(self._topic, value, key, partition)
        self._sent = self._due
        self._producer.poll(0)

    def _wall(self, now_ms: int) -> None:
        """Set the wall clock of every worker, at once."""
        written = self._clock.with_suffix(".new")
        written.write_text(str(now_ms), encoding="ascii")
        written.replace(self._clock)

    # Processes

    def _start(self, name: str) -> Slot:
        self.starts += 1
        if self.starts > STARTS_MAX + self.counts.kills + self.counts.zombies:
            message = f"workers were started {self.starts} times"
            raise Violated(message)
        log = self.directory / f"{name}.log"
        log.touch()
        begin = log.stat().st_size
        environment = {**self.job.environment, "STREAMER_APP__INSTANCE": f"chaos-{name}", CLOCK: str(self._clock)}
        if not self.script.static:
            del environment["STREAMER_APP__INSTANCE"]
        with log.open("ab") as lines:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.worker"], env=environment, stdin=subprocess.PIPE, stderr=lines, stdout=lines, text=True
            )
        slot = Slot(name, process, log, begin)
        if self._planned:
            slot.plan(f"kill {self._planned.pop(0).line}")
        return slot

    def _tend(self) -> None:
        """Send events, wake whoever has slept enough, start again whoever is dead."""
        left = max(1, len(self.script.happenings) - self._done)
        each_s = (time.monotonic() - self._begun_s) / self._done if self._done > 10 else HAPPENING_S
        self._pass(max(1, int((len(self._events) - self._due) * TICK_S / (left * each_s))))
        now = time.monotonic()
        for i, slot in enumerate(self.slots):
            if slot.wakes_at is not None and slot.wakes_at <= now:
                slot.process.send_signal(signal.SIGCONT)
                slot.wakes_at = None
            if slot.process.poll() is not None:
                self._ended(slot)
                self.slots[i] = self._start(slot.name)
        for ghost, until in [*self.ghosts]:
            if ghost.wakes_at is not None and ghost.wakes_at <= now:
                ghost.process.send_signal(signal.SIGCONT)
                ghost.wakes_at = None
            if ghost.process.poll() is not None:
                self._ended(ghost)
                self.ghosts.remove((ghost, until))
            elif until <= now:
                ghost.process.kill()

    def _ended(self, slot: Slot) -> None:
        """Take in how a process ended.

        Raises:
            Violated: by itself, and not in a way that the protocol knows.

        """
        status = slot.process.wait()
        slot.close()
        if status == -signal.SIGKILL:
            return
        with slot.log.open(encoding="utf-8", errors="replace") as log:
            log.seek(slot.log_begin)
            last = log.read()[-1500:]
        if status in AGAIN or (status == NAME_TAKEN[0] and NAME_TAKEN[1] in last):
            self.befallen[f"ended with status {status}"] += 1
            why = next((line for line in reversed(last.splitlines()) if line.startswith("streamer: ")), "")
            self._say(f"{slot.name} ended by itself with status {status}: {why[:200]}")
            return
        message = f"{slot.name} ended with status {status}:\n{last}"
        raise Violated(message)

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._tend()
            time.sleep(TICK_S)

    def _until(self, what: str, holds: Callable[[], bool], timeout_s: float, *, must: bool = True) -> bool:
        deadline = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline:
                if not must:
                    return False
                message = f"not within {timeout_s:.0f} s: {what}"
                raise Violated(message)
            self._tend()
            time.sleep(TICK_S)
        return True

    def _one_at_work(self, choice: float) -> Slot:
        self._until("some worker works", lambda: any(slot.working for slot in self.slots), READY_S)
        working: Sequence[Slot] = [slot for slot in self.slots if slot.working]
        return working[int(choice * len(working))]

    # What befalls

    def _copy(self, _: Happening) -> None:
        self.cluster.copy_redis()

    def _cut(self, happening: Happening) -> None:
        self.cluster.cut(happening.how)

    def _broker(self, happening: Happening) -> None:
        self._say(f"the broker is {happening.how} and started again")
        self.cluster.restart_broker(happening.how)

    def _loss(self, happening: Happening) -> None:
        lost = self.cluster.lose(happening.how, happening.choice, happening.share)
        self._say(f"Redis was {happening.how} and lost {lost}")

    def _kill(self, happening: Happening) -> None:
        """Kill a worker; at a call of an assignment, the one that is started next."""
        slot, point = self._one_at_work(happening.choice), happening.point
        if point.assigning:
            self._planned.append(point)
            slot.process.kill()
            slot.process.wait()
            self._until("the killed one is replaced", lambda: slot not in self.slots, READY_S)
            slot = next(other for other in self.slots if other.name == slot.name)
        elif point.call:
            slot.plan(f"kill {point.line}")
        if point.call and self._until(str(point), lambda: slot not in self.slots, FIRE_S, must=False):
            self.points[str(point)] += 1
            return
        slot.process.kill()
        self._until("the killed one is replaced", lambda: slot not in self.slots, READY_S)

    def _zombie(self, happening: Happening) -> None:
        """Freeze a worker until after its session; now and then another one takes its name meanwhile."""
        self._until("the last zombie wakes", lambda: all(slot.wakes_at is None for slot in self.slots), READY_S)
        slot, point = self._one_at_work(happening.choice), happening.point
        if point.call:
            slot.plan(f"stop {point.line}")
            if not self._until(str(point), lambda: slot.stopped or slot not in self.slots, FIRE_S, must=False):
                slot.plan("never")
                time.sleep(HEED_S)
        slot.process.send_signal(signal.SIGSTOP)
        slot.wakes_at = time.monotonic() + happening.sleep_s
        if happening.how == "replaced" and slot in self.slots:
            self.ghosts.append((slot, slot.wakes_at + GHOST_S))
            self.slots[self.slots.index(slot)] = self._start(slot.name)

    def _promotion(self, happening: Happening) -> None:
        """A person promotes a version of a night, or goes back to an older one."""
        job = self._direct()
        name, topic = job.config.model.name, job.config.topics.models
        store, reader = wiring.state_store(job.config), wiring.topic_reader(job.config)

        def there() -> bool:
            self._pass(len(self._events) // 400)  # nothing else befalls meanwhile, so events would hardly come
            return store.announced(ANNOUNCED) is not None

        try:
            self._until("there is a model to come after", there, REST_S)
            bodies = models_of(job, reader).bodies
        finally:
            reader.close()
            store.close()
        numbers = sorted(bodies)
        older = decoded(bodies[numbers[int(happening.choice * len(numbers))]])
        back = len(numbers) > 1 and happening.share < BACK_SHARE
        version = older if back else renewed(older, numbers[-1] + 1, self.script.seed)
        body = encoded(version)
        schema_id = wiring.schema_ids(job.config, wiring.schema_source(job.config))[MODEL]
        promotion = Promotion(version, body, "", forced=False, at=int(time.time() * 1000))
        for record in (version_record(version, body, schema_id), promotion_record(promotion, schema_id)):
            self._producer.produce(topic, record.value, record.key)
            self._producer.flush(REST_S)  # nobody may see the promotion before the version
        self._say(f"version {version.version} of {name} is promoted")

    # Rest

    def _rest(self) -> None:
        """Let nothing more befall anybody, and wait until every event is counted and nothing moves."""
        self._pass(len(self._events))
        self._until("the ghosts are gone", lambda: not self.ghosts, READY_S)
        self._until("the zombies wake", lambda: all(slot.wakes_at is None for slot in self.slots), READY_S)
        left = self._producer.flush(REST_S)
        if left:
            message = f"{left} events could not be sent"
            raise Violated(message)
        self._wall(BEGIN_MS + (DAYS + 1) * DAY_MS)  # a day on which nothing happens
        with wiring.Watcher(self._direct().config) as watcher:
            tail, reader = wiring.kafka_tail(self._direct().config), wiring.topic_reader(self._direct().config)
            promotion = models_of(self._direct(), reader).promotion
            promoted = 1 if promotion is None else promotion.version.version
            reader.close()
            seen: list[Any] = []
            since = time.monotonic()

            def calm() -> bool:
                nonlocal since
                states = watcher.states()
                now = [(state.owner, state.commit_id, state.next_offset) for state in states]
                if now != seen:
                    seen[:], since = now, time.monotonic()
                if time.monotonic() - since <= CALM_S:
                    return False
                places = zip(range(PARTITIONS), states, watcher.ends(), strict=True)
                return (
                    all(state.commit_id and not tail.between(self._topic, p, state.next_offset, end) for p, state, end in places)
                    and not any(unpack_state(state.state).rebuilding for state in states)
                    and watcher.settled(states)
                    and all(unpack_state(state.state).model == promoted for state in states)
                )

            self._until("everything is at rest", calm, REST_S)
            tail.close()

    def _stop(self) -> None:
        """Stop everybody cleanly."""
        for slot in self.slots:
            slot.process.terminate()
        for slot in self.slots:
            status = slot.process.wait(STOP_S)
            if status:
                message = f"{slot.name} was told to stop and ended with status {status}"
                raise Violated(message)

    def _told(self) -> Counter[str]:
        """Count what the logs tell of."""
        text = "".join(path.read_text(errors="replace") for path in self.directory.glob("w*.log"))
        return Counter({name: len(pattern.findall(text)) for name, pattern in TOLD.items()})


def run(seed: int, counts: Counts, directory: Path, say: Callable[[str], None]) -> Outcome:
    """Draw and run one script."""
    return Run(Script.draw(seed, counts), counts, directory, say).run()
