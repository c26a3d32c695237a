"""Features a second time, in plain pandas, from docs/features.md alone.

The law of this module: it imports nothing of the project, so that equal numbers are evidence. Texts are compared and grouped through
Python's own dictionaries, because some of pandas' hash tables end a text at its first NUL character.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xxhash
from numpy.typing import NDArray

HOUR_MS = 3_600_000
DAY_MS = 86_400_000
BEGIN_MS = 631_152_000_000  # 1990-01-01
END_MS = 4_102_444_800_000  # 2100-01-01
WHOLE_MAX = 10**12
WHOLE_DIGITS_MAX = 13
EXPONENT_DIGITS_MAX = 15
BUCKETS = 64
ERASE = "$erase"
DURATION_MAX_MS = 36_500 * DAY_MS
EVENTS_MAX = (2**63 - 1) // WHOLE_MAX  # so many of the greatest values still sum exactly in 64 bits
ID_BYTES_MAX = {"event_id": 128, "customer_id": 256, "event_type": 64}
COLUMNS = {
    "event_id": "object",
    "customer_id": "object",
    "event_type": "object",
    "occurred_at": "int64",
    "amount": "Int64",
    "currency": "object",
    "quantity": "Int64",
    "product_id": "object",
    "category": "object",
    "session_id": "object",
    "properties": "object",
}

Declaration = Mapping[str, Any]
Whole = NDArray[np.int64]
Mask = NDArray[np.bool_]

_UNITS_MS = {"h": HOUR_MS, "d": DAY_MS}
_NUMBER = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?)([0-9]+))?")
_ADDED = ("count", "sum")
_TIMES = ("first", "last")
_LIFETIME = ("lifetime_count", "lifetime_sum")
_OF_A_SOURCE = ("sum", "min", "max", "distinct", "lifetime_sum")
_OF_TYPES = ("count", "first", "last", "lifetime_count")


@dataclass(frozen=True, slots=True)
class Measure:
    """One declared measure; `types` is None where it is of any type, `source` where the kind has none."""

    kind: str
    source: str | None
    types: frozenset[str] | None
    decimals: int


@dataclass(frozen=True, slots=True)
class Log:
    """The events that count, with their customers by number and each customer's instant of evaluation."""

    events: pd.DataFrame
    customers: list[str]
    customer: Whole  # (events,) the row of the customer in `customers`
    t: Whole  # (events,) event time in milliseconds
    as_of: Whole  # (customers,) milliseconds
    measures: Mapping[str, Measure]


def frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Events as a DataFrame with the columns and types that the other functions take; a field that is absent is null or empty."""
    listed = list(rows)
    columns: dict[str, pd.Series[Any]] = {}
    for name, dtype in COLUMNS.items():
        values = [row.get(name) for row in listed]
        if name == "properties":
            values = [{} if value is None else dict(value) for value in values]
        columns[name] = pd.Series(values, dtype=dtype, name=name)
    return pd.DataFrame(columns)


def refused(events: pd.DataFrame, declaration: Declaration) -> pd.Series[Any]:
    """For each event the first reason found against it, or None where it counts; the index is that of `events`."""
    measures = _measures(declaration)
    checks = [*_id_faults(events), *_field_faults(events, declaration), *_property_faults(events, measures)]
    reasons = np.full(len(events), None, dtype=object)
    for reason, fault in reversed(checks):
        reasons[fault] = reason
    return pd.Series(reasons, index=events.index, dtype=object, name="refused")


def counted(events: pd.DataFrame, declaration: Declaration, later_events: str = "refuse") -> pd.DataFrame:
    """The events that count, in log order: without refused ones, those of erased customers, and repeated ids.

    Amounts in other currencies are null. Of who was erased, later events count where they are accepted.
    """
    valid = _unerased(events[refused(events, declaration).isna().to_numpy(dtype=bool)], later_events)
    ids = pd.DataFrame({"customer": _numbered(_texts(valid["customer_id"]))[0], "event": _numbered(_texts(valid["event_id"]))[0]})
    kept = valid[~ids.duplicated(keep="first").to_numpy(dtype=bool)].reset_index(drop=True)
    amount = kept["amount"].astype("Int64").mask(pd.Series(_foreign(kept, declaration)))
    return kept.assign(amount=amount)


def features(events: pd.DataFrame, declaration: Declaration, as_of_ms: int | Mapping[str, int]) -> pd.DataFrame:
    """Every declared feature of every customer who has an event that counts, before any transform.

    Args:
        events: the columns of BehaviourEvent, in log order (see `frame`).
        declaration: the declaration as read from YAML.
        as_of_ms: the instant of evaluation, for everybody or by customer; never before a customer's latest event.

    Returns:
        One row per customer in ascending order of the id, one float64 column per feature in the declaration's order.

    Raises:
        ValueError: an instant is missing or before an event, or the declaration asks for something that the page does not have.
    """
    log = _log(events, declaration, as_of_ms)
    columns = {name: _feature(log, name, spec) for name, spec in declaration["features"].items()}
    return pd.DataFrame(columns, index=_index(log), columns=list(columns), dtype="float64")


def eligible(events: pd.DataFrame, declaration: Declaration) -> pd.Series[Any]:
    """Whether each customer who has an event that counts has all that `eligibility` asks; those who have not are in the segment `new`."""
    log = _log(events, declaration, END_MS)
    enough = np.ones(len(log.customers), dtype=bool)
    for name, at_least in (declaration.get("eligibility") or {}).items():
        enough &= _lifetime(log, name, {"lifetime": name}) >= at_least
    return pd.Series(enough, index=_index(log), name="eligible")


def duration_ms(text: str) -> int:
    """Milliseconds of a duration such as `90d` or `36h`."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})([hd])", text)
    if match is None or int(match[1]) * _UNITS_MS[match[2]] > DURATION_MAX_MS:
        message = f"{text!r} is not a duration such as 90d or 36h"
        raise ValueError(message)
    return int(match[1]) * _UNITS_MS[match[2]]


