"""Plots of a backtest: how policies compare day by day, and what margin and dwell do. It needs matplotlib, the extra `report`."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from offline.backtest import Outcome

COLORS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#64b5cd", "#8c8c8c", "#ccb974")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "h")
SMOOTH_DAYS = 7
ENDINGS = ("png", "svg")


class Combination(NamedTuple):
    """What a margin and a dwell came to."""

    margin: float  # a share, as all figures but the next
    dwell_days: float
    margin_large: float
    churn: float
    flapping: float
    told: float | None  # squares to the segment told, over those of the best refit


def plot(outcomes: Sequence[Outcome], out: Path) -> list[Path]:
    """Draw every plot that the policies allow; returns the files."""
    files, combined = policies(outcomes, out / "policies"), combinations(outcomes)
    if len({(one.margin, one.dwell_days) for one in combined}) > 1:
        files += margin_dwell({"": combined}, out / "margin_dwell")
    return files


def combinations(outcomes: Sequence[Outcome]) -> list[Combination]:
    """Take the policies that differ in margin and dwell alone."""
    alike = [one for one in outcomes if one.policy.learning == "one vote" and one.policy.sweeps and one.policy.night is None]
    return [
        Combination(d.margin, d.dwell_ms / 86_400_000, d.margin_large, one.churn, one.flapping, one.mean("wcss_ratio_told"))
        for one in alike
        for d in (one.policy.decision,)
    ]


def policies(outcomes: Sequence[Outcome], path: Path) -> list[Path]:
    """Draw, for every policy, squares against the refit, changes per customer-day (mean of a week) and shares at the end."""
    axes, save = _figure(3, path, ENDINGS)
    for n, one in enumerate(outcomes):
        style = {"label": one.policy.name, "color": COLORS[n % len(COLORS)]}
        ratios = [(day.at, day.wcss_ratio) for day in one.days if day.wcss_ratio is not None]
        axes[0].plot(_dates([at for at, _ in ratios]), [ratio for _, ratio in ratios], marker=MARKERS[n % len(MARKERS)], **style)
        daily = np.array([day.changes / max(day.customers, 1) for day in one.days])
        width = min(SMOOTH_DAYS, len(daily))
        axes[1].plot(_dates([day.at for day in one.days[width - 1 :]]), 100 * np.convolve(daily, np.ones(width) / width, "valid"), **style)
        left = 0.0
        for k, (segment, share) in enumerate(sorted(one.days[-1].share.items())):
            label = segment if n == 0 else None
            axes[2].barh(one.policy.name, 100 * share, left=left, color=COLORS[k % len(COLORS)], edgecolor="white", label=label)
            left += 100 * share
    titles = ("Within-cluster squares / best refit", "Changes per customer-day, mean of 7 days (%)", "Customers by segment at the end (%)")
    for one_axes, title in zip(axes, titles, strict=True):
        one_axes.set_title(title, loc="left", fontsize=10)
        _plain(one_axes)
    if any(ratio > 1.5 for one in outcomes for day in one.days if (ratio := day.wcss_ratio) is not None):  # noqa: PLR2004  # a long way
        axes[0].set_yscale("log")
    axes[2].invert_yaxis()
    for one_axes in axes[:2]:
        one_axes.tick_params(axis="x", rotation=30)
    return save()


def margin_dwell(
    groups: Mapping[str, Sequence[Combination]], path: Path, limits: tuple[float, float] | None = None, endings: Sequence[str] = ENDINGS
) -> list[Path]:
    """Draw, by margin, one line a dwell, one row a group: changes, the share of them that goes back, and what it costs in squares.

    `limits` of the first two are drawn across.
    """
    axes, save = _figure(3, path, endings, rows=len(groups))
    heads = ("changes per customer-day (%)", "A-B-A in 7 days (% of changes)", "squares as told / refit")
    for row, (title, combined) in enumerate(groups.items()):
        panels = axes[3 * row : 3 * row + 3]
        lines: dict[tuple[float, float], list[Combination]] = {}
        for one in sorted(combined):
            lines.setdefault((one.dwell_days, one.margin_large), []).append(one)
        several = len({large for _, large in lines}) > 1
        for n, ((dwell, large), found) in enumerate(sorted(lines.items())):
            label = f"dwell {dwell:g} d" + (f", at once from {large:.0%}" if several else "")
            style = {"label": label, "color": COLORS[n % len(COLORS)], "marker": MARKERS[n % len(MARKERS)]}
            margins = [100 * one.margin for one in found]
            panels[0].plot(margins, [100 * one.churn for one in found], **style)
            panels[1].plot(margins, [100 * one.flapping for one in found], **style)
            panels[2].plot(margins, [np.nan if one.told is None else one.told for one in found], **style)
        panels[0].set_title(title, loc="left", fontsize=10)
        for n, (one_axes, head) in enumerate(zip(panels, heads, strict=True)):
            one_axes.set_xlabel("margin (%)")
            one_axes.set_ylabel(head)
            if limits is not None and n < len(limits):
                one_axes.axhline(100 * limits[n], color="black", linestyle="--", linewidth=1, label="target")
                one_axes.set_ylim(bottom=0)
            _plain(one_axes)
    return save()


class Line(NamedTuple):
    """One policy's values over time: its name and style, days (n,) in ms since 1970, and values (n,)."""

    name: str
    at: Sequence[int]
    values: Sequence[float]
    color: str
    dashed: bool = False


