"""The law of merges: what comes of two ids is what it were had all events borne the one, and a table says of each event whose it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamer.core.merging import REDIRECTS_MAX, Redirects, Target, forget, merge, target
from streamer.core.model import features_as_of_each
from streamer.core.profile import CLOCK
from tests.fakes.job import Job

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
T0 = 1_700_000_000_000
EVERY_SORT: dict[str, Any] = {
    "measures": {
        "events": {"lifetime_count": "any"},
        "spent": {"lifetime_sum": "amount", "of": "purchase"},
        "first": {"first": "any"},
        "last": {"last": "any"},
        "views": {"count": "view"},
        "spend": {"sum": "amount", "of": "purchase"},
        "least": {"min": "amount", "of": "purchase"},
        "most": {"max": "amount", "of": "purchase"},
        "categories": {"distinct": "category", "of": "any"},
    },
    "features": {
        "ever": {"lifetime": "events"},
        "spent_ever": {"lifetime": "spent"},
        "since": {"recency": "last", "cap": "30d"},
        "views_6h": {"sum": "views", "window": "6h"},
        "spend_5d": {"sum": "spend", "window": "5d"},
        "least_9d": {"min": "least", "window": "9d"},
        "most_9d": {"max": "most", "window": "9d"},
        "categories_9d": {"distinct": "categories", "window": "9d"},
        "active_9d": {"active_days": "9d"},
    },
    "eligibility": {"events": 2},
}
OLD, NEW, OTHER = "old", "new", "another"
times = st.integers(T0, T0 + 20 * DAY_MS)


@st.composite
def logs(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draw events of three customers, in order of time but for some."""
    when = sorted(draw(st.lists(times, min_size=4, max_size=40)))
    found = []
    for n, at in enumerate(when):
        late = draw(st.sampled_from([0, 0, 0, HOUR_MS, 3 * DAY_MS, 12 * DAY_MS]))
        found.append(
            {
                "event_id": f"e{n}",
                "customer_id": draw(st.sampled_from([OLD, NEW, OTHER])),
                "event_type": draw(st.sampled_from(["view", "purchase", "search"])),
                "occurred_at": max(T0 - 20 * DAY_MS, at - late),
                "amount": draw(st.none() | st.integers(-500, 500)),
                "category": draw(st.none() | st.sampled_from("abc")),
            }
        )
    return found


def known(job: Job, customer: str) -> Any:
    """Give all that events made of a customer, and the features as of some times after."""
    customers, work = job.work()
    if customer not in customers:
        return None
    u = customers.index(customer)
    clock = int(work.head[u, CLOCK])
    found = [
        features_as_of_each(job.plan, work, np.maximum(work.head[:, CLOCK], clock + later))[u].tolist()
        for later in (0, HOUR_MS, 4 * DAY_MS)
    ]
    return work.life[u].tolist(), work.seen[u].tolist(), clock, found


@pytest.mark.compiled
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(logs(), st.integers(0, 40), st.sampled_from([2, 7, 40]))
def test_two_ids_that_were_merged_are_what_one_would_be(events: list[dict[str, Any]], cut: int, records_max: int) -> None:
    split, whole = (Job(features=EVERY_SORT, first_fit=None, settings={"tick_after_s": None, "redirect_ms": 99 * DAY_MS}) for _ in range(2))
    worker = split.worker(records_max=records_max)
    split.send(events[:cut])
    split.settle(worker)
    split.merge(OLD, NEW, T0)
    split.send(events[cut:])
    split.settle(worker)
    whole.send({**event, "customer_id": NEW if event["customer_id"] == OLD else event["customer_id"]} for event in events)
    whole.settle(whole.worker())
    assert known(split, OLD) is None
    assert (known(whole, NEW), known(whole, OTHER)) == (known(split, NEW), known(split, OTHER))


ids = st.sampled_from([b"a", b"b", b"c", b"d", b"e"])
pairs = st.lists(st.tuples(ids, ids, st.integers(0, 100)).filter(lambda drawn: drawn[0] != drawn[1]), max_size=30)


@given(pairs, st.integers(1, 200), st.integers(0, 400))
def test_whatever_commands_come_an_event_comes_to_rest(commands: list[tuple[bytes, bytes, int]], redirect_ms: int, time: int) -> None:
    to: dict[bytes, Target] = {}
    for old, new, at in commands:
        merge(to, old, new, at, redirect_ms)
        assert target(to, old, at + redirect_ms - 1) not in {None, old}
        assert new not in to
    for customer in (b"a", b"b", b"c"):
        found = target(to, customer, time)
        assert found is None or target(to, found, time) is None
    packed = Redirects(to)
    assert list(to.items()) == list(Redirects.unpack(packed.pack()).to.items())
    assert packed.digest() == Redirects.unpack(packed.pack()).digest()
    forget(to, b"a".__eq__)
    assert b"a" not in to
    assert all(entry.customer != b"a" for entry in to.values())


def test_a_table_is_bounded_and_the_oldest_go_first() -> None:
    to: dict[bytes, Target] = {}
    for n in range(REDIRECTS_MAX + 5):
        merge(to, b"o%d" % n, b"n%d" % n, 1_000, 10)
    assert REDIRECTS_MAX == len(to)
    assert b"o4" not in to
    assert b"o5" in to


def test_where_nothing_is_sent_on_nothing_is_kept() -> None:
    to: dict[bytes, Target] = {}
    for at in (5, 3, 8):
        merge(to, b"a", b"b", at, 0)
    assert not to


def test_entries_that_ended_long_ago_go_with_a_later_command() -> None:
    to: dict[bytes, Target] = {}
    merge(to, b"a", b"b", 0, 10)
    merge(to, b"c", b"d", 19, 10)
    assert [b"a", b"c"] == list(to)
    merge(to, b"e", b"f", 20, 10)
    assert [b"c", b"e"] == list(to)
