"""How long after an event its segment change is in a subscriber's hands, by load: percentiles of the time from event to change.

    python tests/bench/bench_latency.py [--quick] [--runs N] [--seconds S] [--loads L,...] [--capacity EVENTS_PER_S]
        [--transactions on|off] [--out FILE]

Four processes share the machine with Kafka and Redis: a producer that sends events at a steady rate (librdkafka's default linger, 5 ms), a
worker as `streamer run` starts it, with default settings (exactly once, unless `--transactions off`), and a subscriber that reads committed
changes as they come. A latency is the subscriber's wall clock when it has the change in hand, less the event's Kafka timestamp, which is
the producer's wall clock when it hands the event to its client. The two are brought together by the change's `source`, which is the event's
offset. Only changes that an event made (`first_seen`, `behaviour`) are counted, and only those of events sent after the first fifth of a
run.

Load is a share of the capacity: the highest rate that the whole set-up sustains, found first by raising the rate and halving steps. A rate
is sustained when, in each of three runs, the producer keeps it and the changes of the run's last quarter take less than a quarter of a
second in the median: one run alone may end before a backlog shows.
100,000 customers, uniform, 8 partitions, who have been known for ninety days and are judged by the first model, as in bench_job.py. Event
time passes as fast as the clock on the wall, and no midnight is crossed (bench_sweep.py crosses one).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from threading import Thread
from typing import IO, TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # it is run by path

from tests.bench import jobs, kit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).parents[2]
PARTITIONS = 8
CUSTOMERS, VISITS, HISTORY_DAYS = 100_000, 9, 90.0
QUICK_CUSTOMERS = 3_000
HALF = 0.5
LOADS = (0.1, HALF, 0.9)
PERCENTILES = {"p50_ms": 50.0, "p90_ms": 90.0, "p99_ms": 99.0, "p999_ms": 99.9}
P50_MAX_MS, P99_MAX_MS = 50.0, 200.0
SUSTAINED_MS = 250.0
PACE_S = 0.002
KEPT = 0.98
FIRST_RATE, FACTOR, HALVINGS, TRIES = 20_000, 1.5, 2, 3
COUNTED_FROM = 0.2  # of a run's events
DRAIN_S = 2.0
DAY_S = 86_400.0


class Setup:
    """Customers, a worker, and where their events have got to."""

    def __init__(self, place: jobs.Place, customers: int) -> None:
        """Take in the history."""
        self.place = place
        self.traffic = jobs.Traffic.history(customers * VISITS, customers, days=HISTORY_DAYS)
        jobs.fill(place, self.traffic)
        jobs.warm(place, self.traffic.events)

    @contextmanager
    def worker(self) -> Iterator[int]:
        """Run a worker for the length of a block, and give its process's id."""
        process = subprocess.Popen([sys.executable, "-m", "streamer", "run"], env=self.place.environment, cwd=ROOT)
        try:
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            process.wait()

    def run(self, rate: float, seconds: float) -> kit.Figures:
        """Send events at a rate for so long, and give the percentiles of their changes."""
        return self.send(self.traffic.after(max(int(rate * seconds), 100), seconds / DAY_S), rate)

    def send(self, traffic: jobs.Traffic, rate: float, until: Callable[[], dict[str, int]] | None = None) -> kit.Figures:
        """Send what happens next at a rate, all of it or until a function returns, and give the percentiles of its changes.

        The function, which is called when the first event is sent, gives from when to when events are counted: `counted_ms` and `end_ms`.
        """
        self.traffic = traffic
        given = {"traffic": asdict(traffic), "rate": rate}
        with self._role("subscriber", {}) as subscriber, self._role("producer", given) as producer:
            told(producer)
            told(subscriber)
            tell(producer, "go")
            window = {}
            if until is not None:
                window = until()
                with suppress(BrokenPipeError):  # it has sent all it had, and ended
                    tell(producer, "enough")
            sent = {**json.loads(told(producer)), **window}
            time.sleep(DRAIN_S)
            tell(subscriber, json.dumps(sent))
            return {**json.loads(told(subscriber)), "events_per_s": sent["events_per_s"]}

    @contextmanager
    def _role(self, role: str, arguments: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
        words = [sys.executable, __file__, "--role", role, json.dumps(arguments)]
        env = {**self.place.environment, "STREAMER_KAFKA__PRODUCER__LINGER.MS": "5"}
        with subprocess.Popen(words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()


def told(process: subprocess.Popen[str]) -> str:
    """Read the next line of a role."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        message = f"{process.args!r} ended with {process.wait()}"
        raise RuntimeError(message)
    return line


def tell(process: subprocess.Popen[str], line: str) -> None:
    """Write a line to a role."""
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def sustained(figures: kit.Figures, rate: float) -> bool:
    """Tell whether a rate was kept up with."""
    return figures["events_per_s"] >= KEPT * rate and figures["late_p50_ms"] <= SUSTAINED_MS


def find_capacity(setup: Setup, seconds: float) -> float:
    """Find the highest rate that is sustained: raise it until it is not, then halve the step."""
    low, high = 0.0, float(FIRST_RATE)

    def holds(rate: float) -> bool:
        return all(sustained(said(setup.run(rate, seconds), rate), rate) for _ in range(TRIES))

    while holds(high):
        low, high = high, high * FACTOR
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def said(figures: kit.Figures, rate: float) -> kit.Figures:
    """Tell of a try."""
    print(f"{rate:,.0f} events/s: " + ", ".join(f"{name} {kit.number(value)}" for name, value in figures.items()), flush=True)
    return figures


# The roles: each says a line when it is ready, reads a line, and says its result in the last.


def produce(traffic: dict[str, Any], rate: float, said_to: IO[str]) -> None:
    """Send events at a rate, until there are no more or a line says that it is enough."""
    from streamer.adapters.avro import codec, wire
    from streamer.adapters.kafka.events_producer import EventRecord
    from streamer.app import wiring
    from streamer.app.config import load

    producer = wiring.event_producer(load(None, os.environ))
    drawn = jobs.made(jobs.Traffic(**traffic))
    records = [EventRecord(key, wire.framed(codec.encode("behaviour_event", event), 1)) for key, event in drawn]
    gc.freeze()
    gc.disable()
    print("ready", flush=True)
    said_to.readline()
    begun_s, at, behind_s = time.monotonic(), 0, 0.0
    counted_ms = 0
    while at < len(records) and not select.select([said_to], [], [], 0)[0]:
        now_s = time.monotonic()
        due = min(int((now_s - begun_s) * rate), len(records))
        if at < COUNTED_FROM * len(records) <= due:
            counted_ms = time.time_ns() // 1_000_000
        producer.send(records[at:due])
        at = due
        left_s = PACE_S - (time.monotonic() - now_s)
        behind_s = max(behind_s, -left_s)
        time.sleep(max(left_s, 0.0))
    took_s = time.monotonic() - begun_s
    end_ms = time.time_ns() // 1_000_000
    producer.wait(60.0)
    figures = {"events_per_s": at / took_s, "behind_ms": behind_s * 1e3, "counted_ms": counted_ms, "end_ms": end_ms}
    print(json.dumps(figures), flush=True)


def subscribe(said_to: IO[str]) -> None:
    """Read changes as they come, and then find the events that they are of."""
    from confluent_kafka import Consumer, TopicPartition

    from streamer.adapters.avro import codec, wire
    from streamer.app.config import load

    config = load(None, os.environ)
    client = {**config.kafka.consumer_properties(), "group.id": "unused", "enable.auto.commit": False, "auto.offset.reset": "error"}
    consumer = Consumer(client)
    events = {p: consumer.get_watermark_offsets(TopicPartition(config.topics.events, p), timeout=10)[1] for p in range(PARTITIONS)}
    ends = [consumer.get_watermark_offsets(TopicPartition(config.topics.changes, p), timeout=10)[1] for p in range(PARTITIONS)]
    consumer.assign([TopicPartition(config.topics.changes, p, end) for p, end in enumerate(ends)])
    consumer.poll(1.0)
    gc.disable()
    asked: list[str] = []
    Thread(target=lambda: asked.append(said_to.readline()), daemon=True).start()
    print("ready", flush=True)
    arrived: list[tuple[int, bytes]] = []
    while not asked:
        message = consumer.poll(0.05)
        if message is not None:
            arrived.append((time.time_ns(), message.value()))
    sent = json.loads(asked[0])
    timestamps = _timestamps(consumer, config.topics.events, events)
    found: list[tuple[int, float]] = []  # when the event was sent, and its change's latency, in milliseconds
    for at_ns, value in arrived:
        change = codec.decode("segment_change", value[wire.opening(value, ()).body :])
        if change["cause"] in {"first_seen", "behaviour"}:
            sent_ms = timestamps[change["source"]["partition"]].get(change["source"]["offset"])
            if sent_ms is not None:
                found.append((sent_ms, at_ns / 1e6 - sent_ms))
    at, latency = (np.array(column, np.float64) for column in zip(*found, strict=True))
    counted = latency[(at >= sent["counted_ms"]) & (at <= sent["end_ms"])]
    last = latency[at >= sent["end_ms"] - (sent["end_ms"] - sent["counted_ms"]) / 4]
    figures = {name: float(np.percentile(counted, share)) for name, share in PERCENTILES.items()}
    figures |= {"max_ms": float(counted.max()), "late_p50_ms": float(np.median(last)) if len(last) else float("inf")}
    print(json.dumps({**figures, "changes": len(counted), "behind_ms": sent["behind_ms"]}), flush=True)


def _timestamps(consumer: Any, topic: str, begins: dict[int, int]) -> dict[int, dict[int, int]]:
    """Read when each event from these offsets on was sent, by partition and offset."""
    from confluent_kafka import TopicPartition

    ends = {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1] for p in begins}
    consumer.assign([TopicPartition(topic, p, begin) for p, begin in begins.items()])
    found: dict[int, dict[int, int]] = {p: {} for p in begins}
    while any(len(found[p]) < ends[p] - begins[p] for p in begins):
        for message in consumer.consume(10_000, 1.0):
            if message.topic() == topic:
                found[message.partition()][message.offset()] = message.timestamp()[1]
    return found


def draw(results: kit.Results, capacity: float, loads: Sequence[float], out: Path) -> None:
    """Draw the percentiles by load."""
    lines = {
        f"p{name.removeprefix('p').removesuffix('_ms').replace('999', '99.9')}": [
            (load * capacity, results.median(label(load), name)) for load in loads
        ]
        for name in PERCENTILES
    }
    title = f"From event to change, by load ({kit.number(capacity)} events a second is all that the set-up sustains)"
    kit.plot_lines(lines, out.with_suffix(".png"), title=title, unit="ms", along="events a second")


def label(load: float) -> str:
    """Name a load."""
    return f"{load:.0%} load"


def main() -> None:
    """Find the capacity, then measure the loads in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kit.options(parser, "latency")
    parser.add_argument("--seconds", type=float, help="how long a run sends; 10 unless told, 3 with --quick")
    parser.add_argument("--capacity", type=float, help="events a second that are taken for the capacity, instead of finding it")
    parser.add_argument("--loads", help="shares of the capacity, such as 0.5,0.9; 0.1,0.5,0.9 unless told, 0.5 with --quick")
    parser.add_argument(
        "--transactions", choices=["on", "off"], default="on", help="whether changes are published exactly once; off: latency_off.json"
    )
    parser.add_argument("--role", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role:
        role, arguments = args.role[0], json.loads(args.role[1])
        if role == "producer":
            produce(**arguments, said_to=sys.stdin)
        else:
            subscribe(said_to=sys.stdin)
        return
    if args.transactions == "off":
        args.usual_out = args.usual_out.with_stem("latency_off")
    runs, out = kit.settled(args)
    seconds = args.seconds or (3.0 if args.quick else 10.0)
    loads = tuple(map(float, args.loads.split(","))) if args.loads else LOADS[1:2] if args.quick else LOADS
    with jobs.Place.start(PARTITIONS, args.transactions) as place:
        setup = Setup(place, QUICK_CUSTOMERS if args.quick else CUSTOMERS)
        with setup.worker():
            setup.run(1_000, 5.0)  # joins the group, and is not counted
            capacity = args.capacity or (4_000.0 if args.quick else find_capacity(setup, seconds))
            cases = {label(load): lambda load=load: setup.run(load * capacity, seconds) for load in loads}
            results = kit.run_in_turn(
                cases,
                runs,
                about={"capacity_events_per_s": capacity, "seconds": seconds, "customers": CUSTOMERS, "transactions": args.transactions},
            )
    results.show(f"From event to change, of {kit.number(capacity)} events a second")
    if label(HALF) in results.runs:
        p50, p99 = results.median(label(HALF), "p50_ms"), results.median(label(HALF), "p99_ms")
        print(f"at half load p50 {p50:.0f} ms (at most {P50_MAX_MS:.0f} wanted), p99 {p99:.0f} ms (at most {P99_MAX_MS:.0f} wanted)")
    if out is not None:
        results.json(out)
        draw(results, capacity, loads, out)


if __name__ == "__main__":
    main()
