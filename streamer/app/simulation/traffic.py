"""The traffic: batches of records in the order in which they are to be sent.

Laws:
1. Records are in the order of `sent`. That is event time, but for late events, which are sent after later ones, and for duplicates, which
   follow their firsts.
2. A customer's event has an id of its own; a duplicate has its first's, and is otherwise the same.
3. Memory holds one day's visits, the events of some of them and those still to be sent, whatever the length of the period.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

import schemas
from streamer.app.simulation import writing
from streamer.app.simulation.damage import DAMAGES
from streamer.app.simulation.personas import PERSONAS
from streamer.app.simulation.population import digits_of, population
from streamer.app.simulation.rhythm import DAY_MS
from streamer.app.simulation.visits import DUPLICATE, EVENT, LATE, MALFORMED, NONE, TYPES, Events, days_of, draw_day

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamer.app.simulation.options import Options
    from streamer.app.simulation.population import Population
    from streamer.core.columns import Bool
    from streamer.core.reasons import Reason

BATCH_RECORDS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Batch:
    """Some records, in the order of sending. `rows` has the fields of `visits.EVENT`."""

    rows: Events
    digest: str
    digits: int

    def __len__(self) -> int:
        """Count the records."""
        return len(self.rows)

    def part(self, first: int, last: int | None = None) -> Batch:
        """Take records from `first` up to but not including `last`."""
        return Batch(self.rows[first:last], self.digest, self.digits)

    def at(self, now_ms: int) -> Batch:
        """Move the events to now; late ones to as long before as they are late. They keep their order and their ids."""
        rows = self.rows.copy()
        delay = np.where(rows["fate"] == LATE, rows["sent"] - rows["occurred"], 0)
        rows["occurred"], rows["sent"] = now_ms - delay, now_ms
        return Batch(rows, self.digest, self.digits)

    def record_keys(self) -> list[bytes]:
        """Give the records' keys."""
        return writing.keys(self.rows, self.digits)

    def values(self, schema_id: int) -> list[bytes | None]:
        """Write the records' values; `schema_id` is that of version 1 of BehaviourEvent."""
        made: list[bytes | None] = list(writing.values(self.rows, self.digest, self.digits, schema_id))
        broken = np.flatnonzero(self.rows["fate"] == MALFORMED)
        for place, record in zip(broken.tolist(), writing.records(self.rows[broken], self.digest, self.digits), strict=True):
            made[place] = DAMAGES[self.rows["damage"][place]].value(record, schema_id)
        return made

    def records(self) -> list[dict[str, Any]]:
        """Give the events as they were before any damage, as records of the schema."""
        return writing.records(self.rows, self.digest, self.digits)

    def reasons(self) -> list[Reason | None]:
        """Tell for which reason each record must be refused, None for the sound ones."""
        return [None if damage == NONE else DAMAGES[damage].reason for damage in self.rows["damage"].tolist()]


@dataclass(slots=True)
class Counts:
    """What was sent: the truth about the records. `events` are sound events, late ones included."""

    events: int = 0
    late: int = 0
    duplicates: int = 0
    malformed: Counter[str] = field(default_factory=Counter)  # by reason
    by_persona: Counter[tuple[str, str]] = field(default_factory=Counter)  # sound events by persona and type

    def add(self, batch: Batch) -> None:
        """Count a batch."""
        fate = batch.rows["fate"]
        sound: Bool = (fate != DUPLICATE) & (fate != MALFORMED)
        self.events += int(sound.sum())
        self.late += int((fate == LATE).sum())
        self.duplicates += int((fate == DUPLICATE).sum())
        self.malformed.update(reason.name.lower() for reason in batch.reasons() if reason is not None)
        kinds = len(TYPES)
        cells = np.bincount(batch.rows["persona"][sound] * kinds + batch.rows["type"][sound], minlength=kinds * len(PERSONAS))
        for cell in np.flatnonzero(cells).tolist():
            self.by_persona[PERSONAS[cell // kinds].name, TYPES[cell % kinds]] += int(cells[cell])

    def records(self) -> int:
        """Count all records."""
        return self.events + self.duplicates + self.malformed.total()

    def as_tree(self) -> dict[str, Any]:
        """Give the counts as a tree for JSON."""
        personas: dict[str, dict[str, int]] = {}
        for (persona, kind), count in sorted(self.by_persona.items()):
            personas.setdefault(persona, {})[kind] = count
        return {
            "records": self.records(),
            "events": self.events,
            "late": self.late,
            "duplicates": self.duplicates,
            "malformed": dict(sorted(self.malformed.items())),
            "events_by_persona": personas,
        }


def packaged_schema_id() -> int:
    """Give the id that stands for the events' schema where there is no registry."""
    return schemas.packaged_id(writing.SCHEMA, writing.SCHEMA_VERSION)


def traffic(options: Options, records_max: int | None = None) -> Iterator[Batch]:
    """Give the traffic in batches of at most 10,000 records, `records_max` in all; without end where `options.follow`.

    >>> from streamer.app.simulation import Options, traffic
    >>> first = next(traffic(Options(customers=20, days=3, start_ms=1_700_006_400_000)))
    >>> first.record_keys()[0][:2], first.records()[0]["customer_id"][:2]
    (b'c-', 'c-')

    """
    digest, digits = options.digest(), digits_of(options.customers)
    left = records_max
    for rows in _slices(options, population(options)):
        taken = rows if left is None else rows[:left]
        for first in range(0, len(taken), BATCH_RECORDS):
            yield Batch(taken[first : first + BATCH_RECORDS], digest, digits)
        if left is not None:
            left -= len(taken)
            if left <= 0:
                return


def _slices(options: Options, people: Population) -> Iterator[Events]:
    """Give slices of records, all together in the order of sending; what is to be sent later than its slice waits."""
    waiting = np.zeros(0, EVENT)
    days = days_of(options)
    day = days.start
    while options.follow or day in days:
        for drawn, horizon_ms in draw_day(options, people, day, len(DAMAGES)):
            pool = np.concatenate([waiting, drawn])
            due = pool["sent"] < horizon_ms
            waiting = pool[~due]
            yield _in_order(pool[due])
        day += 1
    yield _in_order(waiting)


def _in_order(rows: Events) -> Events:
    return rows[np.lexsort((rows["fate"], rows["number"], rows["day"], rows["sent"]))]


def expected_events(options: Options) -> int:
    """Estimate how many records there will be, for a progress bar; sales are left out."""
    people = population(options)
    rates = np.array([p.visits() * p.events() for p in PERSONAS])
    decay = np.array([np.log(2) / p.fade_days if p.fade_days else 0.0 for p in PERSONAS])[people.persona]
    days = (people.end - people.begin) / DAY_MS
    lasting = np.where(decay > 0, -np.expm1(-decay * days) / np.where(decay > 0, decay, 1), days)
    total = float((rates[people.persona] * people.activity * lasting).sum())
    return max(1, int(total * (1 + options.duplicates + options.malformed)))
