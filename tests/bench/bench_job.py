"""The whole job against the floor, which is consuming and decoding with fastavro and nothing else: CPU per event of the process.

    python tests/bench/bench_job.py [--quick] [--runs N] [--events N] [--out FILE] [--main]

The job is the worker as `streamer run` has it: exactly once, learning and metrics included; in the cell named so, at least once. Every
cell has customers, partitions, and a draw of who does something: uniform, or Zipf with exponent 1. Before it is
measured, each customer of a cell has come 9 times in 90 days on average (20 times in the `busy` one), so profiles are alike whatever the
number of customers.

What a cell measures: live traffic. Before the first round, 90 days of uniform events are taken in, the first model is fitted, and everybody
is judged by it; that is not counted. Each round then sends 300,000 events that happen next, within ten minutes of event time in which no
midnight is crossed, and the floor and the worker take them one after the other, each in a new process that goes on where the last one was.
The first and last events of a round are not counted. The cell `catching up` goes on at the history's pace instead: its 300,000 events
take 30 days, and each customer is judged as of each midnight too, before the next event or in a sweep: `boundaries_per_event`, on average.

Three series, in each of which all cells take part in every round, so that one may be compared with another: 100,000 customers on 8
partitions, exactly once, at least once, busy ones, and catching up (five rounds; `job.json`); uniform customers by number and by partitions
(three; `job_uniform.json`); and the same customers when some come much more often than others (three; `job_zipf.json`).
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[2]))  # it is run by path

from tests.bench import jobs, kit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

HISTORY_DAYS = 90.0
RATIO_MAX, FLAT_MAX = 0.7, 1.3
UNCOUNTED = 15  # a fifteenth of the events at the beginning, and at the end
CLIENTS, BETWEEN = "in_clients_us", "in_between_us"


Shared = tuple[int, int, int, str, bool]


@dataclass(frozen=True, slots=True)
class Cell:
    """One way to run the job."""

    customers: int
    partitions: int
    skew: float = 0.0
    visits: int = 9  # events of a customer in 90 days
    transactions: str = "on"
    catching_up: bool = False  # days pass in a round, not minutes

    @property
    def label(self) -> str:
        """Name the cell."""
        draw = "Zipf" if self.skew else "busy" if self.visits > 9 else "uniform"
        how = ", at least once" if self.transactions == "off" else ", catching up" if self.catching_up else ""
        return f"{self.customers:,} {draw}, {self.partitions} partition{'s' if self.partitions > 1 else ''}{how}"

    @property
    def shared(self) -> Shared:
        """What cells have in common that work on the same profiles."""
        return self.customers, self.partitions, self.visits, self.transactions, self.catching_up


MAIN = Cell(100_000, 8)
BY_CUSTOMERS = (Cell(10_000, 8), MAIN, Cell(1_000_000, 8))
BY_PARTITIONS = (Cell(100_000, 1), MAIN, Cell(100_000, 16))
BY_ZIPF = (Cell(10_000, 8, 1.0), Cell(100_000, 8, 1.0), Cell(1_000_000, 8, 1.0))
BUSY = Cell(100_000, 8, visits=20)
AT_LEAST_ONCE = Cell(100_000, 8, transactions="off")
CATCHING_UP = Cell(100_000, 8, catching_up=True)
SERIES = {
    "job": (MAIN, AT_LEAST_ONCE, BUSY, CATCHING_UP),
    "job_uniform": (*BY_CUSTOMERS, BY_PARTITIONS[0], BY_PARTITIONS[2]),
    "job_zipf": BY_ZIPF,
}
QUICK = {"job": (Cell(5_000, 4), Cell(5_000, 4, catching_up=True)), "job_zipf": (Cell(5_000, 4, 1.0),)}
ROUNDS_MAX = 3  # of all series but the first


class Running:
    """The customers of some cells, and where their events have got to."""

    def __init__(self, place: jobs.Place, cell: Cell) -> None:
        """Take in the history."""
        self.place = place
        self._cell = cell
        self._traffic = jobs.Traffic.history(cell.customers * cell.visits, cell.customers, days=HISTORY_DAYS)
        jobs.fill(place, self._traffic)
        jobs.warm(place, self._traffic.events)
        jobs.skip(place)

    @staticmethod
    def place_of(servers: jobs.Place, cell: Cell) -> jobs.Place:
        """Give a cell topics and profiles of its own."""
        return jobs.Place.on(servers.kafka_bootstrap, servers.redis_url, cell.partitions, cell.transactions)

    def go_on(self, events: int, skew: float) -> None:
        """Send the events that happen next."""
        if self._cell.catching_up:
            self._traffic = self._traffic.after(events, HISTORY_DAYS * events / (self._cell.customers * self._cell.visits), skew)
        else:
            self._traffic = self._traffic.live(events, skew)
        jobs.fill(self.place, self._traffic)

    @property
    def boundaries_per_event(self) -> float:
        """How many midnights of a customer the last events have brought, each."""
        return self._cell.customers * self._traffic.days / self._traffic.events if self._cell.catching_up else 0.0


def cases(cells: Iterable[Cell], events: int, running: Mapping[Shared, Running]) -> dict[str, Callable[[], kit.Figures]]:
    """Make floor and job of each cell; a floor's first step is to send the round's events."""
    uncounted = events // UNCOUNTED

    def floor(cell: Cell) -> kit.Figures:
        running[cell.shared].go_on(events, cell.skew)
        return jobs.floor(running[cell.shared].place, events, uncounted, uncounted)

    def job(cell: Cell) -> kit.Figures:
        figures = jobs.job(running[cell.shared].place, events, uncounted, uncounted)
        return {**figures, "boundaries_per_event": running[cell.shared].boundaries_per_event}

    roles = {"floor": floor, "job": job}
    return {f"{cell.label}: {role}": lambda cell=cell, of=of: of(cell) for cell in cells for role, of in roles.items()}  # type: ignore[misc]


def by_cell(results: kit.Results) -> dict[str, kit.Results]:
    """Take results apart: those of each cell, with the cases `floor` and `job`."""
    found: defaultdict[str, dict[str, list[kit.Figures]]] = defaultdict(dict)
    for case, runs in results.runs.items():
        cell, _, role = case.partition(": ")
        found[cell][role] = runs
    return {cell: kit.Results(runs, results.loads) for cell, runs in found.items()}


def show(found: Mapping[str, kit.Results], results: kit.Results) -> None:
    """Print a table of the cells, and what the criteria ask for."""
    rounds = len(results.loads)
    table = Table("cell", title=f"CPU and throughput, median of {rounds} (smallest to largest)", title_justify="left")
    for name in ("floor us", "job us", "job / floor", "floor events/s", "job events/s", "changes an event"):
        table.add_column(name, justify="right")
    for cell, own in found.items():
        ratios = own.ratios("job", "floor", "cpu_us")
        table.add_row(
            cell,
            kit.number(own.median("floor", "cpu_us")),
            spread(own.values("job", "cpu_us"), own.median("job", "cpu_us")),
            spread(ratios, own.ratio("job", "floor", "cpu_us")),
            kit.number(own.median("floor", "events_per_s")),
            kit.number(own.median("job", "events_per_s")),
            kit.number(own.median("job", "changes_per_event")),
        )
    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(table)
    console.print(f"load of the machine {min(results.loads):.1f} to {max(results.loads):.1f}")
    for one in SERIES["job"]:
        if one.label in found and not one.catching_up:
            ratio = found[one.label].ratio("job", "floor", "cpu_us")
            console.print(f"{one.label}: {ratio:.2f} of the floor, at most {RATIO_MAX} wanted")
    for what, cells in (("customers", BY_CUSTOMERS), ("customers, Zipf", BY_ZIPF), ("partitions", BY_PARTITIONS)):
        if all(cell.label in found for cell in cells):
            console.print(f"by {what}: largest {flatness(found, cells):.2f} of the smallest, at most {FLAT_MAX} wanted")


def flatness(found: Mapping[str, kit.Results], cells: Iterable[Cell]) -> float:
    """Divide the largest CPU per event of some cells by the smallest."""
    medians = [found[cell.label].median("job", "cpu_us") for cell in cells]
    return max(medians) / min(medians)


def spread(values: Iterable[float], median: float) -> str:
    """Write a median and what it is the middle of."""
    values = list(values)
    return f"{kit.number(median)} ({kit.number(min(values))} to {kit.number(max(values))})"


def shares(found: Mapping[str, kit.Results]) -> dict[str, dict[str, float]]:
    """Say where a job's CPU goes, by cell: microseconds an event by stage."""
    names = {CLIENTS: "Kafka clients' threads", BETWEEN: "between stages"}
    return {
        cell: {
            names.get(figure, figure.removeprefix("in_").removesuffix("_us")): results.median("job", figure)
            for figure in results.runs["job"][0]
            if figure.startswith("in_")
        }
        for cell, results in found.items()
    }


