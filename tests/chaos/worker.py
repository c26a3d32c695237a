"""`python -m tests.chaos.worker`: what `streamer run` is, but that it dies or freezes at the call that a line of its standard input names.

A line such as `kill store.commit before 3` means: SIGKILL to itself before the third call of `store.commit` from now on. `stop` is SIGSTOP:
whoever wakes the process finds it at that very call. `never` takes it back. SIGUSR1 shows where every thread is.

Its wall clock says what the file says that `CHAOS_CLOCK` names, so that weeks pass in minutes, for every worker alike.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from streamer.app import wiring
from streamer.app.clock import SystemClock
from streamer.app.config import load
from streamer.app.logs import set_up
from streamer.core.exits import exit_status, message
from tests.fakes.faults import LOCAL

if TYPE_CHECKING:
    from collections.abc import Callable

CLOCK = "CHAOS_CLOCK"
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


class WallClock(SystemClock):
    """A clock whose wall is a file: milliseconds since 1970."""

    def __init__(self, file: Path) -> None:
        """Read `file` whenever asked."""
        self._file = file

    def now_ms(self) -> int:
        """Tell what the wall says."""
        return int(self._file.read_text(encoding="ascii"))


class Plan:
    """The call that something befalls this process at, if any."""

    def __init__(self) -> None:
        """Plan nothing yet."""
        self._signal: signal.Signals | None = None
        self._place = ("", "")
        self._left = 0

    def read(self, line: str) -> None:
        """Take a line of the standard input."""
        if line == "never\n":
            self._signal = None
            return
        what, call, when, count = line.split()
        self._place, self._left, self._signal = (call, when), int(count), SIGNALS[what]

    def reached(self, call: str, when: str) -> None:
        """Die or freeze if it is here."""
        if self._signal is None or self._place != (call, when):
            return
        self._left -= 1
        if self._left == 0:
            number, self._signal = self._signal, None
            sys.stderr.write(f"{number.name} {when} {call}\n")
            sys.stderr.flush()
            os.kill(os.getpid(), number)

    def around(self, name: str, port: Any) -> Any:
        """Stand between the worker and a port, and put the clock of this run in the clock's place."""
        if name == "clock":
            return WallClock(Path(os.environ[CLOCK]))
        return _Port(self, name, port)

    def listen(self) -> None:
        """Take lines until there are no more."""
        for line in sys.stdin:
            self.read(line)


class _Port:
    def __init__(self, plan: Plan, name: str, port: Any) -> None:
        self._plan = plan
        self._name = name
        self._port = port

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method in LOCAL:
            return getattr(self._port, method)
        return partial(self._call, method)

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        call = f"{self._name}.{method}"
        self._plan.reached(call, "before")
        found = getattr(self._port, method)(*args, **kwargs)
        self._plan.reached(call, "after")
        return found


def main() -> int:
    """Work until SIGTERM."""
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    faulthandler.register(signal.SIGUSR1)
    plan = Plan()
    Thread(target=plan.listen, name="plan", daemon=True).start()
    config = load(None, dict(os.environ))
    set_up(config.log)
    try:
        with wiring.watched(config) as recorder, wiring.worker(config, recorder, plan.around) as working:
            working.run(lambda: bool(told))
    except Exception as error:  # noqa: BLE001  # the outermost place, as in `streamer.cli`
        import traceback  # noqa: PLC0415  # seldom needed

        traceback.print_exception(error)
        sys.stderr.write(f"streamer: {message(error)}\n")
        return exit_status(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
