"""Features, numbers and segments in plain words, and what one might do for a segment.

Law: a sentence says what the figures say and nothing more. A suggestion names the figures that it follows from; it is a beginning to be
tried out, not a finding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from offline.naming import plain_words, words_of
from streamer.core.declaration import Kind, Lifetime, Tiling

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from offline.naming import Words
    from streamer.core.columns import F64
    from streamer.core.declaration import Declaration, Feature, Measure

SYMBOLS = {"EUR": "€", "GBP": "£", "USD": "$", "JPY": "¥", "INR": "₹", "KRW": "₩", "BRL": "R$", "CHF": "CHF "}
WITHOUT_MINOR = frozenset({"BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "VND", "VUV", "XAF", "XOF", "XPF"})
OF_A_THOUSAND = frozenset({"BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"})
_WINDOW = re.compile(r"(.+)_(\d+)([dh])")
CLEAR, STRONG = 0.5, 1.0  # standard deviations
THOUSAND, MILLION = 1_000, 1_000_000


class Unit(Enum):
    """What a feature's number counts."""

    NUMBER = "number"
    MONEY = "money"
    DAYS = "days"
    SHARE = "share"


class Role(Enum):
    """What a feature tells about, as far as its declaration or name says."""

    RECENCY = "time since the last purchase"
    SILENCE = "time since the last sign of life"
    FREQUENCY = "purchases"
    MONEY = "spend"
    BASKET = "order value"
    REFUND = "refunds"
    LOOKING = "visits and searches"
    BUYING_RATE = "purchases among visits"
    VARIETY = "variety"
    GAP = "time between purchases"
    OTHER = ""