def bucket(text: str) -> int:
    """The bucket, 0 to 63, that a text hits: XXH64 with seed 0 of its UTF-8 bytes, modulo 64."""
    return xxhash.xxh64_intdigest(_utf8(text), seed=0) % BUCKETS


def scaled(text: str, decimals: int) -> int | None:
    """The decimal number in `text` times 10^decimals, rounded half to even; None if it is no number or is beyond 10^12.

    It works on the digits as text, so neither a long number nor a huge exponent costs anything or loses a digit.

    >>> scaled("12.345", 2), scaled("12.355", 2), scaled("1e9", 3), scaled("1e9", 4), scaled(" 1", 0)
    (1234, 1236, 1000000000000, None, None)
    """
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    sign, integer, fraction, exponent_sign, exponent_digits = (group or "" for group in match.groups())
    digits = (integer + fraction).lstrip("0")
    exponent = (exponent_digits.lstrip("0") or "0")[:EXPONENT_DIGITS_MAX]  # cut short it is still longer than any text can make up for
    point = len(digits) - len(fraction) + decimals + int(exponent_sign + exponent)  # the place of the decimal point in digits
    if not digits or point < 0:
        return 0
    if point > WHOLE_DIGITS_MAX:
        return None
    whole, rest = int(digits[:point].ljust(point, "0") or "0"), digits[point:].rstrip("0")
    whole += rest > "5" or (rest == "5" and whole % 2 == 1)  # without trailing zeros, fractions order as texts do
    return None if whole > WHOLE_MAX else -whole if sign else whole


def _unerased(events: pd.DataFrame, later_events: str) -> pd.DataFrame:
    """Leave out commands, and the events that they erase or that are refused for them."""
    if later_events not in {"refuse", "accept"}:
        message = f"later_events is {later_events!r}, neither refuse nor accept"
        raise ValueError(message)
    customers, types = _texts(events["customer_id"]), _texts(events["event_type"])
    erased_at = {customer: row for row, (customer, name) in enumerate(zip(customers, types, strict=True)) if name == ERASE}
    last = len(events) if later_events == "refuse" else 0
    kept = [row > max(erased_at[customer], last) if customer in erased_at else True for row, customer in enumerate(customers)]
    return events[np.array(kept, dtype=bool)]


# Validity


def _id_faults(events: pd.DataFrame) -> list[tuple[str, Mask]]:
    faults: list[tuple[str, Mask]] = []
    for name, bytes_max in ID_BYTES_MAX.items():
        texts = _texts(events[name])
        sizes = np.array([0 if text is None else len(_utf8(text)) for text in texts], dtype=np.int64)
        faults += [(f"{name} is empty", sizes == 0), (f"{name} is longer than {bytes_max} bytes", sizes > bytes_max)]
    types = _texts(events["event_type"])
    unknown = np.array([text is not None and text.startswith("$") and text != ERASE for text in types], dtype=bool)
    return [*faults, ("event_type is an unknown command", unknown)]


