"""What the state store does when a real server is full, forgetful, gone, clustered or wrongly set; over every server binary found."""

from __future__ import annotations

import shutil
import socket
import time
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import redis

from streamer.adapters.redis_state import RedisSettings, RedisStateStore
from streamer.adapters.servers.embedded_redis import EmbeddedRedis, find_binary
from streamer.core.errors import Misconfigured, Unavailable
from streamer.core.ports import CursorLost, Outcome
from tests.contract.test_state_store import everything, load, step
from tests.fakes.state_store import cut

if TYPE_CHECKING:
    from collections.abc import Iterator

BINARIES = sorted({str(path) for path in (find_binary(), shutil.which("redis-server")) if path})


@contextmanager
def served(directory: Path, binary: str, **extra: str) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(directory, binary=Path(binary), memory_mb=64, extra=extra) as server:
        yield server


@pytest.fixture(scope="module", params=BINARIES, ids=lambda path: Path(path).name)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    with served(tmp_path_factory.mktemp("redis"), request.param) as server:
        yield server


@pytest.fixture
def admin(server: EmbeddedRedis) -> Iterator[redis.Redis]:
    admin = redis.Redis.from_url(server.address)
    kept = admin.config_get("maxmemory*")
    yield admin
    for name in ("maxmemory", "maxmemory-policy"):
        admin.config_set(name, kept[name] or "")
    admin.flushall()
    admin.close()


@pytest.fixture
def store(server: EmbeddedRedis, admin: redis.Redis) -> Iterator[RedisStateStore]:  # noqa: ARG001  # puts the server right at the end
    store = opened(server.address)
    store.record_partitions(2)
    yield store
    store.close()


def opened(url: str, **settings: object) -> RedisStateStore:
    return RedisStateStore(RedisSettings(url, timeout_s=2.0, **settings), f"server-{uuid.uuid4().hex}", "shop")  # type: ignore[arg-type]


def test_a_full_server_refuses_a_commit_before_any_of_it_is_written(store: RedisStateStore, admin: redis.Redis) -> None:
    store.claim(0, "w1")
    assert [Outcome.APPLIED] == store.commit([step({b"a": b"A", b"b": b"B"})])
    before = store.read([0]), everything(store)
    admin.config_set("maxmemory", 1)
    with pytest.raises(Unavailable, match="raise maxmemory"):
        store.commit([step({b"a": b"", b"b": b"x", b"c": b"y" * 1000}, "c2", "c1", announce={"model": b"m"})])
    assert before == (store.read([0]), everything(store))
    assert store.announced("model") is None
    admin.config_set("maxmemory", 0)
    assert [Outcome.APPLIED] == store.commit([step({b"a": b"", b"b": b"x", b"c": b"y"}, "c2", "c1")])
    assert {b"b": b"x", b"c": b"y"} == everything(store)


def test_a_commit_that_fills_the_server_is_whole(store: RedisStateStore, admin: redis.Redis) -> None:
    store.claim(0, "w1")
    rng = np.random.default_rng(1)
    used = int(admin.info("memory")["used_memory"])
    admin.config_set("maxmemory", used + 8_000_000)  # room for the request, not for what it leaves
    applied: list[int] = []
    for number in range(40):
        profiles = {b"%d/%d" % (number, i): rng.bytes(400) for i in range(2_000)}
        try:
            assert [Outcome.APPLIED] == store.commit([step(profiles, f"c{number}", f"c{number - 1}" if number else "")])
        except Unavailable:
            break
        applied.append(number)
    assert 0 < len(applied) < 40
    admin.config_set("maxmemory", 0)
    assert f"c{applied[-1]}" == store.read([0])[0].commit_id
    assert {b"%d/%d" % (number, i) for number in applied for i in range(2_000)} == set(everything(store, count=1_000))


def test_a_server_that_forgot_the_script_is_told_it_again(store: RedisStateStore, admin: redis.Redis) -> None:
    for partition in (0, 1):
        store.claim(partition, "w1")
    admin.script_flush()
    both = [step({b"a": b"A"}, partition=0), step({b"a": b"A"}, partition=1)]
    assert [Outcome.APPLIED, Outcome.APPLIED] == store.commit(both)


