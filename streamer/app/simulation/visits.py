"""One day's visits, and what customers do in them, in columns.

Law: a day depends on the options and its own number only, so days can be drawn in any order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from streamer.app.simulation.personas import PERSONAS
from streamer.app.simulation.rhythm import DAY_MS, HOURS, day_factor, day_of, discount_on

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from streamer.app.simulation.options import Options
    from streamer.app.simulation.population import Population
    from streamer.core.columns import I64, Bool

TYPES: Final = ("search", "view", "add_to_cart", "purchase", "refund")
SEARCH, VIEW, CART, PURCHASE, REFUND = range(len(TYPES))
CATEGORIES: Final = 24
PRODUCTS_PER_CATEGORY: Final = 40
NONE: Final = -1
DAY_STREAM: Final = 1
VISITS_AT_ONCE: Final = 20_000
EVENT: Final = np.dtype(
    [
        ("customer", np.int32),
        ("persona", np.int32),
        ("type", np.int8),
        ("fate", np.int8),  # SOUND, LATE, DUPLICATE, MALFORMED
        ("damage", np.int8),  # place in DAMAGES, NONE if there is none
        ("occurred", np.int64),  # ms
        ("sent", np.int64),  # ms, when it would be sent
        ("amount", np.int64),  # minor units, NONE if there is none
        ("quantity", np.int64),
        ("category", np.int32),
        ("product", np.int32),
        ("session", np.int64),  # number in its day
        ("day", np.int64),  # on which it was drawn
        ("number", np.int64),  # in its day
    ]
)
SOUND, LATE, DUPLICATE, MALFORMED = range(4)
LATE_MS: Final = (600_000, 6 * 3_600_000)
# A duplicate comes before the customer's next few events, so that the id is still remembered.
DUPLICATE_MS: Final = (200, 3_000)
REFUND_MS: Final = (DAY_MS // 2, 10 * DAY_MS)

_P: Final = {
    name: np.array([getattr(p, name) for p in PERSONAS], np.float64)
    for name in ("views", "cart", "purchase", "order_sigma", "refund", "categories", "searches", "sale_lift", "gap_s", "machine")
}
_MEDIAN: Final = np.log([p.order_median for p in PERSONAS])
_VISITS: Final = np.array([p.visits() for p in PERSONAS])
_DECAY: Final = np.array([np.log(2) / p.fade_days if p.fade_days else 0.0 for p in PERSONAS])
_WAY: Final = np.cumsum(HOURS)

Events = Any  # an NDArray of EVENT: its fields have types of their own


def draw_day(options: Options, people: Population, day: int, damages: int) -> Iterator[tuple[Events, int]]:
    """Draw all that begins on a day, in slices of some visits: their events, refunds, duplicates and malformed records, in no order.

    With each slice comes a time (ms): nothing in later slices is to be sent before it.
    """
    rng = np.random.default_rng([options.seed, DAY_STREAM, day])
    discount = discount_on(day, options.sales)
    phase, start = _visits(options, people, day, rng, on_sale=discount > 0)
    order = np.argsort(start, kind="stable")
    phase, start = phase[order], start[order]
    end = np.iinfo(np.int64).max if options.follow else options.until_ms
    drawn = 0
    for first in range(0, len(phase), VISITS_AT_ONCE):
        last = first + VISITS_AT_ONCE
        events = _events(people, phase[first:last], start[first:last], discount, rng)
        events["day"] = day
        events["session"] += first
        events = np.concatenate([events, _refunds(events, rng)])
        events = events[events["occurred"] < end]
        events["number"] = np.arange(drawn, drawn + len(events))
        drawn += len(events)
        yield _mishaps(options, events, rng, damages), int(start[last]) if last < len(start) else (day + 1) * DAY_MS


def _visits(options: Options, people: Population, day: int, rng: np.random.Generator, *, on_sale: bool) -> tuple[I64, I64]:
    """Draw visits: whose phase each is of, and when it starts."""
    midnight = day * DAY_MS
    active = np.flatnonzero((people.begin < midnight + DAY_MS) & (people.end > midnight))
    persona = people.persona[active]
    machine = _P["machine"][persona] > 0
    rate = _VISITS[persona] * people.activity[active] * np.where(machine, 1.0, day_factor(day))
    if not options.follow:
        rate *= np.exp(-_DECAY[persona] * np.maximum(midnight - people.begin[active], 0) / DAY_MS)
    if on_sale:
        rate *= 1 + _P["sale_lift"][persona]
    phase = np.repeat(active, rng.poisson(rate))
    n = len(phase)
    hour = np.where(_P["machine"][people.persona[phase]] > 0, rng.integers(0, 24, n), np.searchsorted(_WAY, rng.random(n), side="right"))
    start = midnight + np.minimum(hour, 23) * 3_600_000 + rng.integers(0, 3_600_000, n)
    inside = (start >= people.begin[phase]) & (start < people.end[phase]) & (start >= options.start_ms)
    # Who is new comes at once.
    first = _first_visits(people, day)
    return np.concatenate([phase[inside], first]), np.concatenate([start[inside], people.begin[first]])


def _first_visits(people: Population, day: int) -> I64:
    arriving = np.array([p.arrives_days is not None for p in PERSONAS])[people.persona]
    return np.flatnonzero(arriving & (people.begin // DAY_MS == day) & (people.begin < people.end))


def _events(people: Population, phase: I64, start: I64, discount: float, rng: np.random.Generator) -> Events:
    """Draw what is done in each visit: searches, views, carts among them, a purchase last."""
    visits = len(phase)
    persona = people.persona[phase]
    views = 1 + rng.poisson(_P["views"][persona] - 1)
    carts = rng.binomial(views, _P["cart"][persona])
    lift = 1 + _P["sale_lift"][persona] / 2 * (discount > 0)
    buys = (carts > 0) & (rng.random(visits) < np.minimum(_P["purchase"][persona] * lift, 0.95))
    counts = np.stack([rng.poisson(_P["searches"][persona]), views, carts, buys.astype(np.int64)])
    visit = np.concatenate([np.repeat(np.arange(visits), count) for count in counts])
    kind = np.repeat(np.arange(len(counts)), counts.sum(axis=1))
    place = rng.random(len(kind)) + np.array([0.0, 0.0, 0.3, 9.0])[kind]
    order = np.lexsort((place, visit))
    visit, kind = visit[order], kind[order]
    events = np.zeros(len(kind), EVENT)
    events["customer"], events["persona"] = people.customer[phase[visit]], persona[visit]
    events["type"], events["session"] = kind, visit
    gap = (rng.uniform(0.3, 1.7, len(kind)) * _P["gap_s"][persona[visit]] * 1000).astype(np.int64)
    events["occurred"] = start[visit] + _since_first(gap, visit)
    _things(events, carts[visit], discount, rng)
    return events


def _since_first(gap: I64, visit: I64) -> I64:
    """Add gaps up from each visit's first event, which has none."""
    total: I64 = np.cumsum(gap)
    if not len(total):
        return total
    first = np.flatnonzero(np.diff(visit, prepend=-1))
    return total - np.repeat(total[first], np.diff(first, append=len(visit)))


