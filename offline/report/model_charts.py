"""The charts of the model: what sets segments apart, how distinct they are, and who went where."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from offline.report.axes import SMALL, Key, Scale, across, keyed, spaced, ticks
from offline.report.drawing import BOLD, SIZE, Area, Drawing, Line, Marks, Rect, Text, shortened, text_width, wrapped
from offline.report.palette import SIDES
from offline.report.words import percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offline.report.drawing import Anchor, Point
    from offline.report.facts import Migration, Picture, Silhouette
    from streamer.core.columns import F64

NARROW_BELOW = 500.0
CLASSES = (1.15, 1.5, 2.0)  # times as much, or as little: from where a step of the diverging scale begins
Z_SHOWN = 3.0
SANKEY_HEIGHT = 380.0
LEAST_RIBBON = 0.4


def snake(keys: Sequence[Key], labels: Sequence[str], z: F64, width: float) -> Drawing:
    """Draw, for each feature, how far each segment is from the average customer, one line a segment winding down; z is (k, f)."""
    f, row = z.shape[1], 32.0
    left = min(max(text_width(label) for label in labels) + 10, width * 0.36)
    top, bottom = 12.0, 12.0 + f * row
    drawing = Drawing(width, bottom + 42)
    far = min(max(float(np.nanmax(np.abs(z))), 1.0), Z_SHOWN) if z.size else 1.0
    x = Scale(-far, far, left + 12, width - 12)
    across(drawing, x, ticks(-far, far, 6), lambda v: f"{v:+g}" if v else "average", top - 6, bottom)
    drawing.add(Line([(x(0), top - 6), (x(0), bottom)], "muted", 1.5))
    for n, label in enumerate(labels):
        lines = wrapped(label, left, SMALL + 1, 2)
        y = top + (n + 0.5) * row + 4 - (len(lines) - 1) * 7
        for i, line in enumerate(lines):
            drawing.add(Text(0, y + i * 14, line, size=SMALL + 1))
    drawing.add(Text(x(-far), bottom + 36, "← less", "muted", SMALL))
    drawing.add(Text(x(far), bottom + 36, "more →", "muted", SMALL, "end"))
    for k, key in enumerate(keys):
        points = [(x(min(max(float(v), -far), far)), top + (n + 0.5) * row) for n, v in enumerate(z[k])]
        told = key.label
        drawing.add(Line(points, key.color, 1.8, title=told), Marks(points, key.shape, key.color, 10, title=told))
    return drawing


def step_of(relative: float) -> int:
    """Choose the step of the diverging scale for a relative importance: twice as much is as far as half as much.

    >>> step_of(1.0), step_of(-0.5), step_of(0.1)
    (3, -3, 0)
    """
    times = max(1 + relative, 1e-9)
    size = sum(max(times, 1 / times) >= bound for bound in CLASSES)
    return min(size, SIDES) * (1 if relative > 0 else -1)


def importance(keys: Sequence[Key], labels: Sequence[str], relative: F64, width: float) -> Drawing:
    """Draw the relative importance of features (f,) in segments: mean there over the mean of all, less 1; relative is (k, f)."""
    k, f = relative.shape
    narrow = width < NARROW_BELOW
    row, left = 30.0, min(max(text_width(label) for label in labels) + 10, width * (0.34 if narrow else 0.3))
    w = (width - left) / max(k, 1)
    drawing = Drawing(width, 30 + f * row)
    for n, key in enumerate(keys):
        x = left + (n + 0.5) * w
        keyed(drawing, key, x - 8, 16)
        drawing.add(Text(x + 1, 16, key.number, bold=True))
    for m, label in enumerate(labels):
        lines = wrapped(label, left - 4, SMALL, 2)
        y = 30 + (m + 0.5) * row + 4 - (len(lines) - 1) * 6
        for i, line in enumerate(lines):
            drawing.add(Text(0, y + i * 12, line, size=SMALL))
        for n, key in enumerate(keys):
            value = float(relative[n, m])
            known = math.isfinite(value)
            step = step_of(value) if known else 0
            told = f"{key.label}, {label}: {_signed(value)} %" if known else f"{label}: not to be told as a share"
            drawing.add(Rect(left + n * w + 1, 30 + m * row + 1, w - 2, row - 2, f"d{step}", 3, told))
            text = _signed(value) if known else "·"
            size = SMALL if text_width(text, SMALL) < w - 2 else 9.5  # many segments on a phone
            drawing.add(Text(left + (n + 0.5) * w, 30 + (m + 0.5) * row + 4, text, f"on-d{step}", size, "middle"))
    return drawing


def _signed(share: float) -> str:
    whole = round(100 * share)
    if not whole:
        return "0"
    return f"{whole:+,d}" if abs(whole) < 1000 else f"{1 + share:,.0f}×"  # noqa: PLR2004, RUF001  # a multiple reads better


def plane(keys: Sequence[Key], found: Picture, width: float) -> Drawing:
    """Draw customers in two dimensions, one mark each, and the number of each segment at its middle."""
    height = min(width * 0.72, 480.0)
    drawing = Drawing(width, height)
    left, right, top, bottom = 10.0, width - 10, 10.0, height - 24
    low, high = found.points.min(axis=0), found.points.max(axis=0)
    pad = np.maximum((high - low) * 0.03, 1e-9)
    x, y = Scale(low[0] - pad[0], high[0] + pad[0], left, right), Scale(low[1] - pad[1], high[1] + pad[1], bottom, top)
    drawing.add(Rect(left, top, right - left, bottom - top, "panel", 4))
    size = 5.0 if width < NARROW_BELOW else 6.0
    for n, key in enumerate(keys):
        points = [(x(float(a)), y(float(b))) for a, b in found.points[found.place == n]]
        if points:
            drawing.add(Marks(points, key.shape, key.color, size, 0.75, key.label))
    for n, key in enumerate(keys):
        if not np.isfinite(found.centres[n]).all():
            continue
        at = x(float(found.centres[n, 0])), y(float(found.centres[n, 1]))
        wide = text_width(key.number, 14) + 24
        drawing.add(
            Rect(at[0] - wide / 2, at[1] - 12, wide, 24, "paper", 6, key.label),
            Marks([(at[0] - wide / 2 + 10, at[1])], key.shape, key.color, 9),
        )
        drawing.add(Text(at[0] + 7, at[1] + 5, key.number, size=14, anchor="middle", bold=True))
    drawing.add(Text(right, height - 6, f"main direction ({percent(found.explained[0])} of the differences) →", "muted", SMALL, "end"))
    drawing.add(Text(left + 8, top + 18, f"↑ second ({percent(found.explained[1])})", "muted", SMALL))
    return drawing


def silhouettes(keys: Sequence[Key], found: Silhouette, width: float) -> Drawing:
    """Draw each segment's silhouettes from the greatest to the least, one segment below the other."""
    drawing = Drawing(width)
    low = min(min((float(p.min()) for p in found.profiles if len(p)), default=0.0), 0.0) - 0.05
    x = Scale(low, 1.0, 4, width - 8)
    row = 54.0
    bottom = 6 + row * len(keys)
    across(drawing, x, ticks(low, 1.0, 6), lambda v: f"{v:g}", 4, bottom)
    drawing.add(Line([(x(0), 4), (x(0), bottom)], "muted", 1.5))
    for n, (key, some) in enumerate(zip(keys, found.profiles, strict=True)):
        y0 = 6.0 + n * row
        if len(some):
            steps = np.linspace(y0 + 19, y0 + row - 4, len(some) + 1)
            edge = [(x(float(v)), float(y)) for i, v in enumerate(some) for y in (steps[i], steps[i + 1])]
            told = f"{key.label}: mean {found.mean[n]:.2f}, {percent(float(found.negative[n]))} below 0"
            drawing.add(Area([("M", [(x(0), y0 + 19)]), ("L", [*edge, (x(0), y0 + row - 4)])], key.color, title=told))
        mean = f"{found.mean[n]:.2f}" if len(some) else "none in the sample"
        label = shortened(f"{mean}  {key.label}", (width - 18) / BOLD)
        drawing.add(Rect(0, y0, text_width(label) * BOLD + 24, 17, "paper"))
        keyed(drawing, key, 6, y0 + 13)
        drawing.add(Text(18, y0 + 13, label, bold=True))
        if math.isfinite(found.mean[n]):
            at = x(float(found.mean[n]))
            drawing.add(Line([(at, y0 + 17), (at, y0 + row - 3)], "ink", 2.5, title=f"mean {mean}"))
    drawing.height = bottom + 24
    return drawing


