"""How the stream might have been run instead: what learns, what a change needs, whether time is a reason, and the nights.

`default` is what the program does. Each other policy changes one thing of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import product
from typing import TYPE_CHECKING, Literal, TypeAlias

from streamer.core.errors import Misconfigured
from streamer.core.model import Decision
from streamer.core.profile import DAY_MS

if TYPE_CHECKING:
    from collections.abc import Sequence

Learning: TypeAlias = Literal["one vote", "river", "none"]
Night: TypeAlias = Literal["warm", "new scale", "cold"]
HALFLIFE = 0.5  # river's own default: the share of the way that a centre moves to each event


@dataclass(frozen=True, slots=True)
class Policy:
    """One way to run the stream."""

    name: str
    says: str
    decision: Decision = field(default_factory=Decision)
    learning: Learning = "one vote"
    sweeps: bool = True
    night: Night | None = None  # how a new version is fitted every midnight, if any
    halflife: float = HALFLIFE


_ALWAYS = Decision(margin=0.0, margin_large=0.0, dwell_ms=0)

POLICIES = (
    Policy("default", "one vote, margin, dwell, sweeps"),
    Policy("no-margin", "a change needs no margin", replace(Decision(), margin=0.0)),
    Policy("no-dwell", "a change needs no dwell", replace(Decision(), dwell_ms=0)),
    Policy("nearest", "neither margin nor dwell: always the nearest segment", _ALWAYS),
    Policy("no-sweep", "time moves with a customer's own events only", sweeps=False),
    Policy("frozen", "nothing is learned", learning="none"),
    Policy("river", "river's rule: every event moves the nearest centre", learning="river"),
    Policy("reseed", "a warm re-fit every night, with the first model's clip and scale", night="warm"),
    Policy("reseed-new-scale", "a warm re-fit every night, with clip and scale of that night", night="new scale"),
    Policy("reseed-cold", "a fit from nothing every night, matched to the segments before", night="cold"),
)
USUAL = ("default", "no-margin", "no-dwell", "no-sweep", "frozen", "river", "reseed")


def chosen(names: Sequence[str]) -> tuple[Policy, ...]:
    """Give policies by name, each once; raises `Misconfigured` for a name that is none's."""
    known = {policy.name: policy for policy in POLICIES}
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            message = f"--policy: there is no policy {name!r}: {hint}"
            raise Misconfigured(message)
    return tuple(known[name] for name in dict.fromkeys(names))


def grid(margins: Sequence[float], dwells: Sequence[float], large: Sequence[float] = ()) -> tuple[Policy, ...]:
    """Give the default with every margin (a share), dwell (in days) and large margin; where one has none, its default."""
    usual = Decision()
    days = dwells or [usual.dwell_ms / DAY_MS]
    found = []
    for margin, dwell, most in product(margins or [usual.margin], days, large or [usual.margin_large]):
        decision = replace(usual, margin=margin, dwell_ms=round(dwell * DAY_MS), margin_large=most)
        says = f"margin {margin:.0%}, dwell {dwell:g} days, at once from {most:.0%}"
        found.append(Policy(f"{margin:.0%}/{dwell:g}d/{most:.0%}", says, decision))
    return tuple(found)
