"""Plots of a backtest: how policies compare day by day, and what margin and dwell do. It needs matplotlib, the extra `report`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from offline.backtest import Outcome

COLORS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#64b5cd", "#8c8c8c", "#ccb974")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "h")
SMOOTH_DAYS = 7
ENDINGS = ("png", "svg")


def plot(outcomes: Sequence[Outcome], out: Path) -> list[Path]:
    """Draw every plot that the policies allow; returns the files."""
    files = policies(outcomes, out / "policies")
    if varied(outcomes):
        files += margin_dwell({"": outcomes}, out / "margin_dwell")
    return files


def policies(outcomes: Sequence[Outcome], path: Path) -> list[Path]:
    """Draw, for every policy, squares against the refit, changes per customer-day (mean of a week) and shares at the end."""
    axes, save = _figure(3, path)
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


def varied(outcomes: Sequence[Outcome]) -> bool:
    """Tell whether margin or dwell differ between policies that differ in nothing else."""
    return len({(one.policy.decision.margin, one.policy.decision.dwell_ms) for one in _comparable(outcomes)}) > 1


def _comparable(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [one for one in outcomes if one.policy.learning == "one vote" and one.policy.sweeps and one.policy.night is None]


def margin_dwell(groups: Mapping[str, Sequence[Outcome]], path: Path, limits: tuple[float, float] | None = None) -> list[Path]:
    """Draw changes per customer-day and the share that goes back, by margin, one line a dwell, one row a group; `limits` drawn across."""
    axes, save = _figure(2, path, rows=len(groups))
    for row, (title, outcomes) in enumerate(groups.items()):
        pair = axes[2 * row : 2 * row + 2]
        lines: dict[tuple[float, float], list[Outcome]] = {}
        for one in _comparable(outcomes):
            lines.setdefault((one.policy.decision.dwell_ms / 86_400_000, one.policy.decision.margin_large), []).append(one)
        several = len({large for _, large in lines}) > 1
        for n, ((dwell, large), found) in enumerate(sorted(lines.items())):
            ordered = sorted(found, key=lambda one: one.policy.decision.margin)
            margins = [100 * one.policy.decision.margin for one in ordered]
            label = f"dwell {dwell:g} d" + (f", at once from {large:.0%}" if several else "")
            style = {"label": label, "color": COLORS[n % len(COLORS)], "marker": MARKERS[n % len(MARKERS)]}
            pair[0].plot(margins, [100 * one.churn for one in ordered], **style)
            pair[1].plot(margins, [100 * one.flapping for one in ordered], **style)
        heads = ("changes per customer-day (%)", "A-B-A within 7 days, share of changes (%)")
        for n, (one_axes, head) in enumerate(zip(pair, heads, strict=True)):
            one_axes.set_title(f"{title}: {head}" if title else head, loc="left", fontsize=10)
            one_axes.set_xlabel("margin (%)")
            if limits is not None:
                one_axes.axhline(100 * limits[n], color="black", linestyle="--", linewidth=1, label="target")
            _plain(one_axes)
            one_axes.set_ylim(bottom=0)
    return save()


def _figure(columns: int, path: Path, rows: int = 1) -> tuple[list[Any], Callable[[], list[Path]]]:
    """Make axes side by side, row after row, and what writes them to PNG and SVG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  # an extra
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(5.2 * columns, 4.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(np.atleast_1d(figure.subplots(rows, columns)).ravel())

    def save() -> list[Path]:
        path.parent.mkdir(parents=True, exist_ok=True)
        files = [path.with_suffix(f".{ending}") for ending in ENDINGS]
        for file in files:
            figure.savefig(file, dpi=110)
        return files

    return axes, save


def _dates(times: Sequence[int]) -> Any:  # noqa: ANN401  # NumPy's dates
    return np.array(times, "datetime64[ms]")


def _plain(axes: Any) -> None:  # noqa: ANN401  # matplotlib has no types here
    axes.legend(frameon=False, fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(color="#dddddd")
