"""Draw what the Grafana dashboard shows, from the answers that a real Prometheus gives to its queries.

    python tests/bench/draw_dashboard.py [--seconds 150] [--out docs/dashboard.png] [--answers FILE]

Workers consume simulated traffic on real servers, and an archiver keeps it, in a file every few seconds and not every few minutes; a
Prometheus, configured as it is deployed but for shorter intervals, scrapes them. The traffic begins with a month sent as fast as it goes,
on which one worker fits the first model; then there are two. What is drawn comes after that: events as they happen, for a while several
times as many, some of them late, sent twice or malformed. Then every panel's queries are asked over that time.

Where the panels are, their titles, units, legends, stacking and thresholds are read from the dashboard's JSON; it is this program that
draws them, not Grafana. `--answers` keeps the answers in a file, or draws those that it holds. Needs `prometheus` on the PATH.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))  # it is run by path

from tests.integration.prometheus import DASHBOARD, ended, scraping

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.integration.kit import Job

OUT = Path(__file__).parents[2] / "docs" / "dashboard.png"
RATE_INTERVAL, STEP_S = "10s", 1.0
RATE, BUSY_RATE = 300, 1_500
CUSTOMERS = 3_000
SETTINGS = {"STREAMER_MODEL__EPOCH_INTERVAL_S": "5s"}
ROLL_S = "5s"
COLUMNS = 24
CELL_W, CELL_H, GAP = 0.72, 0.36, 0.1  # inches
INK, FAINT, GRID, PAGE = "#24292e", "#6e7781", "#e4e7ea", "#f4f5f5"
COLORS = (
    "#73bf69",
    "#f2cc0c",
    "#5794f2",
    "#ff780a",
    "#f2495c",
    "#b877d9",
    "#37872d",
    "#705da0",
    "#8ab8ff",
    "#c4a000",
    "#ffb357",
    "#9d9d9d",
)
LEGEND_MAX, LEGEND_ROWS, NO_COLOR = 36, 4, -1


class Line(NamedTuple):
    """One series of a panel: its legend, and a value at each time, in seconds since 1970."""

    legend: str
    times: list[float]
    values: list[float]


Answers = dict[str, list[Line]]


def ask(seconds: float) -> Answers:
    """Run workers, an archiver, traffic and a Prometheus, and ask every panel's queries."""
    import os

    from streamer.adapters import servers
    from streamer.adapters.servers.cache import free_port
    from tests.integration.kit import Job

    with servers.start(os.environ) as running, tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        job = Job(running.kafka_bootstrap, running.redis_url, Path(directory), partitions=8, settings=SETTINGS).create()
        *ports, of_archiver, of_prometheus = [free_port() for _ in range(4)]
        stack.enter_context(job.worker("worker-1", STREAMER_METRICS__PORT=str(ports[0])))
        archiving = {"STREAMER_HISTORY__URL": str(Path(directory) / "history"), "STREAMER_HISTORY__ROLL_S": ROLL_S}
        stack.enter_context(ended(job.archiver("archiver", STREAMER_METRICS__PORT=str(of_archiver), **archiving)))
        names = {f"127.0.0.1:{port}": f"worker-{number}:9464" for number, port in enumerate(ports, 1)}
        names[f"127.0.0.1:{of_archiver}"] = "archiver:9464"
        prometheus = stack.enter_context(scraping(Path(directory), of_prometheus, list(names)))
        job.wait("an answer of Prometheus", prometheus.answers)
        job.wait("a worker with partitions", lambda: prometheus.query('streamer_partitions{state="owned"} > 0') != [])
        with ended(_simulate(job, "--days", "30")) as history:
            history.wait(300)
        job.wait("a model that learns", lambda: prometheus.numbers("min(streamer_model_epoch) > 0") != [])
        # Not before every partition has been committed: one that changes hands without a commit is taken one record at a time for a while.
        stack.enter_context(job.worker("worker-2", STREAMER_METRICS__PORT=str(ports[1])))
        job.wait("both workers with partitions", lambda: len(prometheus.query('streamer_partitions{state="owned"} > 0')) == 2)
        stack.enter_context(ended(_simulate(job, "--follow", "--events-per-second", str(RATE), "--malformed", "0.01")))
        time.sleep(30.0)  # until no rate reaches back into the month
        begin_s = time.time()
        time.sleep(seconds * 0.4)
        with ended(_simulate(job, "--follow", "--events-per-second", str(BUSY_RATE), "--seed", "2")):
            time.sleep(seconds * 0.3)
        time.sleep(seconds * 0.3)
        end_s = time.time()

        def lines(target: dict[str, Any]) -> list[Line]:
            found = prometheus.over(target["expr"].replace("$__rate_interval", RATE_INTERVAL), begin_s, end_s, STEP_S)
            return sorted(_line(target["legendFormat"], one, names) for one in found)  # ports are in no order, names are

        return {panel["title"]: [line for target in panel["targets"] for line in lines(target)] for panel in DASHBOARD["panels"]}


