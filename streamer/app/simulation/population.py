"""Who the customers are, and when they are whom: the truth.

Law: at any instant of the period a customer who has arrived has exactly one persona.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from streamer.app.simulation.options import FOLLOW_DAYS
from streamer.app.simulation.personas import PERSONAS
from streamer.app.simulation.rhythm import DAY_MS

if TYPE_CHECKING:
    import pandas as pd

    from streamer.app.simulation.options import Options
    from streamer.core.columns import F64, I32, I64

POPULATION_STREAM: Final = 0
ACTIVITY_SIGMA: Final = 0.2
CHANGE_EARLIEST, CHANGE_LATEST = 0.2, 0.6  # of the period
DIGITS_LEAST: Final = 6


@dataclass(frozen=True, slots=True)
class Population:
    """Phases: row i says that a customer has a persona from a time up to another, exclusive. Ordered by customer and time."""

    customer: I32  # (p,)
    persona: I32  # (p,) place in PERSONAS
    begin: I64  # (p,) ms
    end: I64  # (p,) ms
    activity: F64  # (p,) the customer's own factor of visits


def population(options: Options) -> Population:
    """Draw the customers and their phases."""
    rng = np.random.default_rng([options.seed, POPULATION_STREAM])
    n = options.customers
    shares = np.array([p.share for p in PERSONAS])
    personas = rng.choice(len(PERSONAS), n, p=shares / shares.sum()).astype(np.int32)
    activity = rng.lognormal(-(ACTIVITY_SIGMA**2) / 2, ACTIVITY_SIGMA, n)
    changes = rng.random(n) < options.changes
    when = options.start_ms + (rng.uniform(CHANGE_EARLIEST, CHANGE_LATEST, n) * options.days * DAY_MS).astype(np.int64)
    others = _others(rng, personas)
    arrives = np.array([min(p.arrives_days or 0.0, float(options.days)) for p in PERSONAS])[personas]
    arrival = options.until_ms - (rng.random(n) * arrives * DAY_MS).astype(np.int64)
    begin, end = np.full(n, options.start_ms), np.full(n, options.until_ms)
    if options.follow:
        end[:] = options.start_ms + FOLLOW_DAYS * DAY_MS
        changes[:] = False
    else:
        begin = np.where(arrives > 0, arrival, begin)
        changes &= arrives == 0
    end_of_first = np.where(changes, when, end)
    again = np.flatnonzero(changes)
    customer = np.concatenate([np.arange(n), again])
    order = np.argsort(customer, kind="stable")
    columns = (
        (np.concatenate([personas, others[again]]), np.int32),
        (np.concatenate([begin, when[again]]), np.int64),
        (np.concatenate([end_of_first, end[again]]), np.int64),
        (activity[customer], np.float64),
    )
    return Population(customer[order].astype(np.int32), *(column[order].astype(kind) for column, kind in columns))  # type: ignore[arg-type]


def _others(rng: np.random.Generator, personas: I32) -> I32:
    """Draw another persona for each customer, by the shares of those that one can turn into."""
    shares = np.array([0.0 if p.arrives_days else p.share for p in PERSONAS])
    table = np.tile(shares, (len(PERSONAS), 1))
    np.fill_diagonal(table, 0.0)
    edges = np.cumsum(table / table.sum(axis=1, keepdims=True), axis=1)
    edges[:, -1] = 1.0
    others: I32 = (rng.random(len(personas))[:, None] >= edges[personas]).sum(axis=1).astype(np.int32)
    return others


def digits_of(customers: int) -> int:
    """Tell how many digits customers' ids have."""
    return max(DIGITS_LEAST, len(str(customers - 1)))


def truth(options: Options) -> pd.DataFrame:
    """Tell who is what when: a row for each phase.

    Columns: `customer_id`, `persona`, `from` and `until` (UTC, `until` exclusive, and not there with `follow`).
    """
    import pandas as pd  # noqa: PLC0415  # slow to import, and traffic alone does without it

    people = population(options)
    width = digits_of(options.customers)
    end = np.full(len(people.end), np.datetime64("NaT"), "datetime64[ms]") if options.follow else people.end.astype("datetime64[ms]")
    return pd.DataFrame(
        {
            "customer_id": [f"c-{customer:0{width}d}" for customer in people.customer.tolist()],
            "persona": [PERSONAS[persona].name for persona in people.persona.tolist()],
            "from": pd.to_datetime(people.begin.astype("datetime64[ms]"), utc=True),
            "until": pd.to_datetime(end, utc=True),
        }
    )