def flows(before: Sequence[Key], after: Sequence[Key], moved: Migration, heads: tuple[str, str], width: float) -> Drawing:
    """Draw who went where as ribbons from left to right (a Sankey diagram); ribbons have the colour of where they come from."""
    narrow = width < NARROW_BELOW
    counts = moved.customers
    total = max(int(counts.sum()), 1)
    label, node, top = (52.0 if narrow else 200.0), 12.0, 34.0
    lines = 0 if narrow else 2 if max(len(before), len(after)) <= 10 else 1  # noqa: PLR2004  # what there is room for
    shown = max(sum(counts.sum(axis=1) > 0), sum(counts.sum(axis=0) > 0))
    gap = min(12.0, SANKEY_HEIGHT * 0.3 / max(shown, 1))
    unit = (SANKEY_HEIGHT - gap * (shown - 1)) / total
    drawing = Drawing(width, SANKEY_HEIGHT + top + 8)
    left, right = label, width - label
    sides = []
    for n, (keys, sums, x) in enumerate(((before, counts.sum(axis=1), left), (after, counts.sum(axis=0), right - node))):
        y, tops, beside = top, [], -8.0 if n == 0 else node + 8
        labels = []
        for key, members in zip(keys, sums.tolist(), strict=True):
            tops.append(y)
            if members:
                drawing.add(Rect(x, y, node, max(members * unit, 1.0), key.color, 0, f"{key.label}: {members:,}"))
                labels.append((key, members, y + members * unit / 2))
                y += members * unit + gap
        for (key, members, _), at in zip(
            labels,
            spaced([middle - 6 * lines for _, _, middle in labels], 14 + 15 * lines, top + 8, top + SANKEY_HEIGHT - 13 * lines),
            strict=True,
        ):
            _node_label(drawing, key, members, (x + beside, at), "end" if n == 0 else "start", label, lines)
        sides.append(tops)
        drawing.add(Text(0 if n == 0 else width, 16, heads[n], "muted", SIZE, "start" if n == 0 else "end", bold=True))
    out, into = list(sides[0]), list(sides[1])
    middle = (left + node + right - node) / 2
    for i, source in enumerate(before):
        for j, target in enumerate(after):
            n = int(counts[i, j])
            if not n:
                continue
            thick = max(n * unit, LEAST_RIBBON)
            a, b, c = (left + node, out[i]), (right - node, into[j]), n * unit
            out[i] += c
            into[j] += c
            told = f"{n:,} customers from {source.label} to {target.label}"
            steps = [
                ("M", [a]),
                ("C", [(middle, a[1]), (middle, b[1]), b]),
                ("L", [(b[0], b[1] + thick)]),
                ("C", [(middle, b[1] + thick), (middle, a[1] + thick), (a[0], a[1] + thick)]),
            ]
            stays = source.number == target.number if source.number else source.label == target.label
            drawing.add(Area(steps, source.color, 0.28 if stays else 0.6, told))  # type: ignore[arg-type]  # letters are as they should be
    return drawing


def _node_label(drawing: Drawing, key: Key, members: int, near: Point, anchor: Anchor, room: float, lines: int) -> None:
    """Label a node beside it: with its number alone where there are no `lines` for its name."""
    x, y = near
    out = -1 if anchor == "end" else 1
    if not lines:
        text = key.number or ("new" if key.name == "too little known" else shortened(key.name, room - 24, SMALL))
        drawing.add(Marks([(x + 4 * out, y)], key.shape, key.color, 8), Text(x + 12 * out, y + 4, text, size=SMALL, anchor=anchor))
        return
    head = f"{key.number}: {members:,} customers" if key.number else f"{members:,} customers"
    drawing.add(Marks([(x + 4 * out, y - 4)], key.shape, key.color, 8))
    drawing.add(Text(x + 14 * out, y, head, size=SMALL + 1, anchor=anchor, bold=True))
    for n, line in enumerate(wrapped(key.name, room - 24, SMALL, lines)):
        drawing.add(Text(x + 14 * out, y + 13 * (n + 1), line, "muted", SMALL, anchor))