def _simulate(job: Job, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "streamer", "simulate", "--customers", str(CUSTOMERS), *arguments]
    with (job.directory / "simulate.log").open("ab") as log:
        return subprocess.Popen(command, env=job.environment, stdout=log, stderr=log)


def _line(legend: str, answer: dict[str, Any], names: dict[str, str]) -> Line:
    for label, value in answer["metric"].items():
        legend = legend.replace(f"{{{{{label}}}}}", names.get(value, value))
    return Line(legend, [float(at) for at, _ in answer["values"]], [float(value) for _, value in answer["values"]])


# Drawing


def draw(answers: Answers, out: Path) -> None:
    """Lay the panels out as the dashboard says, and draw them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = DASHBOARD["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    width, height = COLUMNS * CELL_W, rows * CELL_H + 0.5
    figure = Figure(figsize=(width, height), facecolor=PAGE)
    FigureCanvasAgg(figure)
    times = [at for lines in answers.values() for line in lines for at in line.times]
    span = f"{_clock(min(times))} to {_clock(max(times))} UTC" if times else ""
    figure.text(0.008, 1 - 0.28 / height, DASHBOARD["title"], fontsize=15, color=INK, va="center", weight="bold")
    note = f"{span}  ·  drawn from Prometheus's answers to the dashboard's queries"
    figure.text(0.992, 1 - 0.28 / height, note, fontsize=9, color=FAINT, va="center", ha="right")
    for panel in panels:
        place = panel["gridPos"]
        left, top = place["x"] * CELL_W + GAP / 2, 0.5 + place["y"] * CELL_H + GAP / 2
        box = (left, height - top - place["h"] * CELL_H + GAP, place["w"] * CELL_W - GAP, place["h"] * CELL_H - GAP)
        _panel(figure, panel, answers.get(panel["title"], []), box, (width, height))
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=80, facecolor=PAGE)


def _panel(figure: Any, panel: dict[str, Any], lines: Sequence[Line], box: tuple[float, ...], page: tuple[float, float]) -> None:
    """Draw a panel; `box` is left, bottom, width and height in inches."""
    from matplotlib.patches import Rectangle

    left, bottom, width, height = box

    def share(x: float, y: float, w: float, h: float) -> tuple[float, float, float, float]:
        return x / page[0], y / page[1], w / page[0], h / page[1]

    x, y, w, h = share(left, bottom, width, height)
    figure.add_artist(
        Rectangle((x, y), w, h, transform=figure.transFigure, facecolor="white", edgecolor="#dcdfe2", linewidth=0.8, zorder=-1)
    )
    figure.text(
        (left + 0.1) / page[0], (bottom + height - 0.17) / page[1], panel["title"], fontsize=10, color=INK, va="center", weight="bold"
    )
    if not any(line.values for line in lines):
        figure.text(x + w / 2, y + h / 2, "No data", fontsize=12, color=FAINT, ha="center", va="center")
    elif panel["type"] == "stat":
        _stat(figure, panel, lines, share, box)
    else:
        _series(figure, panel, lines, share, box)


def _stat(figure: Any, panel: dict[str, Any], lines: Sequence[Line], share: Callable[..., Any], box: tuple[float, ...]) -> None:
    """Draw the last value of each line in large letters, over its course."""
    left, bottom, width, height = box
    defaults = panel["fieldConfig"]["defaults"]
    each = width / len(lines)
    for n, line in enumerate(lines):
        values = [value for value in line.values if not math.isnan(value)]
        color = _threshold(defaults, values[-1]) if values else FAINT
        axes = figure.add_axes(share(left + n * each + 0.04, bottom + 0.03, each - 0.08, height * (0.2 if len(lines) > 1 else 0.36)))
        axes.fill_between(line.times, line.values, min([0.0, *values]), color=color, alpha=0.15, linewidth=0)
        axes.plot(line.times, line.values, color=color, linewidth=1)
        axes.set_axis_off()
        axes.set_ylim(min([0.0, *values]), max([1e-9, *values]) * 1.3)
        several = len(lines) > 1
        x, y, w, h = share(left + n * each, bottom, each, height)
        text = _value(values[-1], defaults.get("unit", "short")) if values else "No data"
        figure.text(x + w / 2, y + h * (0.62 if several else 0.54), text, fontsize=20, color=color, ha="center", va="center", weight="bold")
        if several:
            figure.text(x + w / 2, y + h * 0.38, line.legend, fontsize=9, color=INK, ha="center", va="center")


def _series(figure: Any, panel: dict[str, Any], lines: Sequence[Line], share: Callable[..., Any], box: tuple[float, ...]) -> None:
    """Draw a panel's lines over time, stacked where it says so, and their legend below."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

    left, bottom, width, height = box
    defaults = panel["fieldConfig"]["defaults"]
    custom = defaults.get("custom", {})
    rows = _legend_rows([line.legend for line in lines], width)
    below = 0.36 + 0.2 * len(rows)
    axes = figure.add_axes(share(left + 0.78, bottom + below, width - 0.93, height - below - 0.42))
    stacked = custom.get("stacking", {}).get("mode") == "normal"
    times = sorted({at for line in lines for at in line.times})
    base = [0.0] * len(times)
    for n, line in enumerate(lines):
        at = dict(zip(line.times, line.values, strict=True))
        values = [at.get(when, math.nan) for when in times]
        if stacked:
            values = [0.0 if math.isnan(value) else value for value in values]
            values = [low + value for low, value in zip(base, values, strict=True)]
        color, low = COLORS[n % len(COLORS)], base if stacked else 0.0
        axes.fill_between(times, low, values, color=color, alpha=custom.get("fillOpacity", 0) / 100, linewidth=0)
        axes.plot(times, values, color=color, linewidth=1.3)
        base = values if stacked else base
    unit = defaults.get("unit", "short")
    axes.set_xlim(times[0], times[-1])
    if "min" in defaults:
        axes.set_ylim(bottom=defaults["min"], top=axes.get_ylim()[1] if axes.get_ylim()[1] > 0 and _highest(lines) > 0 else 1)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=unit == "none"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _value(value, unit)))
    if unit == "bytes":
        axes.yaxis.set_major_locator(MultipleLocator(2 ** max(0, math.ceil(math.log2(max(axes.get_ylim()[1], 1) / 5)))))
    axes.set_xticks([times[0] + (times[-1] - times[0]) * part for part in (0.08, 0.36, 0.64, 0.92)])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _clock(value)))
    axes.tick_params(labelsize=8, colors=FAINT, length=0)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    _legend(figure, rows, share, box)


