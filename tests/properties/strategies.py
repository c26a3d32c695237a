"""Hypothesis strategies: declarations, event logs made to hurt them, and instants to evaluate at.

The law of the logs: a repeated event id comes only while its first is remembered, by the declaration's `duplicates`, so that an independent
program may drop repetitions without regard to memory. All else is allowed: any order, late events, refused events, ids shared by customers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from tests import oracle
from tests.oracle import BEGIN_MS, DAY_MS, END_MS, HOUR_MS, WHOLE_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Row = dict[str, Any]

TYPES = ("view", "purchase", "add_to_cart", "search", "käufe")
TYPES_NOT_DECLARED = ("other", "any", "View", "view ", "views")
ID_PATTERNS = ("e{}", "e{} ", "\0{}", "é{}", "{:0>128}")
CUSTOMERS = ("a", "a\0", "b", "é", "A", "c" * 256)
PROPERTIES = ("fee", "unit_price")
ANCHOR_MS = 1_709_251_200_000  # 2024-03-01 00:00 UTC
JITTERS_MS = (-1, 0, 1, HOUR_MS - 1, HOUR_MS, 12 * HOUR_MS, DAY_MS - 1)
NUMBERS = (
    "0",
    "-0",
    "1",
    "-1",
    "0.5",
    "1.5",
    "2.5",
    "-0.5",
    "0.005",
    "0.015",
    "12.345",
    "-12.355",
    "1e3",
    "25e-1",
    "1e+2",
    "1E2",
    "25E-1",
    "007",
    "999999.5",
)
NO_NUMBERS = (
    "",
    " 1",
    "1 ",
    "+1",
    ".5",
    "5.",
    "1e",
    "NaN",
    "inf",
    "-Infinity",
    "1,5",
    "0x1",
    "free",
    "1e13",
    "-1000000000001",
    "1e99999999999",
)
FEATURES_MAX = 8
EVENTS_MAX = 40


# Declarations


@st.composite
def declarations(draw: st.DrawFn, *, mixed_gaps: bool = False) -> Row:
    """Valid declarations as read from YAML: every kind of measure and feature, and no measure without a use.

    Args:
        draw: given by Hypothesis.
        mixed_gaps: whether the three measures of a mean gap may be of different types.
    """
    measures: dict[str, Row] = {"events": {"lifetime_count": "any"}}
    features: dict[str, Row] = {}
    for kind in draw(st.lists(st.sampled_from(_FEATURE_KINDS), min_size=1, max_size=FEATURES_MAX)):
        features[f"{kind}_{len(features)}"] = draw(_features(kind, measures, mixed_gaps=mixed_gaps))
    counts = [name for name, measure in measures.items() if "lifetime_count" in measure]
    return {
        "money": {"currency": draw(st.sampled_from(["EUR", "GBP", "JPY"])), "others": draw(st.sampled_from(["refuse", "ignore"]))},
        "duplicates": {"ids_max": draw(st.sampled_from([16, 32, 64])), "age": draw(st.sampled_from(["1d", "7d", "90d"]))},
        "measures": measures,
        "features": features,
        "eligibility": draw(st.dictionaries(st.sampled_from(counts), st.integers(1, 4), min_size=1, max_size=2)),
    }


_FEATURE_KINDS = ("sum", "min", "max", "ratio", "recency", "active_days", "mean_gap", "distinct", "lifetime")
_CAPS = ("1h", "36h", "1d", "30d", "90d", "730d")
_DEFAULTS = (0, -1, 0.5, 1e-3, 1000.25)


@st.composite
def _features(draw: st.DrawFn, kind: str, measures: dict[str, Row], *, mixed_gaps: bool) -> Row:
    """A feature of the kind; the measures that it needs are found in `measures` or added to them."""
    feature: Row = {}
    if kind == "sum":
        feature = {kind: draw(_measures(measures, ("count", "sum"))), "window": draw(windows())}
    elif kind in {"min", "max"}:
        feature = {kind: draw(_measures(measures, (kind,))), "window": draw(windows()), **draw(_default())}
    elif kind == "ratio":
        pair = [draw(_measures(measures, ("count", "sum"))) for _ in range(2)]
        feature = {kind: pair, "window": draw(windows()), **draw(_smoothing()), **draw(_default())}
    elif kind == "recency":
        feature = {kind: draw(_measures(measures, ("first", "last"))), "cap": draw(st.sampled_from(_CAPS))}
    elif kind == "active_days":
        feature = {kind: draw(windows(hours=False))}
    elif kind == "mean_gap":
        types = draw(_types())
        named = [draw(_types()) if mixed_gaps else types for _ in range(3)]
        trio = [_added(measures, {how: of}) for how, of in zip(("first", "last", "lifetime_count"), named, strict=True)]
        feature = {kind: trio, "cap": draw(st.sampled_from(_CAPS))}
    elif kind == "distinct":
        feature = {kind: draw(_measures(measures, (kind,))), "window": draw(windows(hours=False))}
    else:
        feature = {kind: draw(_measures(measures, ("lifetime_count", "lifetime_sum")))}
    return feature | draw(st.sampled_from([{}, {"transform": "none"}, {"transform": "log1p"}]))


@st.composite
def _measures(draw: st.DrawFn, measures: dict[str, Row], kinds: Sequence[str]) -> str:
    """The name of a measure of one of the kinds: one that is there, or a new one."""
    there = [name for name, measure in measures.items() if any(kind in measure for kind in kinds)]
    if len(there) > 0 and draw(st.booleans()):
        return draw(st.sampled_from(there))
    kind = draw(st.sampled_from(kinds))
    if kind in {"count", "first", "last", "lifetime_count"}:
        return _added(measures, {kind: draw(_types())})
    properties = st.sampled_from([f"properties.{name}" for name in PROPERTIES])
    fields = ["category", "product_id", "session_id", "event_type"] if kind == "distinct" else ["amount", "quantity"]
    source = draw(st.sampled_from(fields) | properties)
    measure: Row = {kind: source}
    if kind != "distinct" and source.startswith("properties."):
        measure["decimals"] = draw(st.integers(0, 4))
    if draw(st.booleans()):
        measure["of"] = draw(_types())
    return _added(measures, measure)


def _added(measures: dict[str, Row], measure: Row) -> str:
    """The name of the measure, which joins the others unless it is there already."""
    for name, other in measures.items():
        if other == measure:
            return name
    name = f"{next(iter(measure))}_{len(measures)}"
    measures[name] = measure
    return name


def _types() -> st.SearchStrategy[Any]:
    one = st.sampled_from(TYPES)
    return one | st.lists(one, min_size=1, max_size=3, unique=True) | st.just("any")


def windows(*, hours: bool = True) -> st.SearchStrategy[str]:
    """Windows such as `30d` and, unless told otherwise, `24h`; the shortest and the longest ones often."""
    days = st.builds("{}d".format, st.sampled_from([1, 2, 7, 30, 90, 730]) | st.integers(1, 730))
    return days | st.builds("{}h".format, st.sampled_from([1, 2, 24, 47, 48]) | st.integers(1, 48)) if hours else days


def _default() -> st.SearchStrategy[Row]:
    return st.just({}) | st.builds(lambda default: {"default": default}, st.sampled_from(_DEFAULTS))


def _smoothing() -> st.SearchStrategy[Row]:
    prior, weight = st.sampled_from([0, 0.03, 0.1, 1 / 3, 2]), st.sampled_from([0.5, 3, 10, 1000])
    return st.just({}) | st.builds(lambda p, w: {"prior": p, "weight": w}, prior, weight)


# Events


@st.composite
def events(draw: st.DrawFn, declaration: Mapping[str, Any], *, events_max: int = EVENTS_MAX, refusable: bool = True) -> list[Row]:
    """Logs of events as rows with all fields of BehaviourEvent, in log order; `tests.oracle.frame` makes a DataFrame of them.

    Args:
        draw: given by Hypothesis.
        declaration: times lie about the edges of its windows, counted back from a midnight.
        events_max: the most events before repetitions; never more than ids are remembered.
        refusable: whether some events are to be refused, and whether some lie at the very ends of the range of times.
    """
    duplicates = declaration["duplicates"]
    times = _times(declaration)
    rows = draw(st.lists(_rows(declaration, times, refusable=refusable), max_size=min(events_max, duplicates["ids_max"])))
    seen: dict[str, int] = {}
    for row in rows:
        number = seen.setdefault(row["customer_id"], 0)
        row["event_id"] = row["event_id"].format(number)  # customers share ids
        seen[row["customer_id"]] += 1
    latest_ms = max((row["occurred_at"] for row in rows if BEGIN_MS <= row["occurred_at"] < END_MS), default=0)
    remembered = [row for row in rows if row["occurred_at"] >= latest_ms - oracle.duration_ms(duplicates["age"])]
    for original in draw(st.lists(st.sampled_from(remembered), max_size=6)) if remembered else []:
        copy = dict(original)
        if draw(st.booleans()):
            other = draw(_rows(declaration, times, refusable=refusable))
            copy |= {name: other[name] for name in ("event_type", "amount", "currency", "quantity", "category", "properties")}
        rows.insert(draw(st.integers(0, len(rows))), copy)
    return rows


@st.composite
def instants(draw: st.DrawFn, rows: Iterable[Mapping[str, Any]], declaration: Mapping[str, Any]) -> dict[str, int]:
    """An instant to evaluate at for each customer who has an event that counts: at their latest event or after it, often at an edge."""
    kept = oracle.counted(oracle.frame(rows), declaration)
    latest: dict[str, int] = {}
    for name, t in zip(kept["customer_id"], kept["occurred_at"], strict=True):
        latest[name] = max(int(t), latest.get(name, 0))
    return {name: draw(_instants_from(latest[name], declaration)) for name in sorted(latest)}


@st.composite
def _instants_from(draw: st.DrawFn, t: int, declaration: Mapping[str, Any]) -> int:
    midnight, hour = (t // DAY_MS + 1) * DAY_MS, (t // HOUR_MS + 1) * HOUR_MS
    near = st.sampled_from([t, t + 1, hour - 1, hour, midnight - 1, midnight, midnight + 12 * HOUR_MS])
    return draw(
        near | st.builds(lambda span_ms, jitter_ms: max(t, t + span_ms + jitter_ms), _spans(declaration), st.sampled_from(JITTERS_MS))
    )


def _spans(declaration: Mapping[str, Any]) -> st.SearchStrategy[int]:
    """Spans of time, in milliseconds, that are one tile about a window's or a cap's length, or none."""
    spans = {0, HOUR_MS, DAY_MS}
    for feature in declaration["features"].values():
        for text in (feature.get(key) for key in ("window", "cap", "active_days")):
            if text is not None:
                tile_ms = DAY_MS if text.endswith("d") else HOUR_MS
                spans |= {oracle.duration_ms(text) + tiles * tile_ms for tiles in (-1, 0, 1)}
    return st.sampled_from(sorted(spans))


def _times(declaration: Mapping[str, Any]) -> st.SearchStrategy[int]:
    jitter = st.sampled_from(JITTERS_MS) | st.integers(-DAY_MS, DAY_MS)
    return st.builds(lambda span_ms, jitter_ms: ANCHOR_MS - span_ms + jitter_ms, _spans(declaration), jitter)


_FAULTS: Mapping[str, Sequence[object]] = {
    "event_id": ("", "e" * 129, "é" * 65),
    "customer_id": ("", "c" * 257, "x" * 10_000),
    "event_type": ("", "$", "$nonsense", "t" * 65),
    "occurred_at": (BEGIN_MS - 1, BEGIN_MS, END_MS - 1, END_MS, 0, -1, -(2**63), 2**63 - 1),
    "amount": (WHOLE_MAX + 1, -WHOLE_MAX - 1, 2**63 - 1, -(2**63)),
    "quantity": (WHOLE_MAX + 1, -WHOLE_MAX - 1, 2**63 - 1, -(2**63)),
    "currency": ("USD", "eur", ""),
    "properties": tuple({name: text} for name in PROPERTIES for text in NO_NUMBERS),
}


@st.composite
def _rows(draw: st.DrawFn, declaration: Mapping[str, Any], times: st.SearchStrategy[int], *, refusable: bool) -> Row:
    """One event, with a pattern for an id that is still to be given; one in eight has a field to stumble over, if that is wanted."""
    whole = st.none() | st.integers(-3, 1000) | st.sampled_from([WHOLE_MAX, -WHOLE_MAX, 2**31, 0])
    text = st.none() | st.sampled_from(["", "a", "abc", "käse", "a\0"]) | st.text(max_size=3)
    row: Row = {
        "event_id": draw(st.sampled_from(ID_PATTERNS)),
        "customer_id": draw(st.sampled_from(CUSTOMERS)),
        "event_type": draw(st.sampled_from([*TYPES, *TYPES, *TYPES_NOT_DECLARED])),
        "occurred_at": draw(times),
        "amount": draw(whole),
        "currency": draw(st.sampled_from([None, declaration["money"]["currency"]])),
        "quantity": draw(whole),
        "product_id": draw(text),
        "category": draw(text),
        "session_id": draw(text),
        "properties": draw(st.dictionaries(st.sampled_from([*PROPERTIES, "unused"]), _numbers(), max_size=3)),
    }
    if refusable and draw(st.integers(0, 7)) == 0:
        name = draw(st.sampled_from(sorted(_FAULTS)))
        row[name] = draw(st.sampled_from(_FAULTS[name]))
    return row


def _numbers() -> st.SearchStrategy[str]:
    return st.sampled_from(NUMBERS) | st.decimals(min_value=-(10**6), max_value=10**6, places=3, allow_nan=False).map("{:f}".format)
