"""How many bytes of Redis a customer takes: a million customers with 20 active day tiles each, every key counted.

    python tests/bench/bench_redis.py [--quick] [--customers N] [--out FILE]

What is stored is the real thing. 10,000 profiles are made by the core, from events of 20 days out of 90, two a day, and are judged by a
model of 8 segments, so that each has its segment and its vote. A profile does not hold the customer's id, so each is kept under many ids,
of 17 bytes, in 8 partitions. They go in through the store's guarded commits, 5,000 customers at a time, with a partition's state and an
outbox as big as a batch's usual changes.

`bytes` is the server's `used_memory` after, less before, divided by customers; `keys_bytes` is the same of MEMORY USAGE of all keys;
`resident_bytes` is of the process's memory, fragmentation included; `profile_bytes` is the packed profile alone. Valkey is the wheel's;
Redis is measured as well where `redis-server` is on the PATH. A server counts alike each time: there is one round unless --runs tells.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import redis

sys.path.insert(0, str(Path(__file__).parents[2]))  # it is run by path

from streamer.adapters.redis_state import RedisSettings, RedisStateStore
from streamer.adapters.servers import EmbeddedRedis
from streamer.adapters.servers.embedded_redis import find_binary
from streamer.core.declaration import declare
from streamer.core.ports import Commit, Outcome, Packed
from tests.bench import kit
from tests.corekit import DAY_MS, T0, Event, Stream, event, opened, packaged, version_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BYTES_MAX = 450.0
CUSTOMERS, QUICK_CUSTOMERS = 1_000_000, 50_000
PARTITIONS = 8
ACTIVE_DAYS, HISTORY_DAYS, EVENTS_A_DAY = 20, 90, 2
SEGMENTS = 8
COMMIT_CUSTOMERS = 5_000
MADE_TOGETHER = 500
OUTBOX_BYTES = 40_000  # a partition's share of the changes of 5,000 events, as outboxes have them
MEMORY_MB = 4_096
TYPES = ("view", "view", "view", "view", "add_to_cart", "search", "purchase", "refund")


def profiles(count: int, seed: int = 1) -> tuple[list[bytes], bytes, float]:
    """Make packed profiles, a partition's state, and how many day tiles a profile has on average."""
    rng = random.Random(seed)
    made: list[bytes] = []
    stream = Stream(declare(packaged()))
    for first in range(0, count, MADE_TOGETHER):
        stream = Stream(stream.declaration)
        customers = range(first, min(first + MADE_TOGETHER, count))
        days = [(c, day) for c in customers for day in rng.sample(range(HISTORY_DAYS), ACTIVE_DAYS)]
        times = sorted((T0 + day * DAY_MS + rng.randrange(DAY_MS), c) for c, day in days for _ in range(EVENTS_A_DAY))
        stream.fold([_event(rng, offset, at, c) for offset, (at, c) in enumerate(times)])
        features = len(stream.plan.kind)
        centroids = [[rng.uniform(-2, 2) for _ in range(features)] for _ in range(SEGMENTS)]
        stream.adopt(version_of(stream.declaration, centroids), 0, len(times), T0 + HISTORY_DAYS * DAY_MS)
        stream.sweep(0)
        made += stream.profiles.values()
    tiles = float(opened(stream.plan, made).days.count.mean())
    return made, stream.states[0], tiles


def _event(rng: random.Random, offset: int, at: int, customer: int) -> Event:
    kind = rng.choice(TYPES)
    fields = {"amount": rng.randrange(500, 20_000)} if kind in {"purchase", "refund"} else {}
    return Event(0, offset, event(kind, at, f"c{customer:07d}", f"e{offset}", category=f"k{rng.randrange(12)}", **fields))


