"""Chaos at a size that fits: ten kills, three zombies, a broker restart and each loss of Redis once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chaos.campaign import run
from tests.chaos.script import Counts
from tests.conftest import or_skip

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.long, pytest.mark.servers, pytest.mark.timeout(900), pytest.mark.compiled]

SMALL = Counts(events=4000, kills=10, zombies=3, brokers=1, losses=1, cuts=5, promotions=2)
SEED = 2
OPTIONS = "--events 4000 --kills 10 --zombies 3 --brokers 1 --cuts 5 --promotions 2"


def test_whatever_befalls_real_servers_nothing_is_lost_and_nothing_doubled(tmp_path: Path) -> None:
    with or_skip():
        try:
            outcome = run(SEED, SMALL, tmp_path, print)
        except BaseException as error:
            error.add_note(f"repeat it with: python -m tests.chaos --seeds {SEED} {OPTIONS}")
            raise
    assert (10, 3, 1, 4) == tuple(outcome.befallen[what] for what in ("kill", "zombie", "broker", "loss"))
    assert outcome.verdict.changes > 100
    assert outcome.points.total() > 0
    assert outcome.told["rebuilds"] > 0
    assert outcome.verdict.ticks > 0
    assert outcome.verdict.decayed > 0
    assert outcome.verdict.expired > 0
    assert outcome.befallen["promotion"] == 2
    assert outcome.verdict.versions > 1
    assert outcome.commands["erasures"] > 0
    assert outcome.verdict.sent > outcome.commands["merges"] > 0
