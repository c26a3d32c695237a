"""The sections on what segments are worth: revenue, orders, recency and frequency, and who comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from offline.report import charts
from offline.report.charts import Bar
from offline.report.parts import Figure, Section, Table, day, figure, keys_of, left_out, shown
from offline.report.words import money, percent

if TYPE_CHECKING:
    from offline.report.facts import Grid, Retention, Revenue
    from offline.report.study import Study


def worth(study: Study) -> Section:
    """Show revenue and order value by segment, and the grid of recency and frequency."""
    if study.revenue is None:
        return Section("worth", "What they buy", missing=[study.missing["revenue"]])
    figures = [_revenue(study, study.revenue), _orders(study, study.revenue)]
    if study.grid is not None:
        figures.append(_grid(study, study.grid))
    lead = [
        "Segments are made of what customers did, purchases included, so it is no surprise that some buy more. What is worth knowing is how "
        "uneven it is, and where a small group carries much."
    ]
    return Section("worth", "What they buy", lead, figures=figures)


def _revenue(study: Study, found: Revenue) -> Figure:
    keys, chosen = keys_of(study), shown(study)
    people, total = max(int(found.customers.sum()), 1), max(int(found.revenue.sum()), 1)
    rows = [
        [
            key.label,
            f"{int(found.customers[k]):,}",
            f"{int(found.buyers[k]):,}",
            f"{int(found.orders[k]):,}",
            money(int(found.revenue[k]), study.currency),
            percent(found.revenue[k] / total),
            money(found.revenue[k] / max(int(found.customers[k]), 1), study.currency),
        ]
        for k, key in enumerate(keys)
    ]
    said = "; ".join(
        f"{keys[k].label}: {percent(found.customers[k] / people)} of the customers, {percent(found.revenue[k] / total)} of the revenue"
        for k in chosen
    )
    head = ("segment", "customers", "buyers", "orders", "revenue", "share of revenue", "revenue a customer")
    return figure(
        "revenue",
        f"Share of customers and share of revenue, last {found.days} days",
        f"Two bars a segment. {said}.",
        f"Grey: the segment's share of the customers. Coloured: its share of the revenue of the last {found.days} days "
        f"({money(total if found.revenue.sum() else 0, study.currency)} in all, refunds not taken off). Where the coloured bar is longer, the segment brings more than its number."
        + left_out(study),
        Table(head, rows),
        lambda width: charts.bars(
            [
                (
                    keys[k],
                    [
                        Bar(float(found.customers[k] / people), f"{percent(found.customers[k] / people)} of customers", "s0"),
                        Bar(float(found.revenue[k] / total), f"{percent(found.revenue[k] / total)} of revenue", keys[k].color),
                    ],
                )
                for k in chosen
            ],
            width,
        ),
    )


def _orders(study: Study, found: Revenue) -> Figure:
    keys, chosen = keys_of(study), shown(study)
    rows = []
    for k, key in enumerate(keys):
        q = found.order_value[k]
        rows.append([key.label, f"{int(found.orders[k]):,}", *(money(x, study.currency) if np.isfinite(x) else "–" for x in q)])
    said = "; ".join(f"{row[0]} {row[3]}" for row in rows[:12])
    return figure(
        "order_value",
        f"What one order is worth, last {found.days} days",
        f"The middle order of each segment: {said}.",
        "The line is the middle order (median): half are worth less, half more. The bar goes from where a quarter of the orders are below to "
        "where a quarter are above." + left_out(study),
        Table(("segment", "orders", "a quarter below", "middle order", "a quarter above"), rows),
        lambda width: charts.ranges([(keys[k], found.order_value[k]) for k in chosen], lambda v: money(v, study.currency), width),
    )


def _grid(study: Study, found: Grid) -> Figure:
    keys = keys_of(study)
    rows = []
    for r, (near, far) in enumerate(found.recency_days):
        for c, (low, high) in enumerate(found.orders):
            if found.customers[r, c]:
                place = int(found.place[r, c])
                rows.append(
                    [
                        f"{near:,} to {far:,} days",
                        f"{low:,} to {high:,}" if low != high else f"{low:,}",
                        f"{int(found.customers[r, c]):,}",
                        money(float(found.spent[r, c]), study.currency),
                        keys[place].label if 0 <= place < len(keys) else "too little known",
                    ]
                )
    fullest = max(rows, key=lambda row: int(row[2].replace(",", "")))
    head = ("last order, days ago", "orders ever", "customers", "middle customer spent", "most are in")
    return figure(
        "rfm",
        "Recency, frequency and money (RFM)",
        f"A grid of buyers by days since the last order and number of orders. Fullest: {fullest[0]} ago, {fullest[1]} orders, "
        f"{fullest[2]} customers.",
        "All who ever bought, by how long ago and how often, in classes of about equal size. Each field: how many customers (darker is more), "
        "what the middle one has spent in all, and the segment that most of them are in.",
        Table(head, rows, texts=2),
        lambda width: charts.cells(found, keys, lambda v: money(v, study.currency), width),
        keys,
    )


def loyalty(study: Study) -> Section:
    """Show who comes back."""
    if study.retention is None:
        return Section("loyalty", "Who comes back", missing=[study.missing["retention"]])
    return Section("loyalty", "Who comes back", figures=[_retention(study, study.retention)])


def _retention(study: Study, found: Retention) -> Figure:
    keys, chosen = keys_of(study), shown(study)
    periods = found.active.shape[1]
    labels = [f"{p * found.days + 1}–{(p + 1) * found.days}" if found.days > 1 else str(p + 1) for p in range(periods)]
    rows = [
        [key.label, f"{int(found.customers[k]):,}", *(percent(x) if np.isfinite(x) else "–" for x in found.active[k])]
        for k, key in enumerate(keys)
    ]
    said = "; ".join(f"{row[0]} {' then '.join(row[2:])}" for row in rows[:12])
    return figure(
        "retention",
        f"Who {found.what} in the {periods * found.days} days after {day(found.since)}",
        f"Lines, one a segment, over periods of {found.days} days: {said}.",
        f"Everybody by the segment that they were in at the end of {day(found.since)}, and the share of them who {found.what} in each period of "
        f"{found.days} days after it. What came later has no part in who is in which segment, so this shows what a segment says about "
        f"the future. Below: days after." + left_out(study),
        Table(("segment then", "customers", *(f"days {label}" for label in labels)), rows),
        lambda width: charts.lines([(keys[k], found.active[k]) for k in chosen], labels, percent, width, high=_high(found)),
        [keys[k] for k in chosen],
    )


def _high(found: Retention) -> float:
    most = float(np.nanmax(found.active)) if np.isfinite(found.active).any() else 1.0
    return min(1.0, max(most * 1.08, 0.05))