def load(store: RedisStateStore, made: Sequence[bytes], state: bytes, customers: int) -> None:
    """Put the profiles in, each under one id after the other."""
    rng = random.Random(2)
    owner = uuid.uuid4().hex
    for partition in range(PARTITIONS):
        store.claim(partition, owner)
        numbers = range(partition, customers, PARTITIONS)
        expected = ""
        for first in range(0, len(numbers), COMMIT_CUSTOMERS):
            some = numbers[first : first + COMMIT_CUSTOMERS]
            packed = _packed([f"customer-{n:08d}".encode() for n in some], [made[n % len(made)] for n in some])
            commit_id = uuid.uuid4().hex
            commit = Commit(partition, owner, expected, commit_id, first, state, rng.randbytes(OUTBOX_BYTES), packed, announce={})
            if store.commit([commit]) != [Outcome.APPLIED]:
                message = f"a commit of partition {partition} was refused"
                raise RuntimeError(message)
            expected = commit_id


def _packed(ids: Sequence[bytes], values: Sequence[bytes]) -> Packed:
    def joined(parts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        return np.frombuffer(b"".join(parts), np.uint8), np.cumsum([0, *map(len, parts)], dtype=np.int64)

    return Packed(*joined(ids), *joined(values))


def measure(binary: Path, made: Sequence[bytes], state: bytes, customers: int) -> kit.Figures:
    """Start a server, load it, and look at its memory."""
    with tempfile.TemporaryDirectory() as directory:
        server = EmbeddedRedis(Path(directory) / "redis", memory_mb=MEMORY_MB, binary=binary).start()
        try:
            with redis.Redis.from_url(server.address) as client:
                before = client.info("memory")
                store = RedisStateStore(RedisSettings(server.address), "bench", "redis")
                store.record_partitions(PARTITIONS)
                load(store, made, state, customers)
                store.close()
                after = client.info("memory")
                keys = sum(client.memory_usage(key, samples=0) for key in client.scan_iter())
            return {
                "bytes": (after["used_memory"] - before["used_memory"]) / customers,
                "keys_bytes": keys / customers,
                "resident_bytes": (after["used_memory_rss"] - before["used_memory_rss"]) / customers,
                "profile_bytes": sum(len(made[n % len(made)]) for n in range(customers)) / customers,
            }
        finally:
            server.close()


def binaries() -> dict[str, Path]:
    """Find the servers, by name and version."""
    found = {}
    for path in (find_binary(), shutil.which("redis-server")):
        if path is not None:
            with tempfile.TemporaryDirectory() as directory:
                server = EmbeddedRedis(Path(directory) / "redis", binary=Path(path)).start()
                with redis.Redis.from_url(server.address) as client:
                    info: Mapping[str, str] = client.info("server")
                server.close()
            version = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info['redis_version']}"
            found[version] = Path(path)
    return found


def main() -> None:
    """Measure every server that there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kit.options(parser, "redis", runs=1)
    parser.add_argument("--customers", type=int, help="1,000,000 unless told, 50,000 with --quick")
    args = parser.parse_args()
    runs, out = kit.settled(args)
    customers = args.customers or (QUICK_CUSTOMERS if args.quick else CUSTOMERS)
    made, state, tiles = profiles(1_000 if args.quick else 10_000)
    print(f"{len(made):,} profiles made, {tiles:.1f} day tiles each")
    cases = {name: lambda binary=binary: measure(binary, made, state, customers) for name, binary in binaries().items()}
    results = kit.run_in_turn(cases, runs, about={"customers": customers, "day_tiles": tiles, "partitions": PARTITIONS})
    results.show(f"Bytes a customer, {customers:,} customers, {tiles:.1f} day tiles each")
    for case in results.runs:
        print(f"{case}: {results.median(case, 'bytes'):.0f} bytes a customer, at most {BYTES_MAX:.0f} wanted")
    if out is not None:
        results.json(out)
        limit = (BYTES_MAX, f"criterion, {BYTES_MAX:.0f}")
        kit.plot_bars({"used_memory": results}, "bytes", out.with_suffix(".png"), title="Redis, bytes a customer", limit=limit)


if __name__ == "__main__":
    main()
