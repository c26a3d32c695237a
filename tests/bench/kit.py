"""What the benchmarks share: cases run in turn, medians with their spread, results as JSON, tables and plots.

Cases are run in turn (a, b, a, b, ...), never one after the other (a, a, b, b): a machine that is slow for a minute is slow for all of
them, and the ratio of two cases is taken within one round. A case is a function that measures once and returns its figures by name; the
unit is the end of the name (`cpu_us`, `events_per_s`, `bytes`).

    results = run_in_turn({"floor": floor, "job": job}, runs=5)
    results.show("CPU per event")
    results.json(RESULTS / "job.json")
    plot_bars({"100,000 customers": results}, "cpu_us", RESULTS / "job.png", title="CPU per event")

Where what is measured must be alone in a process, the case starts one: `child([sys.executable, __file__, "--role", "job"], env)` returns
what the process printed as the last line of its standard output, one JSON object.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence

RESULTS = Path(__file__).parents[2] / "docs" / "benchmarks"
CHILD_TIMEOUT_S = 1800.0
LIBRARIES = ("confluent-kafka", "fastavro", "numba", "numpy", "redis", "scikit-learn")
COLORS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860")
SHADES = (
    "#4c72b0",
    "#8fb0dc",
    "#dd8452",
    "#f2c29c",
    "#55a868",
    "#a3d3ae",
    "#c44e52",
    "#e6a1a3",
    "#8172b3",
    "#bdb4dc",
    "#937860",
    "#cbb9a8",
)

Figures = dict[str, float]


def cpu_s() -> float:
    """CPU of this process so far, user and system, all threads, in seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def threads_s() -> dict[str, float]:
    """CPU of this process's living threads so far, in seconds, summed by their names; empty where the system does not tell."""
    tick = os.sysconf("SC_CLK_TCK")
    found: dict[str, float] = {}
    for stat in Path("/proc/self/task").glob("*/stat"):
        name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
        used = rest.split()[11:13]
        found[name] = found.get(name, 0.0) + sum(map(int, used)) / tick
    return found


def page_faults() -> int:
    """How often this process so far touched memory that it had to be given first: much of it is memory given back and taken again."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def load() -> float:
    """How many processes wanted to run in the last minute, on average: above the number of cores, times are not to be trusted."""
    return os.getloadavg()[0]


def machine() -> dict[str, Any]:
    """What the figures were measured on: cores, processor, Python and the libraries that count."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    )
    return {
        "cores": os.cpu_count(),
        "processor": names[0] if names else platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
    }


def child(words: Sequence[str], env: Mapping[str, str] | None = None, timeout_s: float = CHILD_TIMEOUT_S) -> Figures:
    """Run a process and return the figures that it printed as its last line, empty if it printed nothing; its standard error is ours.

    Raises:
        subprocess.CalledProcessError: it failed.
        subprocess.TimeoutExpired: it took longer than the limit, and was killed.
    """
    out = subprocess.run(words, env=env, check=True, stdout=subprocess.PIPE, text=True, timeout=timeout_s).stdout.strip()
    return dict(json.loads(out.splitlines()[-1])) if out else {}


