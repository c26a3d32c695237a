"""Every planted bug is found, and the code without one passes the very schedules that find them."""

from __future__ import annotations

import os
from statistics import median

import pytest

from tests.simulation.planted import BUGS
from tests.simulation.planting import SEEDS_MAX, Bug, find, run
from tests.simulation.profiles import BIASED, Profile

pytestmark = pytest.mark.compiled  # whole jobs, over and over

NAMES = [bug.name for bug in BUGS]
QUICK_SEEDS_MAX = 600
"""From the seed that a bug names, which finds it unless schedules have changed; then one of these does."""
STARTS = int(os.environ.get("SIMULATION_STARTS", "0"))
FIRSTS = range(20_000, 20_000 * (1 + STARTS), 20_000)
"""The table in docs/guarantees.md is of five: `SIMULATION_STARTS=5 make test-long`, which takes a quarter of an hour more."""
CONTROL = int(os.environ.get("SIMULATION_CONTROL_SEEDS", "60"))
QUICK_CONTROL = 10


@pytest.mark.parametrize("bug", BUGS, ids=NAMES)
def test_a_planted_bug_is_found(bug: Bug) -> None:
    assert find(bug, bug.seed, QUICK_SEEDS_MAX) is not None, f"{bug.rule}: left out, and {QUICK_SEEDS_MAX} schedules do not see it"


@pytest.mark.parametrize("profile", BIASED, ids=lambda profile: profile.name)
def test_without_a_bug_a_biased_schedule_comes_to_what_it_must(profile: Profile) -> None:
    for seed in range(QUICK_CONTROL):
        run(seed, profile)


@pytest.mark.long
@pytest.mark.parametrize("profile", BIASED, ids=lambda profile: profile.name)
def test_without_a_bug_many_biased_schedules_come_to_what_they_must(profile: Profile) -> None:
    for seed in range(QUICK_CONTROL, CONTROL):
        run(seed, profile)


@pytest.mark.long
@pytest.mark.parametrize("bug", BUGS if STARTS else (), ids=NAMES if STARTS else ())
def test_how_many_schedules_a_planted_bug_takes(bug: Bug, capsys: pytest.CaptureFixture[str]) -> None:
    """Print a row of the table in docs/guarantees.md."""
    taken = [find(bug, first) for first in FIRSTS]
    found = [one.seeds if one else SEEDS_MAX for one in taken]
    with capsys.disabled():
        print(f"\n| `{bug.name}` | {bug.rule} | {bug.profile.name} | {median(found):.0f} |")  # noqa: T201  # what it is for
    assert all(taken)
