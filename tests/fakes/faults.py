"""Faults at chosen calls of the ports: a process that dies there, or a reply that is lost, before or after what was asked was done."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from streamer.core.errors import Unavailable
from streamer.core.ports import MustAbort, Unclear
from tests.fakes.transactions import FakeTransactions

if TYPE_CHECKING:
    from collections.abc import Callable

When = Literal["before", "midway", "after"]
LOCAL = {"rebalanced", "pause", "before_revoked", "membership", "end", "close"}  # they ask no server


class Killed(BaseException):
    """The process is gone: nothing of it runs any more."""


@dataclass
class Fault:
    """What befalls one call: the error, and how much is done by then.

    `midway` is half of the commits, half of a producer's records, records without their positions, or a decision with half of its markers.
    Of transactions, what can't be `Unavailable` is `MustAbort` or `Unclear`, as the port has it; after `Unclear` the client is a new one.
    """

    error: type[BaseException] = Unavailable
    when: When = "before"


@dataclass
class Faults:
    """Counts the calls of the ports behind it. `plan` says what befalls which call, by its number or by the port's and method's name.

    A named fault befalls the first such call and is then forgotten.
    """

    plan: dict[int | str, Fault] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)  # calls that fail until further notice
    calls: list[str] = field(default_factory=list)

    def around(self, name: str, port: Any) -> Any:
        return _Port(self, name, port)

    def call(self, name: str, method: str, port: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        full = f"{name}.{method}"
        number = len(self.calls)
        self.calls.append(full)
        fault = self.plan.pop(number, None) or self.plan.pop(full, None) or (Fault() if full in self.down else None)
        if fault is None:
            return getattr(port, method)(*args, **kwargs)
        if fault.when == "midway":
            _half(full, port, args, kwargs)
        elif fault.when == "after":
            getattr(port, method)(*args, **kwargs)
        if isinstance(port, FakeTransactions) and method == "abort" and fault.error is Unavailable:
            port.throw_away()  # it raises nothing: the next client ends what this one left
            return None
        message = f"a fault {fault.when} call {number}, {full}"
        raise _told(fault.error, method, port)(message)


def _told(error: type[BaseException], method: str, port: Any) -> type[BaseException]:
    """Tell what a client raises for an error."""
    if not isinstance(port, FakeTransactions):
        return error
    if error is Unavailable:
        error = {"send": MustAbort, "positions": Unclear, "commit": Unclear}.get(method, Unavailable)
    if issubclass(error, Unclear):
        port.throw_away()
    elif issubclass(error, MustAbort):
        port.fail()
    return error


def _half(full: str, port: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    method = full.rpartition(".")[2]
    if isinstance(port, FakeTransactions):
        if method == "send":
            port.send(args[0][: (len(args[0]) + 1) // 2])
        elif method == "commit":
            port.commit_midway(*args, **kwargs)
    elif full == "publisher.wait":
        del port.queued[len(port.queued) // 2 :]
        port.wait(*args, **kwargs)
    elif full == "store.commit":
        port.commit(args[0][: (len(args[0]) + 1) // 2])


class _Port:
    def __init__(self, faults: Faults, name: str, port: Any) -> None:
        self._faults = faults
        self._name = name
        self._port = port

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method in LOCAL:
            return getattr(self._port, method)
        return partial(self._call, method)

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._faults.call(self._name, method, self._port, args, kwargs)
