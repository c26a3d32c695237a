"""What the benchmarks of a whole job share: servers, events, and the floor and the job as processes of their own.

    with Place.start(partitions=8) as place:
        fill(place, Traffic(events=400_000, customers=100_000))        # sends the events, in a process of its own
        figures = floor(place, events=400_000)                         # consumes and decodes them with fastavro, and nothing else
        figures = job(place, events=400_000)                           # runs a worker over them

Floor and job each go on where their group was: what is filled between two calls is what the next ones take. `place.named("other")` has the
same events and nothing else in common: another run over all of them, with its own group, topics and profiles.

Law: `events` is how many are there to be taken, and all are taken; those of `lead` and `tail` are not counted: a client that has just
connected has a backlog ahead of it, and at the end one partition after the other runs dry. CPU is user and system time of all threads of
the process that was started.

Events have two paces. What lies behind (`Traffic.history`) goes over days, and ends six hours after a midnight, so that every partition's
clock has crossed it. What happens live goes by minutes (`Traffic.live`) and crosses no midnight: a midnight is when all windows move on,
and each customer is judged anew as of each one passed. Days sent in seconds (`Traffic.after`) measure catching up.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
import uuid
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # it is run by path

from tests.bench import kit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from streamer.app.config import Config
    from streamer.app.recording import Stage
    from streamer.core.ports import StateStore

MIDNIGHT_MS = 1_000_080_000_000
"""In 2001: the few customers of a benchmark live for years, and nothing may happen later than it is sent."""
DAY_MS = 86_400_000
HISTORY_ENDS = 0.25
"""In days after that midnight: late enough for every partition to have an event since, early enough for a hundred live rounds."""
LIVE_DAYS = 10 / 1_440
TYPES = ("view",) * 10 + ("add_to_cart",) * 3 + ("purchase",) * 2 + ("search",) * 2 + ("refund",)
PAID = ("purchase", "refund")
CHUNK = 10_000
CONSUMED_MAX = 5_000
"""How many records the floor takes at once, as a worker does."""
REDIS_MB = 4_096
WARM_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Traffic:
    """Events: who did something is drawn, and event time goes on evenly over `days`, from `first_day` after a midnight.

    `skew` 0 draws all customers alike; above, the n-th customer n ** skew times more seldom than the first (Zipf).
    """

    events: int
    customers: int
    skew: float = 0.0
    first_day: float = 0.0
    days: float = 30.0
    seed: int = 1  # another seed gives other events, with other ids

    @classmethod
    def history(cls, events: int, customers: int, days: float) -> Traffic:
        """Give what lies behind, of customers drawn alike; what happens after it crosses no midnight for 18 hours."""
        return cls(events, customers, first_day=HISTORY_ENDS - days, days=days)

    @property
    def midnight(self) -> int:
        """Which midnight comes next, in days."""
        return math.floor(self.first_day + self.days) + 1

    def after(self, events: int, days: float, skew: float | None = None) -> Traffic:
        """Give what the same customers do next."""
        skew = self.skew if skew is None else skew
        return replace(self, events=events, skew=skew, first_day=self.first_day + self.days, days=days, seed=self.seed + 1)

    def live(self, events: int, skew: float | None = None) -> Traffic:
        """Give what the same customers do in the next ten minutes."""
        return self.after(events, LIVE_DAYS, skew)

    def past_midnight(self, events: int, days: float) -> Traffic:
        """Give what the same customers do from the next midnight on."""
        return replace(self.after(events, days), first_day=float(self.midnight))


@dataclass(frozen=True, slots=True)
class Place:
    """Servers, a topic of events and an application: the environment of whoever works there."""

    kafka_bootstrap: str
    redis_url: str
    partitions: int
    events_topic: str
    app: str
    transactions: str = "on"  # as the worker's setting, exactly once; `off` is at least once

    @classmethod
    @contextmanager
    def start(cls, partitions: int, transactions: str = "on") -> Iterator[Place]:
        """Start servers for the length of a block, those that the environment names if it does."""
        from streamer.adapters import servers

        with servers.start(os.environ, kafka_as_shipped=True) as running:
            if running.redis.source is servers.Source.EMBEDDED:
                _allow(running.redis_url, REDIS_MB)
            yield cls.on(running.kafka_bootstrap, running.redis_url, partitions, transactions)

    @classmethod
    def on(cls, kafka_bootstrap: str, redis_url: str, partitions: int, transactions: str = "on") -> Place:
        """Take servers that run already."""
        name = f"bench-{uuid.uuid4().hex[:8]}"
        return cls(kafka_bootstrap, redis_url, partitions, f"{name}.events", name, transactions)

    def named(self, suffix: str) -> Place:
        """Give another application over the same events."""
        return replace(self, app=f"{self.app}-{suffix}")

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process that works here."""
        topics = {
            f"STREAMER_TOPICS__{key.upper()}": f"{self.app}.{key.replace('_', '-')}"
            for key in ("changes", "models", "journal", "dead_letters")
        }
        return {
            **os.environ,
            **topics,
            "KAFKA_BOOTSTRAP": self.kafka_bootstrap,
            "REDIS_URL": self.redis_url,
            "STREAMER_APP__NAME": self.app,
            "STREAMER_TOPICS__EVENTS": self.events_topic,
            "STREAMER_TOPICS__PARTITIONS": str(self.partitions),
            "STREAMER_TRANSACTIONS": self.transactions,
            "STREAMER_METRICS__PORT": "0",
            "STREAMER_LOG__LEVEL": "warning",
        }


