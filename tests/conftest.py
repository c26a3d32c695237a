"""Real servers for tests: `servers`, `kafka_bootstrap` and `redis_url` for a session, `own_kafka` and `own_redis` for one test.

The servers of a session are shared: a test uses topics, groups and namespaces of its own. Where no servers can be had the tests are
skipped, in one line of the summary; with `REQUIRE_SERVERS=1` they fail.
"""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from streamer.adapters import servers as real_servers

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

NO_SERVERS = "no servers"
FIRST_SKIP = pytest.StashKey[tuple[str, int, str]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Give all tests that were skipped for want of servers one place and one reason, so that the summary folds them into one line."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple) and NO_SERVERS in report.longrepr[2]:
        report.longrepr = item.config.stash.setdefault(FIRST_SKIP, (__file__, 1, report.longrepr[2]))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None]:
    """Leave logging as it was: a command that is run in this process sets it up as its own, and later tests would hear nothing."""
    yield
    root = logging.getLogger("streamer")
    root.handlers[:] = []
    root.setLevel(logging.NOTSET)
    root.propagate = True


@contextmanager
def or_skip() -> Iterator[None]:
    """Skip where servers can't be had; whatever else goes wrong with them is a failure."""
    try:
        yield
    except (real_servers.ServersMissing, real_servers.JarUnavailable) as error:
        if os.environ.get("REQUIRE_SERVERS") == "1":
            raise
        reason = f"{NO_SERVERS}: {error}"
    else:
        return
    pytest.skip(reason)


@pytest.fixture(scope="session")
def session_kafka() -> Iterator[real_servers.Running]:
    with or_skip():
        running = real_servers.start(os.environ, redis=False)
    with running:
        yield running


@pytest.fixture(scope="session")
def session_redis() -> Iterator[real_servers.Running]:
    with or_skip():
        running = real_servers.start(os.environ, kafka=False)
    with running:
        yield running


@pytest.fixture(scope="session")
def kafka_bootstrap(session_kafka: real_servers.Running) -> str:
    """The bootstrap servers of a real Kafka."""
    return session_kafka.kafka_bootstrap


@pytest.fixture(scope="session")
def redis_url(session_redis: real_servers.Running) -> str:
    """The URL of a real Valkey or Redis."""
    return session_redis.redis_url


@pytest.fixture(scope="session")
def servers(session_kafka: real_servers.Running, session_redis: real_servers.Running) -> real_servers.Running:
    """Both."""
    return real_servers.Running(session_kafka.kafka, session_redis.redis, None)


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[real_servers.EmbeddedKafka]:
    """A fresh Kafka for one test, to kill, freeze and restart."""
    with or_skip():
        server = real_servers.EmbeddedKafka(tmp_path / "kafka", cache_directory=real_servers.cache_directory(os.environ)).start()
    with server:
        yield server


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[real_servers.EmbeddedRedis]:
    """A fresh Valkey or Redis for one test, which keeps its data over restarts."""
    with or_skip():
        server = real_servers.EmbeddedRedis(tmp_path / "redis", appendonly=True).start()
    with server:
        yield server


@pytest.fixture
def servers_cache(tmp_path: Path) -> Path:
    """A cache directory of its own that holds the jars of the shared one."""
    from streamer.adapters.servers import jars  # noqa: PLC0415 - nobody else needs it

    shared = real_servers.cache_directory(os.environ)
    with or_skip():
        jars.class_path(shared)
    own = tmp_path / "cache"
    own.mkdir()
    (own / "jars").symlink_to(shared / "jars", target_is_directory=True)
    return own
