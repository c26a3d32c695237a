"""Everything that a report tells of, gathered: from a history and a version, or from one file that was segmented once.

Law: what there is no data for is None, and `missing` says why and what would give it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from offline import choosing, cleaning
from offline.features import compute
from offline.fit import points_of, sampled
from offline.report import facts
from offline.report.course import regular, walk
from offline.report.facts import ABSENT, NEW
from streamer.adapters.clustering import STARTS_MIN
from streamer.core.declaration import DAY_MS
from streamer.core.errors import BadInput, Misconfigured
from streamer.core.model import votes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from offline.naming import Words
    from offline.report.course import Then
    from offline.report.ledger import Ledger
    from offline.report.told import Told
    from offline.report.words import Described
    from offline.settings import Settings
    from streamer.core.columns import F64, I16, I64
    from streamer.core.model import ModelVersion

K_SAMPLE = 2_000  # customers on whom other numbers of segments are tried, where the version says nothing of them
SINCE_DAYS = (30, 7, 1)  # how far back moves are looked at where there is no earlier version
QUARTER = 0.25  # of that time at least must lie before it
NO_EVENTS = "The file has features, one row a customer, and no events: `offline segment` with a file of orders or events shows it."


@dataclass(frozen=True, slots=True)
class Daily:
    """Events by day since 1970."""

    days: I64
    events: I64


@dataclass(frozen=True, slots=True)
class Study:
    """What is told; `as_of` is an instant (ms), None for a table of features."""

    version: ModelVersion
    features: tuple[Described, ...]
    words: tuple[Words, ...]
    currency: str
    customers: int
    profile: facts.Profile
    as_of: int | None = None
    one_in: int = 1
    told: bool = False  # segments are those that subscribers were told
    sizes: facts.Sizes | None = None
    revenue: facts.Revenue | None = None
    grid: facts.Grid | None = None
    retention: facts.Retention | None = None
    migration: facts.Migration | None = None
    since_version: int | None = None  # of the migration; None: the same version
    causes: Mapping[str, int] = field(default_factory=dict)
    picture: facts.Picture | None = None
    silhouette: facts.Silhouette | None = None
    k_table: Sequence[Mapping[str, Any]] | None = None
    k_customers: int | None = None  # of the sample, where the version says nothing
    daily: Daily | None = None
    data: Mapping[str, Any] | None = None
    gate: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    lineage: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)  # section -> why


@dataclass(frozen=True, slots=True)
class Subject:
    """What is reported of: the version with what its night saw (its SHA-256, the gate, the data, the table of k), and the one before."""

    version: ModelVersion
    features: tuple[Described, ...]
    words: tuple[Words, ...]
    details: Mapping[str, Any] = field(default_factory=dict)
    previous: ModelVersion | None = None
    once: bool = False  # of one file: there is no gate, no earlier version


def of_log(subject: Subject, ledger: Ledger, as_of: int, told: Told | None, settings: Settings) -> Study:
    """Study the customers of a log as of an instant; `told` gives their segments where it is known what subscribers were told.

    Raises:
        Misconfigured: the version is of other features than the log is read by.
        BadInput: nobody is there before the instant.

    """
    version, declaration = subject.version, ledger.log.reading.declaration
    if version.feature_version != declaration.version:
        message = (
            f"version {version.version} of {version.name} is of the feature version {version.feature_version[:12]}, and the declaration is "
            f"{declaration.version[:12]}: name the declaration that it was made with (--features, or features.declaration in the settings)"
        )
        raise Misconfigured(message)
    first = int(ledger.log.rows.time[0])
    if first >= as_of:
        message = "there is no valid event before the instant of the report: choose a later --as-of"
        raise BadInput(message)
    k = len(version.active)
    period = facts.period_of(first, as_of)
    since = as_of - period[0] * period[1] * DAY_MS if period is not None else None
    comparable = subject.previous is not None and subject.previous.feature_version == version.feature_version
    before_ms, earlier = _before(subject, first, as_of, told, comparable=comparable)
    instants = {*regular(first, as_of), as_of, *([since] if since is not None else []), *([before_ms] if before_ms is not None else [])}
    by = [version, *([earlier] if earlier is not None and earlier is not version else [])]
    then, now = walk(ledger, instants, by, version.decision.retention_ms)
    place = _told_places(told, as_of, ledger, version) if told is not None else then[as_of].place[version.version]
    study = _of_points(subject, now.values, now.eligible, place[now.slots], settings)
    orders, rows = ledger.orders, ledger.log.rows
    bought = len(orders.slot) > 0
    begin = max(as_of - facts.REVENUE_DAYS * DAY_MS, first // DAY_MS * DAY_MS)
    retained = None
    if since is not None and period is not None:
        times, slots, what = (orders.time, orders.slot, "bought") if bought else (rows.time, rows.slot, "did something")
        at_since = then[since].place[version.version]
        retained = facts.retention(times, slots.astype(np.int64), since, *period, at_since, k, what)
    migration = None
    if before_ms is not None:
        was = _told_places(told, before_ms, ledger, version) if told is not None else then[before_ms].place[(earlier or version).version]
        migration = _migration(version, version if told is not None else earlier or version, was, place, (before_ms, as_of))
    data = subject.details.get("data") if as_of == version.as_of and ledger.one_in == 1 else None
    return replace(
        study,
        currency=declaration.currency,
        as_of=as_of,
        one_in=ledger.one_in,
        told=told is not None,
        sizes=_sizes(then, told, ledger, version, as_of, first),
        revenue=facts.revenue(orders, place, k, begin, as_of) if bought else None,
        grid=facts.grid(orders, place, as_of) if bought else None,
        retention=retained,
        migration=migration,
        since_version=earlier.version if earlier is not None and earlier is not version and told is None else None,
        causes=told.causes(before_ms, as_of) if told is not None and before_ms is not None else {},
        daily=_daily(ledger, as_of),
        data=data or _data(ledger, version, as_of, settings),
        missing={**study.missing, **_missing(subject, comparable=comparable, bought=bought, period=period, migration=migration)},
    )


def of_table(subject: Subject, values: F64, place: I64, settings: Settings) -> Study:
    """Study customers of whom features (n, f) and places (n,) are known and nothing else."""
    study = _of_points(subject, values, place != NEW, place, settings)
    of_events = ("sizes", "revenue", "grid", "retention", "migration", "data")
    return replace(study, missing={**study.missing, **dict.fromkeys(of_events, NO_EVENTS)})


def _of_points(subject: Subject, values: F64, eligible: Any, place: I64, settings: Settings) -> Study:  # noqa: ANN401  # (n,) of bool
    """Study what needs features alone; `place` (n,) is that of each row of `values` (n, f)."""
    version = subject.version
    k = len(version.active)
    vectors: I16 = votes(version.transforms, version.scaling, np.ascontiguousarray(values))
    inside = place >= 0
    of_k, at_k = np.ascontiguousarray(vectors[inside]), place[inside]
    table = subject.details.get("k_table")
    tried = None
    if table is None:
        table, tried = _k_table(np.ascontiguousarray(vectors[np.asarray(eligible)]), settings)
    missing = {}
    if table is None:
        missing["k"] = "There are too few customers who differ to try other numbers of segments."
    pictured = facts.picture(of_k, at_k, k)
    if pictured is None:
        missing["picture"] = "A picture needs at least three customers and two features that differ."
    measured = facts.silhouette(of_k, at_k, k)
    if measured is None:
        missing["silhouette"] = "Silhouettes need customers in at least two segments, and more customers than segments."
    gate = subject.details.get("gate")
    if gate is None:
        missing["gate"] = (
            "One file was segmented once, and no gate looks at that. `offline reseed` judges every new version by one."
            if subject.once
            else "The stream made this version itself, as its first. A gate judges the versions that `offline reseed` makes."
        )
    return Study(
        version=version,
        features=subject.features,
        words=subject.words,
        currency="",
        customers=int((place != ABSENT).sum()),
        profile=facts.profile(values, vectors, place, k),
        picture=pictured,
        silhouette=measured,
        k_table=table,
        k_customers=tried,
        gate=gate,
        lineage=_lineage(subject),
        missing=missing,
    )


def _before(subject: Subject, first: int, as_of: int, told: Told | None, *, comparable: bool) -> tuple[int | None, ModelVersion | None]:
    """Choose since when moves are told, and by which version customers were judged then; None where there is nothing to compare with."""
    previous = subject.previous
    if previous is not None and comparable and first < previous.as_of < as_of and told is None:
        return previous.as_of, previous
    begin, before = (first, QUARTER) if told is None else (told.first_ms, 0.0)
    for days in SINCE_DAYS:
        at = as_of - days * DAY_MS
        if at - begin >= days * DAY_MS * before:
            return at, subject.version
    return None, None


def _told_places(told: Told | None, at: int, ledger: Ledger, version: ModelVersion) -> I64:
    """Place the ledger's customers by what was told as of an instant; a segment that the version no longer has counts as NEW."""
    known = {segment.segment_id: place for place, segment in enumerate(version.active)}
    segments = told.at(at).to_dict() if told is not None else {}
    codes = (ABSENT if (one := segments.get(customer)) is None else known.get(one, NEW) for customer in ledger.ids)
    return np.fromiter(codes, np.int64, len(ledger.ids))