def test_a_key_of_another_type_is_refused_with_the_remedy_and_left_alone(store: RedisStateStore, admin: redis.Redis) -> None:
    store.claim(0, "w1")
    key = store._key(0, "profiles")
    admin.set(key, "somebody else's")
    with pytest.raises(Misconfigured, match="namespace of its own"):
        store.commit([step({b"a": b"A"})])
    with pytest.raises(Misconfigured, match="namespace of its own"):
        load(store, [b"a"])
    assert b"somebody else's" == admin.get(key)
    assert "" == store.read([0])[0].commit_id


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random"])
def test_a_server_that_evicts_keys_is_refused(store: RedisStateStore, admin: redis.Redis, policy: str) -> None:
    admin.config_set("maxmemory-policy", policy)
    with pytest.raises(Misconfigured, match="set maxmemory-policy noeviction"):
        store.check()


def test_a_server_that_evicts_only_keys_that_expire_raises_a_warning(store: RedisStateStore, admin: redis.Redis) -> None:
    admin.config_set("maxmemory-policy", "volatile-lru")
    [warning] = store.check()
    assert "volatile-lru" in warning


def test_a_read_only_replica_is_refused(store: RedisStateStore, admin: redis.Redis) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        admin.replicaof("127.0.0.1", nobody.getsockname()[1])
        try:
            with pytest.raises(Misconfigured, match="read-only replica"):
                store.check()
            with pytest.raises(Unavailable, match="takes no writes"):
                store.claim(0, "w1")
        finally:
            admin.replicaof("NO", "ONE")


def test_an_access_list_that_allows_what_the_store_does_is_enough(server: EmbeddedRedis, admin: redis.Redis) -> None:
    allowed = [
        "evalsha",
        "script|load",
        "type",
        "hset",
        "hsetnx",
        "hincrby",
        "hdel",
        "hget",
        "hmget",
        "hscan",
        "hlen",
        "unlink",
        "info",
        "client",
        "ping",
    ]
    admin.acl_setuser("streamer", enabled=True, passwords=["+pw"], keys=["server-*"], commands=[f"+{name}" for name in allowed], reset=True)
    store = opened(server.address.replace("redis://", "redis://streamer:pw@"))
    assert () == store.check()
    store.record_partitions(1)
    store.claim(0, "w1")
    assert [Outcome.APPLIED] == store.commit([step({b"a": b"A"}, announce={"model": b"m"})])
    assert {b"a": b"A"} == everything(store)
    assert 3 == store.drop()
    admin.acl_setuser("streamer", commands=["-hset", "-info"])
    assert "does not let us look" in store.check()[0]
    with pytest.raises(Misconfigured, match="allow it EVALSHA"):
        store.claim(0, "w1")
    store.close()


def test_a_wrong_password_is_a_wrong_configuration(server: EmbeddedRedis) -> None:
    store = opened(server.address.replace("redis://", "redis://nobody:wrong@"))
    with pytest.raises(Misconfigured, match="password"):
        store.check()
    with pytest.raises(Misconfigured, match="password"):
        store.read([0])


def test_a_server_that_does_not_answer_is_unavailable_within_the_bound(server: EmbeddedRedis, admin: redis.Redis) -> None:
    store = opened(server.address, options={"socket_timeout": 0.2})
    store.claim(0, "w1")
    admin.client_pause(1_500)
    with pytest.raises(Unavailable):
        store.commit([step({b"a": b"A"})])
    admin.client_unpause()
    # The commit that got no reply may run yet: the same again is applied at most once.
    assert [Outcome.APPLIED, Outcome.OTHER_COMMIT].count(store.commit([step({b"a": b"A"})])[0]) == 1
    assert ("c1", "") == (store.read([0])[0].commit_id, store.read([0])[0].previous_commit_id)
    store.close()


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        store = opened(f"redis://127.0.0.1:{closed.getsockname()[1]}", options={"socket_connect_timeout": 0.2, "retry": None})
        for asks in (store.check, lambda: store.claim(0, "w1"), lambda: store.commit([step({})])):
            with pytest.raises(Unavailable):
                asks()