def fill(place: Place, traffic: Traffic) -> None:
    """Send events, in a process of its own, and make the topics if they are missing."""
    _child("fill", place, asdict(traffic))


def floor(place: Place, events: int, lead: int = 0, tail: int = 0) -> kit.Figures:
    """Consume and decode with fastavro, in a process of its own: `cpu_us` an event, `events_per_s`, `page_faults_per_event`."""
    return _child("floor", place, {"events": events, "lead": lead, "tail": tail})


def job(place: Place, events: int, lead: int = 0, tail: int = 0) -> kit.Figures:
    """Run a worker over the events, in a process of its own.

    Gives what the floor does, `changes_per_event` and `events_per_batch`; where the CPU went: `in_STAGE_us` of the main thread
    for each stage of `streamer.app.recording`, `in_between_us` for the main thread outside of them, `in_clients_us` for all other threads;
    and `wait_STAGE_us`, for how long the main thread did not run in a stage, most of it waiting for a server.
    """
    return _child("job", place, {"events": events, "lead": lead, "tail": tail})


def warm(place: Place, events: int) -> kit.Figures:
    """Run a worker over the events as `job` does, and on until every customer has been judged by the first model."""
    return _child("warm", place, {"events": events})


def skip(place: Place) -> None:
    """Let the next floor begin at what is sent from now on."""
    _child("skip", place, {})


def drop(place: Place) -> None:
    """Delete the application's profiles and states."""
    state_store(place).drop()


def state_store(place: Place) -> StateStore:
    """Look into the application's profiles and states."""
    from streamer.app import wiring
    from streamer.app.config import load

    return wiring.state_store(load(None, place.environment))


def _child(role: str, place: Place, arguments: Mapping[str, Any]) -> kit.Figures:
    return kit.child([sys.executable, __file__, role, json.dumps(arguments)], place.environment)


def _allow(redis_url: str, megabytes: int) -> None:
    """Let a Redis of our own hold more than it does by default."""
    import redis

    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory", f"{megabytes}mb")


# The roles


