"""Schemas from the package, from files and from a registry: a small HTTP server that answers like one."""

from __future__ import annotations

import base64
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

import schemas
from streamer.adapters.registry import PackagedSchemas, Registry, RegistrySettings
from streamer.core.errors import Misconfigured, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GUID = UUID("00112233-4455-6677-8899-aabbccddeeff")
EVENT = schemas.text("behaviour_event")


@dataclass
class FakeRegistry:
    """The part of a schema registry's REST interface that we use, and faults to order."""

    by_id: dict[int, dict[str, Any]] = field(default_factory=dict)
    by_guid: dict[str, dict[str, Any]] = field(default_factory=dict)
    resolved: dict[int, str] = field(default_factory=dict)
    subjects: dict[str, list[str]] = field(default_factory=dict)
    user: str | None = None
    fail_with: list[tuple[int, bytes]] = field(default_factory=list)
    stall_s: float = 0.0
    requests: list[str] = field(default_factory=list)
    url: str = ""
    woken: threading.Event = field(default_factory=threading.Event)

    def answer(self, method: str, path: str, body: dict[str, Any], authorization: str | None) -> tuple[int, bytes]:
        self.requests.append(f"{method} {path}")
        if self.stall_s:
            self.woken.wait(self.stall_s)
        if self.fail_with:
            return self.fail_with.pop(0)
        if self.user is not None and authorization != "Basic " + base64.b64encode(self.user.encode()).decode():
            return self.error(401, 40101, "Unauthorized")
        return self.route(method, path, body)

    def route(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        parts = path.partition("?")[0].strip("/").split("/")
        match (method, parts):
            case ("GET", ["schemas", "ids", number]):
                return self.look_up(self.by_id.get(int(number)), self.resolved.get(int(number)) if "format=resolved" in path else None)
            case ("GET", ["schemas", "guids", guid]):
                return self.look_up(self.by_guid.get(guid), None)
            case ("POST", ["subjects", subject, "versions"]):
                return self.register(subject, body["schema"])
            case ("POST", ["subjects", subject]):
                if body["schema"] not in self.subjects.get(subject, []):
                    return self.error(404, 40403, "Schema not found")
                return 200, json.dumps({"subject": subject, "id": 7, "version": 1, "schema": body["schema"]}).encode()
        return 404, b'{"error_code": 404, "message": "HTTP 404 Not Found"}'

    def look_up(self, schema: dict[str, Any] | None, resolved: str | None) -> tuple[int, bytes]:
        if schema is None:
            return self.error(404, 40403, "Schema not found")
        return 200, json.dumps(schema if resolved is None else {"schema": resolved}).encode()

    def register(self, subject: str, schema: str) -> tuple[int, bytes]:
        if subject == "closed-value":
            return self.error(409, 409, "Schema being registered is incompatible")
        self.subjects.setdefault(subject, []).append(schema)
        return 200, b'{"id": 7}'

    @staticmethod
    def error(status: int, code: int, message: str) -> tuple[int, bytes]:
        return status, json.dumps({"error_code": code, "message": message}).encode()


@contextmanager
def serving(fake: FakeRegistry) -> Iterator[FakeRegistry]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply({})

        def do_POST(self) -> None:
            self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def reply(self, body: dict[str, Any]) -> None:
            status, content = fake.answer(self.command, self.path, body, self.headers["Authorization"])
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except OSError:
                # The client gave up, as it is meant to.
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield fake
    finally:
        fake.woken.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with serving(FakeRegistry()) as registry:
        yield registry


@dataclass
class Clock:
    """A clock that a test moves."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


@contextmanager
def client(fake: FakeRegistry, clock: Clock | None = None, **settings: Any) -> Iterator[Registry]:
    wanted = {"url": fake.url, "timeout_s": 2.0, "retry_wait_s": 0.001, **settings}
    registry = Registry(RegistrySettings(**wanted), clock or Clock())
    try:
        yield registry
    finally:
        registry.close()


def test_the_package_s_published_versions_have_fixed_ids() -> None:
    assert {1, 1001, 2001, 3001} <= schemas.packaged().keys()
    assert EVENT == PackagedSchemas().by_id(1)


def test_the_package_knows_no_other_id_and_no_guid() -> None:
    source = PackagedSchemas()
    assert (None, None) == (source.by_id(2_000_000), source.by_guid(GUID))


def test_a_file_of_the_user_s_stands_under_its_id_or_guid(tmp_path: Path) -> None:
    path = tmp_path / "theirs.avsc"
    path.write_text(EVENT, encoding="utf-8")
    source = PackagedSchemas({4_711: path, GUID: path})
    assert (EVENT, EVENT) == (source.by_id(4_711), source.by_guid(GUID))


def test_a_file_may_not_take_one_of_our_ids(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"schema id 1 of .* give the file another id"):
        PackagedSchemas({1: tmp_path / "theirs.avsc"})


def test_a_file_that_is_not_there_is_a_wrong_configuration(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="schema id 9 cannot be read"):
        PackagedSchemas({9: tmp_path / "missing.avsc"})


def test_without_a_registry_only_published_versions_can_be_written() -> None:
    source = PackagedSchemas()
    assert 1001 == source.register("segment-changes-value", schemas.text("segment_change", 1))
    with pytest.raises(Misconfigured, match="is not published"):
        source.register("x-value", '{"type": "record", "name": "X", "fields": []}')


def test_the_registry_gives_a_schema_by_id_and_by_guid(fake: FakeRegistry) -> None:
    fake.by_id[5] = {"schema": EVENT}
    fake.by_guid[str(GUID)] = {"schema": EVENT, "guid": str(GUID)}
    with client(fake) as registry:
        assert (EVENT, EVENT) == (registry.by_id(5), registry.by_guid(GUID))


def test_a_known_id_is_asked_for_once(fake: FakeRegistry) -> None:
    fake.by_id[5] = {"schema": EVENT}
    with client(fake) as registry:
        assert [EVENT] * 3 == [registry.by_id(5) for _ in range(3)]
    assert ["GET /schemas/ids/5"] == fake.requests


def test_an_unknown_id_is_asked_for_again_only_after_a_while(fake: FakeRegistry) -> None:
    clock = Clock()
    with client(fake, clock, unknown_ttl_s=30.0) as registry:
        assert [None] * 100 == [registry.by_id(5) for _ in range(100)]
        assert 1 == len(fake.requests)
        fake.by_id[5] = {"schema": EVENT}
        clock.seconds = 29.9
        assert registry.by_id(5) is None
        clock.seconds = 30.0
        assert EVENT == registry.by_id(5)


def test_made_up_ids_cost_a_bounded_number_of_requests_and_known_ids_none(fake: FakeRegistry) -> None:
    clock = Clock()
    fake.by_id = {1: {"schema": EVENT}, 2: {"schema": EVENT}}
    with client(fake, clock, unknown_ttl_s=30.0, unknown_max=10) as registry:
        assert EVENT == registry.by_id(1)
        assert {None} == {registry.by_id(schema_id) for schema_id in range(100, 1_100)}
        assert 11 == len(fake.requests)
        assert EVENT == registry.by_id(1)
        assert registry.by_id(2) is None  # nobody knows whether it is made up
        clock.seconds = 30.0
        assert EVENT == registry.by_id(2)
        assert 12 == len(fake.requests)


def test_what_is_remembered_is_bounded(fake: FakeRegistry) -> None:
    with client(fake, entries_max=2) as registry:
        for schema_id in (1, 2, 3, 3, 2, 1):
            registry.by_id(schema_id)
    assert [f"GET /schemas/ids/{i}" for i in (1, 2, 3, 1)] == fake.requests


@pytest.mark.parametrize("schema_id", [-1, 1 << 31, (1 << 32) - 1])
def test_an_id_that_no_registry_gives_is_not_asked_for(fake: FakeRegistry, schema_id: int) -> None:
    with client(fake) as registry:
        assert registry.by_id(schema_id) is None
    assert [] == fake.requests


def test_an_old_registry_that_knows_no_guids_leaves_them_unknown(fake: FakeRegistry) -> None:
    fake.fail_with = [(404, b'{"error_code": 404, "message": "HTTP 404 Not Found"}')]
    with client(fake) as registry:
        assert registry.by_guid(GUID) is None


@pytest.mark.parametrize("kind", ["JSON", "PROTOBUF"])
def test_a_schema_that_is_not_avro_is_unknown(fake: FakeRegistry, kind: str) -> None:
    fake.by_id[5] = {"schema": "{}", "schemaType": kind}
    with client(fake) as registry:
        assert registry.by_id(5) is None


def test_a_schema_that_refers_to_others_comes_written_out(fake: FakeRegistry) -> None:
    fake.by_id[5] = {"schema": '{"needs": "others"}', "references": [{"name": "A", "subject": "a", "version": 1}]}
    fake.resolved[5] = EVENT
    with client(fake) as registry:
        assert EVENT == registry.by_id(5)


def test_a_short_failure_is_retried(fake: FakeRegistry) -> None:
    fake.by_id[5] = {"schema": EVENT}
    fake.fail_with = [(503, b"{}"), (503, b"{}")]
    with client(fake, retries_max=2) as registry:
        assert EVENT == registry.by_id(5)
    assert 3 == len(fake.requests)


@pytest.mark.parametrize(
    "failure",
    [(500, b'{"error_code": 50001, "message": "down"}'), (200, b"<html>"), (404, b"<html>"), (503, b""), (200, b"[]"), (200, b'"x"')],
)
def test_an_answer_that_says_nothing_of_the_id_leaves_the_record_waiting(fake: FakeRegistry, failure: tuple[int, bytes]) -> None:
    fake.fail_with = [failure] * 3
    with client(fake, retries_max=1) as registry, pytest.raises(Unavailable, match="the registry"):
        registry.by_id(5)
    assert len(fake.requests) <= 2


def test_a_failure_is_not_remembered(fake: FakeRegistry) -> None:
    fake.by_id[5] = {"schema": EVENT}
    fake.fail_with = [(500, b"{}")]
    with client(fake, retries_max=0) as registry:
        with pytest.raises(Unavailable):
            registry.by_id(5)
        assert EVENT == registry.by_id(5)


def test_a_registry_that_does_not_listen_is_unavailable(fake: FakeRegistry) -> None:
    with client(fake, url="http://127.0.0.1:1", retries_max=1) as registry, pytest.raises(Unavailable, match="does not answer"):
        registry.by_id(5)


def test_a_registry_that_stalls_is_unavailable(fake: FakeRegistry) -> None:
    fake.stall_s = 30.0
    with client(fake, timeout_s=0.05, retries_max=1) as registry, pytest.raises(Unavailable, match="does not answer"):
        registry.by_id(5)
    assert 2 == len(fake.requests)


def test_credentials_are_sent_and_never_shown(fake: FakeRegistry) -> None:
    fake.user = "reader:s3cret"
    fake.by_id[5] = {"schema": EVENT}
    with client(fake, user="reader", password="s3cret") as registry:
        assert EVENT == registry.by_id(5)
    assert "s3cret" not in repr(RegistrySettings(url=fake.url, user="reader", password="s3cret"))


def test_refused_credentials_are_a_wrong_configuration(fake: FakeRegistry) -> None:
    fake.user = "reader:s3cret"
    with client(fake, user="reader", password="wrong") as registry, pytest.raises(Misconfigured, match="refuses us"):
        registry.by_id(5)


def test_a_schema_is_registered_and_its_id_returned(fake: FakeRegistry) -> None:
    with client(fake) as registry:
        assert 7 == registry.register("segment-changes-value", EVENT)
    assert {"segment-changes-value": [EVENT]} == fake.subjects


def test_where_we_may_not_register_the_schema_is_looked_up(fake: FakeRegistry) -> None:
    fake.subjects["segment-changes-value"] = [EVENT]
    with client(fake, may_register=False) as registry:
        assert 7 == registry.register("segment-changes-value", EVENT)
        with pytest.raises(Misconfigured, match="register it by hand"):
            registry.register("other-value", EVENT)


def test_a_schema_that_the_registry_finds_incompatible_is_a_wrong_configuration(fake: FakeRegistry) -> None:
    with client(fake) as registry, pytest.raises(Misconfigured, match="closed-value"):
        registry.register("closed-value", EVENT)


@pytest.mark.parametrize("settings", [{"url": "ftp://registry"}, {"properties": {"no.such.setting": 1}}])
def test_settings_that_make_no_sense_are_refused(fake: FakeRegistry, settings: dict[str, Any]) -> None:
    with pytest.raises(Misconfigured, match="settings are refused"), client(fake, **settings):
        pass
