"""The two applications of Quix Streams that our job is measured against, each a process in Quix's own environment.

`counter` counts a customer's events in state. `segments` does what our job does: the sixteen features of the packaged declaration from day
tiles in state, river's scaler and k-means, learning from every event, and a change published when the segment differs.

Written as Quix's documentation has it: an `Application` with its defaults (at least once, RocksDB, changelog topics, a commit every 5 s), a
topic with an Avro deserializer, a function with `stateful=True`, an output topic in JSON. Where there was a choice, it is the cheaper one:

- no `group_by`, which would send every event through another topic: the key is the customer already;
- one value in state for a customer and all windows, instead of one windowed aggregation, with a store of its own, for every window;
- one step for scaling, one for learning and predicting (`learn_predict_one`), where a pipeline scales twice and seeks the nearest twice;
- no duplicates to be left out, no currencies, no reason for a change, no hysteresis, no model that survives a restart.

It is run by path, by bench_quix.py, and imports nothing of ours but what needs no library: Quix's client is an older release than ours.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # it is run by path

from tests.bench import kit

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

PREFIX_BYTES = 5
"""The magic byte and the schema's id, before the Avro body."""
SEGMENTS = 6
"""As many as our first fit makes."""
HALFLIFE = 0.01
"""The share of the way that a centre goes towards an event: small, so that centres come to rest."""
NEW = -1
WINDOW_DAYS = 90
PURCHASE_CAP_DAYS = 180.0
VIEW, PURCHASE, CART, SEARCH, REFUND = range(1, 6)
COLUMN = {"view": VIEW, "purchase": PURCHASE, "add_to_cart": CART, "search": SEARCH, "refund": REFUND}
SPEND = 6
TILE = (0,) * 6
"""What follows the day in a tile: an event count for each type, and what was spent."""
CATEGORISED = ("view", "add_to_cart", "purchase")
MS_PER_DAY = 86_400_000.0


@dataclass(slots=True)
class Meter:
    """Counts events, takes two readings, and ends the application with the last event."""

    first: int
    last: int
    stop: Callable[[], None]
    seen: int = 0
    changes: int = 0
    begun: tuple[float, float, int] = (0.0, 0.0, 0)
    figures: kit.Figures = field(default_factory=dict)

    def one(self) -> None:
        """Count an event."""
        self.seen += 1
        if self.seen == self.first:
            self.begun = kit.cpu_s(), time.monotonic(), self.changes
        elif self.seen == self.last:
            counted = self.last - self.first
            used_s, took_s = kit.cpu_s() - self.begun[0], time.monotonic() - self.begun[1]
            self.figures = {"cpu_us": used_s / counted * 1e6, "events_per_s": counted / took_s}
            if self.changes:
                self.figures["changes_per_event"] = (self.changes - self.begun[2]) / counted
            self.stop()


def counter(meter: Meter) -> Callable[[dict[str, Any], Any], Any]:
    """Count a customer's events."""

    def count(_: dict[str, Any], state: Any) -> int:
        meter.one()
        total: int = state.get("total", default=0) + 1
        state.set("total", total)
        return total

    return count


def segments(meter: Meter) -> Callable[[dict[str, Any], Any], Any]:
    """Keep a customer's features, learn from them, and tell when the segment differs."""
    from river import cluster, preprocessing

    scaler, model = preprocessing.StandardScaler(), cluster.KMeans(n_clusters=SEGMENTS, halflife=HALFLIFE, seed=1)

    def segment(event: dict[str, Any], state: Any) -> dict[str, Any] | None:
        meter.one()
        profile = state.get("profile", default=None) or empty()
        at: datetime = event["occurred_at"]
        now_ms = at.timestamp() * 1e3
        fold(profile, event, at.toordinal(), now_ms)
        if profile["events"] < 2:
            current = NEW
        else:
            x = features(profile, at.toordinal(), now_ms)
            scaler.learn_one(x)
            current = model.learn_predict_one(scaler.transform_one(x))
        before, profile["segment"] = profile["segment"], current
        state.set("profile", profile)
        if current == before:
            return None
        meter.changes += 1
        return {"customer_id": event["customer_id"], "segment": current, "previous_segment": before, "occurred_at": now_ms}

    return segment


def empty() -> dict[str, Any]:
    """A customer of whom nothing is known."""
    return {"events": 0, "segment": None, "last": 0.0, "first_purchase": 0.0, "last_purchase": 0.0, "purchases": 0, "days": [], "seen": {}}


