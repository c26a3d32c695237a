"""The HTTP server for probes and scrapes: /livez, /readyz, /metrics on one port.

Law: it decides nothing and can't hold the worker up: it runs in daemon threads, a bounded number of them, each for a bounded time.
"""

from __future__ import annotations

import json
import logging
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import BoundedSemaphore, Thread
from typing import TYPE_CHECKING

from prometheus_client.exposition import choose_encoder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from socket import socket

    from prometheus_client import CollectorRegistry

    from streamer.app.health import Health

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 8
SILENT_S_MAX = 5.0
POLL_S = 0.1
JSON = "application/json"
PATHS = ("/livez", "/readyz", "/metrics")


class ProbeServer(HTTPServer):
    """Serves a worker's health and metrics."""

    def __init__(self, host: str, port: int, health: Health, registry: CollectorRegistry) -> None:
        """Bind; port 0 is a free one.

        Raises:
            OSError: the address can't be had.

        """
        self.health = health
        self.registry = registry
        self._free = BoundedSemaphore(CONNECTIONS_MAX)
        super().__init__((host, port), _Handler)

    def process_request(self, request: socket, client_address: tuple[str, int]) -> None:  # type: ignore[override]  # a stream's alone
        """Answer in a thread of its own; one connection too many is closed."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        Thread(target=self._answer, args=(request, client_address), name="probe", daemon=True).start()

    def _answer(self, request: socket, client_address: tuple[str, int]) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError as error:
            log.debug("a probe's connection ended early: %s", error)
        finally:
            self.shutdown_request(request)
            self._free.release()

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002  # the base class's
        """Say that a connection could not be served, in one line."""
        log.warning("a probe's connection could not be served")


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: ProbeServer
    server_version = "segment-streamer"
    sys_version = ""
    timeout = SILENT_S_MAX

    def do_GET(self) -> None:
        """Answer, with a body."""
        self._send(self._body())

    def do_HEAD(self) -> None:
        """Answer, without the body."""
        self._body()
        self.end_headers()

    def _body(self) -> bytes:
        path = self.path.partition("?")[0]
        health = self.server.health
        content, status, body = JSON, HTTPStatus.OK, b""
        if path == "/metrics":
            encode, content = choose_encoder(self.headers.get("Accept", ""))
            body = encode(self.server.registry)
        elif path == "/livez":
            status, body = _said("live", health.dead())
        elif path == "/readyz":
            status, body = _said("ready", health.unready(), partitions=sorted(health.partitions))
        else:
            status, body = HTTPStatus.NOT_FOUND, _json({"paths": PATHS})
        self.send_response(status)
        self.send_header("Content-Type", content)
        self.send_header("Content-Length", str(len(body)))
        return body

    def _send(self, body: bytes) -> None:
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        """Keep requests out of the log, but for debugging."""
        log.debug("probe: %s", format % args)


def _said(what: str, reasons: list[str], **more: object) -> tuple[HTTPStatus, bytes]:
    status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
    return status, _json({what: not reasons, "why": reasons, **more})


def _json(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


@contextmanager
def probes(host: str, port: int, health: Health, registry: CollectorRegistry) -> Iterator[int | None]:
    """Serve for the length of a block; gives the port, or None where the address can't be had, which is no reason not to work."""
    try:
        server = ProbeServer(host, port, health, registry)
    except OSError as error:
        log.warning(
            "this worker has no metrics and probes: %s:%d can't be had (%s); give each worker of a machine a `metrics.port` of its own, "
            "or 0 for a free one",
            host,
            port,
            error.strerror or error,
        )
        yield None
        return
    thread = Thread(target=server.serve_forever, args=(POLL_S,), name="probes", daemon=True)
    thread.start()
    log.info("metrics and probes are at http://%s:%d", host, server.server_port)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
