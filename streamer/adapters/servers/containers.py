"""Servers in containers, by testcontainers, where a container engine answers.

testcontainers and the Docker client are imported only when asked for. testcontainers' reaper removes the containers when this process ends,
however it ends. Images carry a version; each container has a memory limit.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import socket
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from streamer.adapters.servers import cache, readiness
from streamer.adapters.servers.choice import Source
from streamer.adapters.servers.embedded_kafka import HEAP_MB, SETTINGS
from streamer.adapters.servers.embedded_redis import MEMORY_MB
from streamer.adapters.servers.errors import ServerFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

KAFKA_IMAGE = "apache/kafka:4.1.1"
REDIS_IMAGE = "valkey/valkey:9.0"
KAFKA_PORT = 9092
REDIS_PORT = 6379
DOCKER_PORT = 2375
PING_TIMEOUT_S = 2
READY_TIMEOUT_S = 120.0
DEFAULT_HOST = "unix:///var/run/docker.sock"


def engine_answers(env: Mapping[str, str]) -> bool:
    """Whether testcontainers is installed and a container engine answers a ping, within about two seconds."""
    if importlib.util.find_spec("testcontainers") is None or importlib.util.find_spec("docker") is None:
        return False
    if not _listens(env.get("DOCKER_HOST") or DEFAULT_HOST):  # first of all, since a Docker client that fails leaves its socket open
        return False
    docker: Any = importlib.import_module("docker")
    try:
        client = docker.from_env(timeout=PING_TIMEOUT_S, environment=dict(env))
        try:
            return bool(client.ping())
        finally:
            client.close()
    except (docker.errors.DockerException, OSError):
        return False


def _listens(host: str) -> bool:
    """Whether something accepts connections at a Docker host; True where only the Docker client can tell."""
    where = urlsplit(host)
    try:
        if where.scheme == "unix":
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(PING_TIMEOUT_S)
                probe.connect(where.path)
        elif where.scheme in {"tcp", "http", "https"} and where.hostname:
            with socket.create_connection((where.hostname, where.port or DOCKER_PORT), timeout=PING_TIMEOUT_S):
                pass
    except OSError:
        return False
    return True


class ContainerServer:
    """One server in a container."""

    source = Source.CONTAINER

    def __init__(self, container: Any, address: str) -> None:  # noqa: ANN401 - testcontainers' own object
        """Hold a running container."""
        self._container = container
        self.address = address

    def close(self) -> None:
        """Stop and remove the container."""
        self._container.stop()


def start_kafka(port: int | None = None) -> ContainerServer:
    """Start Apache Kafka in a container.

    The broker tells its clients where to reach it, so the port on this side must be known before the start: it is chosen here.
    """
    port = port or cache.free_port()
    container = _container(KAFKA_IMAGE).with_bind_ports(KAFKA_PORT, port).with_kwargs(mem_limit=f"{HEAP_MB * 3}m")
    address = f"{container.get_docker_client().host()}:{port}"
    settings = {
        **SETTINGS,
        "listeners": f"PLAINTEXT://:{KAFKA_PORT},CONTROLLER://:9093",
        "advertised.listeners": f"PLAINTEXT://{address}",
        "controller.quorum.voters": "1@localhost:9093",
        "log.dirs": "/tmp/kafka-data",  # noqa: S108 - in the container
    }
    for key, value in settings.items():
        container.with_env("KAFKA_" + key.upper().replace(".", "_"), value)
    container.with_env("KAFKA_HEAP_OPTS", f"-Xmx{HEAP_MB}m")
    container.start()
    return _ready(ContainerServer(container, address), readiness.kafka_answers)


def start_redis(port: int | None = None) -> ContainerServer:
    """Start Valkey in a container: bounded memory, `noeviction`, nothing on disk."""
    port = port or cache.free_port()
    command = f"valkey-server --maxmemory {MEMORY_MB}mb --maxmemory-policy noeviction --save '' --appendonly no"
    container = _container(REDIS_IMAGE).with_bind_ports(REDIS_PORT, port).with_kwargs(mem_limit=f"{MEMORY_MB * 2}m").with_command(command)
    address = f"redis://{container.get_docker_client().host()}:{port}/0"
    container.start()
    return _ready(ContainerServer(container, address), readiness.redis_answers)


def _container(image: str) -> Any:  # noqa: ANN401 - testcontainers' own object
    return importlib.import_module("testcontainers.core.container").DockerContainer(image)


def _ready(server: ContainerServer, answers: Callable[[str, float], str | None]) -> ContainerServer:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while (problem := answers(server.address, 2.0)) is not None:
        if time.monotonic() > deadline:
            out, errors = server._container.get_logs()  # noqa: SLF001 - this module's own class
            server.close()
            tail = (out + errors)[-4000:].decode(errors="replace")
            message = f"the container at {server.address} did not answer within {READY_TIMEOUT_S:.0f} s ({problem}):{os.linesep}{tail}"
            raise ServerFailed(message)
        time.sleep(0.2)
    return server
