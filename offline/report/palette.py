"""Colours by what they mean, for a light page and a dark one.

Law: text keeps WCAG 2.2's contrast AA (4.5) to what it stands on, and shapes keep 3, in both modes; a test computes it. Segments are told
apart by number and shape besides, so colour is never all there is; hues were searched for the greatest least distance under normal sight,
protanopia, deuteranopia and tritanopia (Machado et al., 2009).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

SEGMENT_COLORS = 8
STEPS = 5  # of the sequential scale
SIDES = 3  # steps either side of the diverging scale's middle

LIGHT: Final[Mapping[str, str]] = {
    "paper": "#ffffff",
    "panel": "#f5f6f8",
    "ink": "#1c2128",
    "muted": "#57606a",
    "line": "#d5d9df",
    "link": "#0b57c2",
    "good": "#1a7037",
    "bad": "#b3261e",
    "s1": "#0f4fb8",
    "s2": "#c96a00",
    "s3": "#0e5a2b",
    "s4": "#8c1f6f",
    "s5": "#835dde",
    "s6": "#6b640c",
    "s7": "#3c8fa3",
    "s8": "#a3545c",
    "s0": "#757d87",
    "on-s": "#ffffff",
    "q1": "#eaf1fb",
    "q2": "#c6dbf5",
    "q3": "#8fb8e8",
    "q4": "#2f6db8",
    "q5": "#12407a",
    "on-q1": "#1c2128",
    "on-q2": "#1c2128",
    "on-q3": "#1c2128",
    "on-q4": "#ffffff",
    "on-q5": "#ffffff",
    "d-3": "#a44a00",
    "d-2": "#f0a860",
    "d-1": "#fbe3cb",
    "d0": "#f1f2f4",
    "d1": "#d5e5f7",
    "d2": "#86b2e4",
    "d3": "#12509e",
    "on-d-3": "#ffffff",
    "on-d-2": "#1c2128",
    "on-d-1": "#1c2128",
    "on-d0": "#1c2128",
    "on-d1": "#1c2128",
    "on-d2": "#1c2128",
    "on-d3": "#ffffff",
}
DARK: Final[Mapping[str, str]] = {
    "paper": "#14171c",
    "panel": "#1d2229",
    "ink": "#e8ebef",
    "muted": "#a5aeb9",
    "line": "#38404a",
    "link": "#8ab8ff",
    "good": "#6fcf8f",
    "bad": "#ff8f85",
    "s1": "#9cc9ff",
    "s2": "#e89c39",
    "s3": "#5fe3b0",
    "s4": "#b8619f",
    "s5": "#958aec",
    "s6": "#e6d65a",
    "s7": "#5bb7b7",
    "s8": "#d0694c",
    "s0": "#98a1ac",
    "on-s": "#14171c",
    "q1": "#1b2836",
    "q2": "#23405f",
    "q3": "#2f5f92",
    "q4": "#7eb0e6",
    "q5": "#c4defa",
    "on-q1": "#e8ebef",
    "on-q2": "#e8ebef",
    "on-q3": "#ffffff",
    "on-q4": "#14171c",
    "on-q5": "#14171c",
    "d-3": "#f5a45a",
    "d-2": "#8f4f14",
    "d-1": "#4a3320",
    "d0": "#262c34",
    "d1": "#20374f",
    "d2": "#2c5f95",
    "d3": "#8fc0f7",
    "on-d-3": "#14171c",
    "on-d-2": "#ffffff",
    "on-d-1": "#e8ebef",
    "on-d0": "#e8ebef",
    "on-d1": "#e8ebef",
    "on-d2": "#ffffff",
    "on-d3": "#14171c",
}


def segment_token(place: int) -> str:
    """Name the colour of the segment at a place, from 0; -1 is that of those in no segment."""
    return "s0" if place < 0 else f"s{place % SEGMENT_COLORS + 1}"


def contrast(one: str, other: str) -> float:
    """Compute the contrast of two colours such as #1c2128, from 1 to 21, by WCAG 2.2.

    >>> round(contrast("#000000", "#ffffff"))
    21
    """
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]  # noqa: PLR2004  # of sRGB
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
