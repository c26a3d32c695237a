"""What margin and dwell do on the retail data: every combination replayed day by day, and the other policies beside it.

From a first model at the end of 2011-04-01 to 2011-08-31, once with the packaged declaration (in pounds, six segments) and once with
recency, frequency and money over 90 days (five). Figures are counts, not times: two runs on any machines give the same.

    python tests/bench/bench_margin_dwell.py     # a few minutes on two cores
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console

from offline import backtest_plots
from offline.backtest import Case, Period, backtest, first_version
from offline.backtest_command import summary, table
from offline.event_files import read_events
from offline.events import Reading
from offline.policies import POLICIES, grid
from offline.replaying import log_of
from offline.session import end_of
from streamer.app.samples import retail_path, sample_path
from tests.bench import kit

if TYPE_CHECKING:
    from pathlib import Path

MARGINS, DWELLS, LARGE = (0.0, 0.05, 0.1, 0.2, 0.3), (0.0, 1.0, 3.0, 7.0, 14.0), (0.3, 1.0)
TARGETS = (0.027, 0.075)  # changes per customer-day, and the share of them that goes back
DECLARATIONS: dict[str, tuple[Path | None, int]] = {
    "packaged, 6 segments": (None, 6),
    "RFM of 90 days, 5 segments": (sample_path().with_name("rfm_features.yaml"), 5),
}


def main() -> None:
    """Run all of it, print a table a declaration, and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kit.options(parser, "margin_dwell", runs=1)
    parser.add_argument("--jobs", type=int, default=2, help="policies at a time; 2 unless told")
    args = parser.parse_args()
    out = kit.settled(args)[1]
    margins, dwells, until = (MARGINS[::2], DWELLS[::2], "2011-04-21") if args.quick else (MARGINS, DWELLS, "2011-08-31")
    period = Period(end_of("2011-04-01"), end_of(until))
    path = retail_path(os.environ)
    console = Console(width=200)
    drawn: dict[str, list[backtest_plots.Combination]] = {}
    found: dict[str, Any] = {}
    for title, (declaration, k) in DECLARATIONS.items():
        read = read_events(path, "online_retail", declaration)
        log = log_of(Reading(read.declaration), read.batches)
        case = Case(log, first_version(log, period.begin, k), period)
        policies = [*([] if args.quick else POLICIES), *grid(margins, dwells, LARGE)]
        outcomes = backtest(case, policies, args.jobs)
        console.print(table(outcomes))
        found[title] = [{**asdict(one.policy), "summary": summary(one)} for one in outcomes]
        gridded = backtest_plots.combinations(outcomes[-len(margins) * len(dwells) * len(LARGE) :])
        for large in LARGE:
            note = f"{title}, " + (f"at once from {large:.0%}" if large < 1 else "never before the dwell")
            drawn[note] = [one for one in gridded if one.margin_large == large]
    if out is not None:
        about = {"data": path.name, "first_model": "2011-04-01", "until": until, "refit_days": period.refit_days}
        out.write_text(json.dumps({**about, "declarations": found}, indent=1) + "\n", encoding="utf-8")
        backtest_plots.margin_dwell(drawn, out.with_suffix(""), TARGETS, ("png",))


if __name__ == "__main__":
    main()
