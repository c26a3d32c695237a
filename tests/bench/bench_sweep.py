"""How long changes take while a sweep goes: a million customers due at one midnight, or judged by a new version, beside live events.

    python tests/bench/bench_sweep.py [--quick] [--runs N] [--customers N] [--rate EVENTS_PER_S] [--seconds S] [--out FILE]

Set-up and latencies are bench_latency.py's: a producer, a worker as `streamer run` starts it (exactly once), a subscriber and the servers
share the machine. Each round has four cases. `quiet`: events at a steady rate, no midnight crossed. `sweeping`: the next events are of the
next midnight, at which every customer's windows move on, and the same rate goes on until every partition has judged all its customers as of
it; counted are the events sent from the first until then. `sweeping, few events` crosses another midnight with a tenth of the events, so
that the sweep is nearly all that the worker does. `re-seeded`: no midnight, but a version is promoted as the first event is sent, as
`offline models promote` does it: the version before with its centroids moved a little, as by a night's warm fit. Counted are the events
until every partition has adopted it and judged all its customers by it.

Figures beside the latencies: `sweep_s`, from the first event to the last partition's end of its sweep, looked for every tenth of a second;
`customers_per_s`, all customers by that; `cpu_share`, the worker's CPU by the time that passed; and, with few events,
`cpu_us_per_customer`, all CPU of the worker until then by the customers. With more events that would mislead: a slice makes batches larger
and fewer, and so saves some of what live events cost.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # it is run by path

from tests.bench import bench_latency, jobs, kit

if TYPE_CHECKING:
    from collections.abc import Callable

    from offline.publishing import ModelTopic
    from streamer.core.partition import PartitionData
    from streamer.core.ports import StateStore

CUSTOMERS, QUICK_CUSTOMERS = 1_000_000, 50_000
RATE = 5_000.0
SLOWEST_PER_S = 10_000  # customers: a sweep that takes longer is given up
SWEEP_LEAST_S = 20.0
LOOK_S = 0.1
FEW = 0.1  # of the rate
QUIET, SWEEPING, SWEEPING_ALONE, RESEEDED = "quiet", "sweeping", "sweeping, few events", "re-seeded"
MOVED = 0.1  # standard deviations, each coordinate of a centroid, by a re-seed
P99_FACTOR_MAX = 2.0


@dataclass(frozen=True, slots=True)
class Moment:
    """A wall clock's time and the CPU that a process has used until then."""

    at_s: float
    cpu_s: float

    @classmethod
    def now(cls, process: int) -> Moment:
        """Look at the clock and at a process."""
        used = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
        return cls(time.time(), sum(map(int, used)) / os.sysconf("SC_CLK_TCK"))


