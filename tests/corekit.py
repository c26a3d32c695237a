"""The core's stages joined in memory, for tests: plain events in, packed profiles, sums and changes out.

The law of this module: between two batches nothing is kept but bytes, as in the real store, so every batch passes through unpacking, the
fold and packing, and every partition's state through its own packing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xxhash
import yaml

from streamer.core import fold as folding
from streamer.core.columns import read_only
from streamer.core.declaration import Declaration, declare
from streamer.core.erasure import NOBODY, Rule, heed, make_rule
from streamer.core.fold import CAUSES, ERASE, ERASED, MERGE, MERGED, PASSED, TALLIES, Rows
from streamer.core.intake import Customers
from streamer.core.merging import NO_REDIRECTS, Merges, direct
from streamer.core.model import Decision, ModelVersion, Scaling, Segment, features_as_of
from streamer.core.partition import (
    DONE,
    PartitionData,
    adopt_epoch,
    adopt_version,
    pack_state,
    stack_judge,
    stack_sums,
    tick,
    unpack_state,
    unstack_sums,
)
from streamer.core.plan import Plan, plan
from streamer.core.profile import FIRST_CODE, HELD, MODEL, NEW_SEGMENT, PRESENT, SEGMENT, Work, pack, unpack
from tests import oracle

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from streamer.core.columns import F64, I64, U8, U64, Bool
    from streamer.core.merging import Redirects

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
T0 = 1_700_006_400_000  # a midnight
COMMANDS = {"$erase": ERASE, "$erased": ERASED, "$passed": PASSED, "$merge": MERGE, "$merged": MERGED}
REFUSE, ACCEPT = make_rule("a secret", refuse=True), make_rule("a secret", refuse=False)


class Event(NamedTuple):
    """One valid event in its place in the log."""

    part: int
    offset: int
    row: Mapping[str, Any]


class Change(NamedTuple):
    """One row of `Changes`, with the customer's id."""

    customer: str
    part: int
    offset: int
    cause: str
    before: int
    after: int
    since: int
    occurred: int
    version: int
    model: int
    epoch: int
    distance: float
    margin: float
    feature: tuple[float, ...]
    vote: tuple[int, ...]


def packaged() -> dict[str, Any]:
    """Read the packaged declaration."""
    found = yaml.safe_load((Path(folding.__file__).parent / "default_features.yaml").read_text(encoding="utf-8"))
    return dict(found)