def _sizes(then: Mapping[int, Then], told: Told | None, ledger: Ledger, version: ModelVersion, as_of: int, first: int) -> facts.Sizes:
    k = len(version.active)
    if told is None:
        instants = [at for at in regular(first, as_of) if (then[at].place[version.version] != ABSENT).any()]
        return facts.Sizes(tuple(instants), np.array([facts.counted(then[at].place[version.version], k) for at in instants], np.int64))
    instants = regular(min(told.first_ms, as_of - DAY_MS), as_of)
    return facts.Sizes(tuple(instants), np.array([facts.counted(_told_places(told, at, ledger, version), k) for at in instants], np.int64))


def _migration(after: ModelVersion, before: ModelVersion, was: I64, place: I64, between: tuple[int, int]) -> facts.Migration | None:
    """Count who went where; in both, the two last are NEW and who was not there."""
    sides = [(*(segment.segment_id for segment in version.active), "new", "absent") for version in (before, after)]
    rows, columns = len(sides[0]), len(sides[1])
    counted = np.zeros((rows, columns), np.int64)
    from_, to = (np.where(p >= 0, p, size + p) for p, size in ((_last_two(was), rows), (_last_two(place), columns)))
    np.add.at(counted, (from_, to), 1)
    counted[-1, -1] = 0
    return facts.Migration(*between, sides[0], sides[1], counted) if counted[: rows - 2].sum() else None


