"""Servers of a run's own, and what befalls them: the broker restarts, Redis loses what it held, connections to it are cut."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Self

import redis

from streamer.adapters import servers
from tests.chaos.proxy import Proxy

if TYPE_CHECKING:
    from pathlib import Path

SESSION_S = 4.0
# The least that brokers take for a session in the group protocol where they set it; transactions of the dead are looked for each second.
BROKER = {
    "group.consumer.session.timeout.ms": str(int(SESSION_S * 1000)),
    "group.consumer.heartbeat.interval.ms": "500",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
}
INCREMENTS = "appendonlydir/*.incr.aof"


class Cluster:
    """An Apache Kafka and a Valkey or Redis that keeps its data, the latter also behind a proxy."""

    def __init__(self, directory: Path) -> None:
        """Prepare."""
        home = servers.cache_directory(os.environ)
        self.kafka = servers.EmbeddedKafka(directory / "kafka", cache_directory=home, overrides=BROKER)
        self.redis = servers.EmbeddedRedis(directory / "redis", appendonly=True, extra={"auto-aof-rewrite-percentage": "0"})
        self._copies = directory / "copies"
        self._count = 0
        self.proxy: Proxy | None = None

    def start(self) -> Self:
        """Start everything."""
        try:
            self.kafka.start()
            self.redis.start()
            self.proxy = Proxy(self.redis.port).start()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """End everything."""
        if self.proxy is not None:
            self.proxy.close()
        self.redis.close()
        self.kafka.close()

    def __enter__(self) -> Self:
        """Start everything."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """End everything."""
        self.close()

    @property
    def redis_url(self) -> str:
        """Redis behind the proxy."""
        return f"redis://127.0.0.1:{self._proxy.port}/0"

    def cut(self, what: str) -> None:
        """Cut the connection of the next request or reply of Redis."""
        self._proxy.cut_next(what)

    def restart_broker(self, how: str) -> None:
        """Stop or kill the broker, and start it again on its data."""
        if how == "killed":
            self.kafka.kill()
        else:
            self.kafka.stop()
        self.kafka.start()

    def copy_redis(self) -> None:
        """Put a copy of what Redis has written aside."""
        shutil.copytree(self.redis.directory / "appendonlydir", self._copies / str(self._count))
        self._count += 1

    def lose(self, how: str, choice: float, share: float) -> str:
        """Let Redis lose what it held, or a part of it; `choice` tells which copy, `share` how much. Returns what was lost."""
        if how == "flushed":
            with redis.Redis.from_url(self.redis.address) as client:
                client.flushall()
            return "everything"
        self.redis.kill()
        said = "nothing that was written"
        if how == "older copy":
            chosen = int(choice * self._count)
            shutil.rmtree(self.redis.directory / "appendonlydir")
            shutil.copytree(self._copies / str(chosen), self.redis.directory / "appendonlydir")
            said = f"what came after copy {chosen} of {self._count}"
        elif how == "tail cut off":
            [log] = self.redis.directory.glob(INCREMENTS)
            size = log.stat().st_size
            lost = int(size * share**4 * 0.9)  # most often little, at times nearly all
            os.truncate(log, size - lost)
            said = f"{lost:,} of {size:,} bytes"
        self.redis.start()
        return said

    @property
    def _proxy(self) -> Proxy:
        if self.proxy is None:
            message = "start the cluster first"
            raise RuntimeError(message)
        return self.proxy
