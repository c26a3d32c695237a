"""Scripts are what their seeds say, and what the subscriber saw is held to the rules."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.chaos.script import LOSSES, Counts, Script
from tests.chaos.verdict import once_and_in_order
from tests.simulation.verdict import Violated

COUNTS = Counts()


def test_the_same_seed_gives_the_same_script() -> None:
    assert Script.draw(7, COUNTS) == Script.draw(7, COUNTS)
    assert Script.draw(7, COUNTS) != Script.draw(8, COUNTS)


def test_five_seeds_hold_what_the_whole_campaign_promises() -> None:
    """100,000 events under at least 200 kills, 50 zombies and 10 broker restarts, each kind of loss five times; both protocols."""
    scripts = [Script.draw(seed, COUNTS) for seed in range(1, 6)]
    happenings = Counter(happening.what for script in scripts for happening in script.happenings)
    losses = Counter(happening.how for script in scripts for happening in script.happenings if happening.what == "loss")
    assert COUNTS.events * len(scripts) == 100_000
    assert happenings["kill"] == 200
    assert happenings["zombie"] == 50
    assert happenings["broker"] == 10
    assert losses == dict.fromkeys(LOSSES, 5)
    assert {(script.protocol, script.static) for script in scripts} == {(p, s) for p in ("classic", "consumer") for s in (True, False)}


def seen(version: int, change_id: str, offset: int, partition: int = 0) -> dict[str, Any]:
    return {"key": "c", "version": version, "change_id": change_id, "offset": offset, "partition": partition}


@pytest.mark.parametrize(
    "second",
    [seen(5, "a", 2), seen(4, "b", 2), seen(3, "b", 2), seen(5, "b", 2, partition=1)],
    ids=["told twice", "the same version", "an older version", "another partition"],
)
def test_a_subscriber_that_sees_what_it_must_not_fails_the_run(second: dict[str, Any]) -> None:
    once_and_in_order([seen(4, "a", 1), seen(5, "b", 2)])
    with pytest.raises(Violated):
        once_and_in_order([seen(4, "a", 1), second])