def _legend(figure: Any, rows: Sequence[Sequence[tuple[int, str]]], share: Callable[..., Any], box: tuple[float, ...]) -> None:
    left, bottom, _, _ = box
    for r, row in enumerate(rows):
        x = left + 0.15
        for n, text in row:
            fx, fy, _, _ = share(x, bottom + 0.14 + 0.2 * (len(rows) - 1 - r), 0, 0)
            figure.text(fx, fy, "▬", fontsize=8, color="white" if n == NO_COLOR else COLORS[n % len(COLORS)], va="center")
            fx, _, _, _ = share(x + 0.16, 0, 0, 0)
            figure.text(fx, fy, text, fontsize=8, color=INK, va="center")
            x += _text_width(text)


def _legend_rows(legends: Sequence[str], width: float) -> list[list[tuple[int, str]]]:
    rows: list[list[tuple[int, str]]] = [[]]
    used = 0.15
    for n, legend in enumerate(legends):
        text = legend if len(legend) <= LEGEND_MAX else legend[: LEGEND_MAX - 1] + "…"
        if rows[-1] and used + _text_width(text) > width:
            rows.append([])
            used = 0.15
        rows[-1].append((n, text))
        used += _text_width(text)
    if len(rows) > LEGEND_ROWS:
        rows = rows[:LEGEND_ROWS]
        shown = sum(map(len, rows)) - 1
        rows[-1][-1] = (NO_COLOR, f"and {len(legends) - shown} more")
    return rows


