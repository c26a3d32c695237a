"""What the benchmarks against peers share: the same events for everybody, and the verdicts.

A topic has a history, a third of all events, and what happens next, within ten minutes of event time in which no midnight is crossed. A
peer reads it from its beginning in every round, with a group, a state and topics of its own; our job has taken the history before, in
another process, and been given its first model by it. What the history costs is not counted for anybody: in it programs start and compile,
and customers are met. Nor are the first and the last of what happens next: a client that has just connected has a backlog ahead of it,
and at the end one partition after the other runs dry.

So what is counted is the same events for all of them: live traffic after a history in which every customer comes 9 times in 90 days on
average, as in bench_job.py.
"""

from __future__ import annotations

import itertools
import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tests.bench import jobs, kit

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

JOB = "our job"
FLOOR = "floor"
CUSTOMERS_MAX = 100_000
VISITS_PER_DAY = 9 / 90
FIGURES = ("cpu_us", "events_per_s", "changes_per_event")  # bench_job.py tells the others
UNCOUNTED = 15  # a fifteenth of what happens next at its beginning, and at its end, as in bench_job.py


@dataclass(frozen=True, slots=True)
class Plan:
    """How many events there are, of how many customers in how many partitions, and which of them are counted."""

    events: int
    customers: int
    partitions: int

    @classmethod
    def of(cls, args: argparse.Namespace) -> Plan:
        """Take what the options of `options` ask for."""
        events = args.events or (args.quick_events if args.quick else args.usual_events)
        return cls(events, args.customers or min(CUSTOMERS_MAX, max(events // 10, 1)), args.partitions)

    @property
    def history(self) -> int:
        """How many events are taken before anything is counted."""
        return self.events // 3

    @property
    def uncounted(self) -> int:
        """How many of what happens next are not counted, at its beginning and at its end."""
        return (self.events - self.history) // UNCOUNTED

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Give events, lead and tail for who reads the topic from its beginning."""
        return self.events, self.history + self.uncounted, self.uncounted

    @property
    def words(self) -> str:
        """Tell the sizes."""
        return f"{self.events:,} events, {self.customers:,} customers, uniform, {self.partitions} partitions"

    def about(self, versions: Mapping[str, str]) -> dict[str, Any]:
        """Give what is written with the figures."""
        return {**asdict(self), "history": self.history, "uncounted": self.uncounted, "versions": dict(versions)}


def options(parser: argparse.ArgumentParser, events: int, quick: int) -> None:
    """Add the sizes: `--events`, `--customers`, `--partitions`; the defaults with `--quick` are smaller."""
    parser.add_argument("--events", type=int, help=f"{events:,} unless told, {quick:,} with --quick")
    parser.add_argument("--customers", type=int, help=f"a tenth of the events unless told, {CUSTOMERS_MAX:,} at most")
    parser.add_argument("--partitions", type=int, default=8)
    parser.set_defaults(usual_events=events, quick_events=quick)


def ours(place: jobs.Place, plan: Plan, runs: int) -> dict[str, Callable[[], kit.Figures]]:
    """Send all events, prepare our job for every round, and give our floor and our job as cases."""
    per_day = plan.customers * VISITS_PER_DAY
    history = jobs.Traffic.history(plan.history, plan.customers, days=plan.history / per_day)
    jobs.fill(place, history)
    prepared = [place.named(f"job-{n}") for n in range(runs)]
    for own in prepared:
        jobs.warm(own, plan.history)
    rest = plan.events - plan.history
    jobs.fill(place, history.live(rest))
    number = itertools.count()

    def floor() -> kit.Figures:
        return jobs.floor(place.named(f"floor-{next(number)}"), *plan.sizes)

    def job() -> kit.Figures:
        own = prepared.pop()
        figures = jobs.job(own, rest, plan.uncounted, plan.uncounted)
        jobs.drop(own)
        return {name: figures[name] for name in FIGURES}

    return {FLOOR: floor, JOB: job}


def tell(results: kit.Results, limits: Iterable[tuple[str, str, float]]) -> None:
    """Print, for each (peer, figure, limit), what share our job's CPU is of the peer's figure, and whether that is what it is to be."""
    for peer, figure, limit in limits:
        pairs = zip(results.values(JOB, "cpu_us"), results.values(peer, figure), strict=True)
        ratios = [own / of for own, of in pairs]
        middle = statistics.median(ratios)
        spread = f"1/{1 / max(ratios):.1f} to 1/{1 / min(ratios):.1f}"
        kept = "kept" if middle <= limit else "MISSED"
        print(f"{JOB} / {peer} ({figure}): 1/{1 / middle:.1f}, median of rounds ({spread}); at most 1/{1 / limit:.0f} wanted: {kept}")


def write(results: kit.Results, out: Path, title: str) -> None:
    """Write the figures, and a plot of CPU per event beside them."""
    results.json(out)
    kit.plot_bars({"": results}, "cpu_us", out.with_suffix(".png"), title=title, unit="CPU per event, microseconds")
