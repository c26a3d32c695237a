"""Drawings as PNG, by matplotlib, which the extra `report` brings, with the font that it brings."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from offline.report.drawing import Area, Drawing, Line, Marks, Rect, Text, outline
from offline.report.palette import LIGHT

if TYPE_CHECKING:
    from pathlib import Path

SCALE = 2.0  # pixels a unit
DPI = 100.0
POINTS = 72.0 / DPI  # points a unit
DASH = (4, 3)


def available() -> bool:
    """Tell whether matplotlib is installed."""
    try:
        import matplotlib as _  # noqa: F401, ICN001, PLC0415  # an extra
    except ModuleNotFoundError:
        return False
    return True


def png(drawing: Drawing, path: Path) -> None:
    """Write a drawing in the light palette, two pixels a unit. Needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  # an extra
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(drawing.width / DPI, drawing.height / DPI), dpi=DPI, facecolor=LIGHT["paper"])
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), frameon=False)
    axes.set_axis_off()
    axes.set_xlim(0, drawing.width)
    axes.set_ylim(drawing.height, 0)
    for order, mark in enumerate(drawing.marks):
        _draw(axes, mark, order)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # its font has not every script's letters; the page's fonts may
        figure.savefig(path, dpi=DPI * SCALE, metadata={"Software": None})


def _draw(axes: Any, mark: Any, order: int) -> None:  # noqa: ANN401  # matplotlib has no types here, and a mark is one of five
    from matplotlib.lines import Line2D  # noqa: PLC0415
    from matplotlib.patches import FancyBboxPatch, PathPatch, Rectangle  # noqa: PLC0415
    from matplotlib.path import Path as Outline  # noqa: PLC0415

    match mark:
        case Rect(radius=radius) if radius and mark.width > 2 * radius and mark.height > 2 * radius:
            box = f"round,pad=0,rounding_size={radius}"
            axes.add_patch(
                FancyBboxPatch((mark.x, mark.y), mark.width, mark.height, box, fc=LIGHT[mark.fill], ec="none", lw=0, zorder=order)
            )
        case Rect():
            axes.add_patch(Rectangle((mark.x, mark.y), mark.width, mark.height, fc=LIGHT[mark.fill], ec="none", lw=0, zorder=order))
        case Line():
            xs, ys = zip(*mark.points, strict=True)
            style = (0, DASH) if mark.dash else "-"
            axes.add_line(Line2D(xs, ys, color=LIGHT[mark.stroke], linewidth=mark.width * POINTS, linestyle=style, zorder=order))
        case Area():
            codes = {"M": Outline.MOVETO, "L": Outline.LINETO, "C": Outline.CURVE4}
            points = [point for _, step in mark.steps for point in step]
            kinds = [codes[letter] for letter, step in mark.steps for _ in step]
            shape = Outline([*points, points[0]], [*kinds, Outline.CLOSEPOLY])
            axes.add_patch(PathPatch(shape, fc=LIGHT[mark.fill], ec="none", lw=0, alpha=mark.opacity, zorder=order))
        case Marks():
            _draw_marks(axes, mark, order)
        case Text():
            ha = {"start": "left", "middle": "center", "end": "right"}[mark.anchor]
            axes.text(
                mark.x,
                mark.y,
                mark.text,
                parse_math=False,
                color=LIGHT[mark.fill],
                fontsize=mark.size * POINTS * 0.94,  # its letters are wide
                ha=ha,
                va="baseline",
                fontweight="bold" if mark.bold else "normal",
                zorder=order,
            )


def _draw_marks(axes: Any, mark: Marks, order: int) -> None:  # noqa: ANN401
    from matplotlib.collections import PatchCollection  # noqa: PLC0415
    from matplotlib.patches import Circle, Polygon  # noqa: PLC0415

    corners = outline(mark.shape, mark.size)
    patches = [
        Circle((x, y), mark.size / 2) if corners is None else Polygon([(x + a, y + b) for a, b in corners], closed=True)
        for x, y in mark.points
    ]
    axes.add_collection(PatchCollection(patches, facecolor=LIGHT[mark.fill], edgecolor="none", alpha=mark.opacity, zorder=order))
