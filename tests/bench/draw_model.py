"""The pictures of docs/model.md: one for each thing that was measured on the retail data.

Policies are replayed day by day by `offline backtest`'s own code, from a first model at the end of 2011-04-01 to 2011-08-31, once with
the packaged declaration (in pounds, six segments) and once with recency, frequency and money over 90 days (five). The curves by margin and
dwell are those of docs/benchmarks/margin_dwell.json. Figures are counts, not times: two runs on any machines give the same.

    python tests/bench/draw_model.py             # half a minute on two cores
    python tests/bench/draw_model.py --again     # the pictures alone, from docs/benchmarks/model.json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # it is run by path

from offline import backtest_plots
from offline.backtest import Case, Period, backtest, first_version
from offline.backtest_plots import Line
from offline.event_files import read_events
from offline.events import Reading
from offline.policies import chosen
from offline.replaying import log_of
from offline.session import end_of
from streamer.app.samples import retail_path
from streamer.core.declaration import DAY_MS
from tests.bench import kit
from tests.bench.bench_margin_dwell import DECLARATIONS, TARGETS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

POLICIES = ("default", "no-sweep", "frozen", "river", "reseed", "reseed-new-scale", "reseed-cold")
NAMES = {
    "default": "one vote (default)",
    "no-sweep": "without sweeps",
    "frozen": "nothing learned",
    "river": "river's rule",
    "reseed": "warm (default)",
    "reseed-new-scale": "warm, new scale",
    "reseed-cold": "from nothing",
}
STYLE = {
    "default": "#4c72b0",
    "no-sweep": "#8172b3",
    "frozen": "#8c8c8c",
    "river": "#c44e52",
    "reseed": "#55a868",
    "reseed-new-scale": "#dd8452",
    "reseed-cold": "#937860",
}
REFIT_DAYS = 7
SMOOTH_DAYS = 7
WEEK_DAYS = 7

Days = list[dict[str, Any]]


def main() -> None:
    """Replay what is needed, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kit.options(parser, "model", runs=1)
    parser.add_argument("--jobs", type=int, default=2, help="policies at a time; 2 unless told")
    parser.add_argument("--again", action="store_true", help="draw what was replayed before")
    args = parser.parse_args()
    out = kit.settled(args)[1] or kit.RESULTS / "quick" / "model.json"
    found = json.loads(out.read_text(encoding="utf-8")) if args.again else replayed(args.jobs, "2011-04-30" if args.quick else "2011-08-31")
    if not args.again:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(found, separators=(",", ":")) + "\n", encoding="utf-8")
    draw(found["declarations"], out.parent)
    grid = json.loads((kit.RESULTS / "margin_dwell.json").read_text(encoding="utf-8"))["declarations"]
    draw_grid(grid, out.parent)


def replayed(jobs: int, until: str) -> dict[str, Any]:
    """Replay the policies; gives each one's days by its name, by declaration."""
    path = retail_path(os.environ)
    period = Period(end_of("2011-04-01"), end_of(until), REFIT_DAYS)
    found: dict[str, dict[str, Days]] = {}
    for title, (declaration, k) in DECLARATIONS.items():
        read = read_events(path, "online_retail", declaration)
        log = log_of(Reading(read.declaration), read.batches)
        outcomes = backtest(Case(log, first_version(log, period.begin, k), period), chosen(POLICIES), jobs)
        found[title] = {one.policy.name: [asdict(day) for day in one.days] for one in outcomes}
    return {"data": path.name, "first_model": "2011-04-01", "until": until, "refit_days": REFIT_DAYS, "declarations": found}