def _text_width(text: str) -> float:
    return 0.34 + 0.066 * len(text)


def _highest(lines: Sequence[Line]) -> float:
    return max((value for line in lines for value in line.values if not math.isnan(value)), default=0.0)


def _threshold(defaults: dict[str, Any], value: float) -> str:
    colors = {"green": "#56a64b", "orange": "#ff780a", "red": "#e02f44"}
    found = "green"
    for step in defaults.get("thresholds", {}).get("steps", []):
        if step["value"] is None or value >= step["value"]:
            found = step["color"]
    return colors.get(found, found)


def _value(value: float, unit: str) -> str:
    """Write a value as Grafana writes its units.

    >>> _value(0.0123, "s"), _value(1234.0, "ops"), _value(0.25, "percentunit"), _value(3 * 2**20, "bytes"), _value(0, "s")
    ('12.3 ms', '1.23 K ops/s', '25%', '3 MiB', '0 s')
    """
    if unit == "percentunit":
        return f"{value * 100:.3g}%"
    if unit == "s":
        return f"{value * 1e3:.3g} ms" if 0 < abs(value) < 1 else f"{value:.3g} s"
    if unit == "bytes":
        power = max(0, min(3, int(math.log2(abs(value)) // 10))) if value else 0
        return f"{value / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB')[power]}"
    thousands = unit != "none" and abs(value) >= 1_000
    text = f"{value / 1_000:.3g} K" if thousands else f"{value:.3g}" if abs(value) < 1_000 else f"{value:.0f}"
    return f"{text} ops/s" if unit == "ops" else text


def _clock(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%H:%M:%S")


def main() -> None:
    """Ask, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=150.0, help="how much time to draw")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--answers", type=Path, help="answers in JSON: written if the file is missing, else drawn instead of asking")
    args = parser.parse_args()
    if args.answers is not None and args.answers.exists():
        kept = json.loads(args.answers.read_text(encoding="utf-8"))
        answers = {title: [Line(*line) for line in lines] for title, lines in kept.items()}
    else:
        answers = ask(args.seconds)
        if args.answers is not None:
            args.answers.write_text(json.dumps(answers), encoding="utf-8")
    draw(answers, args.out)
    empty = [title for title, lines in answers.items() if not any(line.values for line in lines)]
    print(f"{args.out}: {len(answers)} panels" + (f"; nothing to show in {', '.join(empty)}" if empty else ""))


if __name__ == "__main__":
    main()