def valid(events: Sequence[Mapping[str, Any]], tree: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Leave out the events that are refused."""
    reasons = oracle.refused(oracle.frame(events), tree)
    return [row for row, reason in zip(events, reasons, strict=True) if reason is None]


def as_rows(declaration: Declaration, events: Sequence[Event], slot: Mapping[tuple[int, str], int]) -> Rows:
    """Lay valid events out as the fold's columns."""
    n = len(events)
    types = {**COMMANDS, **{name: place for place, name in enumerate(declaration.types)}}
    numbers = [[_number(declaration, e.row, source.field, source.decimals) for e in events] for source in declaration.sources]
    texts = [[_text(e.row, measure.field) for e in events] for measure in declaration.distincts]
    shape, wide = (len(numbers), n), (len(texts), n)
    return Rows(
        part=np.array([e.part for e in events], np.int32),
        slot=np.array([slot[e.part, e.row["customer_id"]] for e in events], np.int32),
        offset=np.array([e.offset for e in events], np.int64),
        time=np.array([e.row["occurred_at"] for e in events], np.int64),
        type=np.array([types.get(e.row["event_type"], len(declaration.types)) for e in events], np.int32),
        event_id=np.array([hashed(e.row["event_id"]) for e in events], np.uint64),
        value=np.array([[value or 0 for value in column] for column in numbers], np.int64).reshape(shape),
        there=np.array([[value is not None for value in column] for column in numbers], np.uint8).reshape(shape),
        text=np.array([[0 if text is None else hashed(text) for text in column] for column in texts], np.uint64).reshape(wide),
        text_there=np.array([[text is not None for text in column] for column in texts], np.uint8).reshape(wide),
    )


def _only(rows: Rows, kept: Bool) -> Rows:
    return rows._replace(**{name: np.ascontiguousarray(getattr(rows, name)[..., kept]) for name in rows._fields})


def _said(one: Event) -> bytes | None:
    """Give what a command of a merge says."""
    if one.row["event_type"] == "$merge":
        return str(one.row["into"]).encode()
    return bytes(one.row["profile"]) if one.row["event_type"] == "$merged" else None


def hashed(text: str) -> int:
    """Hash a text's bytes."""
    return xxhash.xxh64_intdigest(text.encode())


def _number(declaration: Declaration, row: Mapping[str, Any], name: str, decimals: int) -> int | None:
    if name.startswith("properties."):
        text = (row.get("properties") or {}).get(name.removeprefix("properties."))
        return None if text is None else oracle.scaled(text, decimals)
    foreign = name == "amount" and row.get("currency") not in {None, declaration.currency}
    return None if foreign else row.get(name)


def _text(row: Mapping[str, Any], name: str) -> str | None:
    if name.startswith("properties."):
        found: str | None = (row.get("properties") or {}).get(name.removeprefix("properties."))
        return found
    return row.get(name)


def joined(packed: Sequence[bytes]) -> tuple[U8, I64]:
    """Join packed profiles as the store gives them."""
    bounds = np.cumsum([0, *map(len, packed)], dtype=np.int64)
    return read_only(np.frombuffer(b"".join(packed), np.uint8)), bounds


def opened(laid_out: Plan, packed: Sequence[bytes], extra: int = 0) -> Work:
    """Unpack profiles."""
    return unpack(laid_out, *joined(packed), np.full(len(packed), extra, np.int64))


def closed(laid_out: Plan, work: Work) -> list[bytes]:
    """Pack every profile."""
    data, bounds = pack(laid_out, work, np.arange(len(work.found)))
    return [data[bounds[i] : bounds[i + 1]].tobytes() for i in range(len(work.found))]


@dataclass
class Stream:
    """One application: its partitions' states and profiles between batches, and all changes so far, in order."""

    declaration: Declaration
    parts: int = 1
    era: int = 0
    profiles: dict[tuple[int, str], bytes] = field(default_factory=dict)
    states: list[bytes] = field(default_factory=list)
    versions: dict[int, ModelVersion] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    tally: I64 = field(default_factory=lambda: np.zeros(TALLIES, np.int64))
    rule: Rule = REFUSE
    refused: int = 0
    redirect_ms: int = DAY_MS
    sent: list[tuple[str, bytes | None]] = field(default_factory=list)  # to whom, and the profile, if it is one

    def __post_init__(self) -> None:
        """Begin every partition at nothing."""
        self.plan = plan(self.declaration)
        self.erased: Sequence[U64] = [NOBODY] * self.parts
        self.redirects: Sequence[Redirects] = [NO_REDIRECTS] * self.parts
        self.states = self.states or [pack_state(PartitionData(self.declaration.version)) for _ in range(self.parts)]

    @classmethod
    def of(cls, tree: Mapping[str, Any], **arguments: Any) -> Stream:
        """Begin by a declaration as read from YAML."""
        return cls(declare(tree), **arguments)

    def data(self, part: int = 0) -> PartitionData:
        """Read a partition's state."""
        return unpack_state(self.states[part])

    def fold(self, events: Sequence[Event], swept: Iterable[tuple[int, str]] = ()) -> list[Change]:
        """Fold one batch, swept customers first; returns its changes."""
        sweep = [key for key in swept if key in self.profiles]
        names = sorted(dict.fromkeys([*((e.part, e.row["customer_id"]) for e in events), *sweep]), key=lambda key: key[0])
        slot = {key: u for u, key in enumerate(names)}
        rows = as_rows(self.declaration, events, slot)
        start = np.searchsorted([part for part, _ in names], np.arange(self.parts + 1))
        customers, record = Customers(*joined([name.encode() for _, name in names]), start), np.arange(len(rows.slot))
        said = {i: said for i, e in enumerate(events) if (said := _said(e)) is not None}
        heeded = heed(self.rule, rows, record, customers, self.erased, said)
        rows, record = _only(rows, heeded.kept), record[heeded.kept]
        self.erased, self.refused = heeded.erased, self.refused + int(heeded.refused.sum())
        how = Merges(self.redirect_ms, said, lambda i: int(events[i].row.get("hops", 0)))
        directed = direct(how, self.rule, rows, record, customers, self.redirects)
        rows, record, self.redirects = _only(rows, directed.kept), record[directed.kept], directed.redirects
        profiles = [said[i] for i in record[rows.type == MERGED].tolist()]
        brought = opened(self.plan, profiles)
        extra = np.bincount(rows.slot, minlength=len(names)).astype(np.int64)
        np.add.at(extra, rows.slot[rows.type == MERGED], np.maximum(brought.days.count, brought.hours.count))
        work = unpack(self.plan, *joined([self.profiles.get(key, b"") for key in names]), extra)
        data = [unpack_state(state) for state in self.states]
        judge = stack_judge(data, self.versions, self.declaration)
        sums = stack_sums(data, judge)
        watermark = np.array([d.watermark for d in data], np.int64)
        tally = np.zeros((self.parts, TALLIES), np.int64)
        numbers = (np.array([slot[key] for key in sweep], np.int32), np.array([part for part, _ in sweep], np.int32))
        how_brought = brought if profiles else None
        changes, n, away = folding.fold(self.plan, judge, sums, work, rows, *numbers, self.era, watermark, tally, how_brought)
        taken = {int(record[row]): one.profile for row, one in away.items()}
        for one in directed.sent:
            if not one.command or one.record in taken:
                self.sent.append((one.customer.decode(), taken.get(one.record)))
        self.profiles |= dict(zip(names, closed(self.plan, work), strict=True))
        self.profiles = {key: body for key, body in self.profiles.items() if body}
        for i, d in enumerate(data):
            learned = None if d.centroids is None else unstack_sums(sums, i, len(d.centroids))
            self.states[i] = pack_state(replace(d, watermark=int(watermark[i]), learned=learned))
        self.tally += tally.sum(axis=0)
        made = [_change(changes, c, names) for c in range(n)]
        self.changes += made
        return made

    def fold_all(self, events: Sequence[Event], cuts: Iterable[int] = ()) -> None:
        """Fold events in batches cut at the given places."""
        places = sorted({0, len(events), *(cut for cut in cuts if 0 < cut < len(events))})
        for begin, end in pairwise(places):
            self.fold(events[begin:end])

    def adopt(self, version: ModelVersion, part: int, at_offset: int, as_of: int) -> None:
        """Let a partition adopt a version."""
        self.versions[version.version] = version
        self.states[part] = pack_state(adopt_version(self.data(part), version, self.data(part).adopted + 1, at_offset, as_of))

    def adopt_epoch(self, part: int, epoch: int, centroids: I64) -> None:
        """Let a partition adopt an epoch; everybody has been swept."""
        self.states[part] = pack_state(adopt_epoch(self.data(part), epoch, centroids))

    def tick(self, part: int, as_of: int) -> list[Change]:
        """Let time pass in a partition, with no event."""
        self.states[part] = pack_state(tick(self.data(part), as_of, hourly=self.plan.horizon_hours > 0))
        return self.sweep(part)

    def sweep(self, part: int) -> list[Change]:
        """Sweep all of a partition's customers."""
        changes = self.fold([], [key for key in self.profiles if key[0] == part])
        self.states[part] = pack_state(replace(self.data(part), cursor=DONE))
        return changes

    def work(self) -> Work:
        """Unpack all profiles, in the order of their customers' ids."""
        return opened(self.plan, [self.profiles[key] for key in sorted(self.profiles)])

    def features(self, as_of: int) -> F64:
        """Compute all features, one row per customer in the order of their ids."""
        return features_as_of(self.plan, self.work(), as_of)

    def recounted(self, part: int) -> tuple[list[Any], ...]:
        """Add a partition's profiles up: count, total, square, members, as its sums should be."""
        data = self.data(part)
        assert data.centroids is not None
        k, f = data.centroids.shape
        numbers = [segment.number for segment in self.versions[data.model].segments if not segment.retired]
        count, members = np.zeros(k, np.int64), np.zeros(k + 1, np.int64)
        total, square = np.zeros((k, f), np.int64), np.zeros((k, f), np.int64)
        work = opened(self.plan, [body for key, body in self.profiles.items() if key[0] == part])
        for u in range(len(work.found)):
            assert int(work.found[u]) == PRESENT
            if work.head[u, MODEL] != data.model:
                continue
            code = int(work.head[u, SEGMENT])
            members[k if code == NEW_SEGMENT else numbers.index(code - FIRST_CODE)] += 1
            held = int(work.head[u, HELD]) - 1
            if held >= 0:
                vote = work.vote[u].astype(np.int64)
                count[held] += 1
                total[held] += vote
                square[held] += vote * vote
        return count.tolist(), total.tolist(), square.tolist(), members.tolist()

    def sums(self, part: int) -> tuple[list[Any], ...]:
        """Give a partition's sums: count, total, square, members."""
        learned = self.data(part).learned
        assert learned is not None
        return learned.count.tolist(), learned.total.tolist(), learned.square.tolist(), learned.members.tolist()


def _change(changes: folding.Changes, c: int, names: Sequence[tuple[int, str]]) -> Change:
    return Change(
        names[changes.slot[c]][1],
        int(changes.part[c]),
        int(changes.offset[c]),
        CAUSES[changes.cause[c]],
        int(changes.before[c]),
        int(changes.after[c]),
        int(changes.since[c]),
        int(changes.occurred[c]),
        int(changes.version[c]),
        int(changes.model[c]),
        int(changes.epoch[c]),
        float(changes.distance[c]),
        float(changes.margin[c]),
        tuple(changes.feature[c].tolist()),
        tuple(changes.vote[c].tolist()),
    )


def log(rows: Iterable[Mapping[str, Any]], parts: int = 1) -> list[Event]:
    """Place events in the log: each customer's in one partition, offsets without gaps."""
    next_offset = [0] * parts
    placed = []
    for row in rows:
        part = hashed(row["customer_id"]) % parts
        placed.append(Event(part, next_offset[part], row))
        next_offset[part] += 1
    return placed


def event(event_type: str, at: int, customer: str = "ann", event_id: str | None = None, **fields: Any) -> dict[str, Any]:
    """Make an event; without an id, one made of all the rest."""
    body = {"customer_id": customer, "event_type": event_type, "occurred_at": at, **fields}
    return {**body, "event_id": repr(sorted(body.items())) if event_id is None else event_id}


def version_of(declaration: Declaration, centroids: Any, number: int = 1, **fields: Any) -> ModelVersion:
    """Make a model version with the features as they are for coordinates (no clip, mean 0, scale 1) unless told otherwise."""
    rows = np.array(centroids, np.float64)
    f = len(declaration.features)
    same: dict[str, Any] = {
        "scaling": Scaling(np.full(f, -1e18), np.full(f, 1e18), np.zeros(f), np.ones(f), np.ones(f)),
        "segments": tuple(Segment(k + 1, f"segment {k + 1}") for k in range(len(rows))),
        "decision": Decision(),
        "eligibility": declaration.eligibility,
    }
    return ModelVersion(
        name="test",
        version=number,
        created_at=0,
        as_of=0,
        feature_version=declaration.version,
        features=tuple(feature.name for feature in declaration.features),
        transforms=tuple(feature.transform for feature in declaration.features),
        centroids=rows.reshape(-1, f),
        quality={},
        provenance={},
        **{**same, **fields},
    )
