"""Servers for as long as a block of code runs: given ones, containers or embedded ones, in this order."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

from streamer.adapters.servers import cache, containers, embedded_kafka, embedded_redis, readiness
from streamer.adapters.servers.choice import KAFKA_VARIABLE, REDIS_VARIABLE, Source, choose, forced_source, redacted
from streamer.adapters.servers.errors import ServerFailed, ServersMissing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from streamer.adapters.servers.jars import Report

GIVEN_TIMEOUT_S = 5.0


class Server(Protocol):
    """What every server has, wherever it comes from."""

    @property
    def source(self) -> Source:
        """Where it comes from."""

    @property
    def address(self) -> str:
        """What a client is configured with."""

    def close(self) -> None:
        """End it, if it is ours."""


@dataclass(frozen=True, slots=True)
class GivenServer:
    """A server that somebody else runs; closing it does nothing."""

    address: str
    source: Source = Source.GIVEN

    def close(self) -> None:
        """Leave it alone."""


class Running:
    """Started servers; leaving the block, or `close`, ends those that are ours."""

    def __init__(self, kafka: Server | None, redis: Server | None, directory: Path | None) -> None:
        """Hold what was started."""
        self._kafka = kafka
        self._redis = redis
        self._directory = directory

    @property
    def kafka(self) -> Server:
        """The Kafka server: an `EmbeddedKafka`, with its handles, where the source says so."""
        return _wanted(self._kafka, "kafka")

    @property
    def redis(self) -> Server:
        """The Redis server: an `EmbeddedRedis`, with its handles, where the source says so."""
        return _wanted(self._redis, "redis")

    @property
    def kafka_bootstrap(self) -> str:
        """Kafka's bootstrap servers."""
        return self.kafka.address

    @property
    def redis_url(self) -> str:
        """Redis's URL."""
        return self.redis.address

    @property
    def source(self) -> str:
        """Where the servers come from: one word, or two if they differ, Kafka's first."""
        found = [server.source.value for server in (self._kafka, self._redis) if server is not None]
        return " and ".join(dict.fromkeys(found))

    @property
    def environment(self) -> dict[str, str]:
        """The variables that give these servers to another process."""
        pairs = ((KAFKA_VARIABLE, self._kafka), (REDIS_VARIABLE, self._redis))
        return {name: server.address for name, server in pairs if server is not None}

    def close(self) -> None:
        """End what is ours; a second call does nothing."""
        for server in (self._kafka, self._redis):
            if server is not None:
                server.close()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        """The servers run already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close them."""
        self.close()


def start(
    env: Mapping[str, str],
    *,
    kafka: bool = True,
    redis: bool = True,
    progress: Report | None = None,
    kafka_client: Mapping[str, str] | None = None,
    kafka_settings: Mapping[str, str] | None = None,
    kafka_as_shipped: bool = False,
    appendonly: bool = False,
) -> Running:
    """Start what is wanted and wait until it answers; at return it does.

    Args:
        env: the environment: `KAFKA_BOOTSTRAP`, `REDIS_URL`, `STREAMER_SERVERS`, `STREAMER_CACHE`, `DOCKER_HOST`.
        kafka: whether Kafka is wanted.
        redis: whether Redis is wanted.
        progress: called with a label, bytes done and bytes in all while the first start fetches.
        kafka_client: librdkafka properties (TLS, SASL) needed to ask a given Kafka whether it is there.
        kafka_settings: broker settings of an embedded Kafka, over our own.
        kafka_as_shipped: an embedded Kafka's Java runtime is set up as Kafka's start script does, not to be small and quick to start.
        appendonly: an embedded Redis keeps its data over restarts.

    Raises:
        ServersMissing: nothing is given and nothing can be started.
        ServerFailed: a given server does not answer, or one of ours did not start.
        JarRefused: a jar is not what the lock file says.
        JarUnavailable: a jar could not be fetched.

    Example::

        with servers.start(os.environ) as running:
            subprocess.run(["streamer", "run"], env={**os.environ, **running.environment})
    """
    sources = _sources(env, kafka=kafka, redis=redis)
    directory: Path | None = None
    with contextlib.ExitStack() as undo:
        if Source.EMBEDDED in sources.values():
            directory = cache.make_run_directory(cache.cache_directory(env))
            undo.callback(shutil.rmtree, directory, ignore_errors=True)
        started: dict[str, Server] = {}
        if "redis" in sources:
            started["redis"] = _redis(sources["redis"], env, directory, appendonly=appendonly)
            undo.callback(started["redis"].close)
        if "kafka" in sources:
            options = {"overrides": kafka_settings, "as_shipped": kafka_as_shipped, "report": progress}
            started["kafka"] = _kafka(sources["kafka"], env, directory, kafka_client or {}, options)
        undo.pop_all()
        return Running(started.get("kafka"), started.get("redis"), directory)


def _sources(env: Mapping[str, str], *, kafka: bool, redis: bool) -> dict[str, Source]:
    answers: list[bool] = []

    def engine_answers() -> bool:
        if not answers:  # one engine, asked at most once
            answers.append(containers.engine_answers(env))
        return answers[0]

    wanted = (
        ("kafka", kafka, KAFKA_VARIABLE, embedded_kafka.embedded_problem),
        ("redis", redis, REDIS_VARIABLE, embedded_redis.embedded_problem),
    )
    return {
        name: choose(name, env.get(variable), forced=forced_source(env), engine_answers=engine_answers, embedded_problem=problem)
        for name, is_wanted, variable, problem in wanted
        if is_wanted
    }


def _redis(source: Source, env: Mapping[str, str], directory: Path | None, *, appendonly: bool) -> Server:
    if source is Source.CONTAINER:
        return containers.start_redis()
    if source is Source.EMBEDDED and directory is not None:
        return embedded_redis.EmbeddedRedis(directory / "redis", appendonly=appendonly).start()
    url = env[REDIS_VARIABLE]
    problem = readiness.redis_answers(url, GIVEN_TIMEOUT_S)
    if problem is not None:
        message = f"{REDIS_VARIABLE}={redacted(url)} does not answer ({problem}): mend it, or unset it to have a server started"
        raise ServerFailed(message)
    return GivenServer(url)


def _kafka(
    source: Source,
    env: Mapping[str, str],
    directory: Path | None,
    client: Mapping[str, str],
    options: Mapping[str, Any],
) -> Server:
    if source is Source.CONTAINER:
        return containers.start_kafka()
    if source is Source.EMBEDDED and directory is not None:
        home = cache.cache_directory(env)
        return embedded_kafka.EmbeddedKafka(directory / "kafka", cache_directory=home, **options).start()
    bootstrap = env[KAFKA_VARIABLE]
    problem = readiness.kafka_answers(bootstrap, GIVEN_TIMEOUT_S, client)
    if problem is not None:
        message = f"{KAFKA_VARIABLE}={bootstrap} does not answer ({problem}): mend it, or unset it to have a server started"
        raise ServerFailed(message)
    return GivenServer(bootstrap)


def _wanted(server: Server | None, name: str) -> Server:
    if server is None:
        message = f"{name} was not asked for: start(env, {name}=True)"
        raise ServersMissing(message)
    return server
