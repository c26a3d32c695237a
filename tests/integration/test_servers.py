"""Servers from nothing, for real: they answer, they can be hurt, and they never outlive whoever started them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from typer.testing import CliRunner

from streamer.adapters import servers as real_servers
from streamer.adapters.servers import background, cache, readiness
from streamer.app import servers_command

if TYPE_CHECKING:
    from streamer.adapters.servers import EmbeddedKafka, EmbeddedRedis, Running

END_S = 20.0

PARENT = """
import json, os, sys, time
from streamer.adapters import servers
running = servers.start(os.environ, kafka="kafka" in sys.argv, redis=True)
mine = [running.redis] + ([running.kafka] if "kafka" in sys.argv else [])
if "paused" in sys.argv:
    running.redis.pause()
child = os.fork() if "fork" in sys.argv else None
if child == 0:
    time.sleep(60)
    os._exit(0)
pids = [pid for server in mine for pid in (server.pid, server.watchdog_pid)]
print(json.dumps({"pids": pids, "child": child, "directory": str(mine[0].directory)}), flush=True)
if "leave" not in sys.argv:
    time.sleep(60)
"""


def value_of(url: str, name: str) -> object:
    with redis.Redis.from_url(url) as client:
        return client.get(name)


def set_value(url: str, name: str, value: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.set(name, value)


def gone_within(pids: list[int], timeout_s: float = END_S) -> bool:
    deadline = time.monotonic() + timeout_s
    while any(cache.identity(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_both_servers_answer_and_another_process_can_be_given_them(servers: Running) -> None:
    assert readiness.kafka_answers(servers.kafka_bootstrap, 5) is None
    assert readiness.redis_answers(servers.redis_url, 5) is None
    given = real_servers.start(servers.environment)
    assert "given" == given.source
    assert (servers.kafka_bootstrap, servers.redis_url) == (given.kafka_bootstrap, given.redis_url)
    given.close()
    assert readiness.redis_answers(servers.redis_url, 5) is None


def test_redis_is_bounded_and_evicts_nothing(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        settings = client.config_get("maxmemory*")
    assert "noeviction" == settings["maxmemory-policy"]
    assert int(settings["maxmemory"]) > 0


@pytest.mark.parametrize("how", [["kafka"], ["paused"], ["fork"]], ids=["both servers", "a frozen server", "a forked child holds the pipe"])
def test_servers_end_when_the_process_that_started_them_is_killed(how: list[str], servers_cache: Path) -> None:
    environment = {**os.environ, "STREAMER_CACHE": str(servers_cache), "STREAMER_SERVERS": "embedded"}
    for name in ("KAFKA_BOOTSTRAP", "REDIS_URL"):
        environment.pop(name, None)
    with subprocess.Popen([sys.executable, "-c", PARENT, *how], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        told = json.loads(parent.stdout.readline())
        assert all(cache.identity(pid) for pid in told["pids"])
        parent.kill()
        parent.wait()
        ended = gone_within(told["pids"])
        if told["child"]:
            os.kill(told["child"], signal.SIGKILL)
    assert ended
    assert not Path(told["directory"]).exists()


def test_servers_end_with_a_process_that_ends_without_closing_them(servers_cache: Path) -> None:
    environment = {**os.environ, "STREAMER_CACHE": str(servers_cache), "STREAMER_SERVERS": "embedded", "REDIS_URL": ""}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PARENT, "leave"], capture_output=True, env=environment, check=True)
    assert gone_within(json.loads(done.stdout)["pids"])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a child with its parent")
def test_a_server_ends_with_its_watchdog(own_redis: EmbeddedRedis) -> None:
    pid = own_redis.pid
    os.kill(own_redis.watchdog_pid, signal.SIGKILL)
    assert gone_within([pid])


def test_kafka_keeps_its_port_and_its_records_when_it_is_killed_and_restarted(own_kafka: EmbeddedKafka) -> None:
    quiet = {"bootstrap.servers": own_kafka.address, "log_level": 0}
    admin = AdminClient(quiet)
    admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result(20)
    producer = Producer({**quiet, "transactional.id": "t"})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce("kept", b"value")
    producer.commit_transaction(20)
    address, pid = own_kafka.address, own_kafka.pid
    own_kafka.kill()
    assert cache.identity(pid) is None
    assert not own_kafka.alive
    own_kafka.restart()
    assert address == own_kafka.address
    consumer = Consumer({**quiet, "group.id": "g", "isolation.level": "read_committed"})
    consumer.assign([TopicPartition("kept", 0, 0)])
    message = consumer.poll(20)
    consumer.close()
    assert message is not None
    assert b"value" == message.value()


def test_redis_keeps_its_data_over_a_clean_restart_when_asked_to(own_redis: EmbeddedRedis) -> None:
    set_value(own_redis.address, "name", "kept")
    before = own_redis.address
    own_redis.restart()
    assert (before, b"kept") == (own_redis.address, value_of(own_redis.address, "name"))


@pytest.mark.usefixtures("own_redis")
def test_redis_forgets_everything_at_a_restart_otherwise(tmp_path: Path) -> None:
    with real_servers.EmbeddedRedis(tmp_path / "forgetful") as server:
        set_value(server.address, "name", "lost")
        server.restart()
        assert value_of(server.address, "name") is None
    assert not (tmp_path / "forgetful").exists()


def test_a_frozen_server_is_silent_until_it_is_resumed(own_redis: EmbeddedRedis) -> None:
    own_redis.pause()
    assert readiness.redis_answers(own_redis.address, 0.3) is not None
    assert own_redis.alive
    own_redis.resume()
    assert readiness.redis_answers(own_redis.address, 5) is None


def test_a_server_that_does_not_start_shows_the_end_of_its_log(own_redis: EmbeddedRedis, tmp_path: Path) -> None:
    broken = real_servers.EmbeddedRedis(tmp_path / "broken", extra={"no-such-setting": "1"})
    with pytest.raises(real_servers.ServerFailed, match="no-such-setting"):
        broken.start()
    taken = real_servers.EmbeddedRedis(tmp_path / "taken", port=own_redis.port)
    with pytest.raises(real_servers.ServerFailed, match=f"port {own_redis.port} for redis is taken"):
        taken.start()


@pytest.mark.parametrize("cluster", [False, True])
def test_a_port_that_is_lost_before_the_server_listens_is_replaced(
    own_redis: EmbeddedRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, cluster: bool
) -> None:
    free = [cache.free_port() for _ in range(3)]
    offered = iter([free[0], own_redis.port, *free[1:]] if cluster else [own_redis.port, free[0]])
    monkeypatch.setattr(cache, "free_port", lambda: next(offered))
    with real_servers.EmbeddedRedis(tmp_path, extra={"cluster-enabled": "yes"} if cluster else None) as server:
        assert free[1 if cluster else 0] == server.port
        assert server.alive


def test_a_port_that_only_the_server_uses_is_replaced_where_the_clients_port_is_given(
    own_redis: EmbeddedRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, free = cache.free_port(), cache.free_port()
    offered = iter([own_redis.port, free])
    monkeypatch.setattr(cache, "free_port", lambda: next(offered))
    with real_servers.EmbeddedRedis(tmp_path, port=given, extra={"cluster-enabled": "yes"}) as server:
        assert given == server.port
        assert server.alive


def test_a_broker_of_another_cluster_is_not_taken_for_ones_own(
    own_kafka: EmbeddedKafka, servers_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [cache.free_port() for _ in range(3)]
    offered = iter([own_kafka.port, *free])  # for clients and for the controller, twice
    monkeypatch.setattr(cache, "free_port", lambda: next(offered))
    with real_servers.EmbeddedKafka(tmp_path / "other", cache_directory=servers_cache) as other:
        assert free[1] == other.port
        assert other.alive


def test_up_is_idempotent_status_notices_a_death_and_down_leaves_nothing(servers_cache: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    environment = {"STREAMER_CACHE": str(servers_cache), "KAFKA_BOOTSTRAP": "", "REDIS_URL": ""}

    def run(*arguments: str) -> tuple[int, str]:
        result = runner.invoke(servers_command.app, list(arguments), env=environment)
        return result.exit_code, result.stdout if result.exit_code == 0 or "status" in arguments else result.output

    try:
        options = ["--data-dir", str(tmp_path / "data")]
        first = run("up", *options)
        state = background.read_state(servers_cache / background.STATE_FILE)
        assert 0 == first[0]
        assert f"export KAFKA_BOOTSTRAP={state['kafka'].address} REDIS_URL={state['redis'].address}" == first[1].splitlines()[-1]
        assert first == run("up", *options)
        code, text = run("status", "--json")
        assert (0, {"kafka": "running", "redis": "running"}) == (code, {name: row["state"] for name, row in json.loads(text).items()})
        assert 1 == run("up", "--kafka-port", "20000" if state["kafka"].port != 20000 else "20001")[0]

        set_value(state["redis"].address, "name", "kept")
        with redis.Redis.from_url(state["redis"].address) as client:
            client.execute_command("WAITAOF", 1, 0, 5000)
        os.kill(state["redis"].pid, signal.SIGKILL)
        assert gone_within([state["redis"].pid, state["redis"].watchdog_pid])
        assert 3 == run("status")[0]
        assert 0 == run("up", *options)[0]
        again = background.read_state(servers_cache / background.STATE_FILE)
        assert state["kafka"] == again["kafka"]
        assert b"kept" == value_of(again["redis"].address, "name")
    finally:
        code, text = run("down")
    assert (0, "stopped kafka and redis\n") == (code, text)
    assert gone_within([entry.pid for entry in again.values()] + [entry.watchdog_pid for entry in again.values()], 0)
    assert (0, "nothing was running\n") == run("down")
    assert (tmp_path / "data" / "kafka" / "data" / "meta.properties").exists()
