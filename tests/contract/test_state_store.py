"""What every state store keeps, over the fake, Redis or Valkey, and a Redis Cluster of one node."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import numpy as np
import pytest

from streamer.adapters.redis_state import RedisSettings, RedisStateStore
from streamer.core.errors import Unavailable
from streamer.core.ports import Commit, CursorLost, Outcome, Packed, PartitionState
from tests.fakes.state_store import FakeRedis, FakeStateStore, cut, joined_with_bounds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from streamer.core.ports import StateStore


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.servers)])
def store(request: pytest.FixtureRequest) -> Iterator[StateStore]:
    name = f"contract-{uuid.uuid4().hex}"
    made = (
        FakeStateStore(FakeRedis(), name, "shop")
        if request.param == "fake"
        else RedisStateStore(RedisSettings(request.getfixturevalue("redis_url")), name, "shop")
    )
    made.record_partitions(4)
    yield made
    made.drop()
    made.close()


def packed(profiles: Mapping[bytes, bytes]) -> Packed:
    return Packed(*joined_with_bounds(profiles.keys()), *joined_with_bounds(profiles.values()))


def step(profiles: Mapping[bytes, bytes], commit_id: str = "c1", expected: str = "", owner: str = "w1", **changed: object) -> Commit:
    given = {"partition": 0, "next_offset": 7, "state": b"s", "outbox": b"o", "announce": {}} | changed
    return Commit(owner=owner, expected=expected, commit_id=commit_id, profiles=packed(profiles), **given)  # type: ignore[arg-type]


def load(store: StateStore, ids: list[bytes], partition: int = 0) -> list[bytes]:
    [found] = store.load([partition], [joined_with_bounds(ids)])
    return cut(found.values, found.bounds)


def everything(store: StateStore, partition: int = 0, count: int = 10) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    cursor = 0
    for _ in range(10_000):
        cursor, part = store.scan(partition, cursor, count)
        found |= zip(cut(part.ids, part.id_bounds), cut(part.values, part.bounds), strict=True)
        if cursor == 0:
            return found
    message = "the scan does not end"
    raise AssertionError(message)


def test_a_server_as_it_should_be_raises_no_warning(store: StateStore) -> None:
    assert store.check() == ()


def test_a_new_partition_has_nothing(store: StateStore) -> None:
    assert [PartitionState("", "", "", 0, b"", b"")] == store.read([3])
    assert [0, 0] == store.count([0, 3])
    assert {} == everything(store)


def test_claiming_writes_the_owner_and_reads_the_rest(store: StateStore) -> None:
    assert PartitionState("w1", "", "", 0, b"", b"", claims=1) == store.claim(0, "w1")
    assert PartitionState("w2", "", "", 0, b"", b"", claims=2) == store.claim(0, "w2")
    assert "" == store.read([1])[0].owner


def test_a_commit_is_read_back_whole(store: StateStore) -> None:
    store.claim(0, "w1")
    assert [Outcome.APPLIED] == store.commit([step({b"a": b"A", b"b": b"B"}, state=b"sums\0", outbox=b"out\r\n")])
    assert [PartitionState("w1", "c1", "", 7, b"sums\0", b"out\r\n")] == store.read([0])
    assert [b"B", b"", b"A"] == load(store, [b"b", b"c", b"a"])


def test_a_commit_ends_the_count_of_claims_and_attempts_are_kept_beside_it(store: StateStore) -> None:
    store.claim(0, "w1")
    store.note_attempts(0, b"7 some process")
    assert PartitionState("w1", "", "", 0, b"", b"", 1, b"7 some process") == store.read([0])[0]
    store.commit([step({})])
    assert (0, b"7 some process") == (store.read([0])[0].claims, store.read([0])[0].attempts)
    assert 1 == store.claim(0, "w2").claims


def test_what_is_kept_of_the_erased_changes_with_the_commits_that_say_so_alone(store: StateStore) -> None:
    store.claim(0, "w1")
    assert b"" == store.erased(0)
    store.commit([step({}, erased=b"\0hashes")])
    store.commit([step({b"a": b"A"}, "c2", "c1")])
    store.commit([step({}, "c3", "c1", erased=b"refused")])
    assert [b"\0hashes", b""] == [store.erased(0), store.erased(1)]
    store.commit([step({}, "c3", "c2", erased=b"")])
    assert b"" == store.erased(0)
    assert [b"A"] == load(store, [b"a"])


def test_the_next_commit_replaces_outbox_state_and_position_and_remembers_the_one_before(store: StateStore) -> None:
    store.claim(0, "w1")
    store.commit([step({b"a": b"A"}, outbox=b"first")])
    assert [Outcome.APPLIED] == store.commit([step({b"a": b"AA"}, "c2", "c1", next_offset=2**53, state=b"", outbox=b"")])
    assert [PartitionState("w1", "c2", "c1", 2**53, b"", b"")] == store.read([0])
    assert [b"AA"] == load(store, [b"a"])


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({"owner": "w2"}, Outcome.OTHER_OWNER),
        ({"expected": "c0"}, Outcome.OTHER_COMMIT),
        ({"expected": ""}, Outcome.OTHER_COMMIT),
        ({"owner": "w2", "expected": "c0"}, Outcome.OTHER_OWNER),
    ],
)
def test_a_commit_of_another_owner_or_after_another_commit_writes_nothing(
    store: StateStore, change: dict[str, str], outcome: Outcome
) -> None:
    store.claim(0, "w1")
    store.commit([step({b"a": b"A", b"b": b"B"})])
    before = store.read([0]), everything(store)
    refused = {"commit_id": "c2", "expected": "c1", "announce": {"model": b"m"}} | change
    assert [outcome] == store.commit([step({b"a": b"x", b"b": b"", b"c": b"x"}, **refused)])  # type: ignore[arg-type]
    assert before == (store.read([0]), everything(store))
    assert store.announced("model") is None


def test_a_commit_without_a_claim_is_refused(store: StateStore) -> None:
    assert [Outcome.OTHER_OWNER] == store.commit([step({b"a": b"A"})])
    assert {} == everything(store)


def test_a_claim_stops_the_owner_before(store: StateStore) -> None:
    store.claim(0, "w1")
    store.commit([step({b"a": b"A"})])
    assert PartitionState("w2", "c1", "", 7, b"s", b"o", claims=1) == store.claim(0, "w2")
    assert [Outcome.OTHER_OWNER] == store.commit([step({b"a": b"x"}, "c2", "c1")])
    assert [Outcome.APPLIED] == store.commit([step({b"a": b"y"}, "c2", "c1", "w2")])


def test_the_same_commit_sent_twice_is_applied_once(store: StateStore) -> None:
    store.claim(0, "w1")
    assert [Outcome.APPLIED, Outcome.OTHER_COMMIT] == store.commit([step({b"a": b"A"}), step({b"a": b"A"})])
    assert "c1" == store.read([0])[0].commit_id


def test_an_empty_profile_deletes_the_customer(store: StateStore) -> None:
    store.claim(0, "w1")
    store.commit([step({b"a": b"A", b"b": b"B", b"c": b"C"})])
    store.commit([step({b"b": b"", b"c": b"CC", b"never": b""}, "c2", "c1")])
    assert {b"a": b"A", b"c": b"CC"} == everything(store)
    assert [2] == store.count([0])
    store.commit([step({b"a": b"", b"c": b""}, "c3", "c2")])
    assert [0] == store.count([0])


def test_a_commit_that_clears_leaves_only_its_own_profiles(store: StateStore) -> None:
    for partition in (0, 1):
        store.claim(partition, "w1")
        store.commit([step({b"a": b"A", b"b": b"B", b"c": b"C"}, partition=partition)])
    assert [Outcome.APPLIED] == store.commit([step({b"b": b"BB", b"d": b"D", b"a": b""}, "c2", "c1", clears=True, state=b"new")])
    assert {b"b": b"BB", b"d": b"D"} == everything(store)
    assert [2, 3] == store.count([0, 1])
    assert [PartitionState("w1", "c2", "c1", 7, b"new", b"o")] == store.read([0])
    assert [Outcome.APPLIED] == store.commit([step({}, "c3", "c2", clears=True)])
    assert ({}, 0) == (everything(store), store.count([0])[0])
    assert [Outcome.APPLIED] == store.commit([step({b"e": b"E"}, "c4", "c3", clears=True, announce={"model": b"m"})])
    assert ({b"e": b"E"}, b"m") == (everything(store), store.announced("model"))


@pytest.mark.parametrize("change", [{"owner": "w2"}, {"expected": "c0"}])
def test_a_refused_commit_clears_nothing(store: StateStore, change: dict[str, str]) -> None:
    store.claim(0, "w1")
    store.commit([step({b"a": b"A"})])
    refused = {"commit_id": "c2", "expected": "c1", "clears": True} | change
    assert [Outcome.APPLIED] != store.commit([step({b"b": b"B"}, **refused)])  # type: ignore[arg-type]
    assert {b"a": b"A"} == everything(store)


def test_owners_are_those_of_the_latest_claims(store: StateStore) -> None:
    store.claim(2, "w2")
    store.claim(0, "w1")
    store.claim(0, "w3")
    assert ["", "w3", "w2", "w3"] == store.owners([1, 0, 2, 0])
    assert [] == store.owners([])


def test_several_partitions_are_committed_and_loaded_in_one_go_each_by_its_own_guard(store: StateStore) -> None:
    for partition in range(4):
        store.claim(partition, f"w{partition}")
    commits = [step({b"a": b"%d" % p}, owner="w9" if p == 2 else f"w{p}", partition=p) for p in range(4)]
    assert [Outcome.APPLIED, Outcome.APPLIED, Outcome.OTHER_OWNER, Outcome.APPLIED] == store.commit(commits)
    asked = [joined_with_bounds([b"a"]), joined_with_bounds([]), joined_with_bounds([b"a", b"b"]), joined_with_bounds([b"b", b"a"])]
    found = store.load([3, 0, 2, 1], asked)
    assert [[b"3"], [], [b"", b""], [b"", b"1"]] == [cut(one.values, one.bounds) for one in found]
    assert [[b"a"], [], [b"a", b"b"], [b"b", b"a"]] == [cut(one.ids, one.id_bounds) for one in found]
    assert ["c1", "", "c1"] == [state.commit_id for state in store.read([3, 2, 0])]
    assert [1, 1, 0, 1] == store.count([0, 1, 2, 3])


def test_ids_and_profiles_may_be_any_bytes(store: StateStore) -> None:
    store.claim(0, "w1")
    ids = [b"\0", b"\r\n", b" ", b"$5\r\n", bytes(range(256)), "Zoë 🦊".encode(), b"x" * 256, b"\xff"]
    profiles = dict(zip(ids, [b"\0", b"\r\n", b"\xff" * 70_000, bytes(range(256)) * 3, b"p", b"q", b"r", b"s"], strict=True))
    assert [Outcome.APPLIED] == store.commit([step(profiles)])
    assert list(profiles.values()) == load(store, ids)
    assert profiles == everything(store)


@pytest.mark.parametrize("size", [1, 400])
def test_ten_thousand_customers_go_in_one_commit(store: StateStore, size: int) -> None:
    store.claim(0, "w1")
    rng = np.random.default_rng(1)
    profiles = {b"c%d" % i: rng.bytes(size) for i in range(10_000)}
    assert [Outcome.APPLIED] == store.commit([step(profiles)])
    ids = [*profiles]
    ids.reverse()
    assert [profiles[customer] for customer in ids] == load(store, ids)
    assert profiles == everything(store, count=500)
    half = {customer: b"" if i % 2 else b"new" for i, customer in enumerate(profiles)}
    assert [Outcome.APPLIED] == store.commit([step(half, "c2", "c1")])
    assert {customer: b"new" for customer in ids if half[customer]} == everything(store, count=1_000)


def test_profiles_are_read_as_of_a_commit_or_not_at_all(store: StateStore) -> None:
    store.claim(0, "w1")
    store.commit([step({b"a": b"A"})])
    asked = [joined_with_bounds([b"a"])]
    assert [b"A"] == cut(store.load([0], asked, ["c1"])[0].values, store.load([0], asked, ["c1"])[0].bounds)
    assert 0 == store.scan(0, 0, 10, "c1")[0]
    for commit_id in ("c0", "", "c2"):
        with pytest.raises(Unavailable, match="not at commit"):
            store.load([0], asked, [commit_id])
        with pytest.raises(Unavailable, match="not at commit"):
            store.scan(0, 0, 10, commit_id)
    assert [b""] == cut(store.load([1], asked, [""])[0].values, store.load([1], asked, [""])[0].bounds)


def test_a_cursor_that_another_process_gave_is_refused(store: StateStore) -> None:
    store.claim(0, "w1")
    store.commit([step({b"customer%d" % i: b"p" * 100 for i in range(2_000)})])
    cursor, _ = store.scan(0, 0, 100)
    other = cursor + (1 << 64)
    with pytest.raises(CursorLost, match="started anew"):
        store.scan(0, other, 100)
    assert cursor == store.scan(0, 0, 100)[0]
    assert len(store.scan(0, cursor, 100)[1].ids)


def test_a_scan_sees_all_that_was_there_throughout(store: StateStore) -> None:
    store.claim(0, "w1")
    store.commit([step({b"stays%d" % i: b"p" * 100 for i in range(1_000)} | {b"goes%d" % i: b"p" * 100 for i in range(1_000)})])
    cursor, part = store.scan(0, 0, 100)
    found = set(cut(part.ids, part.id_bounds))
    store.commit([step({b"goes%d" % i: b"" for i in range(1_000)} | {b"comes%d" % i: b"p" for i in range(500)}, "c2", "c1")])
    while cursor:
        cursor, part = store.scan(0, cursor, 100)
        found |= set(cut(part.ids, part.id_bounds))
    assert {b"stays%d" % i for i in range(1_000)} <= found


def test_a_person_may_write_a_value_of_the_application_and_a_commit_leaves_it(store: StateStore) -> None:
    assert store.announced("reconcile") is None
    store.ask("reconcile", b"r1")
    store.claim(0, "w1")
    store.commit([step({}, announce={"model": b"m"})])
    assert (b"r1", b"m") == (store.announced("reconcile"), store.announced("model"))
    store.ask("reconcile", b"r2")
    assert b"r2" == store.announced("reconcile")


def test_only_partition_0_announces_in_its_commit(store: StateStore) -> None:
    for partition in (0, 1):
        store.claim(partition, "w1")
    store.commit([step({}, announce={"model": b"shop/3", "version/3": b"\0body"})])
    assert b"shop/3" == store.announced("model")
    assert b"\0body" == store.announced("version/3")
    assert store.announced("version/4") is None
    with pytest.raises(ValueError, match="only partition 0 announces"):
        store.commit([step({}, partition=1, announce={"model": b"x"})])
    with pytest.raises(ValueError, match="only partition 0 announces"):
        store.commit([step({}, "c2", "c1", announce={"partitions": b"9"})])
    assert b"shop/3" == store.announced("model")


def test_the_first_partition_count_stays_on_record(store: StateStore) -> None:
    assert 4 == store.record_partitions(8)


def test_dropping_deletes_every_key_and_can_be_repeated(store: StateStore) -> None:
    for partition in (0, 3):
        store.claim(partition, "w1")
    store.commit([step({b"a": b"A"}, announce={"model": b"m"})])
    assert 4 == store.drop()
    assert 0 == store.drop()
    assert [PartitionState("", "", "", 0, b"", b"")] * 2 == store.read([0, 3])
    assert {} == everything(store)
    assert store.announced("model") is None
    assert 6 == store.record_partitions(6)
