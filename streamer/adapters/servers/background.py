"""Servers that stay when the command that started them ends: `streamer servers up`, `down` and `status`.

The state file `servers.json` in the cache directory says what was started: addresses, process ids and what tells those processes from
later ones with the same ids. It is trusted only as far as the processes named in it are still the same; a state left by a crash or a
reboot is noticed and replaced. All three commands hold one lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.adapters.servers import cache, readiness
from streamer.adapters.servers.choice import KAFKA_VARIABLE, REDIS_VARIABLE, Source, redacted
from streamer.adapters.servers.embedded_kafka import EmbeddedKafka
from streamer.adapters.servers.embedded_redis import EmbeddedRedis
from streamer.adapters.servers.errors import ServerFailed
from streamer.adapters.servers.process import END_MARGIN_S, wait_for_end

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamer.adapters.servers.jars import Report
    from streamer.adapters.servers.process import EmbeddedServer

STATE_FILE = "servers.json"
LAYOUT = 1
LOCK_TIMEOUT_S = 900.0
ASK_TIMEOUT_S = 2.0
VARIABLES = {"kafka": KAFKA_VARIABLE, "redis": REDIS_VARIABLE}


@dataclass(frozen=True, slots=True)
class Entry:
    """One server in the state file."""

    address: str
    port: int
    pid: int
    identity: str
    watchdog_pid: int
    watchdog_identity: str
    directory: str
    log: str
    keeps_data: bool


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One server's state: `running`, `silent` (the process is there, no answer), `gone` (it ended by itself), `down` or `given`."""

    name: str
    state: str
    address: str
    source: str
    pid: int | None = None
    log: str | None = None


def status(env: Mapping[str, str]) -> list[ServerStatus]:
    """Look at both servers and change nothing."""
    state = read_state(cache.cache_directory(env) / STATE_FILE)
    return [_status(name, state.get(name)) for name in VARIABLES]


def up(
    env: Mapping[str, str],
    *,
    kafka_port: int | None = None,
    redis_port: int | None = None,
    data_directory: Path | None = None,
    progress: Report | None = None,
) -> tuple[list[ServerStatus], list[str]]:
    """Start what does not run yet, detached; doing it again changes nothing.

    A server that the environment gives and that answers is used as it is. These servers must outlive the command, so they are never
    containers, which testcontainers removes with the process.

    Returns:
        The state of both, and notes for the user.

    Raises:
        ServersError: as `start`; also when a server runs already with another port or data directory than asked for.
    """
    home = cache.cache_directory(env)
    ports = {"kafka": kafka_port, "redis": redis_port}
    notes: list[str] = []
    with cache.locked(home / "servers.lock", timeout_s=LOCK_TIMEOUT_S):
        state = read_state(home / STATE_FILE)
        found: list[ServerStatus] = []
        for name, variable in VARIABLES.items():
            entry = state.get(name)
            if entry is not None and _exists(entry):
                _refuse_other_options(name, entry, ports[name], data_directory)
            elif _given_answers(name, env.get(variable), notes):
                found.append(ServerStatus(name, "given", env[variable], Source.GIVEN))
                continue
            else:
                if entry is not None:
                    notes.append(f"the {name} server at {entry.address} had ended by itself (see {entry.log}): a new one was started")
                    _remove(entry)
                state[name] = _start(name, home, ports[name], data_directory, progress)
                cache.write_json(home / STATE_FILE, {"layout": LAYOUT, "servers": {key: asdict(value) for key, value in state.items()}})
            found.append(_status(name, state[name]))
    return found, notes


def down(env: Mapping[str, str]) -> list[str]:
    """End the servers of the state file; give the names of those that ran.

    Raises:
        ServerFailed: one of them can't be ended.
    """
    home = cache.cache_directory(env)
    ended = []
    with cache.locked(home / "servers.lock", timeout_s=LOCK_TIMEOUT_S):
        for name, entry in read_state(home / STATE_FILE).items():
            if _exists(entry):
                ended.append(name)
            _end(name, entry)
            _remove(entry)
        (home / STATE_FILE).unlink(missing_ok=True)
    return ended


