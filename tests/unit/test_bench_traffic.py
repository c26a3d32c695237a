"""The pace of the benchmarks' events: what is live crosses no midnight, and what is to be swept crosses one."""

from __future__ import annotations

import pytest

from tests.bench import jobs


def days(traffic: jobs.Traffic) -> set[int]:
    """Draw the events, and give the days of event time that they are of."""
    return {event["occurred_at"] // jobs.DAY_MS for _, event in jobs.made(traffic)}


@pytest.mark.parametrize("behind", [90.0, 33.3, 0.5])
def test_live_rounds_are_of_the_day_on_which_the_history_ends(behind: float) -> None:
    history = jobs.Traffic.history(500, 10, days=behind)
    live = [history.live(50)]
    for _ in range(20):
        live.append(live[-1].live(50))
    assert {max(days(history))} == set().union(*map(days, live))


def test_a_history_has_events_on_its_last_day() -> None:
    assert {jobs.MIDNIGHT_MS // jobs.DAY_MS - 1, jobs.MIDNIGHT_MS // jobs.DAY_MS} == days(jobs.Traffic.history(100, 10, days=1.0))


def test_what_comes_past_midnight_is_of_the_next_day_and_what_is_live_after_it_too() -> None:
    history = jobs.Traffic.history(500, 10, days=30.0)
    past = history.live(50).past_midnight(50, 0.001)
    assert {max(days(history)) + 1} == days(past) == days(past.live(50))


def test_days_in_a_round_cross_as_many_midnights() -> None:
    history = jobs.Traffic.history(500, 10, days=30.0)
    assert 31 == len(days(history.after(3_100, 30.0)))
