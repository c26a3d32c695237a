"""What is measured of a customer and which features are computed from it: the declaration, checked.

Law: two programs with equal declarations compute equal features; `Declaration.version` is a hash of all that they depend on, and a profile
of another version is never read as this one's. docs/features.md specifies every rule named here.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from enum import IntEnum
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar

from streamer.core.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Mapping

TILE_MEASURES_MAX = 48
LIFETIME_MEASURES_MAX = 32
DISTINCT_MEASURES_MAX = 8
FEATURES_MAX = 48
TYPES_MAX = 200
SOURCES_MAX = 48
TEXT_BYTES_MAX = 256  # of an event type or the name of a property
WINDOW_DAYS_MAX = 730
WINDOW_HOURS_MAX = 48
DURATION_DAYS_MAX = 36_500  # of an age or cap
IDS_MAX = 4096
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
ANY = "any"
FIELDS = ("amount", "quantity")
TEXTS = ("category", "product_id", "session_id", "event_type")
PROPERTY = "properties."
RULES = 1  # counts the editions of docs/features.md that compute other numbers from the same declaration


class Tiling(IntEnum):
    """How a tile measure joins with another of the same tile."""

    SUM = 0
    MIN = 1
    MAX = 2


class Lifetime(IntEnum):
    """How a lifetime measure joins with another."""

    FIRST = 0
    LAST = 1
    COUNT = 2
    SUM = 3


class Kind(IntEnum):
    """What a feature computes; docs/features.md gives the formula of each."""

    WINDOW = 0
    RATIO = 1
    RECENCY = 2
    ACTIVE_DAYS = 3
    MEAN_GAP = 4
    DISTINCT = 5
    LIFETIME = 6


class Transform(IntEnum):
    """What is done to a feature before it is standardised."""

    NONE = 0
    LOG1P = 1


@dataclass(frozen=True, slots=True)
class Source:
    """A whole number of an event: `amount`, `quantity`, or a property in units of 10^-decimals."""

    field: str
    decimals: int = 0


@dataclass(frozen=True, slots=True)
class TileMeasure:
    """A number summed (or its least or greatest kept) per tile; without a source, each event is 1. `of` is empty for events of any type."""

    name: str
    tiling: Tiling
    source: Source | None
    of: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LifetimeMeasure:
    """The first or last time, the count, or a sum over all of a customer's events."""

    name: str
    lifetime: Lifetime
    source: Source | None
    of: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DistinctMeasure:
    """The distinct values of a text field, as 64 buckets with the last day each was seen."""

    name: str
    field: str
    of: tuple[str, ...]


Measure = TileMeasure | LifetimeMeasure | DistinctMeasure


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature. `window` counts tiles, hours if `hourly`; `measures` names what the kind needs, in the order of docs/features.md."""

    name: str
    kind: Kind
    measures: tuple[str, ...]
    transform: Transform
    window: int = 0
    hourly: bool = False
    cap_ms: int = 0
    prior: float = 0.0
    weight: float = 0.0
    default: float = 0.0


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a declaration, and where: the path of keys from its top."""

    path: tuple[str, ...]
    reason: str


class DeclarationError(Misconfigured):
    """A declaration that can't be used, for its writer to mend; `faults` has every fault found."""

    def __init__(self, faults: tuple[Fault, ...], lines: Mapping[tuple[str, ...], int] | None = None, source: str = "declaration") -> None:
        """Word the faults, each with its line where lines are known: that of its path, or of the nearest one above it."""
        self.faults = faults
        worded = [(_line(fault.path, lines or {}), f"{'.'.join(fault.path) or 'the declaration'}: {fault.reason}") for fault in faults]
        super().__init__(
            "\n".join(f"{source}:{line}: {words}" if line else f"{source}: {words}" for line, words in sorted(worded, key=itemgetter(0)))
        )


def _line(path: tuple[str, ...], lines: Mapping[tuple[str, ...], int]) -> int:
    return next((lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in lines), 0)


