"""The whole job against the floor, which is consuming and decoding with fastavro and nothing else: CPU per event of the process.

    python tests/bench/bench_job.py [--events 500000] [--customers 100000] [--partitions 8] [--runs 5]

Both run in turn as processes of their own on real servers; CPU is user and system time of all threads. The job is the worker as
`streamer run` has it, at least once, learning included; it is counted over the last two thirds of the events, when everything is compiled
and every customer known has been judged by the first model.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
import uuid
from io import BytesIO
from pathlib import Path
from typing import Any

BEGIN_MS = 1_700_000_000_000
DAY_MS = 86_400_000
DAYS = 30
TYPES = ["view"] * 10 + ["add_to_cart"] * 3 + ["purchase"] * 2 + ["search"] * 2 + ["refund"]


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def threads_s() -> dict[str, float]:
    """CPU of each thread so far, by its name, where the system tells."""
    tick = os.sysconf("SC_CLK_TCK")
    found: dict[str, float] = {}
    for stat in Path("/proc/self/task").glob("*/stat"):
        name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
        used = rest.split()[11:13]
        found[name] = found.get(name, 0.0) + sum(map(int, used)) / tick
    return found


def environment(bootstrap: str, redis_url: str, topic: str, partitions: int) -> dict[str, str]:
    return {
        **os.environ,
        "KAFKA_BOOTSTRAP": bootstrap,
        "REDIS_URL": redis_url,
        "STREAMER_TOPICS__EVENTS": topic,
        "STREAMER_TOPICS__PARTITIONS": str(partitions),
        "STREAMER_LOG__LEVEL": "warning",
    }


def fill(events: int, customers: int) -> None:
    """Send the events."""
    from streamer.adapters.avro import codec, wire
    from streamer.adapters.kafka.events_producer import EventRecord
    from streamer.app import wiring
    from streamer.app.config import load

    config = load(None, os.environ)
    wiring.ensure_topics(config)
    producer = wiring.event_producer(config)
    rng = random.Random(1)

    def made() -> Any:
        for i in range(events):
            customer = f"customer-{rng.randrange(customers):08d}"
            kind = rng.choice(TYPES)
            event = {
                "event_id": f"{i:012x}-4a5b-8c9d",
                "customer_id": customer,
                "event_type": kind,
                "occurred_at": BEGIN_MS + i * DAYS * DAY_MS // events,
                "amount": rng.randrange(500, 20_000) if kind in {"purchase", "refund"} else None,
                "currency": "EUR" if kind in {"purchase", "refund"} else None,
                "quantity": 1,
                "product_id": f"p-{rng.randrange(5000)}",
                "category": f"category-{rng.randrange(40)}",
                "session_id": f"s-{i // 7:x}",
                "properties": {"channel": "web"},
            }
            yield EventRecord(customer.encode(), wire.framed(codec.encode("behaviour_event", event), 1))

    producer.send(made())
    producer.wait(120.0)
    producer.close()


def floor(events: int) -> dict[str, float]:
    """Consume and decode with fastavro."""
    import fastavro
    from confluent_kafka import Consumer

    import schemas
    from streamer.app.config import load

    config = load(None, os.environ)
    schema = fastavro.parse_schema(schemas.load("behaviour_event"))
    properties = {**config.kafka.consumer_properties(), "group.id": f"floor-{uuid.uuid4()}", "auto.offset.reset": "earliest"}
    consumer = Consumer({**properties, "enable.auto.commit": False})
    consumer.subscribe([config.topics.events])
    messages: list[Any] = []
    while not messages:
        messages = consumer.consume(5000, 1.0)
    begun_s, wall_s, seen = cpu_s(), time.monotonic(), 0
    read = fastavro.schemaless_reader
    while True:
        for message in messages:
            read(BytesIO(message.value()[5:]), schema)
        seen += len(messages)
        if seen >= events:
            break
        messages = consumer.consume(5000, 1.0)
    result = {"cpu_us": (cpu_s() - begun_s) / seen * 1e6, "events_per_s": seen / (time.monotonic() - wall_s)}
    consumer.close()
    return result


def job(events: int, profile: str) -> dict[str, float]:
    """Run a worker until it has taken every event."""
    from streamer.app import wiring
    from streamer.app.config import load
    from streamer.app.logs import set_up

    name = f"bench-{uuid.uuid4().hex[:8]}"
    own = {f"STREAMER_TOPICS__{key}": f"{name}.{key.lower()}" for key in ("CHANGES", "MODELS", "JOURNAL", "DEAD_LETTERS")}
    config = load(None, {**os.environ, "STREAMER_APP__NAME": name, **own})
    set_up(config.log)
    with wiring.worker(config) as worker:
        while worker.totals.events < events // 3:  # meets customers, fits the first model, judges everybody by it
            worker.step()
        watch = _profiler(profile)
        first = worker.totals.changes, worker.totals.batches
        threads = threads_s()
        begun_s, wall_s, before = cpu_s(), time.monotonic(), worker.totals.events
        while worker.totals.events < events:
            worker.step()
        used_s, took_s, seen = cpu_s() - begun_s, time.monotonic() - wall_s, worker.totals.events - before
        for name, used in threads_s().items():
            print(f"  {name}: {(used - threads.get(name, 0.0)) / seen * 1e6:.2f} us", file=sys.stderr)
        watch()
        changes, batches = worker.totals.changes - first[0], worker.totals.batches - first[1]
        adopted = {owned.data.model for owned in worker.owned.values()}
        worker.stop()
    if adopted != {1}:
        message = f"the first model was not adopted in time: {adopted}"
        raise RuntimeError(message)
    wiring.state_store(config).drop()
    return {"cpu_us": used_s / seen * 1e6, "events_per_s": seen / took_s, "changes": changes / seen, "events_per_batch": seen / batches}


def _profiler(path: str) -> Any:
    if not path:
        return lambda: None
    import cProfile
    import pstats

    profiler = cProfile.Profile(time.thread_time)
    profiler.enable()

    def done() -> None:
        profiler.disable()
        with open(path, "w") as out:  # noqa: PTH123
            pstats.Stats(profiler, stream=out).sort_stats("tottime").print_stats(40)

    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=900_000)
    parser.add_argument("--customers", type=int, default=100_000)
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--profile", default="", help="write a profile of one more run of the job to this file")
    parser.add_argument("--role", choices=["fill", "floor", "job"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role == "fill":
        fill(args.events, args.customers)
        return
    if args.role:
        print(json.dumps(floor(args.events) if args.role == "floor" else job(args.events, args.profile)))
        return
    from streamer.adapters import servers

    with servers.start(os.environ) as running:
        env = environment(running.kafka_bootstrap, running.redis_url, f"bench-{uuid.uuid4().hex[:8]}", args.partitions)

        def child(role: str, *more: str) -> dict[str, float]:
            words = [sys.executable, __file__, "--role", role, "--events", str(args.events), "--customers", str(args.customers), *more]
            out = subprocess.run(words, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
            return dict(json.loads(out)) if out else {}

        child("fill")
        found: dict[str, list[dict[str, float]]] = {"floor": [], "job": []}
        child("job")  # compiles, and is not counted
        for n in range(args.runs):
            for role, results in found.items():
                results.append(child(role))
                print(f"run {n + 1} {role}: " + ", ".join(f"{k} {v:,.2f}" for k, v in results[-1].items()), flush=True)
        medians = {role: statistics.median(r["cpu_us"] for r in results) for role, results in found.items()}
        ratios = [j["cpu_us"] / f["cpu_us"] for f, j in zip(found["floor"], found["job"], strict=True)]
        figures = ", ".join(f"{role} {us:.2f} us" for role, us in medians.items())
        print(f"CPU per event, median: {figures}; ratio, median of pairs: {statistics.median(ratios):.2f}")
        if args.profile:
            child("job", "--profile", args.profile)


if __name__ == "__main__":
    main()