def _things(events: Events, carts: I64, discount: float, rng: np.random.Generator) -> None:
    """Fill in categories, products, amounts and quantities."""
    n, kind, persona = len(events), events["type"], events["persona"]
    own = events["customer"].astype(np.int64) * 7
    category = (own + (rng.random(n) * _P["categories"][persona]).astype(np.int64)) % CATEGORIES
    events["category"] = category
    events["product"] = np.where(kind == SEARCH, NONE, category * PRODUCTS_PER_CATEGORY + rng.integers(0, PRODUCTS_PER_CATEGORY, n))
    order = np.exp(rng.normal(_MEDIAN[persona], _P["order_sigma"][persona])) * (1 - discount)
    events["amount"] = np.where(kind == PURCHASE, np.maximum(order, 1), NONE)
    events["quantity"] = np.where(kind == PURCHASE, carts, np.where(kind == CART, 1, NONE))
    events["damage"] = NONE


def _refunds(events: Events, rng: np.random.Generator) -> Events:
    """Draw which purchases are sent back, and when."""
    bought = events[events["type"] == PURCHASE]
    back = bought[rng.random(len(bought)) < _P["refund"][bought["persona"]]]
    back["type"], back["session"] = REFUND, NONE
    back["occurred"] += rng.integers(*REFUND_MS, len(back))
    return back


def _mishaps(options: Options, events: Events, rng: np.random.Generator, damages: int) -> Events:
    """Hold late events back; add duplicates of others and malformed records."""
    n = len(events)
    events["sent"] = events["occurred"]
    late: Bool = rng.random(n) < options.late
    events["fate"][late] = LATE
    events["sent"][late] += rng.integers(*LATE_MS, int(late.sum()))
    chosen: NDArray[np.bool_] = (rng.random(n) < options.duplicates / max(1 - options.late, 1e-9)) & ~late
    again = events[chosen]
    again["fate"] = DUPLICATE
    again["sent"] += rng.integers(*DUPLICATE_MS, len(again))
    broken = events[rng.random(n) < options.malformed]
    broken["fate"] = MALFORMED
    broken["damage"] = rng.integers(0, damages, len(broken))
    broken["sent"] = broken["occurred"]
    return np.concatenate([events, again, broken])


def days_of(options: Options) -> range:
    """Number the days that the period touches."""
    return range(day_of(options.start_ms), day_of(options.until_ms - 1) + 1)
