"""The cache directory, its locks, free ports and the identity of processes.

Layout: `jars/` (verified, shared), `run/<name>/` (one started set of servers each), `servers.json` (servers left in the background).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.adapters.servers.errors import ServerFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CACHE_VARIABLE = "STREAMER_CACHE"
OWNER_FILE = "owner.json"
# Below the ephemeral ranges of Linux (32768 up) and macOS (49152 up): no outgoing connection can take the port while a server restarts,
# and no client that retries against a dead server can connect to itself.
PORTS = range(20_000, 32_000)
PORT_TRIES_MAX = 200
LOCK_POLL_S = 0.1
PS_TIMEOUT_S = 5.0


def cache_directory(env: Mapping[str, str]) -> Path:
    """The cache directory: `$STREAMER_CACHE`, else the platform's own place for caches."""
    if env.get(CACHE_VARIABLE):
        return Path(env[CACHE_VARIABLE]).expanduser()
    home = Path(env["HOME"]) if env.get("HOME") else Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "segment-streamer"
    base = Path(env["XDG_CACHE_HOME"]) if env.get("XDG_CACHE_HOME") else home / ".cache"
    return base / "segment-streamer"


@contextlib.contextmanager
def locked(path: Path, *, timeout_s: float) -> Iterator[None]:
    """Hold an exclusive lock on a file, among processes; the kernel drops it when the holder dies.

    Raises:
        ServerFailed: another process held the lock for the whole time-out.
    """
    fcntl = importlib.import_module("fcntl")  # absent on Windows, where only given servers and containers work
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_s
    with path.open("a") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    message = f"another process has held {path} for {timeout_s:.0f} s: wait for it or end it"
                    raise ServerFailed(message) from None
            time.sleep(LOCK_POLL_S)
        yield


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A free loopback port outside the ephemeral range.

    Raises:
        ServerFailed: none was found within a bounded number of tries.
    """
    for _ in range(PORT_TRIES_MAX):
        port = random.choice(PORTS)  # noqa: S311 - not a secret
        if port_is_free(port):
            return port
    message = f"no free port between {PORTS.start} and {PORTS.stop} after {PORT_TRIES_MAX} tries: name one"
    raise ServerFailed(message)


def identity(pid: int) -> str | None:
    """What tells this process from a later one with the same number, or None if there is none (a zombie counts as none).

    On Linux the boot's id and the start time in clock ticks; elsewhere what `ps` gives as the start time.
    """
    if Path("/proc/self/stat").exists():
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError:
            return None
        fields = stat.rpartition(")")[2].split()  # the name before may hold spaces and brackets
        return None if fields[0] in "ZX" else f"{boot}:{fields[19]}"
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PS_TIMEOUT_S, check=False)
    state, _, started = done.stdout.strip().partition(" ")
    return None if not started or state.startswith("Z") else started.strip()


def make_run_directory(cache: Path) -> Path:
    """Make a private directory for one started set of servers, and sweep those whose owners are dead."""
    runs = cache / "run"
    runs.mkdir(parents=True, exist_ok=True)
    _sweep(runs)
    made = Path(tempfile.mkdtemp(prefix="servers-", dir=runs))
    record_owner(made, os.getpid())
    return made


def record_owner(directory: Path, pid: int) -> None:
    """Say which process a run directory lives with."""
    write_json(directory / OWNER_FILE, {"pid": pid, "identity": identity(pid)})


def write_json(path: Path, value: object) -> None:
    """Write a small JSON file so that a reader sees the old one or the new one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def _sweep(runs: Path) -> None:
    for directory in runs.glob("servers-*"):
        try:
            owner = json.loads((directory / OWNER_FILE).read_text(encoding="utf-8"))
            alive = identity(int(owner["pid"])) == owner["identity"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # just being made, or not ours to judge
        if not alive:
            shutil.rmtree(directory, ignore_errors=True)