def fold(profile: dict[str, Any], event: dict[str, Any], day: int, now_ms: float) -> None:
    """Take an event into a profile."""
    days = profile["days"]
    if not days or days[-1][0] != day:
        days.append([day, *TILE])
        if days[0][0] <= day - WINDOW_DAYS:
            profile["days"] = days = [tile for tile in days if tile[0] > day - WINDOW_DAYS]
            profile["seen"] = {name: last for name, last in profile["seen"].items() if last > day - WINDOW_DAYS}
    tile, kind = days[-1], event["event_type"]
    column = COLUMN.get(kind)
    if column is not None:
        tile[column] += 1
    if kind in CATEGORISED and event["category"] is not None:
        profile["seen"][event["category"]] = day
    if kind == "purchase":
        tile[SPEND] += event["amount"]
        profile["first_purchase"] = profile["first_purchase"] or now_ms
        profile["last_purchase"] = now_ms
        profile["purchases"] += 1
    profile["events"] += 1
    profile["last"] = now_ms


def features(profile: dict[str, Any], day: int, now_ms: float) -> dict[str, float]:
    """The sixteen features of the packaged declaration, as of an event."""
    views_7 = views_30 = carts_30 = purchases_30 = spend_30 = searches_30 = active_30 = 0
    purchases_90 = spend_90 = refunds_90 = 0
    for last, views, purchases, carts, searches, refunds, spend in profile["days"]:
        age = day - last
        purchases_90 += purchases
        spend_90 += spend
        refunds_90 += refunds
        if age < 30:
            views_30 += views
            carts_30 += carts
            purchases_30 += purchases
            searches_30 += searches
            spend_30 += spend
            active_30 += 1
            if age < 7:
                views_7 += views
    since_purchase = (now_ms - profile["last_purchase"]) / MS_PER_DAY if profile["last_purchase"] else PURCHASE_CAP_DAYS
    gaps = profile["purchases"] - 1
    between = (profile["last_purchase"] - profile["first_purchase"]) / MS_PER_DAY / gaps if gaps > 0 else WINDOW_DAYS
    log1p = math.log1p
    return {
        "days_since_event": log1p((now_ms - profile["last"]) / MS_PER_DAY),
        "days_since_purchase": log1p(min(since_purchase, PURCHASE_CAP_DAYS)),
        "purchases_30d": log1p(purchases_30),
        "purchases_90d": log1p(purchases_90),
        "spend_30d": log1p(spend_30),
        "spend_90d": log1p(spend_90),
        "average_order_value": log1p(spend_90 / purchases_90) if purchases_90 else 0.0,
        "days_between_purchases": log1p(min(between, WINDOW_DAYS)),
        "views_7d": log1p(views_7),
        "views_30d": log1p(views_30),
        "cart_rate": (carts_30 + 1.0) / (views_30 + 10.0),
        "purchase_rate": (purchases_30 + 0.3) / (views_30 + 10.0),
        "refund_rate": (refunds_90 + 0.25) / (purchases_90 + 5.0),
        "active_days_30d": log1p(active_30),
        "categories_90d": log1p(len(profile["seen"])),
        "searches_30d": log1p(searches_30),
    }


APPLICATIONS = {"counter": counter, "segments": segments}


def run(role: str, bootstrap: str, topic: str, group: str, state: str, schema: Path, sizes: tuple[int, int, int]) -> kit.Figures:
    """Run an application over the events; events, lead and tail are as in jobs.py."""
    from quixstreams import Application
    from quixstreams.models.serializers.avro import AvroDeserializer

    class Framed(AvroDeserializer):
        """Quix's deserializer, after the prefix."""

        def __call__(self, value: bytes, ctx: Any) -> Any:
            return super().__call__(value[PREFIX_BYTES:], ctx)

    events, lead, tail = sizes
    app = Application(bootstrap, consumer_group=group, auto_offset_reset="earliest", state_dir=state, loglevel="WARNING")
    meter = Meter(max(lead, 1), events - tail, app.stop)
    taken = app.topic(topic, value_deserializer=Framed(schema=json.loads(schema.read_text(encoding="utf-8"))))
    frame = app.dataframe(taken).apply(APPLICATIONS[role](meter), stateful=True)
    if role == "segments":
        frame = frame.filter(lambda change: change is not None)
        frame.to_topic(app.topic(f"{group}.changes", value_serializer="json"))
    app.run()
    return meter.figures


def main(arguments: list[str]) -> None:
    """Play a role and print its figures."""
    role, bootstrap, topic, group, schema, events, lead, tail = arguments
    with tempfile.TemporaryDirectory(prefix="quix-state-") as state:
        print(json.dumps(run(role, bootstrap, topic, group, state, Path(schema), (int(events), int(lead), int(tail)))))


if __name__ == "__main__":
    main(sys.argv[1:])
