"""A drawing of a few kinds of marks, and how it becomes SVG.

Law: marks name colours by what they mean, never by a value, so that one drawing serves a light page and a dark one. Texts are escaped here
and nowhere else.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Literal

from offline.report.palette import LIGHT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SHAPES = ("circle", "square", "triangle", "diamond", "inverted", "cross", "pentagon", "star")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
SIZE = 12.0
BOLD = 1.12  # how much wider bold letters are
NARROW, WIDE_LETTERS = "fijlrtI.,:;|'!()[] ", "mwMWOQGD%@&"

Anchor = Literal["start", "middle", "end"]
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Rect:
    """A rectangle; `title` is what it says when one points at it."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    radius: float = 0.0
    title: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points."""

    points: Sequence[Point]
    stroke: str
    width: float = 1.0
    dash: bool = False
    title: str = ""


@dataclass(frozen=True, slots=True)
class Area:
    """A closed outline: moves and curves as SVG's path has them, each a letter with its points."""

    steps: Sequence[tuple[Literal["M", "L", "C"], Sequence[Point]]]
    fill: str
    opacity: float = 1.0
    title: str = ""


@dataclass(frozen=True, slots=True)
class Marks:
    """Many marks of one shape and colour, `size` across."""

    points: Sequence[Point]
    shape: str
    fill: str
    size: float = 7.0
    opacity: float = 1.0
    title: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    """A text; `y` is its baseline."""

    x: float
    y: float
    text: str
    fill: str = "ink"
    size: float = SIZE
    anchor: Anchor = "start"
    bold: bool = False


Mark = Rect | Line | Area | Marks | Text


@dataclass(slots=True)
class Drawing:
    """Marks on a canvas of `width` by `height` units; one unit is one pixel where it is shown in its own size."""

    width: float
    height: float = 0.0
    marks: list[Mark] = field(default_factory=list)

    def add(self, *marks: Mark) -> None:
        """Put marks on top."""
        self.marks.extend(marks)


def text_width(text: str, size: float = SIZE) -> float:
    """Estimate how wide a text is, rather too wide than too narrow: fonts differ."""
    return size * sum(_letter(letter) for letter in text)


def _letter(letter: str) -> float:
    if letter in NARROW:
        return 0.36
    if letter in WIDE_LETTERS:
        return 0.86
    return 1.0 if unicodedata.east_asian_width(letter) in "WF" else 0.66 if letter.isupper() else 0.58


def shortened(text: str, width: float, size: float = SIZE) -> str:
    """Cut a text so that it fits, with an ellipsis where something is missing."""
    if text_width(text, size) <= width:
        return text
    kept = text
    while kept and text_width(f"{kept}…", size) > width:
        kept = kept[:-1]
    return f"{kept.rstrip(' ,')}…"


def wrapped(text: str, width: float, size: float = SIZE, lines_max: int = 2) -> list[str]:
    """Break a text into lines that fit, the last one shortened."""
    lines: list[str] = []
    line = ""
    words = text.split()
    for n, word in enumerate(words):
        longer = f"{line} {word}".strip()
        if line and text_width(longer, size) > width:
            if len(lines) == lines_max - 1:
                return [*lines, shortened(" ".join([line, *words[n:]]), width, size)]
            lines.append(line)
            line = word
        else:
            line = longer
    return [*lines, shortened(line, width, size)]


def svg(drawing: Drawing, alt: str, *, inline: bool, name: str = "") -> str:
    """Write a drawing as SVG. Inline, colours are classes that the page's style sheet knows; else they are the light palette's."""
    box = f'viewBox="0 0 {_n(drawing.width)} {_n(drawing.height)}"'
    body = "".join(_marks(drawing.marks, None if inline else LIGHT))
    if inline:
        return f'<svg class="{name}" role="img" aria-label="{escape(alt)}" {box} width="{_n(drawing.width)}">{body}</svg>'
    paper = f'<rect width="100%" height="100%" fill="{LIGHT["paper"]}"/>'
    size = f'width="{_n(drawing.width)}" height="{_n(drawing.height)}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(alt)}" {box} {size} font-family="{escape(FONT)}">'
    return f"{head}{paper}{body}</svg>\n"