class Rounds:
    """The cases, over customers whose time goes on from round to round."""

    def __init__(
        self,
        setup: bench_latency.Setup,
        store: StateStore,
        models: ModelTopic,
        worker: int,
        *,
        customers: int,
        rate: float,
        seconds: float,
    ) -> None:
        """Measure a worker, by its process's id."""
        self._setup = setup
        self._store = store
        self._models = models
        self._worker = worker
        self._customers, self._rate, self._seconds = customers, rate, seconds
        self._sweep_max_s = max(SWEEP_LEAST_S, customers / SLOWEST_PER_S)
        self._took_s = self._used_s = 0.0

    def quiet(self) -> kit.Figures:
        """Send live events."""
        traffic = self._setup.traffic.after(int(self._rate * self._seconds * 2), 2 * self._seconds / bench_latency.DAY_S)
        figures = self._setup.send(traffic, self._rate, self._pass)
        return {**figures, "cpu_share": self._used_s / self._took_s}

    def sweeping(self) -> kit.Figures:
        """Cross a midnight, and send live events until everybody has been judged as of it."""
        return self._crossing(self._rate)

    def sweeping_alone(self) -> kit.Figures:
        """Cross a midnight with few events."""
        figures = self._crossing(FEW * self._rate)
        return {**figures, "cpu_us_per_customer": self._used_s / self._customers * 1e6}

    def reseeded(self) -> kit.Figures:
        """Promote another version, and send live events until everybody has been judged by it."""
        traffic = self._setup.traffic.after(int(self._rate * self._sweep_max_s), self._sweep_max_s / bench_latency.DAY_S)
        number, promote = self._promotion()

        def until() -> dict[str, int]:
            promote()
            return self._until(lambda data: data.model == number and data.swept)

        return self._told(self._setup.send(traffic, self._rate, until))

    def _promotion(self) -> tuple[int, Callable[[], object]]:
        """Make the next version; gives its number, and what promotes it."""
        from offline.publishing import Wish, in_force
        from streamer.adapters.avro.model_records import encoded
        from streamer.adapters.declaration_file import load

        present = self._models.read()
        before = in_force(present)
        if before is None:
            message = "there is no model yet"
            raise RuntimeError(message)
        number = max(present.bodies) + 1
        shift = np.random.default_rng(number).normal(0, MOVED, before.centroids.shape)
        version = replace(before, version=number, previous_version=before.version, centroids=before.centroids + shift)
        wish, declaration = Wish(version, encoded(version)), load(None)
        return number, lambda: self._models.publish(lambda _: wish, declaration, int(time.time() * 1000))

    def _crossing(self, rate: float) -> kit.Figures:
        traffic = self._setup.traffic.past_midnight(int(rate * self._sweep_max_s), self._sweep_max_s / bench_latency.DAY_S)
        midnight_ms = jobs.MIDNIGHT_MS + int(traffic.first_day) * jobs.DAY_MS
        return self._told(self._setup.send(traffic, rate, lambda: self._until(lambda data: data.settled >= midnight_ms)))

    def _told(self, figures: kit.Figures) -> kit.Figures:
        own = {"sweep_s": self._took_s, "customers_per_s": self._customers / self._took_s, "cpu_share": self._used_s / self._took_s}
        return {**figures, **own}

    def _pass(self) -> dict[str, int]:
        """Let a fifth of the time pass, and count the rest."""
        time.sleep(bench_latency.COUNTED_FROM * self._seconds)
        begun = Moment.now(self._worker)
        time.sleep((1 - bench_latency.COUNTED_FROM) * self._seconds)
        return self._ended(begun)

    def _until(self, done: Callable[[PartitionData], bool]) -> dict[str, int]:
        """Wait until every partition's sweep is over, and count all of it."""
        from streamer.core.partition import unpack_state

        begun = Moment.now(self._worker)
        partitions = range(self._setup.place.partitions)
        while not all(done(unpack_state(one.state)) for one in self._store.read(partitions)):
            if time.time() - begun.at_s > self._sweep_max_s:
                message = f"the sweep has not ended in {self._sweep_max_s:.0f} s"
                raise TimeoutError(message)
            time.sleep(LOOK_S)
        return self._ended(begun)

    def _ended(self, begun: Moment) -> dict[str, int]:
        ended = Moment.now(self._worker)
        self._took_s, self._used_s = ended.at_s - begun.at_s, ended.cpu_s - begun.cpu_s
        return {"counted_ms": int(begun.at_s * 1e3), "end_ms": int(ended.at_s * 1e3)}


def main() -> None:
    """Measure the cases in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kit.options(parser, "sweep", runs=3)
    parser.add_argument("--customers", type=int, help=f"{CUSTOMERS:,} unless told, {QUICK_CUSTOMERS:,} with --quick")
    parser.add_argument("--rate", type=float, default=RATE, help="live events a second")
    parser.add_argument("--seconds", type=float, help="how long the quiet case sends; 10 unless told, 3 with --quick")
    args = parser.parse_args()
    from offline.models_command import topic_of
    from offline.session import Session

    runs, out = kit.settled(args)
    customers = args.customers or (QUICK_CUSTOMERS if args.quick else CUSTOMERS)
    seconds = args.seconds or (3.0 if args.quick else 10.0)
    about = {"customers": customers, "partitions": bench_latency.PARTITIONS, "rate_events_per_s": args.rate, "seconds": seconds}
    with ExitStack() as stack:
        place = stack.enter_context(jobs.Place.start(bench_latency.PARTITIONS))
        setup = bench_latency.Setup(place, customers)
        worker = stack.enter_context(setup.worker())
        os.environ.update(place.environment)  # which says where the topic of models is
        models = stack.enter_context(topic_of(Session(), "segments"))
        setup.run(1_000, 5.0)  # joins the group, and is not counted
        rounds = Rounds(setup, jobs.state_store(place), models, worker, customers=customers, rate=args.rate, seconds=seconds)
        cases = {QUIET: rounds.quiet, SWEEPING: rounds.sweeping, SWEEPING_ALONE: rounds.sweeping_alone, RESEEDED: rounds.reseeded}
        results = kit.run_in_turn(cases, runs, about=about)
    results.show(f"From event to change while {customers:,} customers are swept, at {kit.number(args.rate)} events a second")
    for case in (SWEEPING, RESEEDED):
        factor = results.ratio(case, QUIET, "p99_ms")
        verdict = "kept" if factor <= P99_FACTOR_MAX else "MISSED"
        print(f"p99 of `{case}` is {factor:.2f} of the quiet one, median of rounds; at most {P99_FACTOR_MAX:.0f} wanted: {verdict}")
    if out is not None:
        results.json(out)
        limit = P99_FACTOR_MAX * results.median(QUIET, "p99_ms"), "twice the quiet one"
        title = f"p99 from event to change, {customers:,} customers due at one midnight, or re-seeded"
        kit.plot_bars({"": results}, "p99_ms", out.with_suffix(".png"), title=title, unit="ms", limit=limit)


if __name__ == "__main__":
    main()