@dataclass(frozen=True, slots=True)
class Results:
    """Figures of every run, by case: `runs[case][round][figure]`. All cases have as many rounds; `loads` has the machine's load at each."""

    runs: dict[str, list[Figures]]
    loads: list[float]
    about: dict[str, Any] = field(default_factory=dict)

    def values(self, case: str, figure: str) -> list[float]:
        """One figure of one case, round by round."""
        return [run[figure] for run in self.runs[case]]

    def median(self, case: str, figure: str) -> float:
        """The middle of a figure's values."""
        return statistics.median(self.values(case, figure))

    def spread(self, case: str, figure: str) -> tuple[float, float]:
        """The smallest and the largest of a figure's values."""
        values = self.values(case, figure)
        return min(values), max(values)

    def ratios(self, case: str, base: str, figure: str) -> list[float]:
        """Of a figure, the case divided by the base, round by round."""
        pairs = zip(self.values(case, figure), self.values(base, figure), strict=True)
        return [value / of for value, of in pairs]

    def ratio(self, case: str, base: str, figure: str) -> float:
        """The median of the rounds' ratios."""
        return statistics.median(self.ratios(case, base, figure))

    def figures(self) -> list[str]:
        """Every figure that some case has, in the order of their first appearance."""
        return list(dict.fromkeys(name for rounds in self.runs.values() for run in rounds for name in run))

    def table(self, title: str = "") -> Table:
        """One row a case, one column a figure: the median, and the spread where there was more than one round."""
        figures = self.figures()
        table = Table("case", title=title or None, title_justify="left")
        for name in figures:
            table.add_column(name, justify="right")
        for case, rounds in self.runs.items():
            table.add_row(case, *(self._cell(case, name) if all(name in run for run in rounds) else "" for name in figures))
        return table

    def _cell(self, case: str, figure: str) -> str:
        middle, (low, high) = number(self.median(case, figure)), self.spread(case, figure)
        return middle if low == high else f"{middle} ({number(low)} to {number(high)})"

    def show(self, title: str = "") -> None:
        """Print the table."""
        rounds = max(map(len, self.runs.values()), default=0)
        console = Console() if sys.stdout.isatty() else Console(width=140)
        console.print(self.table(title))
        console.print(
            f"median of {rounds}, in turn; load of the machine {min(self.loads, default=0):.1f} to {max(self.loads, default=0):.1f}"
        )

    def json(self, path: Path) -> None:
        """Write everything to a file, in directories made if need be."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read what `json` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def number(value: float) -> str:
    """Write a figure with three digits that count, and no fewer before the point than it has.

    >>> number(4.7512), number(0.74), number(154321.0), number(45.678)
    ('4.75', '0.740', '154,321', '45.7')
    """
    decimals = 0 if abs(value) >= 100 or value == int(value) else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{decimals}f}"


def run_in_turn(
    cases: Mapping[str, Callable[[], Mapping[str, float]]],
    runs: int = 5,
    *,
    about: Mapping[str, Any] | None = None,
    say: Callable[[str], None] | None = None,
) -> Results:
    """Measure every case once a round, in the order given, and tell each run's figures as they come.

    Args:
        cases: by name, a function that measures once.
        runs: rounds, at least one.
        about: what the figures are of (options, sizes); written with them, next to `machine()` and the time.
        say: where each run's line goes; `None` prints it.

    Raises:
        ValueError: no case, or no round.
    """
    if not cases or runs < 1:
        message = f"nothing to run: {len(cases)} cases, {runs} rounds"
        raise ValueError(message)
    found: dict[str, list[Figures]] = {case: [] for case in cases}
    loads: list[float] = []
    begun = datetime.now(UTC).isoformat(timespec="seconds")
    for n in range(1, runs + 1):
        loads.append(load())
        for case, measure in cases.items():
            figures = dict(measure())
            found[case].append(figures)
            line = f"{n}/{runs} {case}: " + ", ".join(f"{name} {number(value)}" for name, value in figures.items())
            print(line, flush=True) if say is None else say(line)
    return Results(found, loads, {"begun": begun, **machine(), **(about or {})})


def options(parser: argparse.ArgumentParser, name: str, *, runs: int = 5) -> None:
    """Add the options that all benchmarks have: `--quick`, `--runs N`, `--out FILE` (JSON; `docs/benchmarks/NAME.json` unless told)."""
    parser.add_argument("--quick", action="store_true", help="a few seconds, one round and small sizes, written nowhere unless --out tells")
    parser.add_argument("--runs", type=int, help=f"rounds; {runs} unless told, and one with --quick")
    parser.add_argument("--out", type=Path, help=f"where the results go as JSON; docs/benchmarks/{name}.json unless told")
    parser.set_defaults(usual_runs=runs, usual_out=RESULTS / f"{name}.json")


def settled(args: argparse.Namespace) -> tuple[int, Path | None]:
    """The rounds to run and the file to write, if any, by the options of `options`."""
    runs = args.runs or (1 if args.quick else args.usual_runs)
    return runs, args.out or (None if args.quick else args.usual_out)


def plot_bars(
    groups: Mapping[str, Results], figure: str, path: Path, *, title: str, unit: str = "", limit: tuple[float, str] | None = None
) -> None:
    """Draw a PNG: for every group, one bar a case, as high as the median, with the spread as a line.

    Args:
        groups: results by the label under their bars.
        figure: which figure; cases without it are left out.
        path: the file, in directories made if need be.
        title: over the plot.
        unit: at the left; the figure's name unless told.
        limit: a criterion and its name, drawn across.
    """
    cases = list(dict.fromkeys(case for results in groups.values() for case, runs in results.runs.items() if figure in runs[0]))
    axes, save = _plot(path, title, unit or figure)
    width = 0.8 / max(len(cases), 1)
    for n, case in enumerate(cases):
        at = [g for g, results in enumerate(groups.values()) if case in results.runs]
        own = [results for results in groups.values() if case in results.runs]
        heights = [results.median(case, figure) for results in own]
        spreads = [results.spread(case, figure) for results in own]
        errors = [
            [h - low for h, (low, _) in zip(heights, spreads, strict=True)],
            [high - h for h, (_, high) in zip(heights, spreads, strict=True)],
        ]
        places = [g + (n - (len(cases) - 1) / 2) * width for g in at]
        bars = axes.bar(places, heights, width * 0.92, yerr=errors, capsize=3, label=case, color=COLORS[n % len(COLORS)])
        axes.bar_label(bars, labels=[number(h) for h in heights], padding=2, fontsize=8)
    axes.set_xticks(range(len(groups)), list(groups))
    _finish(axes, limit, several=len(cases) > 1)
    save()


def plot_lines(
    lines: Mapping[str, Sequence[tuple[float, float]]], path: Path, *, title: str, unit: str, along: str, log: bool = False
) -> None:
    """Draw a PNG: one line a series of (x, y), as of a latency's percentiles by the rate of events; `log` makes both axes logarithmic."""
    axes, save = _plot(path, title, unit)
    for n, (name, points) in enumerate(lines.items()):
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=name, color=COLORS[n % len(COLORS)])
    axes.set_xlabel(along)
    if log:
        axes.set_xscale("log")
        axes.set_yscale("log")
    _finish(axes, None, several=len(lines) > 1)
    save()


