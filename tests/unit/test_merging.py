"""Merging in the core: what travels joins by its algebra, later events are sent on, and whoever is erased stands in no table."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xxhash

from streamer.core.erasure import is_marked, make_rule
from streamer.core.fold import DUPLICATE, UNITED
from streamer.core.merging import HOPS_MAX, NO_REDIRECTS, Redirects
from streamer.core.model import Decision
from streamer.core.profile import CLOCK, HELD, LAST, NEVER, NO_SEGMENT, PRESENT, SEGMENT, SINCE, VERSION
from tests.corekit import ACCEPT, DAY_MS, HOUR_MS, REFUSE, T0, Event, Stream, event, log, opened, version_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.corekit import Change

EVERY_SORT: dict[str, Any] = {
    "measures": {
        "events": {"lifetime_count": "any"},
        "spent": {"lifetime_sum": "amount", "of": "buy"},
        "first": {"first": "any"},
        "first_buy": {"first": "buy"},
        "last": {"last": "any"},
        "views": {"count": "view"},
        "spend": {"sum": "amount", "of": "buy"},
        "most": {"max": "amount", "of": "buy"},
        "colours": {"distinct": "category", "of": "any"},
    },
    "features": {
        "views_6h": {"sum": "views", "window": "6h"},
        "views_3d": {"sum": "views", "window": "3d"},
        "spend_3d": {"sum": "spend", "window": "3d"},
        "most_3d": {"max": "most", "window": "3d"},
        "colours_3d": {"distinct": "colours", "window": "3d"},
        "spent_ever": {"lifetime": "spent"},
        "since": {"recency": "last", "cap": "9d"},
        "gap": {"mean_gap": ["first_buy", "last", "events"], "cap": "9d"},
    },
    "eligibility": {"events": 1},
}
OLD, NEW = "ann", "bob"
EVENTS = [
    event("view", T0, OLD, category="a"),
    event("buy", T0 + HOUR_MS, NEW, amount=30, category="b"),
    event("buy", T0 + DAY_MS, OLD, amount=70, category="c"),
    event("buy", T0 + DAY_MS, OLD, amount=-5),
    event("view", T0 + DAY_MS + HOUR_MS, NEW, category="a"),
    event("buy", T0 + DAY_MS + 2 * HOUR_MS, NEW, amount=7),
    event("view", T0 + 2 * DAY_MS, OLD),
]


def stream(*, judged: bool = True, **arguments: Any) -> Stream:
    """One partition, judged by two segments from its start."""
    made = Stream.of(EVERY_SORT, **arguments)
    if judged:
        f = len(made.declaration.features)
        made.adopt(version_of(made.declaration, [[0.0] * f, [3.0] * f], decision=Decision(dwell_ms=0)), 0, 0, T0)
        made.sweep(0)
    return made


def merge(at: int, old: str = OLD, new: str = NEW) -> dict[str, Any]:
    return event("$merge", at, old, into=new)


def offsets(rows: Sequence[dict[str, Any]], first: int = 0) -> list[Event]:
    return [Event(0, first + n, row) for n, row in enumerate(rows)]


def merged(made: Stream, rows: Sequence[dict[str, Any]], at: int) -> list[Change]:
    """Fold events, a merge, and what it sends on."""
    made.fold(log(rows))
    changes = made.fold(offsets([merge(at)], len(rows)))
    [(customer, profile)] = made.sent
    assert profile is not None
    clock = int(opened(made.plan, [profile]).head[0, CLOCK])
    return changes + made.fold(offsets([event("$merged", clock, customer, event_id="m", profile=profile)], len(rows) + 1))


def known(made: Stream, customer: str) -> Any:
    """Give all of a profile that events make."""
    work = opened(made.plan, [made.profiles[0, customer]])
    tiles = [
        (
            t.index[: t.count[0]].tolist(),
            t.mask[: t.count[0]].tolist(),
            [
                [v for m, v in enumerate(row) if mask >> m & 1]
                for row, mask in zip(t.value[: t.count[0]].tolist(), t.mask.tolist(), strict=False)
            ],
        )
        for t in (work.days, work.hours)
    ]
    return work.head[0, [CLOCK, LAST]].tolist(), work.life[0].tolist(), work.seen[0].tolist(), tiles


def test_the_new_one_has_what_it_had_had_all_events_been_its() -> None:
    for rows in (EVENTS, EVENTS[::-1], EVENTS[:1], EVENTS[3:]):
        split, whole = stream(), stream()
        merged(split, rows, T0 + 2 * DAY_MS)
        whole.fold(log({**row, "customer_id": NEW} for row in rows))
        assert known(whole, NEW) == known(split, NEW)
        assert (0, OLD) not in split.profiles


def test_the_old_one_leaves_and_the_new_one_is_judged_for_what_it_got() -> None:
    made = stream()
    rows = [event("view", T0, NEW), event("buy", T0 + 2 * HOUR_MS, OLD, amount=1000)]
    left, moved = merged(made, rows, T0 + 3 * HOUR_MS)
    assert (OLD, "merged", NO_SEGMENT, T0 + 3 * HOUR_MS) == (left.customer, left.cause, left.after, left.occurred)
    assert (NEW, "merged") == (moved.customer, moved.cause)
    assert moved.version > left.version
    learned = made.data().learned
    assert learned is not None
    assert (1, 1) == (learned.count.sum(), learned.members.sum())


def test_what_travels_has_no_segment_and_no_vote() -> None:
    made = stream()
    made.fold(log(EVENTS))
    made.fold(offsets([merge(T0 + 2 * DAY_MS)], 9))
    [(_, profile)] = made.sent
    assert profile is not None
    head = opened(made.plan, [profile]).head[0]
    assert [0, NO_SEGMENT, NEVER, 0] == head[[VERSION, SEGMENT, SINCE, HELD]].tolist()
    assert T0 + 2 * DAY_MS == head[CLOCK]


def test_before_there_is_a_model_nothing_is_told_and_nothing_lost() -> None:
    split, whole = stream(judged=False), stream(judged=False)
    assert [] == merged(split, EVENTS, T0 + 2 * DAY_MS)
    whole.fold(log({**row, "customer_id": NEW} for row in EVENTS))
    assert known(whole, NEW) == known(split, NEW)


def test_a_profile_that_comes_twice_joins_once() -> None:
    made = stream()
    merged(made, EVENTS, T0 + 2 * DAY_MS)
    before = dict(made.profiles)
    [(customer, profile)] = made.sent
    made.fold(offsets([event("$merged", T0 + 2 * DAY_MS, customer, event_id="m", profile=profile)], 20))
    assert before == made.profiles
    assert (1, 1) == (made.tally[UNITED], made.tally[DUPLICATE])


def test_a_profile_moves_the_clock_and_a_command_does_not() -> None:
    made = stream(judged=False)
    made.fold(log(EVENTS[:1]))
    made.fold(offsets([merge(T0 + 9 * DAY_MS)], 1))
    assert T0 == made.data().watermark
    [(_, profile)] = made.sent
    made.fold(offsets([event("$merged", T0 + 5 * DAY_MS, "somebody", profile=profile)], 2))
    assert T0 + 5 * DAY_MS == made.data().watermark


def test_who_arrives_behind_the_clock_is_settled_up_to_it() -> None:
    made = stream()
    made.fold(log([event("view", T0, OLD), event("view", T0 + 4 * DAY_MS, "other")]))
    profile = Stream.of(EVERY_SORT)
    profile.fold(log([event("view", T0, OLD)]))
    made.fold(offsets([event("$merged", T0, NEW, profile=profile.profiles[0, OLD])], 5))
    head = opened(made.plan, [made.profiles[0, NEW]]).head[0]
    assert T0 + 4 * DAY_MS - head[CLOCK] < DAY_MS


def test_later_events_are_sent_on_and_leave_no_trace() -> None:
    made = stream()
    rows = [event("view", T0, OLD), merge(T0), event("view", T0 + 1, OLD), event("view", T0 + DAY_MS, OLD), event("view", T0 + 2, OLD)]
    made.fold(offsets(rows))
    assert [NEW, NEW, NEW] == [customer for customer, _ in made.sent]
    assert [True, False, False] == [profile is not None for _, profile in made.sent]
    assert [1] == opened(made.plan, [made.profiles[0, OLD]]).life[:, 0].tolist()  # what occurred too late begins anew
    made.fold(offsets([event("view", T0 + 3, OLD), event("view", T0 + 4, OLD, hops=HOPS_MAX)], 9))
    assert 4 == len(made.sent)
    assert [2] == opened(made.plan, [made.profiles[0, OLD]]).life[:, 0].tolist()


def test_batches_leave_no_trace() -> None:
    rows = [*EVENTS[:3], merge(T0 + DAY_MS), *EVENTS[3:], merge(T0 + DAY_MS, NEW, "eve"), event("view", T0 + DAY_MS, NEW, category="x")]
    one, many = stream(), stream()
    one.fold(offsets(rows))
    for n, row in enumerate(rows):
        many.fold([Event(0, n, row)])
    assert (one.profiles, one.sent, one.changes) == (many.profiles, many.sent, many.changes)
    assert one.redirects[0].to == many.redirects[0].to


def test_room_for_changes_is_made_where_a_merge_needs_it() -> None:
    made = stream()
    made.fold(log(EVENTS))
    later = [event("view", T0 + n * DAY_MS, f"c{n % 3}") for n in range(3, 30)]
    made.fold(offsets([*later, merge(T0 + 30 * DAY_MS)], 10))
    assert (0, OLD) not in made.profiles
    assert made.data().watermark == T0 + 29 * DAY_MS


@pytest.mark.parametrize("rule", [REFUSE, ACCEPT])
@pytest.mark.parametrize("whom", [OLD, NEW])
def test_who_is_erased_stands_in_no_table(whom: str, rule: Any) -> None:
    made = stream(rule=rule)
    made.fold(offsets([event("view", T0, OLD), merge(T0), merge(T0, "eve", "dan"), event("$erase", T0 + 1, whom)]))
    assert [b"eve"] == list(made.redirects[0].to)


@pytest.mark.parametrize("pair", [(OLD, NEW), (NEW, OLD)])
def test_a_command_that_names_who_is_refused_is_refused(pair: tuple[str, str]) -> None:
    made = stream()
    made.fold(offsets([event("view", T0, NEW), event("$erase", T0, OLD), merge(T0, *pair)]))
    made.fold(offsets([merge(T0, *pair)], 3))
    assert (2, [], {}) == (made.refused, made.sent, made.redirects[0].to)


def test_a_mark_takes_the_ids_that_it_stands_for_out_and_itself() -> None:
    mark = REFUSE.mark(NEW.encode())
    for into in (NEW, mark):
        made = stream()
        made.fold(offsets([merge(T0, OLD, into), merge(T0, "eve", "dan"), event("$erased", T0, mark)]))
        assert [b"eve"] == list(made.redirects[0].to)
    other = make_rule("another key", refuse=False)
    assert [True, False] == [is_marked(other, mark.encode())(one) for one in (mark.encode(), NEW.encode())]


def test_tables_pack_and_tell_themselves_apart() -> None:
    made = stream()
    assert made.redirects[0] is NO_REDIRECTS
    made.fold(offsets([merge(T0), merge(T0, "eve", "dan")]))
    [table] = made.redirects
    again = Redirects.unpack(table.pack())
    assert (table.to, table.digest(), len(table)) == (again.to, again.digest(), 2)
    assert "" == NO_REDIRECTS.digest() != table.digest()
    assert np.array_equal(table.hashes, again.hashes)
    data = made.data().redirecting(table)
    assert (table.digest(), table) == (data.redirects_digest, data.redirects)


def test_what_is_left_of_an_erased_customers_event_is_nobodys() -> None:
    made = stream(judged=False)
    made.fold(offsets([merge(T0, "$", NEW), event("$passed", T0 + 1, "$")]))
    assert ([], T0 + 1) == (made.sent, made.data().watermark)


def test_a_hostile_profile_with_a_right_checksum_breaks_nothing() -> None:
    """Whoever may write events may write one of these: what can be read joins, and what can't is refused, but nothing is overrun."""
    source = Stream.of(EVERY_SORT)
    source.fold(log([{**row, "customer_id": OLD} for row in EVENTS]))
    whole, rng = source.profiles[0, OLD], random.Random(1)
    taken = 0
    for n in range(300):
        body = bytearray(whole[:-4])
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(5, len(body))
            body[at : at + rng.choice([0, 1, 1])] = rng.choice([b"", bytes([rng.randrange(256)]), b"\xff" * 9])
        profile = bytes(body) + (xxhash.xxh64_intdigest(bytes(body)) & 0xFFFFFFFF).to_bytes(4, "little")
        work = opened(source.plan, [profile])
        if work.found[0] == PRESENT:  # as the intake asks
            made = stream()
            made.fold(log(EVENTS))
            made.fold(
                offsets(
                    [event("$merged", min(max(int(work.head[0, CLOCK]), T0), T0 + 9 * DAY_MS), NEW, event_id=f"{n}", profile=profile)], 9
                )
            )
            assert (0, NEW) in made.profiles
            taken += 1
    assert 0 < taken < 300


def test_partitions_have_tables_of_their_own() -> None:
    made = Stream.of(EVERY_SORT, parts=2)
    made.fold([Event(0, 0, merge(T0)), Event(1, 0, event("view", T0, OLD))])
    assert [1, 0] == [len(table) for table in made.redirects]
    assert (1, OLD) in made.profiles