def read_state(path: Path) -> dict[str, Entry]:
    """What the state file says; nothing if there is none or it can't be read."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["layout"] != LAYOUT:
            return {}
        return {name: Entry(**fields) for name, fields in document["servers"].items() if name in VARIABLES}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _exists(entry: Entry) -> bool:
    return cache.identity(entry.pid) == entry.identity


def _status(name: str, entry: Entry | None) -> ServerStatus:
    if entry is None:
        return ServerStatus(name, "down", "", Source.EMBEDDED)
    if not _exists(entry):
        return ServerStatus(name, "gone", entry.address, Source.EMBEDDED, None, entry.log)
    state = "running" if _answers(name, entry.address) is None else "silent"
    return ServerStatus(name, state, entry.address, Source.EMBEDDED, entry.pid, entry.log)


def _answers(name: str, address: str) -> str | None:
    return readiness.kafka_answers(address, ASK_TIMEOUT_S) if name == "kafka" else readiness.redis_answers(address, ASK_TIMEOUT_S)


def _given_answers(name: str, address: str | None, notes: list[str]) -> bool:
    """Whether the environment gives a server that answers; a silent one is most often left from an earlier `up`, so it is only noted."""
    if not address:
        return False
    problem = _answers(name, address)
    if problem is not None:
        notes.append(f"{VARIABLES[name]}={redacted(address)} does not answer, so a server was started; set the variable anew")
    return problem is None


def _refuse_other_options(name: str, entry: Entry, port: int | None, data_directory: Path | None) -> None:
    other_port = port is not None and port != entry.port
    other_data = data_directory is not None and str(data_directory.resolve() / name) != entry.directory
    if other_port or other_data:
        message = f"a {name} server runs already on port {entry.port} with its data in {entry.directory}: `streamer servers down` first"
        raise ServerFailed(message)


def _start(name: str, home: Path, port: int | None, data_directory: Path | None, progress: Report | None) -> Entry:
    keep = data_directory is not None
    parent = data_directory.resolve() if data_directory is not None else cache.make_run_directory(home)
    parent.mkdir(parents=True, exist_ok=True)
    server: EmbeddedServer
    if name == "kafka":
        server = EmbeddedKafka(parent / name, cache_directory=home, port=port, report=progress, keep_data=keep, detached=True)
    else:
        server = EmbeddedRedis(parent / name, port=port, appendonly=keep, keep_data=keep, detached=True)
    try:
        server.start()
        if not keep:
            cache.record_owner(parent, server.watchdog_pid)
    except BaseException:
        server.close()
        if not keep:
            shutil.rmtree(parent, ignore_errors=True)
        raise
    return Entry(
        address=server.address,
        port=server.port,
        pid=server.pid,
        identity=cache.identity(server.pid) or "",
        watchdog_pid=server.watchdog_pid,
        watchdog_identity=cache.identity(server.watchdog_pid) or "",
        directory=str(server.directory),
        log=str(server.log_path),
        keeps_data=keep,
    )


def _end(name: str, entry: Entry) -> None:
    """Ask the watchdog to end its server; without a watchdog, end the server ourselves."""
    for pid, identity in ((entry.watchdog_pid, entry.watchdog_identity), (entry.pid, entry.identity)):
        for number in (signal.SIGTERM, signal.SIGKILL):
            if cache.identity(pid) != identity:
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            with contextlib.suppress(TimeoutError):
                wait_for_end(pid, END_MARGIN_S * 2)
        if cache.identity(pid) == identity:
            message = f"the {name} server (pid {pid}) can't be ended"
            raise ServerFailed(message)


def _remove(entry: Entry) -> None:
    if not entry.keeps_data:
        shutil.rmtree(Path(entry.directory).parent, ignore_errors=True)
