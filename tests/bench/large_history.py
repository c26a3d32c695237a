"""A history of many events of many customers, made column by column, and its windowed sums by DuckDB.

Laws: equal sizes and seed give equal files, to the byte, with one release of NumPy and pyarrow. Every customer has an event, and no event
id comes twice. All events before the cut-off are of `days` whole days; the day after has some more, which the cut-off leaves out.

Customers are of six personas, whose ids are neighbours: how often they come, what they do and until when differ. A file has one day of one
partition, as the archiver leaves it when it has put the files of a day together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from streamer.adapters.history import EVENTS, HistoryWriter, Kind, open_history, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from streamer.core.columns import I64, U8

DAY_MS: Final = 86_400_000
BEGIN_DAY: Final = 20_500  # 2026-02-16
DELAY_MS: Final = 5_000  # at most, from an event to its record
LATER: Final = 200  # one in so many more events is of the day after the cut-off
SKEW: Final = 1.25  # a persona's busiest customers: 1 is all alike
PRODUCTS, CATEGORIES = 20_000, 24
TOPIC = "customer-events"
TYPES = ("view", "add_to_cart", "search", "purchase", "refund")
PURCHASE, REFUND = TYPES.index("purchase"), TYPES.index("refund")
HEX: Final = np.frombuffer("".join(f"{n:02x}" for n in range(256)).encode(), np.uint16)
SUMS: Final = {
    "purchases_30d": ("event_type = 'purchase'", "1", 30),
    "purchases_90d": ("event_type = 'purchase'", "1", 90),
    "spend_30d": ("event_type = 'purchase'", "amount", 30),
    "spend_90d": ("event_type = 'purchase'", "amount", 90),
    "views_7d": ("event_type = 'view'", "1", 7),
    "views_30d": ("event_type = 'view'", "1", 30),
    "searches_30d": ("event_type = 'search'", "1", 30),
}
"""Features of the packaged declaration that are sums: of which events, of what, over how many days."""


@dataclass(frozen=True, slots=True)
class Persona:
    """Some customers that behave alike."""

    share: float  # of the customers
    pace: float  # how often they come, relative to the others
    mix: tuple[float, ...]  # of TYPES, adding up to 1
    spend: float  # of a purchase, the median in minor units
    until: float = 2.0  # the share of the days after which they come no more


PERSONAS: Final = (
    Persona(0.10, 3.0, (0.55, 0.14, 0.08, 0.22, 0.01), 6_000),  # loyal
    Persona(0.30, 1.0, (0.80, 0.05, 0.13, 0.02, 0.00), 3_000),  # browses
    Persona(0.15, 1.2, (0.40, 0.12, 0.40, 0.075, 0.005), 1_500),  # hunts bargains
    Persona(0.05, 0.8, (0.50, 0.15, 0.05, 0.29, 0.01), 40_000),  # buys much at a time
    Persona(0.10, 1.0, (0.50, 0.12, 0.08, 0.18, 0.12), 5_000),  # sends back
    Persona(0.30, 0.8, (0.65, 0.10, 0.10, 0.14, 0.01), 5_000, 0.55),  # is gone
)


@dataclass(frozen=True, slots=True)
class Size:
    """How much of a history to make."""

    events: int
    customers: int
    days: int = 100
    partitions: int = 8
    seed: int = 1

    @property
    def as_of(self) -> int:
        """Give the cut-off, the midnight after the last whole day, in ms."""
        return (BEGIN_DAY + self.days) * DAY_MS

    @property
    def last_day(self) -> str:
        """Name the last whole day, as `--as-of` takes it."""
        return str(np.datetime64(BEGIN_DAY + self.days - 1, "D"))


def make(place: Path, size: Size, progress: Callable[[int], None] = lambda _events: None) -> None:
    """Write the history; `progress` is told of the events so far."""
    writer = HistoryWriter(open_store(str(place)), {Kind.EVENTS: TOPIC, Kind.JOURNAL: "journal"})
    ends = [0] * size.partitions
    made = 0
    for day, whole in days(size):
        for partition, batch in enumerate(dealt(whole, size.partitions)):
            first, end = ends[partition], ends[partition] + len(batch["customer"])
            if end > first:
                rows = laid_out(batch, partition, first)
                writer.append(Kind.EVENTS, partition, first, end, [rows], int(batch["timestamp"][-1]))
                ends[partition] = end
        made += len(whole["customer"])
        assert int(whole["timestamp"][-1]) // DAY_MS == day
        progress(made)


def days(size: Size) -> Iterator[tuple[int, dict[str, Any]]]:
    """Draw each day's events, in the order of their records' timestamps."""
    bounds = np.floor(np.cumsum([0.0, *(persona.share for persona in PERSONAS)]) * size.customers + 0.5).astype(np.int64)
    for n in range(size.days + 1):
        rng = np.random.default_rng([size.seed, n])
        first, end = (size.events * day // size.days for day in (n, n + 1))
        begin, until = (size.customers * day // size.days for day in (n, n + 1))
        if n == size.days:
            end, begin, until = first + size.events // LATER, 0, 0
        once = _scattered(np.arange(begin, until), size.customers)
        persona, drawn = _drawn(rng, bounds, end - first - len(once), n / size.days)
        customer = np.concatenate([once, drawn])
        persona = np.concatenate([np.searchsorted(bounds, once, side="right") - 1, persona])
        order = rng.permutation(len(customer))
        customer, persona = customer[order], persona[order]
        kind = _kinds(rng, persona)
        money = (kind == PURCHASE) | (kind == REFUND)
        median = np.array([one.spend for one in PERSONAS])[persona]
        timestamp = np.sort(rng.integers(0, DAY_MS, len(customer))) + (BEGIN_DAY + n) * DAY_MS
        yield (
            BEGIN_DAY + n,
            {
                "number": np.arange(first, end, dtype=np.uint64),
                "customer": customer,
                "kind": kind,
                "timestamp": timestamp,
                "occurred": timestamp - rng.integers(0, DELAY_MS, len(customer)),
                "amount": np.where(money, np.maximum(median * np.exp(rng.normal(0, 0.5, len(customer))), 1), 0).astype(np.int64),
                "money": money,
                "product": rng.integers(0, PRODUCTS, len(customer)),
            },
        )


def _drawn(rng: np.random.Generator, bounds: I64, events: int, passed: float) -> tuple[I64, I64]:
    """Draw the personas and customers of so many events, when a share of all days has `passed`."""
    weight = np.array([one.share * one.pace * (passed < one.until) for one in PERSONAS])
    persona = rng.choice(len(PERSONAS), events, p=weight / weight.sum())
    room = np.diff(bounds)[persona]
    place = np.floor(rng.random(events) ** SKEW * room).astype(np.int64)
    return persona.astype(np.int64), bounds[persona] + np.minimum(place, room - 1)


def _kinds(rng: np.random.Generator, persona: I64) -> I64:
    """Draw the types of events by their customers' personas."""
    below = np.cumsum([one.mix for one in PERSONAS], axis=1)[:, :-1]
    drawn = rng.random(len(persona))
    kind = np.zeros(len(persona), np.int64)
    for at in range(below.shape[1]):
        kind += drawn >= below[persona, at]
    return kind


