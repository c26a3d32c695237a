"""How long one event takes in the core: unpacking, folding and packing, by the packaged declaration, and how big a profile is.

    python tests/bench/bench_fold.py [--quick] [--runs N] [--customers N] [--events N] [--out FILE]

One batch of events of known customers, with 20 active day tiles each and judged by a model of 8 segments, is folded again and again;
microseconds of wall clock for each event of it.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # it is run by path

from streamer.core.declaration import declare
from streamer.core.fold import TALLIES, fold
from streamer.core.partition import stack_judge, stack_sums
from streamer.core.profile import pack, unpack
from tests.bench import kit
from tests.corekit import DAY_MS, T0, Event, Stream, as_rows, event, joined, packaged, version_of

ROUNDS = 9
CUSTOMERS, EVENTS = 2_000, 5_000
QUICK_CUSTOMERS, QUICK_EVENTS = 200, 1_000
ACTIVE_DAYS = 20
SEGMENTS = 8
TYPES = ("view", "view", "view", "view", "add_to_cart", "search", "purchase", "refund")


def draw(rng: random.Random, customer: int, offset: int, at: int) -> Event:
    """Draw an event of a shop."""
    kind = rng.choice(TYPES)
    fields = {"amount": rng.randrange(500, 20_000)} if kind in {"purchase", "refund"} else {}
    return Event(0, offset, event(kind, at, f"c{customer:07d}", f"e{offset}", category=f"k{rng.randrange(12)}", **fields))


def main() -> None:
    """Build profiles, then fold the same batch into them again and again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kit.options(parser, "fold", runs=ROUNDS)
    parser.add_argument("--customers", type=int, help=f"{CUSTOMERS:,} unless told, {QUICK_CUSTOMERS} with --quick")
    parser.add_argument("--events", type=int, help=f"of the batch; {EVENTS:,} unless told, {QUICK_EVENTS:,} with --quick")
    args = parser.parse_args()
    runs, out = kit.settled(args)
    customers = args.customers or (QUICK_CUSTOMERS if args.quick else CUSTOMERS)
    events = args.events or (QUICK_EVENTS if args.quick else EVENTS)
    rng = random.Random(1)
    stream = Stream(declare(packaged()))
    days = [sorted(rng.sample(range(90), ACTIVE_DAYS)) for _ in range(customers)]
    history = [(T0 + day * DAY_MS + rng.randrange(DAY_MS), c) for c in range(customers) for day in days[c] for _ in range(2)]
    history.sort()
    stream.fold([draw(rng, c, offset, at) for offset, (at, c) in enumerate(history)])
    features = len(stream.plan.kind)
    centroids = [[rng.uniform(-2, 2) for _ in range(features)] for _ in range(SEGMENTS)]
    stream.adopt(version_of(stream.declaration, centroids), 0, len(history), T0 + 90 * DAY_MS)
    stream.sweep(0)
    names = sorted(stream.profiles)
    batch = [draw(rng, rng.randrange(customers), len(history) + i, T0 + 90 * DAY_MS + i) for i in range(events)]
    rows = as_rows(stream.declaration, batch, {name: u for u, name in enumerate(names)})
    extra = np.bincount(rows.slot, minlength=customers).astype(np.int64)
    values, bounds = joined([stream.profiles[name] for name in names])
    data = [stream.data()]
    judge = stack_judge(data, stream.versions, stream.declaration)
    nobody = np.zeros(0, np.int32)

    def core() -> kit.Figures:
        sums, watermark, tally = stack_sums(data, judge), np.zeros(1, np.int64), np.zeros((1, TALLIES), np.int64)
        begin = time.perf_counter()
        work = unpack(stream.plan, values, bounds, extra)
        unpacked = time.perf_counter()
        fold(stream.plan, judge, sums, work, rows, nobody, nobody, 0, watermark, tally)
        folded = time.perf_counter()
        packed, _ = pack(stream.plan, work, np.arange(customers))
        end = time.perf_counter()
        spent = {"unpack_us": unpacked - begin, "fold_us": folded - unpacked, "pack_us": end - folded}
        sizes = {"profile_bytes": len(packed) / customers, "day_tiles": float(work.days.count.mean())}
        return {**{stage: 1e6 * seconds / events for stage, seconds in spent.items()}, **sizes}

    core()  # compiles, and is not counted
    about = {"customers": customers, "events": events, "features": features, "segments": SEGMENTS}
    results = kit.run_in_turn({"core": core}, runs, about=about, say=lambda _: None)
    results.show(f"{customers:,} customers, {events:,} events, {features} features, {SEGMENTS} segments; microseconds an event")
    if out is not None:
        results.json(out)


if __name__ == "__main__":
    main()
