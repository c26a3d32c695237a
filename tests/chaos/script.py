"""What befalls whom, drawn from a seed: the order of happenings, their pauses and their places.

The same seed gives the same script. What it comes to differs from run to run, for processes and servers keep their own time.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Self

LOSSES = ("flushed", "killed", "older copy", "tail cut off")
COPIES = 8
PROMOTIONS_FROM = 0.4  # of the happenings: there is a model to come after by then
PAUSE_S = (0.3, 1.8)
ANYWHERE = ""

# Calls that a worker makes all the time, and those of an assignment, which befall a process that has just been started.
WORKING = (
    "log.fetch",
    "store.load",
    "store.commit",
    "store.owners",
    "transactions.begin",
    "transactions.send",
    "transactions.positions",
    "transactions.commit",
)
ASSIGNING = ("transactions.settle", "store.claim", "log.committed", "store.read", "log.start", "reader.read")


@dataclass(frozen=True, slots=True)
class Counts:
    """How much befalls a job. `losses` is how often each of `LOSSES` does."""

    events: int = 20_000
    kills: int = 40
    zombies: int = 10
    brokers: int = 2
    losses: int = 1
    cuts: int = 20
    promotions: int = 4

    def divided(self, parts: int) -> Self:
        """Share it out among some runs."""
        names = ("events", "kills", "zombies", "brokers", "losses", "cuts", "promotions")
        return replace(self, **{name: -(-getattr(self, name) // parts) for name in names})


class Point(NamedTuple):
    """A call at which a process dies or freezes by itself, and which one of those that are still to come; none is wherever it is."""

    call: str = ANYWHERE
    when: str = "before"
    nth: int = 1

    @property
    def assigning(self) -> bool:
        """Tell whether it is a call of assignments."""
        return self.call in ASSIGNING

    @property
    def line(self) -> str:
        """Say it to a process."""
        return f"{self.call} {self.when} {self.nth}"

    def __str__(self) -> str:
        """Say where."""
        return f"{self.when} {self.call}" if self.call else "wherever it was"


class Happening(NamedTuple):
    """One thing that befalls, after a pause. `choice` and `share` are between 0 and 1, for what is to be drawn when it befalls."""

    what: str
    pause_s: float
    choice: float
    share: float
    point: Point = Point()
    how: str = ""
    sleep_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Script:
    """A whole run. `protocol` is the group's, `static` whether members keep their names."""

    seed: int
    protocol: str
    static: bool
    records_max: int
    happenings: tuple[Happening, ...]

    @classmethod
    def draw(cls, seed: int, counts: Counts) -> Self:
        """Draw it."""
        rng = random.Random(seed)
        drawn = [
            *(_kill(rng) for _ in range(counts.kills)),
            *(_zombie(rng) for _ in range(counts.zombies)),
            *(_one(rng, "broker", how=rng.choice(["stopped", "killed"])) for _ in range(counts.brokers)),
            *(_one(rng, "loss", how=loss) for loss in LOSSES for _ in range(counts.losses)),
            *(_one(rng, "cut", how=rng.choice(["request", "reply"])) for _ in range(counts.cuts)),
        ]
        rng.shuffle(drawn)
        for i in range(COPIES):  # spread out, so that there is always one that is old, and one before the first loss
            drawn.insert(i * len(drawn) // COPIES, _one(rng, "copy"))
        for i in range(counts.promotions):  # from a stream of its own: it changes no other draw
            apart, share = random.Random(f"{seed} promotes {i}"), PROMOTIONS_FROM + (1 - PROMOTIONS_FROM) * i / counts.promotions
            drawn.insert(int(share * len(drawn)), _one(apart, "promotion"))
        return cls(seed, ("classic", "consumer")[seed % 2], seed // 2 % 2 == 1, rng.choice([50, 200, 1000]), tuple(drawn))


def _one(rng: random.Random, what: str, *, point: Point | None = None, how: str = "", sleep_s: float = 0.0) -> Happening:
    return Happening(what, rng.uniform(*PAUSE_S), rng.random(), rng.random(), point or Point(), how, sleep_s)


def _point(rng: random.Random, calls: tuple[str, ...]) -> Point:
    return Point(rng.choice(calls), rng.choice(["before", "after"]), rng.choice([1, 1, 2, 3, 7]))


def _kill(rng: random.Random) -> Happening:
    calls = rng.choices([(ANYWHERE,), WORKING, ASSIGNING], [5, 6, 3])[0]
    return _one(rng, "kill", point=_point(rng, calls))


def _zombie(rng: random.Random) -> Happening:
    """A process that sleeps past its session, now and then past its transaction's time, too; `replaced` ones while another has its name."""
    calls = rng.choices([(ANYWHERE,), WORKING], [3, 7])[0]
    sleep_s = rng.uniform(5.5, 8.0) if rng.random() < 0.7 else rng.uniform(12.0, 15.0)
    return _one(rng, "zombie", point=_point(rng, calls), how=rng.choice(["", "", "replaced"]), sleep_s=sleep_s)
