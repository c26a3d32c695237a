"""The stage of a demo: real servers, topics of its own, and worker processes that can be killed and started again.

Law: what is started here ends here, however the demo ends.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.core.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.console import Console

    from streamer.app.config import Config

WORKERS = 2
PARTITIONS = 8
END_TIMEOUT_S = 15.0
KILL_TIMEOUT_S = 5.0
SAID_CHARACTERS = 2000
TOPICS = {
    "EVENTS": "customer-events",
    "CHANGES": "segment-changes",
    "MODELS": "segment-models",
    "JOURNAL": "segment-journal",
    "DEAD_LETTERS": "customer-events.dlq",
}
SETTINGS = {
    "STREAMER_TOPICS__PARTITIONS": str(PARTITIONS),
    "STREAMER_MODEL__EPOCH_INTERVAL_S": "0.3s",
    "STREAMER_LOG__LEVEL": "warning",
    "STREAMER_METRICS__ENABLED": "false",
}


@contextmanager
def servers_of(console: Console, environment: Mapping[str, str], settings: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Start servers, or use those that the environment names; gives the environment of the demo's workers.

    Raises:
        Unavailable: there are none to be had, or one does not answer.

    """
    from streamer.adapters import servers  # noqa: PLC0415  # slow to import

    begun_s = time.monotonic()
    with servers.progress_bar(console) as report:
        try:
            running = servers.start(environment, progress=report)
        except servers.ServersError as error:
            raise Unavailable(str(error)) from error
    with running:
        took_s = time.monotonic() - begun_s
        console.print(f"   Kafka at {running.kafka_bootstrap}, Redis at {running.redis_url}\n   ({running.source}), {took_s:.1f} s")
        yield {**_own_names(environment), **SETTINGS, **settings, **running.environment}


def _own_names(environment: Mapping[str, str]) -> dict[str, str]:
    """Name application and topics after this demo, so that on servers that somebody else runs nothing of theirs is touched."""
    name = environment.get("STREAMER_APP__NAME", f"demo-{uuid.uuid4().hex[:6]}")
    topics = {f"STREAMER_TOPICS__{key}": f"{name}.{topic}" for key, topic in TOPICS.items()}
    return {**topics, **environment, "STREAMER_APP__NAME": name}


def configured(environment: Mapping[str, str]) -> Config:
    """Load the demo's configuration, which is its environment alone."""
    from streamer.app.config import load  # noqa: PLC0415  # slow to import

    return load(None, environment)


def compile_first(console: Console, config: Config) -> None:
    """Compile once, so that the workers find it done."""
    from streamer.app.wiring import compile_all  # noqa: PLC0415  # slow to import

    begun_s = time.monotonic()
    with console.status("compiling the decoder and the fold, a minute or so the first time"):
        compile_all(config)
    console.print(f"   compiled code at hand, {time.monotonic() - begun_s:.1f} s")


class Workers:
    """Worker processes, each with a log of its own."""

    def __init__(self, environment: Mapping[str, str], directory: Path) -> None:
        """Start none yet."""
        self._environment = environment
        self._directory = directory
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, number: int) -> None:
        """Start a worker; under the number of one that was killed, it is the same member of the group and takes over at once."""
        own = {**self._environment, "STREAMER_APP__INSTANCE": f"{self._environment['STREAMER_APP__NAME']}-{number}"}
        with (self._directory / f"worker-{number}.log").open("ab") as log:
            self._processes[number] = subprocess.Popen([sys.executable, "-m", "streamer", "run"], env=own, stderr=log, stdout=log)

    def kill(self, number: int) -> None:
        """Kill a worker without any warning, as `kill -9` does."""
        process = self._processes.pop(number)
        process.send_signal(signal.SIGKILL)
        process.wait(KILL_TIMEOUT_S)

    def check(self) -> None:
        """Raise `Unavailable` where a worker has ended that nobody told to."""
        for number, process in self._processes.items():
            status = process.poll()
            if status is not None:
                message = f"worker {number} ended with status {status}; the last that it said:\n{self.said()}"
                raise Unavailable(message)

    def said(self) -> str:
        """Give the ends of the workers' logs."""
        return "\n".join(path.read_text(errors="replace")[-SAID_CHARACTERS:] for path in sorted(self._directory.glob("*.log")))

    def end(self) -> None:
        """End all workers, in order where they can: what they committed is published then. A second call does nothing."""
        ending, self._processes = list(self._processes.values()), {}
        for process in ending:
            process.terminate()
        for process in ending:
            try:
                process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(KILL_TIMEOUT_S)


@contextmanager
def workers_of(environment: Mapping[str, str]) -> Iterator[Workers]:
    """Run workers for the length of a block."""
    with tempfile.TemporaryDirectory() as directory:
        workers = Workers(environment, Path(directory))
        try:
            for number in range(WORKERS):
                workers.start(number)
            yield workers
        finally:
            workers.end()