@dataclass(frozen=True, slots=True)
class Declaration:
    """Measures and features, checked. Order matters: it is the order of stored measures and of the model's vector."""

    currency: str
    refuse_other_currencies: bool
    ids_max: int
    ids_age_ms: int
    tiles: tuple[TileMeasure, ...]
    lifetimes: tuple[LifetimeMeasure, ...]
    distincts: tuple[DistinctMeasure, ...]
    features: tuple[Feature, ...]
    eligibility: tuple[tuple[str, int], ...]

    @property
    def version(self) -> str:
        """Hash all of it, and the edition of the rules: 16 hexadecimal digits of a SHA-256."""
        return hashlib.sha256(json.dumps({"rules": RULES, **asdict(self)}, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def types(self) -> tuple[str, ...]:
        """Name the event types that some measure singles out, sorted."""
        measures: tuple[Measure, ...] = (*self.tiles, *self.lifetimes, *self.distincts)
        return tuple(sorted({name for measure in measures for name in measure.of}))

    @property
    def sources(self) -> tuple[Source, ...]:
        """Name the numbers that measures take from an event, without repeats."""
        measures: tuple[TileMeasure | LifetimeMeasure, ...] = (*self.tiles, *self.lifetimes)
        return tuple(dict.fromkeys(measure.source for measure in measures if measure.source is not None))

    @property
    def horizon_days(self) -> int:
        """Measure the longest window over days, in days."""
        return max((f.window for f in self.features if not f.hourly), default=0)

    @property
    def horizon_hours(self) -> int:
        """Measure the longest window over hours, in hours; 0 where there is none."""
        return max((f.window for f in self.features if f.hourly), default=0)


def declare(tree: object) -> Declaration:
    """Check a declaration as read from YAML.

    Raises:
        DeclarationError: with every fault, each named by its path.

    """
    if not isinstance(tree, dict):
        raise DeclarationError((Fault((), f"must be a mapping with the keys {', '.join(_TOP)}"),))
    return _Reader(tree).read()


_DURATION = re.compile(r"([1-9][0-9]{0,5})([dh])")
_TOP = ("money", "duplicates", "measures", "features", "eligibility")
_MEASURES = ("count", "sum", "min", "max", "distinct", "first", "last", "lifetime_count", "lifetime_sum")
_FEATURES = ("sum", "min", "max", "ratio", "recency", "active_days", "mean_gap", "distinct", "lifetime")
_SORTS: dict[type[object], tuple[str, ...]] = {  # what the one who declares calls them; of an enum, by number
    TileMeasure: ("a count, sum, min or max",),
    LifetimeMeasure: ("a first, last, lifetime_count or lifetime_sum",),
    DistinctMeasure: ("a distinct",),
    Tiling: ("a count or sum", "a min", "a max"),
    Lifetime: ("a first", "a last", "a lifetime_count", "a lifetime_sum"),
}
_LIMITS = {TileMeasure: TILE_MEASURES_MAX, LifetimeMeasure: LIFETIME_MEASURES_MAX, DistinctMeasure: DISTINCT_MEASURES_MAX}
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_CURRENCY = re.compile(r"[A-Z]{3}")
_DECIMALS_MAX = 9
_TYPE_RULE = f"a text of 1 to {TEXT_BYTES_MAX} bytes, in quotes if YAML reads something else; `any` stands alone; $ begins commands"
_NEEDS = {"sum": "window", "min": "window", "max": "window", "ratio": "window", "distinct": "window", "recency": "cap", "mean_gap": "cap"}
_OPTIONAL = {"ratio": ("prior", "weight", "default"), "min": ("default",), "max": ("default",)}
M = TypeVar("M", TileMeasure, LifetimeMeasure, DistinctMeasure)


class _Reader:
    """Reads one declaration and gathers its faults."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        self.tree = tree
        self.faults: list[Fault] = []
        self.measures: dict[str, Measure] = {}

    def read(self) -> Declaration:
        self.known(self.tree, (), _TOP)
        money = self.section("money", ("currency", "others"))
        currency, others = money.get("currency", "EUR"), money.get("others", "refuse")
        if not isinstance(currency, str) or not _CURRENCY.fullmatch(currency):
            self.fault(("money", "currency"), f"{currency!r} is not an ISO 4217 code such as EUR")
        if others not in ("refuse", "ignore"):
            self.fault(
                ("money", "others"), f"{others!r} is neither `refuse` (dead-letter the event) nor `ignore` (count it without its amount)"
            )
        duplicates = self.section("duplicates", ("ids_max", "age"))
        ids_max = self.whole(duplicates, ("duplicates", "ids_max"), 16, 0, IDS_MAX)
        age_ms = self.duration(duplicates.get("age", "1d"), ("duplicates", "age"))[0]
        for name, body in self.section("measures").items():
            measure = self.measure(str(name), body)
            if measure is not None:
                self.measures[str(name)] = measure
        features = tuple(f for name, body in self.section("features").items() if (f := self.feature(str(name), body)) is not None)
        if not features and not self.faults:
            self.fault(("features",), "declare at least one feature")
        tiles, lifetimes, distincts = self.of_class(TileMeasure), self.of_class(LifetimeMeasure), self.of_class(DistinctMeasure)
        declaration = Declaration(
            str(currency), others == "refuse", ids_max, age_ms, tiles, lifetimes, distincts, features, self.eligible()
        )
        self.few(("features",), "features", len(features), FEATURES_MAX)
        self.few(("measures",), "event types", len(declaration.types), TYPES_MAX)
        self.few(("measures",), "numbers taken from an event", len(declaration.sources), SOURCES_MAX)
        if self.faults:
            raise DeclarationError(tuple(self.faults))
        return declaration

    def few(self, path: tuple[str, ...], what: str, found: int, most: int) -> None:
        if found > most:
            self.fault(path, f"{found} {what}: at most {most}")

    def fault(self, path: tuple[str, ...], reason: str) -> None:
        self.faults.append(Fault(path, reason))

    def known(self, body: Mapping[str, Any], path: tuple[str, ...], names: tuple[str, ...]) -> None:
        for key in body:
            if key not in names:
                near = get_close_matches(str(key), names, 1)
                self.fault((*path, str(key)), f"unknown key{f'; did you mean {near[0]}?' if near else ''} (known: {', '.join(names)})")

    def section(self, name: str, keys: tuple[str, ...] = ()) -> Mapping[str, Any]:
        body = self.tree.get(name)
        if body is None:  # the key alone, as in YAML, or not there
            return {}
        if not isinstance(body, dict):
            self.fault((name,), "must be a mapping")
            return {}
        if keys:
            self.known(body, (name,), keys)
        else:
            for key in body:
                if not isinstance(key, str) or not _NAME.fullmatch(key):
                    self.fault((name, str(key)), "names are at most 64 lower-case letters, digits and underscores, a letter first")
        return body

    def of_class(self, kind: type[M]) -> tuple[M, ...]:
        found = tuple(m for m in self.measures.values() if isinstance(m, kind))
        self.few(("measures",), f"measures that are {_SORTS[kind][0]}", len(found), _LIMITS[kind])
        return found

    def whole(self, body: Mapping[str, Any], path: tuple[str, ...], default: int, least: int, most: int) -> int:
        value = body.get(path[-1], default)
        if type(value) is not int or not least <= value <= most:
            self.fault(path, f"{value!r} is not a whole number from {least} to {most}")
            return default
        return value

    def number(self, body: Mapping[str, Any], path: tuple[str, ...]) -> float:
        value = body.get(path[-1], 0.0)
        if type(value) not in (int, float) or not abs(value) < 1e15:
            self.fault(path, f"{value!r} is not a number such as 0.5")
            return 0.0
        return float(value)

    def duration(self, value: object, path: tuple[str, ...]) -> tuple[int, bool]:
        """Return milliseconds, and whether it was given in hours."""
        match = _DURATION.fullmatch(str(value))
        span_ms = int(match[1]) * (HOUR_MS if match[2] == "h" else DAY_MS) if match else 0
        if not match or span_ms > DURATION_DAYS_MAX * DAY_MS:
            self.fault(path, f"{value!r} is not a duration such as 30d or 6h, from 1h to {DURATION_DAYS_MAX}d")
            return DAY_MS, False
        return span_ms, match[2] == "h"

    def one_of(self, body: object, path: tuple[str, ...], names: tuple[str, ...], extra: tuple[str, ...]) -> str | None:
        """Find which one of `names` a measure or feature is; fault it if it is none, several, or has other keys."""
        if not isinstance(body, dict):
            self.fault(path, f"must be a mapping such as {{{names[0]}: ...}}")
            return None
        self.known(body, path, (*names, *extra))
        chosen = [name for name in names if name in body]
        if len(chosen) != 1:
            self.fault(path, f"must have exactly one of {', '.join(names)}, has {', '.join(chosen) or 'none'}")
            return None
        return chosen[0]

    def measure(self, name: str, body: Any) -> Measure | None:  # noqa: ANN401  # as read from YAML
        path = ("measures", name)
        kind = self.one_of(body, path, _MEASURES, ("of", "decimals"))
        if kind is None:
            return None
        value = body[kind]
        if kind in ("count", "first", "last", "lifetime_count"):
            if "of" in body or "decimals" in body:
                self.fault(path, f"`{kind}` names the event types itself: `of` and `decimals` don't go with it")
            of = self.types(value, (*path, kind))
            if kind == "count":
                return TileMeasure(name, Tiling.SUM, None, of)
            return LifetimeMeasure(name, Lifetime[kind.removeprefix("lifetime_").upper()], None, of)
        of = self.types(body.get("of", ANY), (*path, "of"))
        self.field(value, (*path, kind), TEXTS if kind == "distinct" else FIELDS)
        if kind == "distinct":
            if "decimals" in body:
                self.fault((*path, "decimals"), "distinct values are texts: `decimals` is for sums")
            return DistinctMeasure(name, str(value), of)
        decimals = self.whole(body, (*path, "decimals"), 0, 0, _DECIMALS_MAX)
        if decimals and value in FIELDS:
            self.fault((*path, "decimals"), f"{value} is a whole number already: `decimals` is for properties")
        source = Source(str(value), decimals)
        if kind == "lifetime_sum":
            return LifetimeMeasure(name, Lifetime.SUM, source, of)
        return TileMeasure(name, Tiling[kind.upper()], source, of)

    def field(self, value: object, path: tuple[str, ...], names: tuple[str, ...]) -> None:
        """Check what a measure is taken from: a field, or a property by its name."""
        named = str(value).removeprefix(PROPERTY) if isinstance(value, str) and value.startswith(PROPERTY) else ""
        if value not in names and not _is_text(named):
            self.fault(path, f"{value!r} is none of {', '.join(names)}, {PROPERTY}NAME")

    def types(self, value: object, path: tuple[str, ...]) -> tuple[str, ...]:
        names = value if isinstance(value, list) else [value]
        if names == [ANY]:
            return ()
        if not names:
            self.fault(path, "name an event type, a list of them, or `any`")
        for name in names:
            if not _is_text(name) or str(name) == ANY or str(name).startswith("$"):
                self.fault(path, f"{name!r} is not an event type: {_TYPE_RULE}")
        return tuple(sorted({str(name) for name in names}))

    def feature(self, name: str, body: Any) -> Feature | None:  # noqa: ANN401  # as read from YAML
        path = ("features", name)
        kind = self.one_of(body, path, _FEATURES, ("window", "cap", "prior", "weight", "default", "transform"))
        if kind is None:
            return None
        transform = body.get("transform", "none")
        if transform not in ("none", "log1p"):
            self.fault((*path, "transform"), f"{transform!r} is neither none nor log1p")
            transform = "none"
        optional = _OPTIONAL.get(kind, ())
        need = _NEEDS.get(kind)
        if need and need not in body:
            self.fault(path, f"`{kind}` needs `{need}`")
        for key in ("window", "cap", "prior", "weight", "default"):
            if key in body and key != need and key not in optional:
                self.fault((*path, key), f"does not go with `{kind}`")
        made: Feature = getattr(self, f"_{kind}")(name, path, body, Transform[transform.upper()])
        return made

    def window(self, value: object, path: tuple[str, ...]) -> tuple[int, bool]:
        """Return a window in tiles, and whether they are hours."""
        span_ms, hourly = self.duration(value, path)
        tiles, most = (span_ms // HOUR_MS, WINDOW_HOURS_MAX) if hourly else (span_ms // DAY_MS, WINDOW_DAYS_MAX)
        if tiles > most:
            self.fault(path, f"{value} is longer than {most}{'h: give it in days' if hourly else 'd'}")
        return min(tiles, most), hourly

    def refer(self, value: object, path: tuple[str, ...], *wanted: type[Measure] | Lifetime | Tiling) -> str:
        """Check that a feature's measure is there and of the sort that the feature needs."""
        measure = self.measures.get(str(value))
        if measure is None:
            if ("measures", str(value)) not in {fault.path[:2] for fault in self.faults}:
                near = get_close_matches(str(value), self.measures, 1)
                self.fault(path, f"no measure is named {value!r}{f'; did you mean {near[0]}?' if near else ''}")
        elif not any(_is(measure, want) for want in wanted):
            self.fault(path, f"measure {value!r} is not {' or '.join(_sort(want) for want in wanted)}, as this feature needs")
        return str(value)

    def refers(self, value: object, path: tuple[str, ...], *wanted: type[Measure] | Lifetime | Tiling) -> tuple[str, ...]:
        """Check a list with one measure for each of `wanted`."""
        if not isinstance(value, list) or len(value) != len(wanted):
            self.fault(path, f"must be a list of {len(wanted)} measures")
            return ()
        return tuple(self.refer(name, path, want) for name, want in zip(value, wanted, strict=True))

    def _windowed(self, name: str, path: tuple[str, ...], body: Mapping[str, Any], transform: Transform, tiling: Tiling) -> Feature:
        measure = self.refer(body[path[-1]], path, tiling)
        window, hourly = self.window(body.get("window", "1d"), (*path[:-1], "window"))
        return Feature(name, Kind.WINDOW, (measure,), transform, window, hourly, default=self.number(body, (*path[:-1], "default")))

    def _sum(self, name: str, path: tuple[str, ...], body: Mapping[str, Any], transform: Transform) -> Feature:
        return self._windowed(name, (*path, "sum"), body, transform, Tiling.SUM)

    def _min(self, name: str, path: tuple[str, ...], body: Mapping[str, Any], transform: Transform) -> Feature:
        return self._windowed(name, (*path, "min"), body, transform, Tiling.MIN)

    def _max(self, name: str, path: tuple[str, ...], body: Mapping[str, Any], transform: Transform) -> Feature:
        return self._windowed(name, (*path, "max"), body, transform, Tiling.MAX)

    def _ratio(self, name: str, path: tuple[str, ...], body: Mapping[str, Any], transform: Transform) -> Feature:
        measures = self.refers(body["ratio"], (*path, "ratio"), Tiling.SUM, Tiling.SUM)
        window, hourly = self.window(body.get("window", "1d"), (*path, "window"))
        prior, weight, default = (self.number(body, (*path, key)) for key in ("prior", "weight", "default"))
        if weight < 0:
            self.fault((*path, "weight"), "must not be negative")
        return Feature(name, Kind.RATIO, measures, transform, window, hourly, prior=prior, weight=weight, default=default)

    def _recency(self, name: str, path: tuple[str, ...], body: Mapping[str, Any], transform: Transform) -> Feature:
        measure = self.refer(body["recency"], (*path, "recency"), Lifetime.LAST, Lifetime.FIRST)
        return Feature(name, Kind.RECENCY, (measure,), transform, cap_ms=self.duration(body.get("cap", "1d"), (*path, "cap"))[0])

    def _active_days(self, name: str, path: tuple[str, ...], body: Mapping[str, Any], transform: Transform) -> Feature:
        window, hourly = self.window(body["active_days"], (*path, "active_days"))
        if hourly:
            self.fault((*path, "active_days"), "give the window in days")
        return Feature(name, Kind.ACTIVE_DAYS, (), transform, window)

    def _mean_gap(self, name: str, path: tuple[str, ...], body: Mapping[str, Any], transform: Transform) -> Feature:
        measures = self.refers(body["mean_gap"], (*path, "mean_gap"), Lifetime.FIRST, Lifetime.LAST, Lifetime.COUNT)
        cap_ms = self.duration(body.get("cap", "1d"), (*path, "cap"))[0]
        return Feature(name, Kind.MEAN_GAP, measures, transform, cap_ms=cap_ms)

    def _distinct(self, name: str, path: tuple[str, ...], body: Mapping[str, Any], transform: Transform) -> Feature:
        measure = self.refer(body["distinct"], (*path, "distinct"), DistinctMeasure)
        window, hourly = self.window(body.get("window", "1d"), (*path, "window"))
        if hourly:
            self.fault((*path, "window"), "distinct values are kept by the day: give the window in days")
        return Feature(name, Kind.DISTINCT, (measure,), transform, window)

    def _lifetime(self, name: str, path: tuple[str, ...], body: Mapping[str, Any], transform: Transform) -> Feature:
        return Feature(name, Kind.LIFETIME, (self.refer(body["lifetime"], (*path, "lifetime"), Lifetime.COUNT, Lifetime.SUM),), transform)

    def eligible(self) -> tuple[tuple[str, int], ...]:
        body = self.section("eligibility")
        found = []
        for name in body:
            path = ("eligibility", str(name))
            self.refer(name, path, Lifetime.COUNT)
            found.append((str(name), self.whole(body, path, 1, 1, 1_000_000)))
        return tuple(found)


def _is_text(value: object) -> bool:
    """Tell whether a value from YAML is a text that an event can hold."""
    if not isinstance(value, str):
        return False
    try:
        return 0 < len(value.encode()) <= TEXT_BYTES_MAX
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def _sort(want: type[Measure] | Lifetime | Tiling) -> str:
    return _SORTS[type(want)][want] if isinstance(want, IntEnum) else _SORTS[want][0]


def _is(measure: Measure, want: type[Measure] | Lifetime | Tiling) -> bool:
    if isinstance(want, Lifetime):
        return isinstance(measure, LifetimeMeasure) and measure.lifetime is want
    if isinstance(want, Tiling):
        return isinstance(measure, TileMeasure) and measure.tiling is want
    return isinstance(measure, want)
