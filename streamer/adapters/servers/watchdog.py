"""Keeps one server process and ends it for certain when the process that asked for it goes away.

Run as a script of its own, on the standard library alone: `python -I -S watchdog.py OPTIONS -- COMMAND...`. It starts COMMAND in its own
process group, prints one JSON line with the server's pid, and then waits for the first of

1. the server's end: the watchdog exits;
2. the end of its standard input, which the asking process holds open: no death, SIGKILL included, can keep a pipe open;
3. another parent than `--parent`, in case a forked child of the asking process still holds the pipe;
4. SIGTERM;

and after 2, 3 or 4 resumes, terminates and, `--grace` seconds later, kills the whole group, and removes the directory given with
`--remove`. With `--detached` 2 and 3 don't count. On Linux the kernel also kills the server should the watchdog itself be killed.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PR_SET_PDEATHSIG = 1
PARENT_POLL_S = 0.5
KILL_WAIT_S = 10.0


def _die_with_me() -> Callable[[], None] | None:
    """A hook for the child that asks Linux to kill it when its parent dies; None where there is no such call."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) and None


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="watchdog")
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--cwd", type=Path, required=True)
    parser.add_argument("--grace", type=float, required=True)
    parser.add_argument("--remove", type=Path)
    life = parser.add_mutually_exclusive_group(required=True)
    life.add_argument("--parent", type=int)
    life.add_argument("--detached", action="store_true")
    parser.add_argument("command", nargs="+")
    return parser.parse_args(arguments)


def _end(server: subprocess.Popen[bytes], grace_s: float) -> None:
    """End the server's process group: resume, terminate, wait, kill."""
    with contextlib.suppress(ProcessLookupError):
        if grace_s > 0 and server.poll() is None:
            os.killpg(server.pid, signal.SIGCONT)
            os.killpg(server.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(grace_s)
        os.killpg(server.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(KILL_WAIT_S)


def _wait(server: subprocess.Popen[bytes], wake: int, stopping: list[int], parent: int | None) -> bool:
    """Wait for the server's end (False) or a reason to end it (True); without a parent only a signal is one."""
    attached = parent is not None
    inputs = [wake, sys.stdin.fileno()] if attached else [wake]
    while server.poll() is None:
        ready, _, _ = select.select(inputs, [], [], PARENT_POLL_S if attached else None)
        if wake in ready:
            os.read(wake, 512)
        ended = attached and (os.getppid() != parent or (sys.stdin.fileno() in ready and not os.read(sys.stdin.fileno(), 512)))
        if stopping or ended:
            return True
    return False


def main(arguments: list[str]) -> int:
    """Run one server until it ends or has to."""
    options = _options(arguments)
    if options.detached:
        if os.fork():
            os._exit(0)  # so that init adopts and reaps the watchdog
        os.setsid()
    wake, waker = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    stopping: list[int] = []
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with options.log.open("ab") as log:
        server = subprocess.Popen(
            options.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=options.cwd,
            process_group=0,
            preexec_fn=_die_with_me(),  # noqa: PLW1509 - this process has one thread
        )
    os.write(1, json.dumps({"pid": server.pid, "watchdog": os.getpid()}).encode() + b"\n")
    os.close(1)
    must_end = _wait(server, wake, stopping, options.parent)
    if must_end:
        _end(server, options.grace)
        if options.remove:
            shutil.rmtree(options.remove, ignore_errors=True)
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)  # what the server itself forked, as a rewrite of its log
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
