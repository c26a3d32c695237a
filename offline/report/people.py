"""The sections on who the segments are: in a minute, one by one, how many, and what sets them apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from offline.report import charts, model_charts
from offline.report.axes import Key
from offline.report.charts import Bar
from offline.report.facts import ABSENT
from offline.report.parts import Card, Figure, Section, Table, Trait, day, figure, keys_of, left_out, shown
from offline.report.words import list_of, percent, suggestions, traits, value

if TYPE_CHECKING:
    from offline.report.study import Study

FEATURES_SHOWN = 16
NOTHING = 0.05


def summary(study: Study) -> Section:
    """Say the most important in a few sentences."""
    keys, sizes = keys_of(study), study.profile.customers
    total = max(study.customers, 1)
    when = f" at the end of {day(study.as_of)}" if study.as_of is not None else ""
    largest = int(sizes.argmax())
    several = f"{len(keys)} segments: groups of customers who behave alike." if len(keys) != 1 else "one segment."
    more = f" {study.profile.new:,} more have too little behind them to say." if study.profile.new else ""
    known = study.customers - study.profile.new
    lead = [f"{known:,} customer{'s' if known != 1 else ''}{when}, in {several}{more}"]
    lead.append(f"The largest is {_named(keys[largest])}: {percent(sizes[largest] / total)} of all.")
    found = study.revenue
    if found is not None and found.revenue.sum() > 0 and len(keys) > 1:
        best = int(found.revenue.argmax())
        lead.append(
            f"{_named(keys[best]).capitalize()} brought {percent(found.revenue[best] / found.revenue.sum())} of the revenue of the last "
            f"{found.days} days, with {percent(sizes[best] / max(int(sizes.sum()), 1))} of the customers in segments."
        )
    lead += _moves(study)
    if study.retention is not None and len(keys) > 1 and np.isfinite(study.retention.active[:, 0]).sum() > 1:
        first = study.retention.active[:, 0]
        most, least = int(np.nanargmax(first)), int(np.nanargmin(first))
        lead.append(
            f"Of those in {_named(keys[most])} on {day(study.retention.since)}, {percent(first[most])} {study.retention.what} in the "
            f"{study.retention.days} days after; of those in {_named(keys[least])}, {percent(first[least])}."
        )
    if study.one_in > 1:
        lead.append(
            f"The history is large, so this report is of one customer in {study.one_in:,}, drawn by the hash of the customer's id. Shares are "
            "as of all, up to chance; counts and amounts are those of the sample."
        )
    return Section("summary", "In one minute", lead)


def _named(key: Key) -> str:
    return f"segment {key.number} ({key.name})"


def _moves(study: Study) -> list[str]:
    found = study.migration
    if found is None:
        return []
    inside = found.customers[:-2, :-2]
    names = {segment: n for n, segment in enumerate(found.after)}
    stayed = sum(int(inside[i, names[one]]) for i, one in enumerate(found.before[:-2]) if one in names and names[one] < inside.shape[1])
    moved, total = int(inside.sum()) - stayed, int(inside.sum())
    if not total:
        return []
    version = f" (version {study.since_version})" if study.since_version is not None else ""
    return [f"Of those who were in a segment at the end of {day(found.before_ms)}{version}, {percent(moved / total)} are in another now."]


def segments(study: Study) -> Section:
    """Tell each segment in plain words, and what one might do."""
    keys = keys_of(study)
    total = max(study.customers, 1)
    cards = []
    for place, (key, segment) in enumerate(zip(keys, study.version.active, strict=True)):
        z = study.profile.z[place]
        told = []
        for f in traits(study.words, z):
            here, usual = study.profile.median[place, f], study.profile.median_all[f]
            if abs(here - usual) < 1e-9 or (abs(here) < NOTHING and abs(usual) < NOTHING):  # noqa: PLR2004  # equal but for rounding
                here, usual = study.profile.mean[place, f], study.profile.mean_all[f]
                kind = "on average"
            else:
                kind = "usually"
            word = study.words[f]
            phrase = word.much if z[f] > 0 else (word.nothing if word.nothing and abs(here) < NOTHING else word.little)
            one = study.features[f]
            told.append(
                Trait(
                    phrase[0].upper() + phrase[1:],
                    f"{kind} {value(one, here, study.currency)}",
                    value(one, usual, study.currency),
                    "" if one.label in phrase else f"{one.label}: ",
                )
            )
        size = int(study.profile.customers[place])
        does = suggestions(study.features, z) if size else []
        cards.append(Card(key, segment.segment_id, f"{size:,}", percent(size / total), told, does))
    lead = [
        "A segment is named by what sets it apart from the average customer. Below each name stands what is usual there (the middle customer "
        "of the segment, the median) and, to compare, among all customers in segments.",
        "What one might do is derived from those figures alone. It is a beginning, to be tried on a part of the customers and measured "
        "against the rest.",
    ]
    if study.profile.new:
        lead.append(
            f"{study.profile.new:,} customers ({percent(study.profile.new / total)}) are in no segment yet: too little is behind them "
            f"({_rule(study)}). They get one as soon as there is more."
        )
    return Section("segments", "The segments, and what one might do", lead, cards=cards)


def _rule(study: Study) -> str:
    rules = [f"fewer than {least} {measure.replace('_', ' ')}" for measure, least in study.version.eligibility]
    return list_of(rules) or "no rule is declared"


def sizes(study: Study) -> Section:
    """Show how many are in each segment, now and before."""
    keys, count = keys_of(study), study.profile.customers
    total = max(study.customers, 1)
    rows = [[key.label, f"{int(n):,}", percent(n / total)] for key, n in zip(keys, count, strict=True)]
    if study.profile.new:
        rows.append(["too little known", f"{study.profile.new:,}", percent(study.profile.new / total)])
    order = sorted(shown(study), key=lambda k: -int(count[k]))
    now = figure(
        "sizes",
        "How many customers each segment has",
        "Bars: " + "; ".join(f"{row[0]}, {row[1]} customers, {row[2]}" for row in rows[:13]),
        "Segments by number of customers." + left_out(study),
        Table(("segment", "customers", "share"), rows),
        lambda width: charts.bars(
            [(keys[k], [Bar(float(count[k]), f"{int(count[k]):,} ({percent(count[k] / total)})", keys[k].color)]) for k in order], width
        ),
    )
    figures = [now]
    if study.sizes is not None and study.sizes.customers.sum():
        figures.append(_history(study, keys))
    why = study.missing.get("sizes")
    return Section("sizes", "How many, now and before", figures=figures, missing=[why] if why else [])


def _history(study: Study, keys: list[Key]) -> Figure:
    found = study.sizes
    assert found is not None  # noqa: S101  # the caller has looked
    share = found.customers / np.maximum(found.customers.sum(axis=1, keepdims=True), 1)
    first, last = share[0], share[-1]
    change = "; ".join(f"{key.label} from {percent(a)} to {percent(b)}" for key, a, b in zip(keys[:12], first, last, strict=False))
    how = (
        "These are the segments that subscribers were told at the time."
        if study.told
        else "Everybody is judged by the present version, as if it had been in force all along, so that the curve shows people and not versions."
    )
    rows = [[day(at), *(f"{int(n):,}" for n in row)] for at, row in zip(found.instants, found.customers, strict=True)]
    return figure(
        "history",
        "How the shares have changed",
        f"Bands of shares from {day(found.instants[0])} to {day(found.instants[-1])}: {change}.",
        f"Share of all customers known at the time, one band a segment, in the order of their numbers from the top. {how}",
        Table(("end of", *(key.number for key in keys), "too little known"), rows),
        lambda width: charts.bands(keys, found, width),
        [*keys, Key(-1, "", "too little known")],
    )


def apart(study: Study) -> Section:
    """Show what sets segments apart, feature by feature."""
    keys, chosen = keys_of(study), shown(study)
    z = study.profile.z
    strength = np.abs(z[chosen]).max(axis=0) if len(chosen) else np.zeros(z.shape[1])
    order = sorted(np.argsort(-strength, kind="stable")[:FEATURES_SHOWN].tolist())
    labels = [study.features[f].label for f in order]
    some = [keys[k] for k in chosen]
    fewer = f" The figures have the {FEATURES_SHOWN} features that tell most, the tables all." if z.shape[1] > FEATURES_SHOWN else ""
    extremes = "; ".join(f"{keys[k].label}: {_extreme(study, k)}" for k in chosen)
    head = ("feature", *(key.number for key in keys))
    snake = figure(
        "snake",
        "Snake plot: each segment's way through the features",
        f"Lines through all features, one a segment, in standard deviations from the average customer. {extremes}.",
        "The line in the middle is the average customer; a mark one unit to the right means one standard deviation more (two thirds of "
        "all customers are within one unit of the average). Heavy tails count by their logarithm, as in the model."
        + left_out(study)
        + fewer,
        Table(head, [[study.features[f].label, *(f"{z[k, f]:+.2f}" for k in range(len(keys)))] for f in range(z.shape[1])]),
        lambda width: model_charts.snake(some, labels, z[np.ix_(chosen, order)], width),
        some,
    )
    mean, everybody = study.profile.mean, study.profile.mean_all
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(everybody > 0, mean / everybody - 1, np.nan)
    heat = figure(
        "importance",
        "Relative importance: how much more or less than all",
        f"A grid of features by segments with the mean there against the mean of all customers in segments, in percent. {extremes}.",
        "The mean in a segment over the mean of all, less one, in percent: +100 is twice as much, −50 is half, 3× is three times. Blue is "
        "more, orange less; a dot where a share can't be told." + left_out(study) + fewer,
        Table(
            ("feature", *(key.number for key in keys), "all"),
            [
                [one.label, *(value(one, mean[k, f], study.currency) for k in range(len(keys))), value(one, everybody[f], study.currency)]
                for f, one in enumerate(study.features)
            ],
        ),
        lambda width: model_charts.importance(some, labels, relative[np.ix_(chosen, order)], width),
        some,
    )
    return Section("apart", "What sets them apart", figures=[snake, heat])


def _extreme(study: Study, k: int) -> str:
    z = study.profile.z[k]
    f = int(np.abs(z).argmax())
    return f"{study.features[f].label} {z[f]:+.1f}"


def moved(study: Study) -> Section:
    """Show who went where."""
    found = study.migration
    title = "Who moved"
    if found is None:
        return Section("migration", title, missing=[study.missing["migration"]])
    names = {segment.segment_id: key for segment, key in zip(study.version.active, keys_of(study), strict=True)}
    before, after = ([_key(one, names) for one in side] for side in (found.before, found.after))
    rows = [
        [source.label, target.label, f"{int(n):,}", percent(n / max(int(found.customers[i].sum()), 1))]
        for i, source in enumerate(before)
        for j, target in enumerate(after)
        if (n := int(found.customers[i, j]))
    ]
    rows.sort(key=lambda row: -int(row[2].replace(",", "")))
    most = [row for row in rows if row[0] != row[1] and row[0] != _key("absent", names).label][:3]
    told = "; ".join(f"{row[2]} from {row[0]} to {row[1]}" for row in most) or "nobody moved from one segment to another"
    if study.since_version is not None:
        how = (
            f"On the left, everybody by version {study.since_version} as of the end of {day(found.before_ms)}; on the right by version "
            f"{study.version.version} as of the end of {day(found.after_ms)}. Both behaviour and the new version may move a customer."
        )
    else:
        how = f"By the same version, as of the end of {day(found.before_ms)} and of {day(found.after_ms)}: only behaviour moves anybody."
        if study.told:
            how = f"As subscribers were told, by the end of {day(found.before_ms)} and of {day(found.after_ms)}."
    reasons = ", ".join(f"{count:,} {CAUSES.get(cause, cause)}" for cause, count in study.causes.items())
    sankey = figure(
        "migration",
        "From segment to segment",
        f"Ribbons from segments then to segments now. The largest moves: {told}.",
        f"{how} A ribbon is as thick as it has customers; pale ribbons are those who stayed.",
        Table(("from", "to", "customers", "of those who were there"), rows, texts=2),
        lambda width: model_charts.flows(before, after, found, (day(found.before_ms), day(found.after_ms)), width),
        [key for key in after if key.number],
    )
    lead = [f"Why customers changed in that time: {reasons}."] if reasons else []
    why = study.missing.get("version")
    return Section("migration", title, lead, figures=[sankey], missing=[why] if why else [])


CAUSES = {
    "first_seen": "got their first segment",
    "behaviour": "by what they did",
    "decay": "as time passed without them",
    "model_drift": "as the model learned",
    "model_reseed": "by a new version",
    "merged": "merged into another id",
    "expired": "left after a long silence",
    "erased": "were erased",
    "backfill": "by a backfill",
    "reconcile": "by reconciling",
}


def _key(segment_id: str, names: dict[str, Key]) -> Key:
    if segment_id == "new":
        return Key(-1, "", "too little known")
    if segment_id == "absent":
        return Key(ABSENT, "", "not there")
    number = segment_id.removeprefix("seg_").lstrip("0")
    return names.get(segment_id, Key(-1, number, "retired"))