def _scattered(number: I64, of: int) -> I64:
    """Send each number below `of` to another, so that neighbours are far apart."""
    step = 2_654_435_761
    while np.gcd(step, of) > 1:
        step += 1
    return (number * step) % of


def dealt(whole: dict[str, Any], partitions: int) -> list[dict[str, Any]]:
    """Deal a day's events out to partitions by the customer, each in its order."""
    partition = whole["customer"] % partitions
    order = np.argsort(partition, kind="stable")
    ends = np.cumsum(np.bincount(partition, minlength=partitions))
    rows = np.split(order, ends[:-1])
    return [{name: column[some] for name, column in whole.items()} for some in rows]


def laid_out(batch: dict[str, Any], partition: int, first: int) -> pa.RecordBatch:
    """Lay events of one partition out as rows of history, from an offset on."""
    n = len(batch["customer"])
    goods = batch["kind"] != TYPES.index("search")
    found = {
        "partition": pa.array(np.full(n, partition, np.int32)),
        "offset": pa.array(np.arange(first, first + n, dtype=np.int64)),
        "kafka_timestamp": pa.array(batch["timestamp"], pa.int64()).view(EVENTS.field("kafka_timestamp").type),
        "event_id": _texts(_hexadecimal(_mixed(batch["number"]))),
        "customer_id": _texts(_numbered(b"c", batch["customer"], 8)),
        "event_type": _chosen(TYPES, batch["kind"]),
        "occurred_at": pa.array(batch["occurred"], pa.int64()).view(EVENTS.field("occurred_at").type),
        "amount": pa.array(batch["amount"], mask=~batch["money"]),
        "currency": _chosen(("EUR",), np.zeros(n, np.int64), batch["money"]),
        "quantity": pa.array(batch["product"] % 3 + 1, mask=batch["kind"] != PURCHASE),
        "product_id": _chosen([f"p{number:05d}" for number in range(PRODUCTS)], batch["product"], goods),
        "category": _chosen([f"category-{number:02d}" for number in range(CATEGORIES)], batch["product"] % CATEGORIES, goods),
        "session_id": _texts(
            _hexadecimal(_mixed(batch["customer"].astype(np.uint64) << np.uint64(16) | (batch["number"] >> np.uint64(20))))
        ),
        "properties": pa.MapArray.from_arrays(pa.array(np.zeros(n + 1, np.int32)), pa.array([], pa.string()), pa.array([], pa.string())),
    }
    return pa.RecordBatch.from_arrays([found[field.name] for field in EVENTS], schema=EVENTS)


