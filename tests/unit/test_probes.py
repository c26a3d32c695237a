"""Probes: when a worker lives, when it is ready, and a server that can't hold it up."""

from __future__ import annotations

import json
import logging
import socket
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import pytest

from streamer.app.health import Health
from streamer.app.metrics import Metrics
from streamer.app.probes import CONNECTIONS_MAX, probes
from tests.fakes.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "127.0.0.1"


class Served:
    """A server with a clock and a health that a test moves."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.health = Health(self.clock, 300, 30)
        self.metrics, self.registry = Metrics.registered(self.clock, self.health)
        self.port = 0

    def get(self, path: str, method: str = "GET") -> tuple[int, str, bytes]:
        connection = HTTPConnection(HOST, self.port, timeout=10)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.headers["Content-Type"], answer.read()
        finally:
            connection.close()

    def said(self, path: str) -> tuple[int, Any]:
        status, _, body = self.get(path)
        return status, json.loads(body)


@pytest.fixture
def served() -> Iterator[Served]:
    one = Served()
    with probes(HOST, 0, one.health, one.registry) as port:
        assert port
        one.port = port
        yield one


def test_a_worker_that_starts_is_live_and_not_ready(served: Served) -> None:
    assert (200, {"live": True, "why": []}) == served.said("/livez")
    assert (503, {"ready": False, "why": ["the worker is starting"], "partitions": []}) == served.said("/readyz")


def test_a_worker_is_ready_once_its_partitions_are_taken_over_and_the_servers_answered(served: Served) -> None:
    served.health.turned((0, 2), (3, 1))
    served.health.answered()
    status, body = served.said("/readyz")
    assert (503, ["2 of 4 partitions are not taken over yet: 1, 3"], [0, 2]) == (status, body["why"], body["partitions"])
    served.health.turned((0, 1, 2, 3), ())
    assert (200, {"ready": True, "why": [], "partitions": [0, 1, 2, 3]}) == served.said("/readyz")


def test_a_worker_whose_servers_have_not_answered_lately_is_live_and_not_ready(served: Served) -> None:
    served.health.turned((0,), ())
    assert (503, ["the servers have not answered yet"]) == (served.said("/readyz")[0], served.said("/readyz")[1]["why"])
    served.health.answered()
    served.clock.sleep(31)
    served.health.turned((0,), ())
    assert ["no server has answered for 31 s, more than `metrics.ready_within_s` (30 s)"] == served.said("/readyz")[1]["why"]
    served.health.answered()
    assert 200 == served.said("/readyz")[0]
    served.health.unavailable()
    assert ["a server did not answer when it was last asked: the log says which"] == served.said("/readyz")[1]["why"]
    assert 200 == served.said("/livez")[0]


def test_a_worker_whose_loop_stands_still_is_neither_live_nor_ready(served: Served) -> None:
    served.health.turned((0,), ())
    served.health.answered()
    served.clock.sleep(301)
    reason = "the loop has not turned for 301 s, which is more than `metrics.live_within_s` (300 s)"
    assert (503, {"live": False, "why": [reason]}) == served.said("/livez")
    assert reason in served.said("/readyz")[1]["why"]
    served.health.turned((0,), ())
    assert 200 == served.said("/livez")[0]


def test_a_worker_that_stands_by_is_ready_also_after_a_server_was_away(served: Served) -> None:
    served.health.turned((), ())
    served.health.turned((), ())
    assert 200 == served.said("/readyz")[0]
    served.health.unavailable()
    assert 503 == served.said("/readyz")[0]
    served.health.turned((), ())
    served.health.turned((), ())
    assert 200 == served.said("/readyz")[0]


def test_metrics_are_given_as_prometheus_reads_them(served: Served) -> None:
    status, content, body = served.get("/metrics?debug=1")
    assert (200, True) == (status, content.startswith("text/plain"))
    assert b"\nstreamer_events_consumed_total 0.0\n" in body
    assert b"\nprocess_cpu_seconds_total " in body


def test_other_paths_name_those_that_are_there_and_other_methods_are_refused(served: Served) -> None:
    assert (404, {"paths": ["/livez", "/readyz", "/metrics"]}) == served.said("/")
    assert (200, b"") == (served.get("/livez", "HEAD")[0], served.get("/livez", "HEAD")[2])
    assert 501 == served.get("/livez", "POST")[0]


def test_silent_connections_are_bounded_and_do_not_keep_the_server_from_ending() -> None:
    one = Served()
    with probes(HOST, 0, one.health, one.registry) as port:
        assert port
        one.port = port
        silent = [socket.create_connection((HOST, port)) for _ in range(CONNECTIONS_MAX)]
        last = socket.create_connection((HOST, port), timeout=10)
        assert b"" == last.recv(1)  # one too many is closed at once
        silent.pop().close()
        status = 0
        for _ in range(1000):  # until the closed one's place is free
            try:
                status = one.get("/livez")[0]
            except OSError:
                continue
            break
        assert 200 == status
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((HOST, one.port))
    for connection in (*silent, last):
        connection.close()


def test_a_port_that_is_taken_is_said_and_done_without(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), probes(HOST, served.port, served.health, served.registry) as port:
        assert port is None
    assert f"{HOST}:{served.port} can't be had" in caplog.text
    assert "a `metrics.port` of its own, or 0 for a free one" in caplog.text
    assert 200 == served.said("/livez")[0]
