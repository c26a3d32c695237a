"""What the benchmarks against peers share: every run of a case anew over the same events, and the verdicts.

A peer and our job read the same topic from its beginning, each run with a group, a state and topics of its own; what the first third of
the events costs is not counted, for anybody: in it programs start and compile, customers are met, and our job fits its first model.
"""

from __future__ import annotations

import itertools
import math
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


@dataclass(frozen=True, slots=True)
class Stretch:
    """How many events there are, and which of them are counted: all but the first `lead` and the last `tail`."""

    events: int

    @property
    def lead(self) -> int:
        """A third."""
        return self.events // 3

    @property
    def tail(self) -> int:
        """A twentieth: at the end one partition after the other runs dry."""
        return self.events // 20


def options(parser: argparse.ArgumentParser, events: int, quick: int) -> None:
    """Add the sizes: `--events`, `--customers`, `--partitions`; the defaults with `--quick` are smaller."""
    parser.add_argument("--events", type=int, help=f"{events:,} unless told, {quick:,} with --quick")
    parser.add_argument("--customers", type=int, help="100,000 unless told, and a tenth of the events at most")
    parser.add_argument("--partitions", type=int, default=8)
    parser.set_defaults(usual_events=events, quick_events=quick)


def traffic(args: argparse.Namespace) -> jobs.Traffic:
    """The events that the options of `options` ask for."""
    events = args.events or (args.quick_events if args.quick else args.usual_events)
    return jobs.Traffic(events, args.customers or min(100_000, max(events // 10, 1)))


def ours(place: jobs.Place, stretch: Stretch) -> dict[str, Callable[[], kit.Figures]]:
    """Our floor and our job as cases."""
    number = itertools.count()

    def floor() -> kit.Figures:
        return _main(jobs.floor(place.named(f"floor-{next(number)}"), stretch.events, stretch.lead, stretch.tail))

    def job() -> kit.Figures:
        own = place.named(f"job-{next(number)}")
        figures = jobs.job(own, stretch.events, stretch.lead, stretch.tail)
        jobs.drop(own)
        return _main(figures)

    return {FLOOR: floor, JOB: job}


def _main(figures: Mapping[str, float]) -> kit.Figures:
    """Leave out where the job's CPU went: a benchmark of its own tells that."""
    return {name: value for name, value in figures.items() if not name.startswith("in_")}


def tell(results: kit.Results, limits: Iterable[tuple[str, str, float]]) -> None:
    """Print, for each (case, base, limit), how much CPU the case needs of the base's, and whether that is what it is to be."""
    for case, base, limit in limits:
        ratios = results.ratios(case, base, "cpu_us")
        middle = statistics.median(ratios)
        spread = f"{kit.number(min(ratios))} to {kit.number(max(ratios))}"
        told = "" if math.isinf(limit) else f"; to be at most {kit.number(limit)}: {'kept' if middle <= limit else 'MISSED'}"
        print(f"{case} / {base}, CPU per event, median of rounds: {kit.number(middle)} ({spread}), that is 1/{1 / middle:.1f}{told}")


def said(traffic: jobs.Traffic, partitions: int) -> str:
    """The sizes in words."""
    return f"{traffic.events:,} events, {traffic.customers:,} customers, uniform, {partitions} partitions"


def about(traffic: jobs.Traffic, partitions: int, versions: Mapping[str, str]) -> dict[str, Any]:
    """What is written with the figures."""
    stretch = Stretch(traffic.events)
    return {**asdict(traffic), "partitions": partitions, "lead": stretch.lead, "tail": stretch.tail, "versions": dict(versions)}


def write(results: kit.Results, out: Path, title: str) -> None:
    """Write the figures, and a plot of CPU per event beside them."""
    results.json(out)
    kit.plot_bars({"": results}, "cpu_us", out.with_suffix(".png"), title=title, unit="CPU per event, microseconds")