def test_a_connection_that_broke_is_replaced(store: RedisStateStore, admin: redis.Redis) -> None:
    store.claim(0, "w1")
    admin.client_kill_filter(_type="normal", skipme=True)
    assert [Outcome.APPLIED] == store.commit([step({b"a": b"A"})])
    admin.client_kill_filter(_type="normal", skipme=True)
    assert [b"A"] == load(store, [b"a"])


def test_any_option_of_the_client_can_be_set_and_replies_stay_bytes(server: EmbeddedRedis) -> None:
    store = opened(f"{server.address}?decode_responses=True&client_name=other", options={"health_check_interval": 1})
    store.record_partitions(1)
    store.claim(0, "w1")
    assert [Outcome.APPLIED] == store.commit([step({b"\xff": b"\xfe"})])
    assert [b"\xfe"] == load(store, [b"\xff"])
    assert 3 == store.drop()
    store.close()


@pytest.mark.parametrize(
    ("url", "options", "namespace"),
    [("http://x", {}, "n"), ("redis://x", {"no_such": 1}, "n"), ("redis://x", {}, "a{b}"), ("redis://x", {}, "")],
)
def test_wrong_settings_are_named(url: str, options: dict[str, object], namespace: str) -> None:
    with pytest.raises(Misconfigured, match="redis"):
        RedisStateStore(RedisSettings(url, options=options), namespace, "shop").check()


@pytest.mark.parametrize("binary", BINARIES, ids=lambda path: Path(path).name)
def test_a_cluster_serves_every_partition(binary: str, tmp_path: Path) -> None:
    with served(tmp_path, binary, **{"cluster-enabled": "yes"}) as server:
        admin = redis.Redis.from_url(server.address)
        admin.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        for _ in range(100):
            if admin.execute_command("CLUSTER INFO")["cluster_state"] == "ok":
                break
            time.sleep(0.1)
        store = opened(server.address, cluster=True)
        assert () == store.check()
        assert 4 == store.record_partitions(4)
        for partition in range(4):
            store.claim(partition, "w1")
        commits = [step({b"a": b"%d" % p}, partition=p, announce={} if p else {"model": b"m"}) for p in range(4)]
        assert [Outcome.APPLIED] * 4 == store.commit(commits)
        assert [[b"0"], [b"1"], [b"2"], [b"3"]] == [load(store, [b"a"], p) for p in range(4)]
        assert b"m" == store.announced("model")
        assert [1] * 4 == store.count(range(4))
        admin.execute_command("CLUSTER DELSLOTSRANGE", 0, 16383)
        with pytest.raises(Unavailable):
            store.commit([step({b"a": b"x"}, "c2", "c1")])
        with pytest.raises(Unavailable):
            store.read([0])
        store.close()
        admin.close()


@pytest.mark.parametrize("binary", BINARIES, ids=lambda path: Path(path).name)
def test_a_walk_over_a_server_that_was_started_anew_is_refused_and_may_begin_again(binary: str, tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path, binary=Path(binary), memory_mb=64, appendonly=True, keep_data=True) as server:
        store = opened(server.address)
        store.claim(0, "w1")
        store.commit([step({b"c%d" % i: b"p" * 100 for i in range(1_000)})])
        cursor, _ = store.scan(0, 0, 100)
        assert cursor
        server.restart()
        with pytest.raises(CursorLost, match="started anew"):
            store.scan(0, cursor, 100)
        cursor, part = store.scan(0, 0, 100)
        found = set(cut(part.ids, part.id_bounds))
        while cursor:
            cursor, part = store.scan(0, cursor, 100)
            found |= set(cut(part.ids, part.id_bounds))
        assert 1_000 == len(found)
        store.close()
