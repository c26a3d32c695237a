"""An embedded server: one process, its watchdog, and a handle that starts, hurts and ends it.

The law of this module: a server never outlives the process that started it, unless it was started detached. Every server has a watchdog
(`watchdog.py`) that holds one end of a pipe; whoever holds the other end keeps the server alive.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Self

from streamer.adapters.servers import cache, watchdog
from streamer.adapters.servers.choice import Source
from streamer.adapters.servers.errors import ServerFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

WATCHDOG_START_S = 20.0
END_MARGIN_S = 15.0
PORT_ATTEMPTS_MAX = 3
PORT_TAKEN = os.strerror(errno.EADDRINUSE)  # as a server's log says it of any port that it listens on
LOG_TAIL_BYTES = 4_000
LINE_BYTES_MAX = 512


class EmbeddedServer(ABC):
    """A server of our own on a loopback port.

    Use it as a context manager, or call `start` and `close`. Its data live in `directory`; they are removed at `close` unless `keep_data`.
    """

    name = "server"
    ready_timeout_s = 60.0
    source = Source.EMBEDDED

    def __init__(self, directory: Path, *, port: int | None, keep_data: bool, detached: bool = False) -> None:
        """Remember what to start; nothing is started yet."""
        self.directory = directory
        self.keep_data = keep_data
        self._fixed_port = port
        self._port: int | None = port
        self._detached = detached
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._watchdog_pid: int | None = None
        self._owner = os.getpid()
        self._closed = False

    @property
    def port(self) -> int:
        """The port that clients use, known once the server was started."""
        if self._port is None:
            message = f"the {self.name} server was never started: call start()"
            raise ServerFailed(message)
        return self._port

    @property
    @abstractmethod
    def address(self) -> str:
        """What a client is configured with."""

    @property
    def pid(self) -> int:
        """The server's own process id."""
        if self._pid is None:
            message = f"the {self.name} server is not running: call start()"
            raise ServerFailed(message)
        return self._pid

    @property
    def watchdog_pid(self) -> int:
        """The process id of the server's watchdog."""
        if self._watchdog_pid is None:
            message = f"the {self.name} server is not running: call start()"
            raise ServerFailed(message)
        return self._watchdog_pid

    @property
    def alive(self) -> bool:
        """Whether the process exists (it may be paused)."""
        return self._pid is not None and cache.identity(self._pid) is not None

    @property
    def log_path(self) -> Path:
        """The server's log; every restart appends to it."""
        return self.directory / f"{self.name}.log"

    @property
    def grace_s(self) -> float:
        """How long a clean end may take when the owner is gone: no time at all when the data go too."""
        return END_MARGIN_S if self.keep_data else 0.0

    def start(self) -> Self:
        """Start the server and wait until it answers.

        Raises:
            ServerFailed: it ended or did not answer in time; the message ends with the tail of its log.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, PORT_ATTEMPTS_MAX + 1):
            try:
                self._start_once()
            except ServerFailed as problem:
                self._abandon()
                if PORT_TAKEN not in str(problem) or attempt == PORT_ATTEMPTS_MAX:
                    raise
                self._port = self._fixed_port
            except BaseException:
                self._abandon()  # an interrupt, most often: nobody has a handle yet that could end the server
                raise
            else:
                break
        self._fixed_port = self._port  # a restart keeps it
        return self

    def kill(self) -> None:
        """End the server at once (SIGKILL), as a crash would; its data stay for `restart`."""
        if self._pid is not None:
            self._signal(signal.SIGKILL)
            self._wait_for_end(END_MARGIN_S)

    def stop(self) -> None:
        """End the server cleanly (SIGTERM), after a bounded wait by force; its data stay for `restart`."""
        if self._pid is None:
            return
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        try:
            self._wait_for_end(END_MARGIN_S)
        except ServerFailed:
            self.kill()

    def pause(self) -> None:
        """Freeze the server (SIGSTOP): connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen server go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def restart(self) -> Self:
        """Stop the server if it runs and start it again on the same port and data."""
        self.stop()
        return self.start()

    def close(self) -> None:
        """End the server and remove its data unless they are kept; a second call does nothing."""
        if self._closed or os.getpid() != self._owner:
            return
        self._closed = True
        if self.keep_data:
            self.stop()
        else:
            self.kill()
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        """Start the server unless it runs."""
        return self if self._pid is not None else self.start()

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def log_tail(self) -> str:
        """The last lines of the log."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(max(0, self.log_path.stat().st_size - LOG_TAIL_BYTES))
                return log.read().decode("utf-8", errors="replace")
        except OSError:
            return ""

    @abstractmethod
    def _prepare(self) -> list[str]:
        """Write what the server reads at its start and give its command line."""

    @abstractmethod
    def _answers(self, timeout_s: float) -> str | None:
        """Ask the server something real; None when it answered, else why not."""

    def _start_once(self) -> None:
        if self._fixed_port is None:
            self._port = cache.free_port()
        elif not cache.port_is_free(self._fixed_port):
            message = f"port {self._fixed_port} for {self.name} is taken: name another or end what listens there"
            raise ServerFailed(message)
        self._spawn(self._prepare())
        deadline = time.monotonic() + self.ready_timeout_s
        while (problem := self._answers(max(0.1, deadline - time.monotonic()))) is not None:
            if not self.alive:
                message = f"the {self.name} server ended while starting; the end of {self.log_path}:\n{self.log_tail()}"
                raise ServerFailed(message)
            if time.monotonic() > deadline:
                message = (
                    f"the {self.name} server did not answer within {self.ready_timeout_s:.0f} s ({problem}); "
                    f"the end of {self.log_path}:\n{self.log_tail()}"
                )
                raise ServerFailed(message)

    def _spawn(self, command: Sequence[str]) -> None:
        life = ["--detached"] if self._detached else ["--parent", str(os.getpid())]
        remove = [] if self.keep_data else ["--remove", str(self.directory)]
        script = [sys.executable, "-I", "-S", str(Path(watchdog.__file__))]
        options = ["--log", str(self.log_path), "--cwd", str(self.directory), "--grace", str(self.grace_s), *life, *remove]
        self._watchdog = subprocess.Popen(
            [*script, *options, "--", *command],
            stdin=subprocess.DEVNULL if self._detached else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        told = self._first_line(self._watchdog)
        self._pid, self._watchdog_pid = int(told["pid"]), int(told["watchdog"])
        if self._detached:
            self._watchdog.wait(WATCHDOG_START_S)

    def _first_line(self, process: subprocess.Popen[bytes]) -> dict[str, int]:
        if process.stdout is None or process.stderr is None:
            message = "the watchdog was started without pipes"
            raise ServerFailed(message)
        ready, _, _ = select.select([process.stdout], [], [], WATCHDOG_START_S)
        line = process.stdout.readline(LINE_BYTES_MAX) if ready else b""
        if not line:
            process.kill()
            _, errors = process.communicate()
            message = f"the watchdog of {self.name} did not start the server: {errors.decode(errors='replace')[-LOG_TAIL_BYTES:]}"
            raise ServerFailed(message)
        process.stdout.close()
        process.stderr.close()
        told: dict[str, int] = json.loads(line)
        return told

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def _wait_for_end(self, timeout_s: float) -> None:
        """Wait until the server and its watchdog are gone."""
        process = self._watchdog
        try:
            if process is not None and not self._detached:
                process.wait(timeout_s)
            elif self._pid is not None and self._watchdog_pid is not None:
                for pid in (self._pid, self._watchdog_pid):
                    wait_for_end(pid, timeout_s)
        except (subprocess.TimeoutExpired, TimeoutError):
            message = f"the {self.name} server (pid {self._pid}) did not end within {timeout_s:.0f} s"
            raise ServerFailed(message) from None
        if process is not None and process.stdin is not None:
            process.stdin.close()
        self._pid = self._watchdog_pid = self._watchdog = None

    def _abandon(self) -> None:
        """After a failed start: leave no process behind."""
        if self._pid is not None:
            self.kill()


def wait_for_end(pid: int, timeout_s: float) -> None:
    """Wait until a process that is no child of ours is gone.

    Raises:
        TimeoutError: it is still there.
    """
    deadline = time.monotonic() + timeout_s
    while cache.identity(pid) is not None:
        if time.monotonic() > deadline:
            raise TimeoutError(pid)
        time.sleep(0.05)