def made(traffic: Traffic) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Draw events: the record's key, and the event."""
    import numpy as np

    rng = np.random.default_rng(traffic.seed)
    weights = np.cumsum(1.0 / np.arange(1, traffic.customers + 1) ** traffic.skew)
    names = rng.permutation(traffic.customers)  # who is frequent has no order
    step_ms = traffic.days * DAY_MS / traffic.events
    begin_ms = MIDNIGHT_MS + int(traffic.first_day * DAY_MS)
    for first in range(0, traffic.events, CHUNK):
        count = min(CHUNK, traffic.events - first)
        ranks = np.searchsorted(weights, rng.random(count) * weights[-1])
        columns = (names[ranks], *(rng.integers(0, most, count) for most in (len(TYPES), 19_500, 5_000, 40)))
        for i, (who, kind, amount, product, category) in enumerate(zip(*(c.tolist() for c in columns), strict=True), first):
            customer, event_type = f"customer-{who:08d}", TYPES[kind]
            paid = event_type in PAID
            yield (
                customer.encode(),
                {
                    "event_id": f"{i:012x}-{traffic.seed:04x}-8c9d",
                    "customer_id": customer,
                    "event_type": event_type,
                    "occurred_at": begin_ms + int(i * step_ms),
                    "amount": 500 + amount if paid else None,
                    "currency": "EUR" if paid else None,
                    "quantity": 1,
                    "product_id": f"p-{product}",
                    "category": f"category-{category}",
                    "session_id": f"s-{i // 7:x}",
                    "properties": {"channel": "web"},
                },
            )


def _fill(**traffic: Any) -> kit.Figures:
    from streamer.adapters.avro import codec, wire
    from streamer.adapters.kafka.events_producer import EventRecord
    from streamer.app import wiring
    from streamer.app.config import load

    config = load(None, os.environ)
    wiring.ensure_topics(config)
    producer = wiring.event_producer(config)
    encode, framed = codec.encode, wire.framed
    producer.send(EventRecord(key, framed(encode("behaviour_event", event), 1)) for key, event in made(Traffic(**traffic)))
    producer.wait(120.0)
    producer.close()
    return {}


def _floor(events: int, lead: int, tail: int) -> kit.Figures:
    import fastavro
    from confluent_kafka import Consumer

    import schemas
    from streamer.app.config import load

    config = load(None, os.environ)
    schema = fastavro.parse_schema(schemas.load("behaviour_event"))
    consumer = Consumer(_floor_client(config))
    consumer.subscribe([config.topics.events])
    read, seen = fastavro.schemaless_reader, 0

    def until(count: int) -> None:
        nonlocal seen
        while seen < count:
            messages = consumer.consume(CONSUMED_MAX, 1.0)
            for message in messages:
                read(BytesIO(message.value()[5:]), schema)
            seen += len(messages)

    until(max(lead, 1))
    spent = _Spent(seen)
    until(events - tail)
    figures = spent.figures(seen)
    until(events)
    consumer.commit(asynchronous=False)
    consumer.close()
    return figures


def _floor_client(config: Config) -> dict[str, Any]:
    own = {"group.id": f"{config.app.name}-floor", "auto.offset.reset": "earliest", "enable.auto.commit": False}
    return {**config.kafka.consumer_properties(), **own}


def _skip() -> kit.Figures:
    from confluent_kafka import Consumer, TopicPartition

    from streamer.app.config import load

    config = load(None, os.environ)
    consumer = Consumer(_floor_client(config))
    topic = config.topics.events
    ends = [consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1] for p in range(config.topics.partitions)]
    consumer.commit(offsets=[TopicPartition(topic, p, end) for p, end in enumerate(ends)], asynchronous=False)
    consumer.close()
    return {}