def _marks(marks: Sequence[Mark], palette: Mapping[str, str] | None) -> Iterator[str]:
    for mark in marks:
        match mark:
            case Rect():
                corners = f' rx="{_n(mark.radius)}"' if mark.radius else ""
                place = f'x="{_n(mark.x)}" y="{_n(mark.y)}" width="{_n(max(mark.width, 0))}" height="{_n(max(mark.height, 0))}"'
                yield _titled("rect", f"{place}{corners}{_color('fill', mark.fill, palette)}", mark.title)
            case Line():
                points = " ".join(f"{_n(x)},{_n(y)}" for x, y in mark.points)
                dash = ' stroke-dasharray="4 3"' if mark.dash else ""
                how = f'{_color("stroke", mark.stroke, palette)} stroke-width="{_n(mark.width)}"{dash} fill="none" stroke-linejoin="round"'
                yield _titled("polyline", f'points="{points}"{how}', mark.title)
            case Area():
                outline = "".join(f"{letter}{' '.join(f'{_n(x)},{_n(y)}' for x, y in points)}" for letter, points in mark.steps) + "Z"
                yield _titled("path", f'd="{outline}"{_color("fill", mark.fill, palette)}{_opacity(mark.opacity)}', mark.title)
            case Marks():
                outline = "".join(_shape(mark.shape, x, y, mark.size) for x, y in mark.points)
                yield _titled("path", f'd="{outline}"{_color("fill", mark.fill, palette)}{_opacity(mark.opacity)}', mark.title)
            case Text():
                anchor = "" if mark.anchor == "start" else f' text-anchor="{mark.anchor}"'
                bold = ' font-weight="600"' if mark.bold else ""
                place = f'x="{_n(mark.x)}" y="{_n(mark.y)}" font-size="{_n(mark.size)}"{anchor}{bold}{_color("fill", mark.fill, palette)}'
                yield f"<text {place}>{escape(mark.text)}</text>"


def _titled(name: str, attributes: str, title: str) -> str:
    return f"<{name} {attributes}><title>{escape(title)}</title></{name}>" if title else f"<{name} {attributes}/>"


def _color(what: Literal["fill", "stroke"], token: str, palette: Mapping[str, str] | None) -> str:
    return f' class="{what[0]}-{token}"' if palette is None else f' {what}="{palette[token]}"'


def _opacity(opacity: float) -> str:
    return "" if opacity == 1.0 else f' opacity="{_n(opacity)}"'


def _n(value: float) -> str:
    text = f"{value:.1f}" if abs(value) >= 1 else f"{value:.2f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def outline(shape: str, size: float) -> list[Point] | None:  # noqa: PLR0911  # a table of shapes
    """Give the corners of a mark around its middle; None where it is round."""
    r = size / 2
    match shape:
        case "square":
            return [(-r * 0.9, -r * 0.9), (r * 0.9, -r * 0.9), (r * 0.9, r * 0.9), (-r * 0.9, r * 0.9)]
        case "triangle":
            return [(0, -r * 1.15), (r * 1.1, r * 0.85), (-r * 1.1, r * 0.85)]
        case "inverted":
            return [(0, r * 1.15), (r * 1.1, -r * 0.85), (-r * 1.1, -r * 0.85)]
        case "diamond":
            return [(0, -r * 1.25), (r * 1.1, 0), (0, r * 1.25), (-r * 1.1, 0)]
        case "cross":
            a, b = r * 0.38, r * 1.1
            return [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
        case "pentagon":
            return [(0, -r * 1.15), (r * 1.1, -r * 0.35), (r * 0.68, r * 0.95), (-r * 0.68, r * 0.95), (-r * 1.1, -r * 0.35)]
        case "star":
            long, short = r * 1.3, r * 0.6
            return [
                *((0, -long), (short * 0.59, -short * 0.81), (long * 0.95, -long * 0.31), (short * 0.95, short * 0.31)),
                *((long * 0.59, long * 0.81), (0, short), (-long * 0.59, long * 0.81), (-short * 0.95, short * 0.31)),
                *((-long * 0.95, -long * 0.31), (-short * 0.59, -short * 0.81)),
            ]
        case _:
            return None


def _shape(shape: str, x: float, y: float, size: float) -> str:
    corners = outline(shape, size)
    if corners is None:
        r = _n(size / 2)
        return f"M{_n(x - size / 2)} {_n(y)}a{r} {r} 0 1 0 {_n(size)} 0a{r} {r} 0 1 0 {_n(-size)} 0z"
    first, *others = corners
    steps, before = [], first
    for corner in others:
        steps.append(f"{_n(corner[0] - before[0])} {_n(corner[1] - before[1])}")
        before = corner
    return f"M{_n(x + first[0])} {_n(y + first[1])}l{' '.join(steps)}z"