def _last_two(place: I64) -> I64:
    """Turn NEW and ABSENT into the places before the last and the last, counted from the end."""
    return np.where(place == NEW, -2, np.where(place == ABSENT, -1, place))


def _daily(ledger: Ledger, as_of: int) -> Daily:
    times = ledger.log.rows.time
    day = times[times < as_of] // DAY_MS
    first = int(day[0])
    events = np.bincount(day - first).astype(np.int64)
    return Daily(first + np.arange(len(events)), events)


def _data(ledger: Ledger, version: ModelVersion, as_of: int, settings: Settings) -> Mapping[str, Any] | None:
    computed = compute(ledger.log.reading, ledger.batches, as_of, rows_in_memory=2**62)
    eligible = computed.facts["eligible"].to_numpy(np.bool_)
    if not eligible.any():
        return None
    points = points_of(computed.features, eligible, version.transforms)
    longest = max(version.decision.retention_ms, (ledger.log.reading.declaration.horizon_days + 1) * DAY_MS)
    silent = as_of - computed.facts["clock"].to_numpy(np.int64) > longest
    return cleaning.report(computed, points, settings.cleaning, silent).record()


def _k_table(vectors: I16, settings: Settings) -> tuple[Sequence[Mapping[str, Any]] | None, int | None]:
    """Try other numbers of segments on a sample."""
    chosen = np.ascontiguousarray(vectors[sampled(len(vectors), K_SAMPLE, settings.fit.seed)])
    candidates = range(settings.fit.k_min, settings.fit.k_max + 1)
    if len(chosen) < settings.fit.k_min:
        return None, None
    try:
        table = choosing.choose(chosen, candidates, seed=settings.fit.seed, starts_max=STARTS_MIN).table
    except BadInput:
        return None, None
    rows = [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
    return (rows, len(chosen)) if len(rows) > 1 else (None, None)


def _missing(
    subject: Subject, *, comparable: bool, bought: bool, period: tuple[int, int] | None, migration: facts.Migration | None
) -> dict[str, str]:
    found: dict[str, str] = {}
    if not bought:
        none = "There is no purchase with an amount in the declared currency. Send `amount` and `currency` with purchases to see it."
        found |= {"revenue": none, "grid": none}
    if period is None:
        found["retention"] = "The history is too short to follow anybody: four days at least are needed."
    if migration is None:
        found["migration"] = "Nobody was in a segment earlier: after the next night, or some more days of history, this shows who moved."
    elif subject.previous is not None and not comparable:
        found["version"] = (
            f"Version {subject.previous.version} was made of other features, so its segments can't be compared with these. What is "
            "shown are moves under the present version."
        )
    return found


def _lineage(subject: Subject) -> dict[str, str]:
    version = subject.version
    found = {"model": version.name, "version": str(version.version)} if not subject.once else {}
    if "sha256" in subject.details:
        found["SHA-256"] = str(subject.details["sha256"])
    wanted = ("fit", "program", "code", "seed", "cutoff", "manifest", "forced")
    return found | {key: version.provenance[key] for key in wanted if version.provenance.get(key)} | {"features": version.feature_version}