def draw(found: Mapping[str, kit.Results], out: Path) -> None:
    """Draw CPU, throughput and the profile beside the results."""
    labels = {cell: cell.replace(" ", "\n", 1).replace(", ", "\n") for cell in found}
    groups = {labels[cell]: results for cell, results in found.items()}
    kit.plot_bars(groups, "cpu_us", out.with_suffix(".png"), title="CPU of the process, by customers and partitions", unit="us an event")
    throughput = out.with_name(f"{out.stem}_throughput.png")
    kit.plot_bars(groups, "events_per_s", throughput, title="Throughput of one process on two shared cores", unit="events a second")
    parts = {labels[cell].replace("\n", ", "): stages for cell, stages in shares(found).items()}
    kit.plot_shares(parts, out.with_name(f"{out.stem}_profile.png"), title="Where the job's CPU goes", unit="us an event")


def main() -> None:
    """Measure all cells in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kit.options(parser, "job")
    parser.add_argument("--events", type=int, help="of one run; 300,000 unless told, 60,000 with --quick")
    parser.add_argument("--main", action="store_true", help="the first series alone")
    args = parser.parse_args()
    runs, out = kit.settled(args)
    events = args.events or (60_000 if args.quick else 300_000)
    series = QUICK if args.quick else {"job": SERIES["job"]} if args.main else SERIES
    about = {"events": events, "history_days": HISTORY_DAYS}
    with jobs.Place.start(partitions=1) as servers:
        running: dict[Shared, Running] = {}
        for name, cells in series.items():
            for cell in cells:
                if cell.shared not in running:
                    running[cell.shared] = Running(Running.place_of(servers, cell), cell)
            rounds = runs if name == "job" else min(runs, ROUNDS_MAX)
            results = kit.run_in_turn(cases(cells, events, running), rounds, about=about)
            found = by_cell(results)
            show(found, results)
            if out is not None:
                path = out.with_name(f"{name.replace('job', out.stem)}.json")
                results.json(path)
                draw(found, path)
        for each in running.values():
            jobs.drop(each.place)


if __name__ == "__main__":
    main()