def _field_faults(events: pd.DataFrame, declaration: Declaration) -> list[tuple[str, Mask]]:
    t = events["occurred_at"].to_numpy(dtype=np.int64)
    faults = [("occurred_at is out of range", (t < BEGIN_MS) | (t >= END_MS))]
    for name in ("amount", "quantity"):
        values, known = _nullable(events[name])
        faults.append((f"{name} is out of range", known & ((values < -WHOLE_MAX) | (values > WHOLE_MAX))))
    if _others(declaration) == "refuse":
        faults.append(("currency is another one", _foreign(events, declaration)))
    return faults


def _property_faults(events: pd.DataFrame, measures: Mapping[str, Measure]) -> list[tuple[str, Mask]]:
    faults: list[tuple[str, Mask]] = []
    event = np.array([text != ERASE for text in _texts(events["event_type"])], dtype=bool)  # a command's properties mean nothing
    for measure in measures.values():
        name = _property_name(measure.source)
        if name is None or measure.kind == "distinct":
            continue
        _, known = _property_numbers(events, name, measure.decimals)
        there = np.array([text is not None for text in _properties(events, name)], dtype=bool)
        faults.append((f"properties.{name} is no number in range", event & _named(events, measure) & there & ~known))
    return faults


def _others(declaration: Declaration) -> str:
    others = str((declaration.get("money") or {}).get("others", "refuse"))
    if others not in {"refuse", "ignore"}:
        message = f"money.others is {others!r}, neither refuse nor ignore"
        raise ValueError(message)
    return others


def _foreign(events: pd.DataFrame, declaration: Declaration) -> Mask:
    """Where there is an amount and it is in another currency than the declared one."""
    declared = declaration["money"]["currency"]
    other = np.array([text is not None and text != declared for text in _texts(events["currency"])], dtype=bool)
    result: Mask = _nullable(events["amount"])[1] & other
    return result


# Columns


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _texts(column: pd.Series[Any]) -> list[str | None]:
    missing = column.isna().to_numpy(dtype=bool)
    return [None if null else text for text, null in zip(column.astype(object).tolist(), missing.tolist(), strict=True)]


def _numbered(texts: Sequence[str | None]) -> tuple[Whole, list[str]]:
    """Each text's place among the distinct ones in ascending order, and these; the order of code points is that of UTF-8 bytes."""
    distinct = sorted({text for text in texts if text is not None})
    places = {text: place for place, text in enumerate(distinct)}
    return np.array([places[text] for text in texts if text is not None], dtype=np.int64), distinct


def _nullable(column: pd.Series[Any]) -> tuple[Whole, Mask]:
    """The values, with 0 for null, and where there is one."""
    whole = column.astype("Int64")
    values: Whole = np.asarray(whole.fillna(0), dtype=np.int64)
    known: Mask = whole.notna().to_numpy(dtype=bool)
    return values, known


def _property_name(source: str | None) -> str | None:
    return source.removeprefix("properties.") if source is not None and source.startswith("properties.") else None


def _properties(events: pd.DataFrame, name: str) -> list[str | None]:
    return [entries.get(name) if isinstance(entries, Mapping) else None for entries in events["properties"].tolist()]


def _property_numbers(events: pd.DataFrame, name: str, decimals: int) -> tuple[Whole, Mask]:
    texts = _properties(events, name)
    read = {text: scaled(text, decimals) for text in {text for text in texts if text is not None}}
    numbers = [None if text is None else read[text] for text in texts]
    values = np.array([0 if number is None else number for number in numbers], dtype=np.int64)
    return values, np.array([number is not None for number in numbers], dtype=bool)


def _named(events: pd.DataFrame, measure: Measure) -> Mask:
    """Where the measure names the event's type."""
    types = measure.types
    if types is None:
        return np.ones(len(events), dtype=bool)
    return np.array([text in types for text in _texts(events["event_type"])], dtype=bool)


# The declaration


def _measures(declaration: Declaration) -> dict[str, Measure]:
    return {name: _measure(name, spec) for name, spec in declaration["measures"].items()}


def _measure(name: str, spec: Mapping[str, Any]) -> Measure:
    kind = _kind(name, spec, (*_OF_A_SOURCE, *_OF_TYPES))
    if kind in _OF_TYPES:
        return Measure(kind, None, _types(spec[kind]), 0)
    source = str(spec[kind])
    allowed = ("category", "product_id", "session_id", "event_type") if kind == "distinct" else ("amount", "quantity")
    if source not in allowed and not _property_name(source):
        message = f"measure {name}: {source} is no source of a {kind}"
        raise ValueError(message)
    return Measure(kind, source, _types(spec.get("of", "any")), int(spec.get("decimals", 0)))


def _kind(name: str, spec: Mapping[str, Any], kinds: Sequence[str]) -> str:
    found = [kind for kind in kinds if kind in spec]
    if len(found) != 1:
        message = f"{name} has to have exactly one of {', '.join(kinds)}"
        raise ValueError(message)
    return found[0]