def _job(events: int, lead: int = 0, tail: int = 0, *, warming: bool = False) -> kit.Figures:
    from streamer.app import wiring
    from streamer.app.clock import SystemClock
    from streamer.app.config import load
    from streamer.app.health import Health
    from streamer.app.logs import set_up
    from streamer.app.metrics import Metrics
    from streamer.app.recording import STAGES

    config = load(None, os.environ)
    set_up(config.log)
    health = Health(SystemClock(), 300, 30)
    metrics, by_time = Metrics.registered(SystemClock(), health)
    second, by_cpu = Metrics.registered(_cpu_clock(), health)
    timed, timed_by_cpu = metrics.stage, second.stage
    metrics.stage = lambda stage: _Both(timed(stage), timed_by_cpu(stage))  # type: ignore[method-assign]

    def stages_s() -> tuple[Mapping[Stage, float], Mapping[Stage, float]]:
        name = "streamer_stage_seconds_sum"
        cpu, passed = ({s: by.get_sample_value(name, {"stage": s}) or 0.0 for s in STAGES} for by in (by_cpu, by_time))
        return cpu, passed

    with wiring.worker(config, metrics) as worker:
        totals = worker.totals
        while totals.events < max(lead, 1):
            worker.step()
        spent, before = _Spent(totals.events), (totals.events, totals.changes, totals.batches, time.thread_time(), stages_s())
        while totals.events < events - tail:
            worker.step()
        figures, seen = spent.figures(totals.events), max(totals.events - before[0], 1)
        figures["changes_per_event"] = (totals.changes - before[1]) / seen
        figures["events_per_batch"] = seen / max(totals.batches - before[2], 1)
        main_us = (time.thread_time() - before[3]) / seen * 1e6
        cpu, passed = ({s: (now[s] - then[s]) / seen * 1e6 for s in STAGES} for now, then in zip(stages_s(), before[4], strict=True))
        figures |= {f"in_{stage}_us": used for stage, used in cpu.items()}
        figures["in_between_us"] = main_us - sum(cpu.values())
        figures["in_clients_us"] = figures["cpu_us"] - main_us
        figures |= {f"wait_{stage}_us": passed[stage] - used for stage, used in cpu.items()}
        deadline_s = time.monotonic() + WARM_TIMEOUT_S
        while totals.events < events or (warming and not _judged(worker, config.topics.partitions)):
            worker.step()
            if time.monotonic() > deadline_s:
                message = f"{totals.events} of {events} events, and models {[o.data.model for o in worker.owned.values()]}"
                raise TimeoutError(message)
        worker.stop()
    if totals.letters:
        message = f"{totals.letters} events were refused: what was measured is not the job"
        raise RuntimeError(message)
    return figures


def _judged(worker: Any, partitions: int) -> bool:
    owned = worker.owned.values()
    return len(owned) == partitions and all(one.data.model and one.data.swept for one in owned)


class _Spent:
    """CPU and time since a moment, an event."""

    def __init__(self, seen: int) -> None:
        self._seen, self._cpu_s, self._wall_s, self._faults = seen, kit.cpu_s(), time.monotonic(), kit.page_faults()

    def figures(self, seen: int) -> kit.Figures:
        counted = max(seen - self._seen, 1)
        used_s, took_s = kit.cpu_s() - self._cpu_s, time.monotonic() - self._wall_s
        faults = (kit.page_faults() - self._faults) / counted
        return {"cpu_us": used_s / counted * 1e6, "events_per_s": counted / took_s, "page_faults_per_event": faults}


class _Both(AbstractContextManager[None]):
    """Two timers of one stage."""

    def __init__(self, outer: AbstractContextManager[None], inner: AbstractContextManager[None]) -> None:
        self._outer, self._inner = outer, inner

    def __enter__(self) -> None:
        self._outer.__enter__()
        self._inner.__enter__()

    def __exit__(self, *_: object) -> None:
        self._inner.__exit__(None, None, None)
        self._outer.__exit__(None, None, None)


def _cpu_clock() -> Any:
    """Make a clock by which a stage takes the main thread's CPU, not the time that passes."""
    from streamer.app.clock import SystemClock

    class CpuClock(SystemClock):
        def monotonic_s(self) -> float:
            return time.thread_time()

    return CpuClock()


def _warm(events: int) -> kit.Figures:
    return _job(events, warming=True)


ROLES: dict[str, Callable[..., kit.Figures]] = {"fill": _fill, "skip": _skip, "floor": _floor, "job": _job, "warm": _warm}


def main() -> None:
    """Play a role and print its figures."""
    parser = argparse.ArgumentParser(description="One process of a benchmark: see the module's own words.")
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("arguments", type=json.loads, help="JSON")
    args = parser.parse_args()
    print(json.dumps(ROLES[args.role](**args.arguments)))


if __name__ == "__main__":
    main()