@dataclass(frozen=True, slots=True)
class Described:
    """A feature as people read of it."""

    name: str
    label: str
    unit: Unit
    role: Role


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What one might do, and what it follows from."""

    what: str
    because: str


def described(declaration: Declaration) -> tuple[tuple[Described, ...], tuple[Words, ...]]:
    """Describe the features of a declaration, and word them as names of segments do."""
    found = tuple(Described(f.name, _label(f.name), _unit(declaration, f), _role(declaration, f)) for f in declaration.features)
    return found, words_of(declaration)


def described_plainly(names: Sequence[str]) -> tuple[tuple[Described, ...], tuple[Words, ...]]:
    """Describe features of which only the names are known."""
    return tuple(Described(name, _label(name), Unit.NUMBER, _role_by_name(name)) for name in names), plain_words(names)


def _label(name: str) -> str:
    match = _WINDOW.fullmatch(name)
    if match is None:
        return name.replace("_", " ")
    unit = {"d": "day", "h": "hour"}[match[3]]
    return f"{match[1].replace('_', ' ')} in {match[2]} {unit}{'' if match[2] == '1' else 's'}"


def _unit(declaration: Declaration, feature: Feature) -> Unit:
    sources = {m.name: m.source for m in declaration.tiles} | {m.name: m.source for m in declaration.lifetimes}
    money = {name for name, source in sources.items() if source is not None and source.field == "amount"}
    counts = {m.name for m in declaration.tiles if m.tiling is Tiling.SUM and m.source is None}
    if feature.kind in (Kind.RECENCY, Kind.MEAN_GAP):
        return Unit.DAYS
    if feature.kind is Kind.RATIO:
        over, under = feature.measures
        if over in money:
            return Unit.SHARE if under in money else Unit.MONEY
        return Unit.SHARE if {over, under} <= counts else Unit.NUMBER
    return Unit.MONEY if feature.measures and feature.measures[0] in money else Unit.NUMBER


def _role(declaration: Declaration, feature: Feature) -> Role:  # noqa: PLR0911  # the first rule that holds
    measures: tuple[Measure, ...] = (*declaration.tiles, *declaration.lifetimes, *declaration.distincts)
    types = {measure.name: measure.of for measure in measures}
    times = {m.name for m in declaration.lifetimes if m.lifetime in (Lifetime.FIRST, Lifetime.LAST)}
    of = types[feature.measures[0]] if feature.measures else ()
    unit = _unit(declaration, feature)
    buys, returns = "purchase" in of, any("refund" in one or "return" in one for one in of)
    if feature.kind is Kind.RECENCY and feature.measures[0] in times:
        return Role.RECENCY if of == ("purchase",) else Role.SILENCE if not of else Role.OTHER
    if feature.kind is Kind.MEAN_GAP:
        return Role.GAP
    if feature.kind is Kind.DISTINCT:
        return Role.VARIETY
    if returns:
        return Role.REFUND
    if feature.kind is Kind.RATIO:
        under = types[feature.measures[1]]
        if buys and unit is Unit.MONEY:
            return Role.BASKET
        return Role.BUYING_RATE if buys and "purchase" not in under else Role.OTHER
    if buys:
        return Role.MONEY if unit is Unit.MONEY else Role.FREQUENCY
    return Role.LOOKING if any(word in one for one in of for word in ("view", "visit", "search", "cart", "session")) else Role.OTHER


def _role_by_name(name: str) -> Role:
    folded = name.lower()
    for words, role in (
        (("refund", "return"), Role.REFUND),
        (("recency", "days_since", "days since", "last_purchase", "last_order"), Role.RECENCY),
        (("order_value", "basket", "aov"), Role.BASKET),
        (("frequency", "orders", "purchases", "transactions"), Role.FREQUENCY),
        (("spend", "spent", "revenue", "monetary", "sales"), Role.MONEY),
        (("view", "visit", "session", "search", "click"), Role.LOOKING),
        (("categor", "variety"), Role.VARIETY),
    ):
        if any(word in folded for word in words):
            return role
    return Role.OTHER


def money(minor: float, currency: str) -> str:
    """Write an amount of minor units in its currency, without minor units from a hundred on.

    >>> money(123456, "GBP"), money(995, "EUR"), money(1200, "JPY")
    ('£1,235', '€9.95', '¥1,200')
    """
    digits = 0 if currency in WITHOUT_MINOR else 3 if currency in OF_A_THOUSAND else 2
    major = minor / 10**digits
    symbol = SYMBOLS.get(currency, f"{currency} ")
    sign = "-" if major < 0 else ""
    short = abs(major)
    if short >= 10 * MILLION:
        return f"{sign}{symbol}{short / MILLION:,.1f} million"
    return f"{sign}{symbol}{short:,.{0 if short >= 100 or not short else digits}f}"  # noqa: PLR2004  # see above


def number(value: float) -> str:
    """Write a number as short as people need it."""
    size = abs(value)
    if size >= 10 * MILLION:
        return f"{value / MILLION:,.1f} million"
    if size >= 100 or value == round(value):  # noqa: PLR2004  # three digits are enough
        return f"{value:,.0f}"
    text = f"{value:.1f}" if size >= 1 else f"{value:.2f}"
    return "0" if float(text) == 0 else text


def percent(share: float) -> str:
    """Write a share, with a digit after the point where it is small."""
    size = abs(share)
    if 0 < size < 0.001:  # noqa: PLR2004  # a tenth of a percent
        return "under 0.1\N{NO-BREAK SPACE}%"
    digits = 1 if size < 0.1 and round(share, 2) != share else 0  # noqa: PLR2004
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def value(one: Described, amount: float, currency: str) -> str:
    """Write a feature's value in its unit; a dash for one that nobody has."""
    if not np.isfinite(amount):
        return "–"  # noqa: RUF001  # a dash
    match one.unit:
        case Unit.MONEY:
            return money(amount, currency)
        case Unit.DAYS:
            text = number(amount)
            return f"{text} day" if text == "1" else f"{text} days"
        case Unit.SHARE:
            return percent(amount)
        case _:
            return number(amount)


def list_of(words: Sequence[str]) -> str:
    """Join words as a sentence does.

    >>> list_of(["a", "b", "c"])
    'a, b and c'
    """
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def traits(words: Sequence[Words], z: F64, most: int = 3) -> list[int]:
    """Choose the features (f,) that a segment is told by: clearly off the average, each about something else, the farthest first."""
    chosen: dict[str, int] = {}
    weight = np.array([word.telling for word in words])
    for f in np.argsort(-np.abs(z) * weight, kind="stable").tolist():
        if abs(z[f]) >= CLEAR and len(chosen) < most:
            chosen.setdefault(words[f].about, f)
    return list(chosen.values())