def plot_shares(shares: Mapping[str, Mapping[str, float]], path: Path, *, title: str, unit: str) -> None:
    """Draw a PNG: for every label a bar across, made of named parts; parts too small for a number have none."""
    axes, save = _plot(path, title, "")
    longest = max((sum(parts.values()) for parts in shares.values()), default=1.0)
    parted = [(name, part) for parts in shares.values() for name, part in parts.items()]
    names = list(dict.fromkeys(name for name, part in parted if part > longest / 200))
    ends = dict.fromkeys(shares, 0.0)
    for n, name in enumerate(names):
        widths = [max(parts.get(name, 0.0), 0.0) for parts in shares.values()]
        bars = axes.barh(list(shares), widths, left=list(ends.values()), label=name, color=SHADES[n % len(SHADES)], height=0.7)
        axes.bar_label(bars, [f"{w:.2f}" if w > longest / 16 else "" for w in widths], label_type="center", fontsize=7)
        ends = {label: end + width for (label, end), width in zip(ends.items(), widths, strict=True)}
    axes.set_ylim(max(len(shares), 3) - 0.5, -0.5)
    axes.set_xlabel(unit)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    axes.spines[["top", "right"]].set_visible(False)
    save()


def _plot(path: Path, title: str, unit: str) -> tuple[Any, Callable[[], None]]:
    """Make axes, and what writes them to the file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left")
    axes.set_ylabel(unit)

    def save() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)

    return axes, save


def _finish(axes: Any, limit: tuple[float, str] | None, *, several: bool) -> None:
    if limit is not None:
        axes.axhline(limit[0], color="black", linestyle="--", linewidth=1, label=limit[1])
    if several or limit is not None:
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="#dddddd")
