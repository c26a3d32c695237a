"""The laws of the fold: neither order, batches, duplicates, sweeps nor partitions show; sums are what profiles say; packing is exact."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamer.core.declaration import declare
from streamer.core.fold import FINER, VOTE_MAX
from streamer.core.hashing import xxh64
from streamer.core.model import Decision, ModelVersion, Scaling, Segment
from streamer.core.partition import next_centroids, pack_state
from streamer.core.profile import ABSENT, CORRUPT, FIRST_CODE, NEVER, NEW_SEGMENT, NO_SEGMENT, OTHER_VERSION, PRESENT
from tests import oracle
from tests.corekit import DAY_MS, Change, Event, Stream, closed, log, opened, valid, version_of
from tests.properties.strategies import declarations, events

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamer.core.columns import I64
    from streamer.core.declaration import Declaration

Row = dict[str, Any]


# Order, batches, duplicates


@given(st.data())
def test_neither_order_nor_batches_nor_duplicates_show_in_profiles_or_features(data: st.DataObject) -> None:
    tree = data.draw(declarations())
    rows = distinct(valid(data.draw(events(tree)), tree))
    repeated = [
        *rows,
        *(dict(row) for row in data.draw(st.lists(st.sampled_from(remembered(rows, tree)), max_size=8) if rows else st.just([]))),
    ]
    shuffled = data.draw(st.permutations(repeated))
    straight, other = Stream.of(tree), Stream.of(tree)
    straight.fold_all(log(rows))
    other.fold_all(log(shuffled), data.draw(st.lists(st.integers(1, 45), max_size=5)))
    assert straight.profiles == other.profiles
    assert [len(rows), len(shuffled) - len(rows)] == other.tally[:2].tolist()
    if rows:
        as_of = max(row["occurred_at"] for row in rows)
        assert straight.features(as_of).tobytes() == other.features(as_of).tobytes()


@given(st.data())
def test_batches_do_not_show_whatever_is_forgotten_of_ids(data: st.DataObject) -> None:
    tree = data.draw(declarations()) | {
        "duplicates": {"ids_max": data.draw(st.integers(0, 4)), "age": data.draw(st.sampled_from(["1h", "1d", "90d"]))}
    }
    rows = valid(data.draw(events({**tree, "duplicates": {"ids_max": 16, "age": "90d"}})), tree)
    rows = [{**row, "event_id": data.draw(st.sampled_from("abcdef"))} for row in rows]  # ids come back at any time, with any other content
    whole, single = Stream.of(tree), Stream.of(tree)
    whole.fold(log(rows))
    single.fold_all(log(rows), range(len(rows)))
    assert whole.profiles == single.profiles
    assert whole.tally.tolist() == single.tally.tolist()


def distinct(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Keep the first event of each id."""
    return list({(row["customer_id"], row["event_id"]): row for row in reversed(rows)}.values())[::-1]