def _types(of: str | Sequence[str]) -> frozenset[str] | None:
    types = [of] if isinstance(of, str) else list(of)
    if types == ["any"]:
        return None
    if not types or "any" in types:
        message = f"{types} are no event types: `any` stands alone"
        raise ValueError(message)
    return frozenset(types)


def _of_kind(log: Log, feature: str, measure: str, kinds: Sequence[str]) -> Measure:
    found = log.measures[measure]
    if found.kind not in kinds:
        message = f"feature {feature}: measure {measure} is a {found.kind}, not one of {', '.join(kinds)}"
        raise ValueError(message)
    return found


# Features


def _log(events: pd.DataFrame, declaration: Declaration, as_of_ms: int | Mapping[str, int]) -> Log:
    kept = counted(events, declaration)
    if len(kept) > EVENTS_MAX:
        message = f"{len(kept)} events could overflow a sum; the oracle takes {EVENTS_MAX}"
        raise ValueError(message)
    customer, customers = _numbered(_texts(kept["customer_id"]))
    t = kept["occurred_at"].to_numpy(dtype=np.int64)
    if isinstance(as_of_ms, Mapping):
        missing = [name for name in customers if name not in as_of_ms]
        if missing:
            message = f"as_of_ms has no instant for customer {missing[0]!r}"
            raise ValueError(message)
        as_of = np.array([as_of_ms[name] for name in customers], dtype=np.int64)
    else:
        as_of = np.full(len(customers), as_of_ms, dtype=np.int64)
    late = t > as_of[customer]
    if late.any():
        message = f"customer {customers[customer[late][0]]!r} has an event after the instant of evaluation"
        raise ValueError(message)
    return Log(kept, customers, customer, t, as_of, _measures(declaration))


def _index(log: Log) -> pd.Index[Any]:
    return pd.Index(log.customers, dtype=object, name="customer_id")


def _feature(log: Log, name: str, spec: Mapping[str, Any]) -> NDArray[np.float64]:
    kinds: dict[str, Callable[[Log, str, Mapping[str, Any]], NDArray[np.float64]]] = {
        "sum": _sum,
        "min": _extreme,
        "max": _extreme,
        "ratio": _ratio,
        "recency": _recency,
        "active_days": _active_days,
        "mean_gap": _mean_gap,
        "distinct": _distinct,
        "lifetime": _lifetime,
    }
    return kinds[_kind(name, spec, tuple(kinds))](log, name, spec)


def _window(window: str) -> tuple[int, int]:
    """The length of a tile in milliseconds and how many whole tiles the window has."""
    length_ms, tiles_max = (DAY_MS, 730) if window.endswith("d") else (HOUR_MS, 48)
    tiles, rest = divmod(duration_ms(window), length_ms)
    if rest or not 1 <= tiles <= tiles_max:
        message = f"window {window} is not 1h to 48h or 1d to 730d"
        raise ValueError(message)
    return length_ms, tiles


