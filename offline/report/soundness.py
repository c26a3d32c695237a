"""The sections on whether the segments are good, and what they were made of: pictures, criteria, the data, the gate, the words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from offline.report import charts, model_charts
from offline.report.charts import Panel
from offline.report.parts import Figure, Section, Table, date_of, day, figure, keys_of, left_out, shown
from offline.report.words import list_of, number, percent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from offline.report.facts import Picture, Silhouette
    from offline.report.study import Daily, Study

LOADINGS = 3
DISTINCT, WEAK = 0.5, 0.25  # of a mean silhouette (Kaufman and Rousseeuw, 1990)
ODD_LOW, ODD_HIGH = 0.25, 4.0  # of the median of the weekday
ODD_EVENTS = 20  # fewer say nothing

CHECKS = {
    "wcss_ratio": "Is the fit as close to its customers as a fit from nothing would be? (within-cluster squares, as a ratio)",
    "share_min": "Does the smallest segment have enough customers?",
    "share_max": "Does the largest segment leave something to the others?",
    "stability": "Would other customers of the same kind give the same segments? (adjusted Rand index, 1 is the same)",
    "relabelled": "How many customers does the new version alone move, though they behave as before?",
    "psi": "Is every feature spread as at the version before? (population stability index, 0 is the same)",
    "day_low": "Is a day missing? (events against the same weekday)",
    "day_high": "Is a day there twice?",
    "repeated": "Was a day sent twice? (events whose id came before)",
    "amount_day_high": "Are amounts absurd on a day, or in another unit?",
    "customer_share_events": "Does one customer make a great part of all events?",
    "customer_share_purchased": "Does one customer make a great part of all purchases in money?",
}


def good(study: Study) -> Section:
    """Show whether the segments are distinct, and whether their number is right."""
    figures, missing = [], []
    if study.picture is not None:
        figures.append(_picture(study, study.picture))
    if study.silhouette is not None:
        figures.append(_silhouette(study, study.silhouette))
    if study.k_table is not None:
        figures += [_by_k(study, study.k_table)]
    missing = [study.missing[name] for name in ("picture", "silhouette", "k") if name in study.missing]
    lead = [
        "Segments are drawn through a crowd, not around islands: most customers lie between. A segment is good if those in it are more alike "
        "than others, if the same segments come out again from other customers, and if one can do something with it."
    ]
    return Section("good", "Are these good segments?", lead, figures=figures, missing=missing)


def _picture(study: Study, found: Picture) -> Figure:
    keys = keys_of(study)
    axes = ["; ".join(_loadings(study, found, axis)) for axis in range(2)]
    drawn = len(found.points)
    sample = (
        f"{drawn:,} of {found.customers:,} customers, drawn by lot with a fixed seed"
        if drawn < found.customers
        else f"All {drawn:,} customers in segments"
    )
    rows = [
        [study.features[f].label, f"{found.loadings[0, f]:+.2f}", f"{found.loadings[1, f]:+.2f}"]
        for f in np.argsort(-np.abs(found.loadings).max(axis=0), kind="stable").tolist()
    ]
    return figure(
        "plane",
        "All features in one picture",
        f"Points of customers in two dimensions that hold {percent(sum(found.explained))} of all differences. To the right: {axes[0]}. "
        f"Upwards: {axes[1]}.",
        f"{sample}, each a mark, so that those who behave alike are near each other (principal components, PCA). The picture keeps "
        f"{percent(sum(found.explained))} of the differences; segments that overlap here may be apart in the rest. To the right: {axes[0]}. "
        f"Upwards: {axes[1]}.",
        Table(("feature", "to the right", "upwards"), rows),
        lambda width: model_charts.plane(keys, found, width),
        keys,
    )


def _loadings(study: Study, found: Picture, axis: int) -> list[str]:
    order = np.argsort(-np.abs(found.loadings[axis]), kind="stable")[:LOADINGS].tolist()
    return [f"{'more' if found.loadings[axis, f] > 0 else 'less'} {study.features[f].label}" for f in order]


def _silhouette(study: Study, found: Silhouette) -> Figure:
    keys, chosen = keys_of(study), shown(study)
    rows = [
        [
            key.label,
            f"{found.mean[k]:.2f}" if math.isfinite(found.mean[k]) else "–",
            percent(found.negative[k]) if math.isfinite(found.negative[k]) else "–",
        ]
        for k, key in enumerate(keys)
    ]
    verdict = "clearly apart" if found.overall >= DISTINCT else "apart, with many between" if found.overall >= WEAK else "hardly apart"
    everybody = found.customers == int(study.profile.customers.sum())
    of_whom = "customer" if everybody else f"customer of a sample of {found.customers:,} (by lot, with a fixed seed)"
    some = [keys[k] for k in chosen]
    part = type(found)(tuple(found.profiles[k] for k in chosen), found.mean[chosen], found.negative[chosen], found.overall, found.customers)
    return figure(
        "silhouette",
        "How well customers fit their segment (silhouette)",
        f"Mean silhouette {found.overall:.2f}. " + "; ".join(f"{row[0]} {row[1]}" for row in rows[:12]),
        f"For each {of_whom}: 1 means far from every other segment, 0 on the border of two, below 0 nearer to another. "
        f"Each shape holds a segment's customers from the best fit to the worst, and a line at their mean, which stands before the name. The mean of all, {found.overall:.2f}, says: {verdict}."
        + left_out(study),
        Table(("segment", "mean silhouette", "below 0"), rows),
        lambda width: model_charts.silhouettes(some, part, width),
    )


def _by_k(study: Study, table: Sequence[Mapping[str, Any]]) -> Figure:
    ks = [int(row["k"]) for row in table]
    k = len(study.version.active)
    wcss = [float(row["wcss"]) for row in table]
    stable, apart = ([float(row[name]) for row in table] for name in ("stability", "silhouette"))
    rows = [
        [
            str(row["k"]),
            number(float(row["wcss"])),
            f"{row['elbow']:.2f}",
            f"{row['silhouette']:.2f}",
            f"{row['stability']:.2f}",
            percent(float(row["smallest"])),
            percent(float(row["largest"])),
        ]
        for row in table
    ]
    tried = (
        f"Each number was tried for this report, on {study.k_customers:,} customers (by lot, with a fixed seed)."
        if study.k_customers is not None
        else "Each number was tried when the version was made."
    )
    here = next((row for row in rows if row[0] == str(k)), None)
    said = f"With {k}: silhouette {here[3]}, stability {here[4]}." if here else f"The version has {k}, which was not tried."
    panels = (
        Panel("Spread inside segments (elbow)", [("squares", "s1", "circle", wcss)], None, number),
        Panel(
            "Distinct and stable", [("stability", "s2", "square", stable), ("silhouette", "s1", "circle", apart)], 1.0, lambda v: f"{v:g}"
        ),
    )
    return figure(
        "k",
        "How many segments",
        f"Spread inside segments, silhouette and stability for {ks[0]} to {ks[-1]} segments. {said}",
        "Left: the sum of squared distances of customers to the middle of their segment. It always falls; where it bends (the elbow), more "
        "segments bring little. Right: stability is how far other samples of the same customers give the same segments (1 is the same), "
        f"silhouette how distinct they are. {tried} The dashed line is this version's number.",
        Table(("segments", "squares", "elbow", "silhouette", "stability", "smallest", "largest"), rows, texts=0),
        lambda width: charts.by_k(ks, panels, k, width),
    )


def data(study: Study) -> Section:
    """Tell what the data were like."""
    figures = [_daily(study.daily)] if study.daily is not None else []
    tables, lead = [], list(study.warnings)
    if study.data is not None:
        lead = [_events(study.data["rows"]), *lead]
        rows = [
            [name, odd["done"], ", ".join(odd["examples"]) or "–", f"{odd['customers']:,}"] for name, odd in study.data["oddities"].items()
        ]
        tables.append(
            (
                "What is odd about customers, and what is done",
                Table(("customers with", "what is done", "such as", "how many"), rows, texts=3),
            )
        )
        clipped = study.data["clipped"]
        if clipped:
            labels = {one.name: one.label for one in study.features}
            most = sorted(clipped.items(), key=lambda item: (-item[1], item[0]))[:5]
            lead.append(
                "Very large and very small values count as the version's bounds: "
                + list_of([f"{count:,} customers in {labels.get(name, name)}" for name, count in most])
                + "."
            )
        if study.data["without_variance"]:
            lead.append(f"The same everywhere, and so without weight: {list_of(study.data['without_variance'])}.")
    elif "data" in study.missing:
        return Section("data", "The data", lead, missing=[study.missing["data"]])
    return Section("data", "The data", lead, figures=figures, tables=tables)


def _events(rows: Mapping[str, int]) -> str:
    valid, whole = rows.get("valid", 0), rows.get("rows", 0)
    parts = [f"{whole:,} events were read, {valid:,} of them valid."]
    for name, count in rows.items():
        if name.startswith("refused") and count:
            parts.append(f"{count:,} {name.replace(':', ' for')}.")
    if rows.get("duplicate"):
        parts.append(f"{rows['duplicate']:,} were there twice and count once.")
    if rows.get("late"):
        parts.append(f"{rows['late']:,} came too late for any window.")
    return " ".join(parts)


def _daily(found: Daily) -> Figure:
    middle = float(np.median(found.events))
    odd = _odd(found)
    rows = [
        [date_of(int(day_)), f"{int(n):,}", "odd" if int(day_) in set(odd) else ""]
        for day_, n in zip(found.days, found.events, strict=True)
    ]
    several = f"{len(odd)} days have" if len(odd) != 1 else "one day has"
    said = (
        f"{several} less than a quarter or more than four times what is usual on that weekday"
        if odd
        else "no day is far from its weekday's"
    )
    return figure(
        "daily",
        "Events a day",
        f"Events a day from {rows[0][0]} to {rows[-1][0]}: {number(middle)} on the middle day; {said}.",
        f"The middle day has {number(middle)} events; {said}"
        + (" (marked). A day may be closed, missing, or there twice." if odd else "."),
        Table(("day", "events", ""), rows),
        lambda width: charts.daily(found.days, found.events, odd, width),
    )


def _odd(found: Daily) -> list[int]:
    """Find the days that have far fewer or far more events than is usual on their weekday."""
    weekday = found.days % 7
    usual = np.array([np.median(found.events[weekday == one]) if (weekday == one).any() else 0.0 for one in range(7)])[weekday]
    far = (found.events < ODD_LOW * usual) | (found.events > ODD_HIGH * np.maximum(usual, 1.0))
    return [int(one) for one in found.days[far & (np.maximum(usual, found.events) >= ODD_EVENTS)]]


def gate(study: Study) -> Section:
    """Tell what the gate saw."""
    title = "What the gate saw"
    if study.gate is None:
        return Section("gate", title, missing=[study.missing["gate"]])
    found = study.gate
    rows = [
        [
            CHECKS.get(check["name"], check["name"]),
            "passed" if check["passed"] else "failed",
            "–" if check["value"] is None else number(check["value"]),
            check["limit"],
        ]
        for check in found["checks"]
    ]
    lead = ["Every new version is held against limits before anybody is judged by it."]
    if not found["reasons"]:
        lead.append(f"This one passed all {len(rows)} checks.")
    elif found["forced"]:
        lead.append(f"A person put it in force although checks failed, and gave this reason: {found['forced']}.")
        lead += [f"Failed: {reason}." for reason in found["reasons"]]
    else:
        lead += [f"It failed: {reason}." for reason in found["reasons"]]
    return Section("gate", title, lead, tables=[("Checks", Table(("question", "answer", "figure", "limit"), rows, texts=2))])


def words(study: Study) -> Section:
    """Explain the words that a reader may not know."""
    told = [
        (
            "Segment",
            "A group of customers who behave alike, found by k-means: each customer belongs to the segment whose middle is nearest.",
        ),
        ("Feature", "One number about a customer that counts, such as spend in 90 days. Each counts alike, whatever its unit."),
        ("Median", "The middle one: half have less, half have more. Unlike the average, a few very large ones don't move it."),
        ("Standard deviation", "The usual distance from the average. Two thirds of all customers are within one of it."),
        (
            "Version",
            "One fit of the segments, with a number. Segments keep their numbers and, while they are true, their names from one version to the next.",
        ),
    ]
    if study.profile.new:
        told.append(("Too little known", "Customers with so few events that no segment can be told yet."))
    return Section("words", "Words", words=told)


def made(study: Study) -> Section:
    """Tell how the report was made, so that it can be made again."""
    when = f"As of the end of {day(study.as_of)} (UTC). " if study.as_of is not None else ""
    lead = [f"{when}The same inputs give the same report, to the byte."]
    return Section("made", "How this was made", lead, words=sorted(study.lineage.items()))