def _chosen(texts: Any, which: I64, there: Any = None) -> pa.Array:
    """Take texts by their numbers, none where they are not there."""
    return pa.array(texts, pa.string()).take(pa.array(which, mask=None if there is None else ~there))


def _texts(rows: U8) -> pa.Array:
    """Make texts of equal lengths out of their bytes (n, length)."""
    n, length = rows.shape
    bounds = np.arange(0, (n + 1) * length, length, dtype=np.int32)
    return pa.Array.from_buffers(pa.string(), n, [None, pa.py_buffer(bounds), pa.py_buffer(np.ascontiguousarray(rows))])


def _hexadecimal(numbers: Any) -> U8:
    """Write numbers (n,) of 64 bits as 16 digits, (n, 16)."""
    return HEX[numbers.astype(">u8").view(np.uint8)].view(np.uint8).reshape(len(numbers), 16)


def _numbered(letter: bytes, numbers: I64, digits: int) -> U8:
    """Write numbers (n,) as a letter and so many decimal digits."""
    rows = np.empty((len(numbers), digits + 1), np.uint8)
    rows[:, 0] = letter[0]
    left = numbers
    for at in range(digits, 0, -1):
        left, digit = np.divmod(left, 10)
        rows[:, at] = digit + ord("0")
    return rows


def _mixed(numbers: Any) -> Any:
    """Mix numbers (n,) of 64 bits, each to another (the finaliser of SplitMix64)."""
    mixed = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def statement(place: Path, as_of: int) -> str:
    """Give the query for the sums of every customer as of an instant in ms, from the files that count, in the order of ids."""
    files = ", ".join(f"'{place / entry.path}'" for entry in open_history(str(place)).manifest().entries if entry.path)
    day = "(epoch_ms(occurred_at) // 86400000)"
    end = as_of // DAY_MS
    sums = ", ".join(
        f"coalesce(sum({what}) FILTER ({which} AND {day} BETWEEN {end - window} AND {end}), 0)::DOUBLE AS {name}"
        for name, (which, what, window) in SUMS.items()
    )
    return (
        f"SELECT customer_id, {sums} FROM read_parquet([{files}]) "  # noqa: S608  # of our own paths and names
        f"WHERE epoch_ms(kafka_timestamp) < {as_of} GROUP BY customer_id ORDER BY customer_id"
    )
