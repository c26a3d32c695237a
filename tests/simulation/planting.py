"""How a bug is planted in the real code, and how many schedules it takes to find it.

Most are an edit: the text of one function, with a line of it replaced. Where that line is no more, nothing is planted and `Unplantable`
says so: the rule has moved, and its bug must follow it.

Law: what is planted is gone when its context ends.
"""

from __future__ import annotations
import __future__

import inspect
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from unittest.mock import patch

from tests.simulation.verdict import judge
from tests.simulation.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.simulation.profiles import Profile

    Plant: TypeAlias = Callable[[], AbstractContextManager[Any]]

SEEDS_MAX = 5000


class Unplantable(Exception):  # noqa: N818  # says what happened
    """The code is not what a bug was written against."""


class Bug(NamedTuple):
    """A rule left out. `seed` is one by which its profile's schedules find it."""

    name: str
    rule: str
    profile: Profile
    seed: int
    plants: tuple[Plant, ...]

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Leave the rule out."""
        with ExitStack() as stack:
            for plant in self.plants:
                stack.enter_context(plant())
            yield


class Find(NamedTuple):
    """What found a bug, after how many seeds."""

    seeds: int
    said: str


def find(bug: Bug, first: int, seeds_max: int = SEEDS_MAX) -> Find | None:
    """Try one seed after another until a schedule goes wrong: lost, twice, stuck, or an error that ends the worker."""
    with bug.planted():
        for seed in range(first, first + seeds_max):
            try:
                run(seed, bug.profile)
            except Unplantable:
                raise
            except Exception as error:  # noqa: BLE001  # whatever it is, it is found
                return Find(seed - first + 1, f"{type(error).__name__}: {error}")
    return None


def run(seed: int, profile: Profile) -> World:
    """Run one schedule, and judge it."""
    world = World(seed, profile=profile)
    try:
        world.run()
        judge(world.job)
    except BaseException as error:
        error.add_note(f"repeat it with: python -m tests.simulation --profile {profile.name!r} {seed}")
        raise
    return world


def edit(owner: Any, name: str, *changes: tuple[str, str]) -> Plant:
    """Replace texts in the source of a function of a class or a module."""

    @contextmanager
    def planted() -> Iterator[None]:
        found = inspect.getattr_static(owner, name)
        function: Any = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
        source = inspect.getsource(function)
        for old, new in changes:
            if source.count(old) != 1:
                message = f"{owner.__name__}.{name} has {source.count(old)} times what a bug replaces: {old}"
                raise Unplantable(message)
            source = source.replace(old, new)
        flags = __future__.annotations.compiler_flag
        made: dict[str, Any] = {}
        body = "if True:\n" * source.startswith(" ") + source
        code = compile(body, f"<{name}, edited>", "exec", flags, dont_inherit=True)
        exec(code, function.__globals__, made)  # noqa: S102  # the source is our own
        with patch.object(owner, name, made[name]):
            yield

    return planted


def put(owner: Any, name: str, instead: Any) -> Plant:
    """Put another function in the place of one."""
    return lambda: patch.object(owner, name, instead)