def suggestions(features: Sequence[Described], z: F64) -> list[Suggestion]:
    """Suggest what one might do for a segment of which `z` (f,) tells how far its features are from the average customer."""
    by_role: dict[Role, float] = {}
    for role in Role:
        of_role = [float(z[f]) for f, one in enumerate(features) if one.role is role]
        if of_role and role is not Role.OTHER:
            by_role[role] = sum(of_role) / len(of_role)
    found = [Suggestion(what, _because(by_role, roles)) for holds, what, roles in _rules(by_role) if holds]
    slowing = _slowing(features, z)
    if slowing is not None:
        found.insert(0, slowing)
    if found:
        return found[:2]
    return [Suggestion("No treatment of its own follows from the figures. Watch where its customers go next.", "nothing stands out enough")]


def _slowing(features: Sequence[Described], z: F64) -> Suggestion | None:
    """Notice a segment that buys little in the shortest window and not less than others in the longest."""
    by_window: dict[int, list[float]] = {}
    for f, one in enumerate(features):
        match = _WINDOW.fullmatch(one.name)
        if match is not None and one.role in (Role.FREQUENCY, Role.MONEY):
            by_window.setdefault(int(match[2]) * (24 if match[3] == "d" else 1), []).append(float(z[f]))
    if len(by_window) < 2:  # noqa: PLR2004  # two can be compared
        return None
    short, long = (sum(of) / len(of) for of in (by_window[min(by_window)], by_window[max(by_window)]))
    if short > -CLEAR or long < -CLEAR / 2:
        return None
    return Suggestion(
        "They bought, but not lately: remind them before the habit is lost, with what they bought before.",
        f"purchases in the shortest window {_degree(short)}, in the longest not",
    )


def _rules(z: Mapping[Role, float]) -> list[tuple[bool, str, tuple[Role, ...]]]:
    """List what may be suggested: whether it follows, what, and from which roles. The first that hold are told."""

    def of(role: Role) -> float:
        return z.get(role, 0.0)

    recency, often, money_, basket = of(Role.RECENCY), of(Role.FREQUENCY), of(Role.MONEY), of(Role.BASKET)
    looking, refund, silence = of(Role.LOOKING), of(Role.REFUND), of(Role.SILENCE)
    gone = max(recency, silence)
    buys = max(often, money_)
    return [
        (
            refund >= CLEAR,
            "Find out why goods come back (size, description, damage) before spending on promotion here.",
            (Role.REFUND,),
        ),
        (
            buys >= CLEAR and recency <= -CLEAR / 2,
            "Keep them: thank them, serve them first, ask them what they miss. They come without a discount.",
            (Role.FREQUENCY, Role.MONEY, Role.RECENCY),
        ),
        (
            buys >= CLEAR and recency > -CLEAR / 2,
            "They were worth much and have become quieter: ask what changed, and offer a reason to come back soon.",
            (Role.MONEY, Role.FREQUENCY, Role.RECENCY),
        ),
        (
            looking >= CLEAR and buys < CLEAR,
            "They look and rarely buy: help them decide, with comparisons, reviews, or a reminder of what they looked at.",
            (Role.LOOKING, Role.FREQUENCY),
        ),
        (
            gone >= CLEAR and buys <= 0,
            "Try to win some back with a message that gives a reason, and keep a group without it to see whether it works.",
            (Role.RECENCY, Role.SILENCE, Role.MONEY),
        ),
        (
            basket >= CLEAR and often < CLEAR,
            "Large orders, but few: suggest the next order at the time at which it usually comes.",
            (Role.BASKET, Role.FREQUENCY),
        ),
        (
            basket <= -CLEAR and often > -CLEAR / 2,
            "Small orders: sets, or free delivery above a sum, may make each order larger.",
            (Role.BASKET,),
        ),
        (
            gone <= -CLEAR / 2 and buys < CLEAR,
            "They were here recently and have not bought much yet: a good first experience and a hint at a second order come first.",
            (Role.RECENCY, Role.SILENCE, Role.FREQUENCY),
        ),
        (
            of(Role.VARIETY) <= -CLEAR and often > -CLEAR,
            "They know little of the range: show them what others like them buy besides.",
            (Role.VARIETY,),
        ),
        (
            buys <= -CLEAR,
            "Little is bought here: spend little on them, and let the next visit tell more.",
            (Role.FREQUENCY, Role.MONEY),
        ),
    ]


def _because(z: Mapping[Role, float], roles: Sequence[Role]) -> str:
    told = [f"{role.value} {_degree(z[role])}" for role in roles if role in z and abs(z[role]) >= CLEAR / 2]
    return list_of(told)


def _degree(z: float) -> str:
    side = "above" if z > 0 else "below"
    return f"{'far ' if abs(z) >= STRONG else ''}{side} average"