def over_time(
    panels: Mapping[str, Sequence[Line]], path: Path, label: str, *, log: bool = False, level: tuple[float, str] | None = None
) -> list[Path]:
    """Draw one panel a title, one line a policy, each named at its end; `level` is drawn across with its name."""
    axes, save = _figure(len(panels), path, ("png",))
    for one_axes, (title, lines) in zip(axes, panels.items(), strict=True):
        ends = _apart([line.values for line in lines], log=log)
        for line, end in zip(lines, ends, strict=True):
            one_axes.plot(_dates(line.at), line.values, color=line.color, linewidth=1.8, linestyle="--" if line.dashed else "-")
            place = (1.01, end)
            one_axes.annotate(
                line.name, place, xycoords=("axes fraction", "data"), color=line.color, fontsize=9, va="center", annotation_clip=False
            )
        if log:
            one_axes.set_yscale("log")
            one_axes.yaxis.set_major_formatter("{x:g}")
            one_axes.yaxis.set_minor_formatter("{x:g}")
            one_axes.tick_params(axis="y", which="minor", labelsize=8)
        if level is not None:
            one_axes.axhline(level[0], color="black", linestyle=":", linewidth=1)
            one_axes.annotate(
                level[1], (0.01, level[0]), xycoords=("axes fraction", "data"), fontsize=8, va="bottom", annotation_clip=False
            )
        one_axes.set_title(title, loc="left", fontsize=10)
        one_axes.tick_params(axis="x", rotation=30)
        _grid(one_axes)
    axes[0].set_ylabel(label)
    return save()


def by_value(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    path: Path,
    labels: tuple[str, str],
    level: float | None = None,
    bottom: float = 0.0,
) -> list[Path]:
    """Draw one panel a title, one line a name through its (x, y), named in a legend where there are several."""
    axes, save = _figure(len(panels), path, ("png",))
    for one_axes, (title, lines) in zip(axes, panels.items(), strict=True):
        for n, (name, points) in enumerate(lines.items()):
            x, y = zip(*points, strict=True)
            one_axes.plot(x, y, color=COLORS[n], marker=MARKERS[n], label=name, linewidth=1.8)
        if level is not None:
            one_axes.axhline(level, color="black", linestyle=":", linewidth=1, label="target")
        one_axes.set_ylim(bottom=bottom)
        one_axes.set_title(title, loc="left", fontsize=10)
        one_axes.set_xlabel(labels[0])
        one_axes.legend(frameon=False, fontsize=9)
        _grid(one_axes)
    axes[0].set_ylabel(labels[1])
    return save()


def _apart(lines: Sequence[Sequence[float]], *, log: bool) -> list[float]:
    """Give the ends of a panel's lines moved apart, so that the names there do not cover each other."""
    drawn = [np.log(line) if log else np.array(line, np.float64) for line in lines]
    values = np.array([line[-1] for line in drawn])
    room = 0.07 * max(float(np.ptp(np.concatenate(drawn))), 1e-9)
    order = np.argsort(values)
    for before, after in pairwise(order):
        values[after] = max(values[after], values[before] + room)
    found: list[float] = (np.exp(values) if log else values).tolist()
    return found


def _figure(columns: int, path: Path, endings: Sequence[str], rows: int = 1) -> tuple[list[Any], Callable[[], list[Path]]]:
    """Make axes side by side, row after row, and what writes them to files of these endings."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  # an extra
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(5.2 * columns, 3.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(np.atleast_1d(figure.subplots(rows, columns)).ravel())

    def save() -> list[Path]:
        path.parent.mkdir(parents=True, exist_ok=True)
        files = [path.with_suffix(f".{ending}") for ending in endings]
        for file in files:
            figure.savefig(file, dpi=110)
        return files

    return axes, save


def _dates(times: Sequence[int]) -> Any:  # noqa: ANN401  # NumPy's dates
    return np.array(times, "datetime64[ms]")


def _plain(axes: Any) -> None:  # noqa: ANN401  # matplotlib has no types here
    axes.legend(frameon=False, fontsize=7)
    _grid(axes)


def _grid(axes: Any) -> None:  # noqa: ANN401
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(color="#dddddd")
