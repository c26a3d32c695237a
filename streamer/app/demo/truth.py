"""The truth about simulated customers, held against what the segments say."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from streamer.app.agreement import adjusted_rand
from streamer.app.customer import find_customer
from streamer.app.simulation import PERSONAS
from streamer.app.standing import nearest_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from streamer.app.first_model import Fitter
    from streamer.app.looking import Sources
    from streamer.app.simulation import Options
    from streamer.app.standing import Standing


SILENCES_MAX = 200
"""How many of whom time moved last are looked at."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A customer's persona from a time until another (ms), exclusive."""

    persona: str
    begin_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class Truth:
    """Who is what when: each customer's phases, in order."""

    phases: Mapping[str, tuple[Phase, ...]]

    @classmethod
    def of(cls, options: Options) -> Truth:
        """Draw the truth of simulated traffic."""
        from streamer.app.simulation.population import digits_of, population  # noqa: PLC0415  # beside what is drawn of it

        people, width = population(options), digits_of(options.customers)
        phases: dict[str, list[Phase]] = {}
        columns = (people.customer.tolist(), people.persona.tolist(), people.begin.tolist(), people.end.tolist())
        for customer, persona, begin, end in zip(*columns, strict=True):
            phases.setdefault(f"c-{customer:0{width}d}", []).append(Phase(PERSONAS[persona].name, begin, end))
        return cls({customer: tuple(found) for customer, found in phases.items()})

    def persona(self, customer: str, at_ms: int) -> str | None:
        """Tell what a customer is at a time; None before they come and after the period."""
        return next((phase.persona for phase in self.phases[customer] if phase.begin_ms <= at_ms < phase.end_ms), None)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How segments agree with personas, for the customers of whom both are known.

    `held` is the adjusted Rand index of the segments that customers were told to be in, `reference` that of a clustering of the same
    vectors, with nothing of the stream in it, into as many clusters.
    """

    personas: tuple[str, ...]
    segments: tuple[str, ...]
    held: float
    reference: float


def judged(truth: Truth, standing: Standing, at_ms: int, fitter: Fitter, k: int) -> Verdict:
    """Hold what customers were told against the truth as of an instant, which is also that of `standing`."""
    personas = [truth.persona(customer, at_ms) for customer in standing.customers]
    chosen = np.array([persona is not None for persona in personas], np.bool_) & standing.eligible
    known = tuple(persona for persona, taken in zip(personas, chosen.tolist(), strict=True) if taken and persona is not None)
    told = tuple(segment for segment, taken in zip(standing.segment, chosen.tolist(), strict=True) if taken)
    points = standing.points[chosen]
    centroids, _ = fitter.fit(points, k)
    reference = [str(cluster) for cluster in nearest_of(points, centroids).tolist()]
    return Verdict(known, told, adjusted_rand(known, told), adjusted_rand(known, reference))


@dataclass(frozen=True, slots=True)
class Story:
    """One customer's changes, in order, and what they truly were."""

    customer: str
    phases: tuple[Phase, ...]
    changes: tuple[Mapping[str, Any], ...]


class Silence(NamedTuple):
    """A change that no event brought about: time alone did, so long after the customer's last event."""

    change: Mapping[str, Any]
    last_event_ms: int


def longest_silence(sources: Sources, changes: Iterable[Mapping[str, Any]]) -> Silence | None:
    """Find who was silent longest before time alone moved them, and is silent still; None where time moved nobody."""
    latest = {change["customer_id"]: change for change in changes}
    decayed = [change for change in latest.values() if change["cause"] == "decay"]
    found = []
    for change in sorted(decayed, key=lambda change: -change["occurred_at"])[:SILENCES_MAX]:
        seen = find_customer(sources, change["customer_id"])
        if seen is not None and seen.last_event_ms is not None and seen.last_event_ms < change["occurred_at"]:
            found.append(Silence(change, seen.last_event_ms))
    return max(found, key=lambda one: one.change["occurred_at"] - one.last_event_ms, default=None)


def told_best(truth: Truth, verdict: Verdict, changes: Iterable[Mapping[str, Any]]) -> Story | None:
    """Choose the customer whose changes show best what a change of persona does; None where there are no changes.

    That is one who became another, whose first segment is where most are of what they were and whose last is where most are of what they
    became; among those the one with the fewest changes, else the customer with most.
    """
    by_customer: dict[str, dict[int, Mapping[str, Any]]] = {}
    for change in changes:
        by_customer.setdefault(change["customer_id"], {}).setdefault(change["version"], change)
    home = homes(verdict.personas, verdict.segments)
    found = [Story(name, truth.phases[name], tuple(told[v] for v in sorted(told))) for name, told in by_customer.items()]
    return max(
        found, key=lambda story: (_fits(story, home), len(story.changes) * (-1 if _fits(story, home) else 1), story.customer), default=None
    )


def _fits(story: Story, home: Mapping[str, str]) -> bool:
    before, after = story.phases[0].persona, story.phases[-1].persona
    first, last = str(story.changes[0]["segment_id"]), str(story.changes[-1]["segment_id"])
    return home.get(before) == first != last == home.get(after)


def homes(personas: Sequence[str], segments: Sequence[str]) -> dict[str, str]:
    """Tell for each persona in which segment most of its customers are."""
    pairs = Counter(zip(personas, segments, strict=True))
    return {persona: segment for (persona, segment), _ in sorted(pairs.items(), key=lambda item: item[1])}
