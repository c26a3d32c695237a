"""What the demos count and tell."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pytest

from streamer.app.demo.subscriber import Audit, Subscriber, audit
from streamer.app.demo.truth import Phase, Truth, Verdict, homes, told_best
from streamer.app.simulation import Options, truth
from streamer.app.simulation.rhythm import midnight_ms


def change(version: int, before: str | None, after: str, customer: str = "c") -> dict[str, Any]:
    return {
        "customer_id": customer,
        "version": version,
        "previous_segment_id": before,
        "segment_id": after,
        "segment_name": f"name of {after}",
        "cause": "behaviour",
        "occurred_at": version,
    }


WHOLE = [change(1, None, "a"), change(2, "a", "b"), change(3, "b", "a")]
KEPT = {"c": ("a", 3)}


def test_what_was_told_once_and_is_all_there_counts_as_that() -> None:
    assert Audit(3, 0, 0) == audit(WHOLE, KEPT)
    assert Audit(4, 0, 0) == audit([*WHOLE, change(1, None, "b", "d")], KEPT | {"d": ("b", 1)})


@pytest.mark.parametrize("again", [0, 1, 2])
def test_what_is_told_again_counts_as_told_twice_wherever_it_comes(again: int) -> None:
    assert Audit(4, 1, 0) == audit([*WHOLE, WHOLE[again]], KEPT)
    assert Audit(4, 1, 0) == audit([*WHOLE[: again + 1], *WHOLE[again:]], KEPT)


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_what_is_not_told_counts_as_lost_wherever_it_was(gone: int) -> None:
    assert Audit(2, 0, 1) == audit([*WHOLE[:gone], *WHOLE[gone + 1 :]], KEPT)


def test_a_customer_of_whom_nothing_is_told_is_lost_and_one_who_was_never_judged_is_not() -> None:
    assert Audit(3, 0, 1) == audit(WHOLE, KEPT | {"d": ("b", 7)})
    assert Audit(3, 0, 0) == audit(WHOLE, KEPT | {"d": ("", 0)})


def test_a_subscriber_takes_a_change_in_once() -> None:
    subscriber = Subscriber()
    for told in (*WHOLE, WHOLE[0], WHOLE[2]):
        subscriber.apply(told)
    assert ({"c": "a"}, {"c": 3}, 3) == (subscriber.segment, subscriber.version, subscriber.causes.total())
    assert {"a": "name of a", "b": "name of b"} == subscriber.names


def test_the_truth_is_that_which_simulate_writes() -> None:
    options = Options(customers=200, days=20, start_ms=midnight_ms(date(2025, 3, 3)), changes=0.5)
    known = Truth.of(options)
    written = truth(options)
    for at_ms in np.linspace(options.start_ms, options.until_ms - 1, 7).astype(int).tolist():
        at = pd.Timestamp(at_ms, unit="ms", tz="UTC")
        now = written[(written["from"] <= at) & (written["until"] > at)].set_index("customer_id")["persona"].to_dict()
        assert now == {customer: persona for customer in known.phases if (persona := known.persona(customer, at_ms)) is not None}


def test_a_story_is_of_somebody_who_became_another_and_was_told_so() -> None:
    loyal, bot = Phase("loyal", 0, 5), Phase("bot", 5, 9)
    known = Truth({"c": (loyal, bot), "d": (replace(loyal, end_ms=9),), "e": (loyal, bot)})
    verdict = Verdict(("loyal", "loyal", "bot"), ("a", "a", "b"), 1.0, 1.0)
    assert {"loyal": "a", "bot": "b"} == homes(verdict.personas, verdict.segments)
    told = [*WHOLE, change(1, None, "a", "d"), change(1, None, "a", "e"), change(8, "a", "b", "e"), change(8, "a", "b", "e")]
    story = told_best(known, verdict, told)
    assert story is not None
    assert ("e", ["a", "b"]) == (story.customer, [one["segment_id"] for one in story.changes])
    fewer = told_best(known, verdict, told[:4])
    assert fewer is not None
    assert "c" == fewer.customer
    assert told_best(known, verdict, []) is None
