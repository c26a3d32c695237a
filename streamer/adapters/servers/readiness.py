"""Questions that only a working server answers."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import redis
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

if TYPE_CHECKING:
    from collections.abc import Mapping

POLL_S = 0.05
REQUEST_TIMEOUT_S = 5.0


def kafka_answers(bootstrap: str, timeout_s: float, properties: Mapping[str, str] | None = None, cluster: str | None = None) -> str | None:
    """Ask for the cluster's metadata; None when at least one broker is registered, else why not.

    Args:
        bootstrap: `host:port`, one or more, separated by commas.
        timeout_s: at most this long, and never longer than a few seconds.
        properties: further librdkafka properties, as TLS and SASL.
        cluster: the id of the only cluster whose answer counts; of any if None.
    """
    timeout_s = min(timeout_s, REQUEST_TIMEOUT_S)
    settings = {
        "bootstrap.servers": bootstrap,
        "socket.timeout.ms": str(int(timeout_s * 1000)),
        "reconnect.backoff.max.ms": "200",
        "log_level": "0",
        **(properties or {}),
    }
    try:
        client = AdminClient({**settings, "error_cb": lambda _: None})
        metadata = client.list_topics(timeout=timeout_s)
    except KafkaException as error:
        return str(error)
    if cluster not in {None, metadata.cluster_id}:
        return f"another cluster answers there: {metadata.cluster_id}"
    return None if metadata.brokers else "no broker is registered yet"


def redis_answers(url: str, timeout_s: float, process: int | None = None) -> str | None:
    """Send a PING; None when the server answered, else why not (a server that is still loading has not answered).

    Args:
        url: as redis-py takes it.
        timeout_s: at most this long, and never longer than a few seconds.
        process: the id of the only process whose answer counts; of any if None.
    """
    timeout_s = min(timeout_s, REQUEST_TIMEOUT_S)
    try:
        with redis.Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s) as client:
            client.ping()
            answering = process if process is None else client.info("server")["process_id"]
    except (redis.RedisError, OSError, ValueError) as error:
        return str(error)
    return None if answering == process else f"another process answers there: {answering}"


def wait_for_port(port: int, timeout_s: float) -> bool:
    """Whether a loopback port accepts a connection within a moment (at most half a second), asked cheaply and often."""
    deadline = time.monotonic() + min(timeout_s, 0.5)
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=0.5):
                return True
        except OSError:
            if time.monotonic() > deadline:
                return False
        time.sleep(POLL_S)