def draw(found: Mapping[str, Mapping[str, Days]], out: Path) -> None:
    """Draw what policies come to day by day."""
    names = ("default", "frozen", "river")
    panels = {title: [squares(days[name], name, "wcss_ratio") for name in names] for title, days in found.items()}
    backtest_plots.over_time(panels, out / "model_river", "within-cluster squares / best refit", log=True)
    panels = {title: [squares(days[name], name, "wcss_ratio_told") for name in ("default", "no-sweep")] for title, days in found.items()}
    backtest_plots.over_time(panels, out / "model_sweeps", "squares to the segment told / refit", log=True)
    panels = {title: [churn(days[name], name) for name in ("default", "no-sweep", "river")] for title, days in found.items()}
    backtest_plots.over_time(
        panels, out / "model_changes", f"changes a customer-day (%, {SMOOTH_DAYS} days)", level=(100 * TARGETS[0], "target")
    )
    nights = ("reseed", "reseed-new-scale", "reseed-cold")
    panels = {title: [relabelled(days[name], name) for name in nights] for title, days in found.items()}
    backtest_plots.over_time(
        panels,
        out / "model_nights",
        "moved by the version (%, worst night)",
        level=(1.0, "target: 1 % a night"),
    )
    panels = {title: [squares(days[name], name, "wcss_ratio") for name in ("default", *nights)] for title, days in found.items()}
    backtest_plots.over_time(panels, out / "model_nights_squares", "within-cluster squares / best refit", level=(1.01, "target"))


def draw_grid(found: Mapping[str, Sequence[Mapping[str, Any]]], out: Path) -> None:
    """Draw what margin and dwell come to, each with the other at its default."""
    back, told = ("returned_within_7_days", 100.0), ("wcss_ratio_told", 1.0)
    by_margin = {title: {"dwell 3 days": points(of, "margin", back)} for title, of in found.items()}
    heads = ("margin (%)", "A-B-A within 7 days (% of the changes)")
    backtest_plots.by_value(by_margin, out / "model_margin", heads, 100 * TARGETS[1])
    price = {title: {"dwell 3 days": points(of, "margin", told)} for title, of in found.items()}
    backtest_plots.by_value(price, out / "model_margin_price", ("margin (%)", "squares to the segment told / refit"), bottom=1.0)
    ways = {"who is far nearer moves at once (default)": 0.3, "nobody moves before": 1.0}
    by_dwell = {title: {way: points(of, "dwell_ms", back, large) for way, large in ways.items()} for title, of in found.items()}
    backtest_plots.by_value(by_dwell, out / "model_dwell", ("dwell (days)", heads[1]), 100 * TARGETS[1])


def points(of: Sequence[Mapping[str, Any]], by: str, figure: tuple[str, float], large: float = 0.3) -> list[tuple[float, float]]:
    """Give a figure, times a factor, by margin (%) or by dwell (days), the other at its default."""
    other = {"margin": ("dwell_ms", 3 * DAY_MS), "dwell_ms": ("margin", 0.1)}[by]
    scale = {"margin": 100.0, "dwell_ms": 1 / DAY_MS}[by]
    name, factor = figure
    rows = [one for one in of if "/" in one["name"] and one["decision"]["margin_large"] == large and one["decision"][other[0]] == other[1]]
    return sorted((one["decision"][by] * scale, factor * one["summary"][name]) for one in rows)


def squares(days: Days, name: str, figure: str) -> Line:
    """Give a ratio of squares on the days that have one."""
    rows = [(day["at"], day[figure]) for day in days if day[figure] is not None]
    return line(name, rows)


def churn(days: Days, name: str) -> Line:
    """Give changes per customer-day, smoothed, in per cent."""
    daily = np.array([100 * day["changes"] / max(day["customers"], 1) for day in days])
    smooth = np.convolve(daily, np.ones(SMOOTH_DAYS) / SMOOTH_DAYS, "valid")
    return line(name, list(zip([day["at"] for day in days[SMOOTH_DAYS - 1 :]], smooth.tolist(), strict=True)))


def relabelled(days: Days, name: str) -> Line:
    """Give the worst night of each week, in per cent."""
    known = [day for day in days if day["relabelled"] is not None]
    weeks = [known[begin : begin + WEEK_DAYS] for begin in range(0, len(known), WEEK_DAYS)]
    return line(name, [(week[-1]["at"], 100 * max(day["relabelled"] for day in week)) for week in weeks])


def line(name: str, rows: Sequence[tuple[int, float]]) -> Line:
    """Make a policy's line."""
    at, values = zip(*rows, strict=True)
    return Line(NAMES[name], at, values, STYLE[name], dashed=name == "frozen")


if __name__ == "__main__":
    main()
