"""Names of segments in plain words, from what sets each apart.

Laws: a name says what is true of the segment. It stays while it is true, so that names don't change from night to night. What a person has
named keeps that name: a name that is not made of the words below was given by a person.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamer.core.declaration import Kind, Tiling
from streamer.core.model import LABEL_FEATURES, LABEL_Z_MIN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamer.core.columns import F64
    from streamer.core.declaration import Declaration, Feature

STILL_Z_MIN = 0.2  # what a name says is true while its features are at least so far from the average
AVERAGE = "average"
AVERAGE_Z_MAX = 0.6
DERIVED = 0.75  # how telling a ratio or a mean is
NOTHING_MAX = 0.05  # of a count or a sum of minor units
_WINDOW = re.compile(r"(.+)_(\d+)([dh])")
_NUMBERED = re.compile(r"(.+) \(\d+\)")


@dataclass(frozen=True, slots=True)
class Words:
    """How a feature is spoken of where a segment has much, little or nothing of it.

    `about` is what it tells of, whatever the window. `telling` weighs it against the others: a ratio of nothing to nothing says less than
    that there is nothing.
    """

    much: str
    little: str
    about: str
    nothing: str = ""
    telling: float = 1.0


def words_of(declaration: Declaration) -> tuple[Words, ...]:
    """Word every feature of a declaration, by what it computes."""
    return tuple(_worded(declaration, feature) for feature in declaration.features)


def plain_words(names: Sequence[str]) -> tuple[Words, ...]:
    """Word features of which only the names are known."""
    return tuple(Words(f"high {name.replace('_', ' ')}", f"low {name.replace('_', ' ')}", name) for name in names)


def _worded(declaration: Declaration, feature: Feature) -> Words:
    match = _WINDOW.fullmatch(feature.name)
    stem = (match[1] if match else feature.name).replace("_", " ")
    unit = {"d": "day", "h": "hour"}[match[3]] if match else ""
    within = f" in {match[2]} {unit}{'' if match[2] == '1' else 's'}" if match else ""
    counts = {m.name for m in declaration.tiles if m.tiling is Tiling.SUM and m.source is None}
    if feature.kind is Kind.RECENCY:
        what = stem.removeprefix("days since ")
        return Words(f"long since {what}", f"recent {what}", stem)
    if feature.kind is Kind.MEAN_GAP:
        what = stem.removeprefix("days between ")
        return Words(f"long gaps between {what}", f"short gaps between {what}", stem, telling=DERIVED)
    if feature.kind in (Kind.ACTIVE_DAYS, Kind.DISTINCT) or (feature.kind is Kind.WINDOW and feature.measures[0] in counts):
        about = feature.measures[0] if feature.measures else stem
        return Words(f"many {stem}{within}", f"few {stem}{within}", about, f"no {stem}{within}")
    if feature.kind is Kind.WINDOW:
        return Words(f"high {stem}{within}", f"low {stem}{within}", feature.measures[0], f"no {stem}{within}")
    telling = DERIVED if feature.kind is Kind.RATIO else 1.0
    return Words(f"high {stem}{within}", f"low {stem}{within}", feature.name, telling=telling)


def name(words: Sequence[Words], centroid: F64, usual: F64 | None = None, *, most: int = LABEL_FEATURES) -> str:
    """Name a segment after up to `most` features in which it differs most from the average customer, each about something else.

    Of nothing it is said once: who bought nothing spent nothing. `usual` (f,) are the features' usual values there, in their own units,
    where they are known.
    """
    said: dict[str, str] = {}
    none_said = False
    weight = np.array([word.telling for word in words])
    for f in np.argsort(-np.abs(centroid) * weight, kind="stable").tolist():
        if len(said) == most:
            break
        if abs(centroid[f]) < LABEL_Z_MIN:
            continue
        word = words[f]
        nothing = word.nothing if usual is not None and centroid[f] < 0 and abs(usual[f]) < NOTHING_MAX else ""
        if nothing and none_said:
            continue
        none_said = none_said or bool(nothing)
        said.setdefault(word.about, word.much if centroid[f] > 0 else nothing or word.little)
    return ", ".join(said.values()) or AVERAGE


def said_by(words: Sequence[Words], names: Sequence[str], text: str) -> list[tuple[int, int]] | None:
    """Read a name back: which features it speaks of, and whether of much (1) or little (-1); None where a person gave it.

    The stream's first model names features by the words `high` and `low` alone, so these are read too.
    """
    match = _NUMBERED.fullmatch(text)
    plain = match[1] if match else text
    if plain == AVERAGE:
        return []
    known: dict[str, tuple[int, int]] = {}
    for f, (word, feature) in enumerate(zip(words, names, strict=True)):
        spaced = feature.replace("_", " ")
        known |= dict.fromkeys((word.much, f"high {spaced}"), (f, 1)) | dict.fromkeys((word.little, word.nothing, f"low {spaced}"), (f, -1))
    phrases = plain.split(", ")
    return [known[phrase] for phrase in phrases] if all(phrase in known for phrase in phrases) else None


def still_true(said: Sequence[tuple[int, int]], centroid: F64) -> bool:
    """Tell whether what a name says of a segment is still so."""
    if not said:
        return float(np.abs(centroid).max(initial=0.0)) < AVERAGE_Z_MAX
    return all(centroid[f] * sign >= STILL_Z_MIN for f, sign in said)


def named(
    words: Sequence[Words],
    features: Sequence[str],
    centroids: Mapping[int, F64],
    before: Mapping[int, str],
    given: Mapping[int, str] | None = None,
    usual: Mapping[int, F64] | None = None,
) -> dict[int, str]:
    """Name segments by their numbers: what is `given` first, then what was so `before` and still is, then by what sets each apart.

    No two get the same name: where two would, a third feature tells them apart, or else their numbers.
    """
    found = dict(given or {})
    for number, centroid in centroids.items():
        if number in found or number not in before:
            continue
        said = said_by(words, features, before[number])
        if said is None or still_true(said, centroid):
            found[number] = before[number]
    values = usual or {}
    fresh = {number: name(words, centroid, values.get(number)) for number, centroid in centroids.items() if number not in found}
    for number in [n for n, text in fresh.items() if [*fresh.values(), *found.values()].count(text) > 1]:
        fresh[number] = name(words, centroids[number], values.get(number), most=LABEL_FEATURES + 1)
    taken = [*fresh.values(), *found.values()]
    found |= {number: text if taken.count(text) == 1 else f"{text} ({number})" for number, text in fresh.items()}
    return {number: found[number] for number in centroids}