def _inside(log: Log, window: str) -> Mask:
    """Which events lie in a tile i with D - W <= i <= D."""
    length_ms, tiles = _window(window)
    present, tile = (log.as_of // length_ms)[log.customer], log.t // length_ms
    return (present - tiles <= tile) & (tile <= present)


def _values(log: Log, measure: Measure) -> tuple[Whole, Mask]:
    """What each event brings to the measure, and where it brings anything."""
    named = _named(log.events, measure)
    if measure.kind in _OF_TYPES:
        return (log.t if measure.kind in _TIMES else np.ones(len(log.t), dtype=np.int64)), named
    name = _property_name(measure.source)
    values, known = _nullable(log.events[str(measure.source)]) if name is None else _property_numbers(log.events, name, measure.decimals)
    return values, named & known


def _total(log: Log, measure: Measure, where: Mask) -> Whole:
    values, known = _values(log, measure)
    return _by_customer(log, values, known & where, "sum")[0]


def _by_customer(log: Log, values: Whole, where: Mask, how: str) -> tuple[Whole, Mask]:
    """The sum, min or max of each customer's values, 0 where there is none, and where there is any."""
    grouped = pd.Series(values[where], dtype="int64").groupby(log.customer[where])
    found = grouped.sum() if how == "sum" else grouped.min() if how == "min" else grouped.max()
    rows = found.index.to_numpy(dtype=np.int64)
    result, known = np.zeros(len(log.customers), dtype=np.int64), np.zeros(len(log.customers), dtype=bool)
    result[rows], known[rows] = found.to_numpy(dtype=np.int64), True
    return result, known


def _window_total(log: Log, name: str, measure: str, window: str) -> NDArray[np.float64]:
    return _total(log, _of_kind(log, name, measure, _ADDED), _inside(log, window)).astype(np.float64)


def _sum(log: Log, name: str, spec: Mapping[str, Any]) -> NDArray[np.float64]:
    return _window_total(log, name, spec["sum"], spec["window"])


def _extreme(log: Log, name: str, spec: Mapping[str, Any]) -> NDArray[np.float64]:
    how = "min" if "min" in spec else "max"
    values, known = _values(log, _of_kind(log, name, spec[how], (how,)))
    found, any_there = _by_customer(log, values, known & _inside(log, spec["window"]), how)
    return np.where(any_there, found.astype(np.float64), float(spec.get("default", 0)))


def _ratio(log: Log, name: str, spec: Mapping[str, Any]) -> NDArray[np.float64]:
    prior, weight = float(spec.get("prior", 0)), float(spec.get("weight", 0))
    upper, lower = (_window_total(log, name, measure, spec["window"]) for measure in spec["ratio"])
    result = np.full(len(log.customers), float(spec.get("default", 0)))
    divisor = lower + weight
    np.divide(upper + prior * weight, divisor, out=result, where=divisor > 0)
    return result


def _time(log: Log, name: str, measure: str) -> tuple[Whole, Mask]:
    found = _of_kind(log, name, measure, _TIMES)
    values, known = _values(log, found)
    return _by_customer(log, values, known, "min" if found.kind == "first" else "max")


def _recency(log: Log, name: str, spec: Mapping[str, Any]) -> NDArray[np.float64]:
    cap_ms = duration_ms(spec["cap"])
    time, known = _time(log, name, spec["recency"])
    return np.where(known, np.minimum(log.as_of - time, cap_ms), cap_ms).astype(np.float64) / float(DAY_MS)


def _active_days(log: Log, name: str, spec: Mapping[str, Any]) -> NDArray[np.float64]:
    _only_days(name, spec["active_days"])
    inside = _inside(log, spec["active_days"])
    days = pd.DataFrame({"customer": log.customer[inside], "day": log.t[inside] // DAY_MS}).drop_duplicates()
    return np.bincount(days["customer"].to_numpy(dtype=np.int64), minlength=len(log.customers)).astype(np.float64)


def _mean_gap(log: Log, name: str, spec: Mapping[str, Any]) -> NDArray[np.float64]:
    cap_ms = float(duration_ms(spec["cap"]))
    first_name, last_name, count_name = spec["mean_gap"]
    first, first_known = _time(log, name, first_name)
    last, last_known = _time(log, name, last_name)
    count = _total(log, _of_kind(log, name, count_name, ("lifetime_count",)), np.ones(len(log.t), dtype=bool))
    gaps = np.maximum(count - 1, 1).astype(np.float64)
    mean_ms = np.minimum((last - first).astype(np.float64) / gaps, cap_ms)
    return np.where((count >= 2) & first_known & last_known, mean_ms, cap_ms) / float(DAY_MS)


def _distinct(log: Log, name: str, spec: Mapping[str, Any]) -> NDArray[np.float64]:
    _only_days(name, spec["window"])
    measure = _of_kind(log, name, spec["distinct"], ("distinct",))
    source = _property_name(measure.source)
    texts = _texts(log.events[str(measure.source)]) if source is None else _properties(log.events, source)
    buckets = {text: bucket(text) for text in {text for text in texts if text is not None}}
    hit = np.array([-1 if text is None else buckets[text] for text in texts], dtype=np.int64)
    where = (hit >= 0) & _named(log.events, measure)
    last_day = pd.Series(log.t[where] // DAY_MS, dtype="int64").groupby([log.customer[where], hit[where]]).max()
    customer = last_day.index.get_level_values(0).to_numpy(dtype=np.int64)
    present, days = (log.as_of // DAY_MS)[customer], last_day.to_numpy(dtype=np.int64)
    inside = (present - _window(spec["window"])[1] <= days) & (days <= present)
    return np.bincount(customer[inside], minlength=len(log.customers)).astype(np.float64)


def _only_days(name: str, window: str) -> None:
    if not window.endswith("d"):
        message = f"feature {name}: days are counted in windows of days, not {window}"
        raise ValueError(message)


def _lifetime(log: Log, name: str, spec: Mapping[str, Any]) -> NDArray[np.float64]:
    measure = _of_kind(log, name, spec["lifetime"], _LIFETIME)
    return _total(log, measure, np.ones(len(log.t), dtype=bool)).astype(np.float64)
