"""Erasure: nothing is left of who asks for it, later events are refused or begin anew, and nobody else notices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from streamer.core.erasure import NOBODY, among, hash_ids, make_rule, marked
from streamer.core.errors import Misconfigured
from streamer.core.hashing import siphash
from streamer.core.partition import PartitionData, digest, pack_erased, pack_state, unpack_erased, unpack_state
from streamer.core.profile import NO_SEGMENT
from tests.corekit import ACCEPT, COMMANDS, DAY_MS, HOUR_MS, REFUSE, T0, Event, Stream, event, log, packaged, version_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.corekit import Change

KEY = 0x0706050403020100, 0x0F0E0D0C0B0A0908
# The reference implementation's outputs for the inputs 00, 00 01, ... of so many bytes, under the key 00 01 ... 0f.
VECTORS = {0: 0x726FDB47DD0E0E31, 1: 0x74F839C593DC67FD, 7: 0xAB0200F58B01D137, 8: 0x93F5F5799A932462, 15: 0xA129CA6149BE45E5}
SMALL = {
    "measures": {"events": {"lifetime_count": "any"}, "views": {"count": "view"}},
    "features": {"views_3d": {"sum": "views", "window": "3d"}},
    "eligibility": {"events": 2},
}


def erase(at: int, customer: str = "ann") -> dict[str, Any]:
    return event("$erase", at, customer)


def stream(**arguments: Any) -> Stream:
    """One partition, judged by two segments from its start."""
    made = Stream.of(SMALL, **arguments)
    for part in range(made.parts):
        made.adopt(version_of(made.declaration, [[0.0], [4.0]]), part, 0, T0)
        made.sweep(part)
    return made


def causes(changes: Sequence[Change]) -> list[tuple[str, str]]:
    return [(change.customer, change.cause) for change in changes]


@pytest.mark.parametrize(("length", "expected"), VECTORS.items())
def test_siphash_gives_the_reference_implementations_numbers(length: int, expected: int) -> None:
    values = np.concatenate([np.zeros(3, np.uint8), np.arange(length, dtype=np.uint8)])
    assert expected == siphash(*KEY, values, 3, length)


def test_hashes_of_one_key_tell_nothing_to_who_has_another() -> None:
    ids, bounds = np.frombuffer(b"annbob", np.uint8), np.array([0, 3, 6], np.int64)
    mine, other = make_rule("mine", refuse=True), make_rule("other", refuse=True)
    assert [mine.of(b"ann"), mine.of(b"bob")] == hash_ids(mine, ids, bounds).tolist()
    assert not set(hash_ids(mine, ids, bounds).tolist()) & set(hash_ids(other, ids, bounds).tolist())
    assert mine.of(b"ann") == marked(mine, mine.mark(b"ann").encode())
    with pytest.raises(Misconfigured, match=r"another `erasure\.key`"):
        marked(mine, other.mark(b"ann").encode())


def test_who_is_among_the_erased_is_found_and_nobody_else() -> None:
    erased = np.array([3, 2**63, 2**64 - 1], np.uint64)
    hashed = np.array([0, 3, 4, 2**63, 2**64 - 1], np.uint64)
    assert [False, True, False, True, True] == among(hashed, erased).tolist()
    assert [False] * 5 == among(hashed, NOBODY).tolist()


def test_what_is_kept_of_the_erased_is_read_back_and_told_from_another() -> None:
    erased = np.array([3, 2**63], np.uint64)
    assert erased.tolist() == unpack_erased(pack_erased(erased)).tolist()
    data = PartitionData("v").erasing("0123abcd", erased)
    assert ("0123abcd", digest(erased)) == (data.erased_key, data.erased_digest)
    assert digest(erased) != digest(erased[:1])
    read = unpack_state(pack_state(data))
    assert (data.erased_key, data.erased_digest, []) == (read.erased_key, read.erased_digest, read.erased.tolist())
    assert ("", "") == ((gone := data.erasing("0123abcd", NOBODY)).erased_key, gone.erased_digest)


def test_an_erased_customer_leaves_with_a_notice_and_nothing_stays() -> None:
    made = stream()
    made.fold_all(log([event("view", T0 + n, who) for n in range(3) for who in ("ann", "bob")]))
    before = [change for change in made.changes if change.customer == "ann"][-1]
    [left] = made.fold([Event(0, 6, erase(T0 + HOUR_MS))])
    assert ("ann", "erased", NO_SEGMENT, before.after, T0 + HOUR_MS) == (
        left.customer,
        left.cause,
        left.after,
        left.before,
        left.occurred,
    )
    assert left.version == max(before.version + 1, 7 << 10)
    assert [(0, "bob")] == list(made.profiles)
    assert made.recounted(0) == made.sums(0)


def test_what_is_due_comes_before_the_erasure() -> None:
    """A view of four days ago has rolled off: the customer is told of that, then of having left."""
    made = stream()
    made.fold_all(log([*(event("view", T0 + n) for n in range(4)), event("view", T0 + 9 * DAY_MS, "bob"), erase(T0 + 9 * DAY_MS)]))
    assert ("ann", "decay") in causes(made.changes)
    assert ("ann", "erased") == causes(made.changes)[-1]


def test_a_command_moves_no_clock() -> None:
    made = stream()
    made.fold_all(log([event("view", T0), erase(T0 + 5 * DAY_MS)]))
    assert T0 == made.data().watermark
    made.fold_all(log([event("$erased", T0 + 6 * DAY_MS, REFUSE.mark(b"bob")), event("$passed", T0 + 1, "$")]))
    assert T0 + 1 == made.data().watermark
    assert {} == made.profiles


def test_who_is_unknown_is_told_of_by_a_tombstone_alone() -> None:
    made = stream()
    [gone] = made.fold(log([erase(T0)]))
    assert ("erased", NO_SEGMENT, NO_SEGMENT) == (gone.cause, gone.before, gone.after)


def test_without_a_model_an_erasure_leaves_nothing_either() -> None:
    made = Stream.of(SMALL)
    made.fold_all(log([event("view", T0), erase(T0 + 1)]))
    assert [("ann", "erased")] == causes(made.changes)
    assert {} == made.profiles


def test_who_was_let_go_by_the_very_boundary_is_erased_all_the_same() -> None:
    made = stream()
    made.fold_all(log([event("view", T0), event("view", T0 + 500 * DAY_MS, "bob"), erase(T0)]))
    assert [("ann", "first_seen"), ("ann", "expired"), ("ann", "erased")] == [one for one in causes(made.changes) if one[0] == "ann"]


@pytest.mark.parametrize("cuts", [range(9), (), (2,), (3,)])
def test_later_events_are_refused_wherever_batches_begin(cuts: Sequence[int]) -> None:
    made = stream()
    made.fold_all(log([event("view", T0), erase(T0), event("view", T0 + 9 * DAY_MS), event("view", T0 + 1, "bob"), erase(T0)]), cuts)
    assert 1 == made.refused
    assert T0 + 1 == made.data().watermark
    assert [(0, "bob")] == list(made.profiles)
    assert [REFUSE.of(b"ann")] == made.erased[0].tolist()


@pytest.mark.parametrize("cuts", [range(9), ()])
def test_later_events_begin_anew_where_they_are_accepted(cuts: Sequence[int]) -> None:
    made = stream(rule=ACCEPT)
    made.fold_all(log([*(event("view", T0 + n) for n in range(3)), erase(T0), event("view", T0 + 9)]), cuts)
    [version, again] = [change.version for change in made.changes if change.cause in {"erased", "first_seen"}][-2:]
    assert ("erased", "first_seen") == tuple(change.cause for change in made.changes[-2:])
    assert version < again
    assert 0 == made.refused
    assert [] == made.erased[0].tolist()


def test_history_names_who_was_erased_by_a_mark() -> None:
    made = stream()
    mark = event("$erased", T0, REFUSE.mark(b"ann"))
    made.fold_all(log([mark, event("view", T0 + 1), event("view", T0 + 1, "bob"), mark]))
    assert (1, [(0, "bob")]) == (made.refused, list(made.profiles))


def test_partitions_refuse_for_themselves() -> None:
    made = stream(parts=2)
    made.fold([Event(0, 0, event("view", T0)), Event(1, 0, event("view", T0 + 1)), Event(0, 1, erase(T0))])
    made.fold([Event(0, 2, event("view", T0 + 2)), Event(1, 2, event("view", T0 + 3))])
    assert (1, [(1, "ann")]) == (made.refused, list(made.profiles))


def test_what_history_keeps_of_the_erased_gives_everybody_else_the_same() -> None:
    """The times alone, and that somebody was erased."""
    rng = np.random.default_rng(3)
    rows = [event("view", T0 + n * HOUR_MS, f"c{rng.integers(5)}", str(n)) for n in range(200)]
    with_ = [*rows[:150], erase(T0, "c3"), *rows[150:]]
    passed = [{**row, "event_type": "$passed", "customer_id": "$"} if row["customer_id"] == "c3" else row for row in rows[:150]]
    without = [*passed, event("$erased", T0, REFUSE.mark(b"c3")), *rows[150:]]
    first, second = stream(), stream()
    first.fold_all(log(with_), range(0, 300, 7))
    second.fold_all(log(without), range(0, 300, 11))
    assert first.profiles == second.profiles
    assert first.states == second.states
    assert [one for one in first.changes if one.customer != "c3"] == second.changes
    assert first.refused == second.refused > 0


def test_every_command_is_known_to_the_packaged_declaration() -> None:
    assert not set(COMMANDS) & set(Stream.of(packaged()).declaration.types)