def remembered(rows: Sequence[Mapping[str, Any]], tree: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Give the events whose ids are remembered in whatever order they come."""
    latest: dict[str, int] = {}
    for row in rows:
        latest[row["customer_id"]] = max(row["occurred_at"], latest.get(row["customer_id"], 0))
    age_ms = oracle.duration_ms(tree["duplicates"]["age"])
    return [row for row in rows if row["occurred_at"] >= latest[row["customer_id"]] - age_ms]


# Packing


@given(st.data())
def test_packing_what_was_unpacked_gives_the_same_bytes(data: st.DataObject) -> None:
    stream = drawn_stream(data)
    packed = list(stream.profiles.values())
    work = opened(stream.plan, packed, extra=data.draw(st.integers(0, 3)))
    assert [PRESENT] * len(packed) == work.found.tolist()
    assert packed == closed(stream.plan, work)


@given(st.data())
def test_a_profile_with_any_byte_altered_or_missing_is_refused(data: st.DataObject) -> None:
    stream = drawn_stream(data)
    packed = data.draw(st.sampled_from(list(stream.profiles.values())))
    at, flip = data.draw(st.integers(0, len(packed) - 1)), data.draw(st.integers(1, 255))
    altered = packed[:at] + bytes([packed[at] ^ flip]) + packed[at + 1 :]
    shorter = [packed[:n] for n in range(1, len(packed))]
    assert [CORRUPT] * len(packed) == opened(stream.plan, [altered, *shorter]).found.tolist()
    assert [ABSENT] == opened(stream.plan, [b""]).found.tolist()


@given(st.data())
def test_a_profile_of_another_feature_version_or_layout_is_refused(data: st.DataObject) -> None:
    stream = drawn_stream(data)
    packed = list(stream.profiles.values())
    other = stream.plan._replace(tag=stream.plan.tag ^ data.draw(st.integers(1, 2**32 - 1)))
    assert [OTHER_VERSION] * len(packed) == opened(other, packed).found.tolist()
    assert [CORRUPT] * len(packed) == opened(stream.plan, [sealed(b"\3" + body[1:-4]) for body in packed]).found.tolist()


@given(st.data())
def test_a_foreign_body_under_a_right_checksum_harms_nothing(data: st.DataObject) -> None:
    stream = drawn_stream(data)
    packed = data.draw(st.sampled_from(list(stream.profiles.values())))
    head, body = packed[:5], bytearray(packed[5:-4])
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, len(body) - 1), st.integers(0, 255)), max_size=6)):
        body[at] = byte
    cut = data.draw(st.integers(0, len(body)))
    foreign = [sealed(head + bytes(body)), sealed(head + bytes(body[:cut])), sealed(head + bytes(body) + data.draw(st.binary(max_size=12)))]
    assert {PRESENT, CORRUPT} >= set(opened(stream.plan, [*foreign, sealed(head + data.draw(st.binary(max_size=60)))]).found.tolist())


def sealed(body: bytes) -> bytes:
    """Append the right checksum."""
    return body + (int(xxh64(np.frombuffer(body, np.uint8), 0, len(body))) & 0xFFFFFFFF).to_bytes(4, "little")


def drawn_stream(data: st.DataObject) -> Stream:
    """Give a stream with at least one profile; some have votes."""
    tree = data.draw(declarations())
    rows = [*valid(data.draw(events(tree)), tree), data.draw(events(tree, refusable=False).filter(len))[0]]
    stream = Stream.of(tree)
    if data.draw(st.booleans()):
        stream.adopt(data.draw(versions(stream.declaration, 1)), 0, 0, NEVER)
    stream.fold(log(rows))
    return stream


# A model that learns


@dataclass(frozen=True, slots=True)
class Decided:
    """What was decided before the event at `place` in the log: a version to judge by, or an epoch."""

    place: int
    version: ModelVersion | None
    as_of: int = NEVER
    centroids: I64 | None = None  # of an epoch; None: what the votes make of them


@st.composite
def versions(draw: st.DrawFn, declaration: Declaration, number: int) -> ModelVersion:
    """Draw model versions, with segments that come, stay and go between them."""
    f = len(declaration.features)
    numbers = sorted(draw(st.sets(st.integers(1, 5), min_size=1, max_size=4)))
    retired = [draw(st.integers(0, 4)) == 0 for _ in numbers]
    retired[draw(st.integers(0, len(numbers) - 1))] = False
    coordinates = st.floats(-4, 4, width=16)
    scale = np.array(draw(st.lists(st.sampled_from([0.5, 1.0, 20.0, 5000.0]), min_size=f, max_size=f)))
    counts = [measure.name for measure in declaration.lifetimes if measure.name in dict(declaration.eligibility)]
    return version_of(
        declaration,
        [draw(st.lists(coordinates, min_size=f, max_size=f)) for _ in numbers],
        number,
        segments=tuple(Segment(n, f"s{n}", retired=gone) for n, gone in zip(numbers, retired, strict=True)),
        scaling=Scaling(
            np.full(f, -1e6), np.full(f, 1e6), np.zeros(f), scale, np.array([float(draw(st.integers(0, 7)) > 0) for _ in range(f)])
        ),
        decision=Decision(
            draw(st.sampled_from([0.0, 0.1, 0.5])),
            draw(st.sampled_from([0.3, 0.9])),
            draw(st.sampled_from([0, DAY_MS, 30 * DAY_MS])),
            draw(st.sampled_from([0, 400 * DAY_MS])),
        ),
        eligibility=tuple((name, draw(st.integers(1, 3))) for name in counts[: draw(st.integers(0, 2))]),
    )


@st.composite
def decisions(draw: st.DrawFn, declaration: Declaration, rows: Sequence[Mapping[str, Any]]) -> list[Decided]:
    """Draw what is decided on the way: up to three versions, older ones again, and epochs between and after them."""
    made: list[Decided] = []
    times = [row["occurred_at"] for row in rows]
    number = 0
    for place in sorted(draw(st.lists(st.integers(0, len(rows)), min_size=1, max_size=6))):
        version = next((d.version for d in reversed(made) if d.version), None)
        if version is None or (number < 3 and draw(st.integers(0, 3)) == 0):
            number += 1
            as_of = draw(st.sampled_from([NEVER, *times])) + draw(st.sampled_from([0, DAY_MS]))
            made.append(Decided(place, draw(versions(declaration, number)), as_of))
            continue
        if number > 1 and draw(st.integers(0, 2)) == 0:
            earlier = [d.version for d in made if d.version is not None and d.version.version != version.version]
            made.append(Decided(place, draw(st.sampled_from(earlier)), draw(st.sampled_from([NEVER, *times]))))
            continue
        shape = version.fixed_centroids().shape
        steps = st.integers(-3 * 4096, 3 * 4096)
        drawn = [draw(st.lists(steps, min_size=shape[1], max_size=shape[1])) for _ in range(shape[0])] if draw(st.booleans()) else None
        made.append(Decided(place, None, centroids=None if drawn is None else np.array(drawn, np.int64) * FINER))
    return made


def play(
    tree: Row, rows: Sequence[Mapping[str, Any]], decided: Sequence[Decided], parts: int = 1, rng: random.Random | None = None
) -> Stream:
    """Fold events and follow decisions: one event at a time, and sweeps when they must be, or, with `rng`, in any batches and sweeps.

    Before each decision and in the end every partition's clock goes on to the latest event of any.
    """
    stream = Stream.of(tree, parts=parts)
    placed = log(rows, parts)
    places = [0, *(d.place for d in decided), len(rows)]
    for (begin, end), decision in zip(pairwise(places), [*decided, None], strict=True):
        _fold(stream, placed[begin:end], rng)
        for part in range(parts):
            stream.states[part] = pack_state(replace(stream.data(part), watermark=max(stream.data(p).watermark for p in range(parts))))
        for part in range(parts):
            _sweep(stream, part, rng)
        if decision is not None:
            _follow(stream, decision, placed[:end])
        for part in range(parts):
            if stream.data(part).learned is not None:
                assert stream.recounted(part) == stream.sums(part)
    return stream


def _fold(stream: Stream, placed: Sequence[Event], rng: random.Random | None) -> None:
    at = 0
    while at < len(placed):
        size = rng.randint(1, 12) if rng else 1
        known = sorted(stream.profiles)
        stream.fold(placed[at : at + size], rng.sample(known, rng.randint(0, len(known))) if rng and rng.random() < 0.5 else ())
        at += size


def _sweep(stream: Stream, part: int, rng: random.Random | None) -> None:
    known = sorted(key for key in stream.profiles if key[0] == part)
    if rng:  # in slices, some of which come twice
        for _ in range(rng.randint(0, 2)):
            stream.fold([], rng.sample(known, rng.randint(0, len(known))))
    stream.sweep(part)


def _follow(stream: Stream, decision: Decided, before: Sequence[Event]) -> None:
    parts = range(stream.parts)
    if decision.version is not None:
        for part in parts:
            stream.adopt(decision.version, part, sum(e.part == part for e in before), decision.as_of)
        return
    data = [stream.data(part) for part in parts]
    if data[0].centroids is None:
        return
    learned = [d.learned for d in data if d.learned is not None]
    centroids = next_centroids(data[0].centroids, learned, FINER) if decision.centroids is None else decision.centroids
    for part in parts:
        stream.adopt_epoch(part, data[part].epoch + 1, centroids)


def scenario(data: st.DataObject) -> tuple[Row, list[Mapping[str, Any]], list[Decided]]:
    """Draw a declaration, valid events with repetitions, and decisions."""
    tree = data.draw(declarations())
    rows = valid(data.draw(events(tree)), tree)
    return tree, rows, data.draw(decisions(declare(tree), rows))


def by_customer(changes: Sequence[Change]) -> dict[str, list[Change]]:
    """Sort changes by customer."""
    paths: dict[str, list[Change]] = {}
    for change in changes:
        paths.setdefault(change.customer, []).append(change)
    return paths


@given(st.data(), st.integers(0, 2**32))
def test_neither_batches_nor_sweeps_show_in_changes_profiles_or_sums(data: st.DataObject, seed: int) -> None:
    tree, rows, decided = scenario(data)
    plain, other = play(tree, rows, decided), play(tree, rows, decided, rng=random.Random(seed))
    assert plain.profiles == other.profiles
    assert plain.states == other.states
    assert by_customer(plain.changes) == by_customer(other.changes)


@given(st.data(), st.integers(2, 4), st.integers(0, 2**32))
def test_partitions_do_not_show_in_changes_or_sums(data: st.DataObject, parts: int, seed: int) -> None:
    tree, rows, decided = scenario(data)
    rows = sorted(rows, key=lambda row: row["occurred_at"])  # else it shows how far a partition's clock is when a late event comes
    plain, other = play(tree, rows, decided), play(tree, rows, decided, parts, random.Random(seed))
    assert paths(plain.changes) == paths(other.changes)
    assert total(plain) == total(other)


def paths(changes: Sequence[Change]) -> dict[str, list[Change]]:
    """Sort changes by customer, without what depends on offsets."""
    return by_customer([change._replace(part=0, offset=0, version=0) for change in changes])


def total(stream: Stream) -> list[Any]:
    """Add the partitions' sums up."""
    learned = [data.learned for data in map(stream.data, range(stream.parts)) if data.learned is not None]
    return [sum(getattr(part, name) for part in learned).tolist() for name in ("count", "total", "square", "members")] if learned else []


@given(st.data(), st.integers(0, 2**32))
def test_changes_of_a_customer_form_a_path_with_growing_versions_and_right_causes(data: st.DataObject, seed: int) -> None:
    tree, rows, decided = scenario(data)
    stream = play(tree, rows, decided, rng=random.Random(seed))
    used = {d.version.version: d.version for d in decided if d.version is not None}
    for path in by_customer(stream.changes).values():
        assert (NO_SEGMENT, NEVER, "first_seen") == (path[0].before, path[0].since, path[0].cause)
        for change in path:
            assert change.before != change.after
            assert (change.after == NO_SEGMENT) == (change.cause == "expired")
            places = {segment.number for segment in used[change.model].active}
            assert change.after in (NEW_SEGMENT, NO_SEGMENT) or change.after - FIRST_CODE in places
            assert all(abs(vote) <= VOTE_MAX for vote in change.vote)
        for earlier, later in pairwise(path):
            assert earlier.version < later.version
            assert (earlier.after, earlier.occurred if earlier.after else NEVER) == (later.before, later.since)
            assert later.since <= later.occurred
            assert (later.cause == "first_seen") == (earlier.cause == "expired")
            assert later.cause != "model_drift" or later.epoch > 0
            assert later.cause != "model_reseed" or later.epoch > earlier.epoch


@given(st.data())
def test_a_model_changes_nothing_of_what_events_alone_make(data: st.DataObject) -> None:
    tree, rows, decided = scenario(data)
    first = min((row["occurred_at"] for row in rows), default=0)
    rows = [row for row in rows if row["occurred_at"] < first + 400 * DAY_MS]  # nobody leaves
    lasting = [replace(d, as_of=NEVER, version=d.version and staying(d.version)) for d in decided]
    judged, plain = play(tree, rows, [replace(d, place=min(d.place, len(rows))) for d in lasting]), Stream.of(tree)
    plain.fold_all(log(rows))
    if rows:
        as_of = max(row["occurred_at"] for row in rows)
        assert plain.features(as_of).tobytes() == judged.features(as_of).tobytes()


def staying(version: ModelVersion) -> ModelVersion:
    """Give a version that lets nobody leave within 400 days."""
    return replace(version, decision=replace(version.decision, retention_ms=400 * DAY_MS))
