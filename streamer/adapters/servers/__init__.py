"""Real servers from nothing: Apache Kafka and Valkey or Redis, without root, Docker or Java.

`start` gives servers for the length of a block: those that the environment names (`KAFKA_BOOTSTRAP`, `REDIS_URL`), else containers where a
container engine answers, else embedded ones. `background` keeps servers beyond the command that started them. `EmbeddedKafka` and
`EmbeddedRedis` are handles for tests that kill, freeze and restart. The law: what this process started ends with this process, however
it ends, unless it was started detached.
"""

from __future__ import annotations

from streamer.adapters.servers import background
from streamer.adapters.servers.cache import cache_directory, make_run_directory
from streamer.adapters.servers.choice import KAFKA_VARIABLE, REDIS_VARIABLE, Source
from streamer.adapters.servers.embedded_kafka import EmbeddedKafka
from streamer.adapters.servers.embedded_redis import EmbeddedRedis
from streamer.adapters.servers.errors import JarRefused, JarUnavailable, ServerFailed, ServersError, ServersMissing
from streamer.adapters.servers.progress import progress_bar
from streamer.adapters.servers.running import Running, Server, start

__all__ = [
    "KAFKA_VARIABLE",
    "REDIS_VARIABLE",
    "EmbeddedKafka",
    "EmbeddedRedis",
    "JarRefused",
    "JarUnavailable",
    "Running",
    "Server",
    "ServerFailed",
    "ServersError",
    "ServersMissing",
    "Source",
    "background",
    "cache_directory",
    "make_run_directory",
    "progress_bar",
    "start",
]
