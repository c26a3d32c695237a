"""The protocol, explored: within its bounds every law holds in every state, and each rule that is left out is missed.

A number of states that differs is no failure of the protocol, but another model: look what has changed, and write the number down.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.model.explore import LAWS, LOST, STUCK, completed, explore, violated
from tests.simulation.model.left_out import (
    BELT_AND_BRACES,
    HOLDS,
    LEFT_OUT,
    Holds,
    LeftOut,
    bounds_of,
    row_of_holds,
    row_of_left_out,
    rules_of,
)
from tests.simulation.model.steps import Protocol
from tests.simulation.model.telling import told
from tests.simulation.model.values import FAULTS, Keys, World

MODEL = Path(__file__).parent / "model"
GUARANTEES = Path(__file__).parents[2] / "docs" / "guarantees.md"
CASES = [
    pytest.param(case, marks=[pytest.mark.long] if case.long else [], id=f"{case.rules} {case.bounds}".strip())
    for case in (*HOLDS, *BELT_AND_BRACES)
]


@pytest.mark.parametrize("case", CASES)
def test_within_bounds_every_law_holds_in_every_state(case: Holds) -> None:
    protocol = Protocol(bounds_of(case.bounds), rules_of(case.rules))
    found = explore(protocol)
    assert not found.broken, "\n".join(told(protocol.initial, found.trace))
    assert (case.states, case.depth) == (found.states, found.depth)
    assert found.completed


@pytest.mark.parametrize("case", LEFT_OUT, ids=lambda case: case.rules)
def test_a_rule_that_is_left_out_is_missed(case: LeftOut) -> None:
    """The counterexample is walked again, a step at a time: each is one that may be taken, and the law breaks with the last."""
    protocol = Protocol(bounds_of(case.bounds), rules_of(case.rules))
    found = explore(protocol, case.breaks)
    assert case.breaks == found.broken, f"{case.says}: left out, and nobody misses it"
    world = protocol.initial
    for step in found.trace:
        assert case.breaks not in violated(protocol.bounds, world)
        assert step in list(protocol.successors(world))
        world = step.world
    if case.breaks == STUCK:
        assert not any(completed(protocol.bounds, one) for one in reachable(protocol, world))
    else:
        assert case.breaks in violated(protocol.bounds, world)
    if case.breaks == LOST:
        assert completed(protocol.bounds, world)


@pytest.mark.long
@pytest.mark.parametrize("bounds", sorted({case.bounds for case in LEFT_OUT}))
def test_within_the_same_bounds_nothing_breaks_with_every_rule(bounds: str) -> None:
    assert not explore(Protocol(bounds_of(bounds))).broken


def reachable(protocol: Protocol, first: World) -> list[World]:
    """Give every state that is reached from one without another fault."""
    key, found = Keys(), [first]
    seen = {key(first)}
    for world in found:
        for step in protocol.successors(world):
            if not step.fault and key(step.world) not in seen:
                seen.add(key(step.world))
                found.append(step.world)
    return found


def test_rules_are_left_out_by_names_that_the_model_knows() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in MODEL.glob("*.py") if path.name != "left_out.py")
    names = {rule for case in (*LEFT_OUT, *BELT_AND_BRACES) for rule in rules_of(case.rules)}
    assert set() == {rule for rule in names if f'"{rule}"' not in sources}


def test_together_the_cases_have_every_fault_both_modes_and_break_every_law() -> None:
    bounds = [bounds_of(case.bounds) for case in HOLDS]
    assert all(any(one.faults[i] for one in bounds) for i in range(len(FAULTS)))
    assert {True, False} == {one.exactly_once for one in bounds}
    assert any(one.partitions > 1 for one in bounds)
    assert any(one.workers > 2 for one in bounds)
    assert any(one.letter >= 0 for one in bounds)
    assert any(one.adopts for one in bounds)
    assert {case.breaks for case in LEFT_OUT} <= set(LAWS)


def test_a_counterexample_reads_as_what_happened() -> None:
    case = next(case for case in LEFT_OUT if case.rules == "republish")
    protocol = Protocol(bounds_of(case.bounds), rules_of(case.rules))
    lines = [" ".join(line.split()) for line in told(protocol.initial, explore(protocol, case.breaks).trace)]
    assert "4 A folds events and commits to Redis Redis: c1 after c0 at 1, owner t1" == lines[3]
    assert "8 A commits its transaction: THE REPLY IS LOST" == lines[7]
    assert "12 A sends the outbox in a transaction output: event 0 v4, event 0 v4 (A)" == lines[11]
    assert "15 A commits its transaction" == lines[-1]


def test_bounds_that_there_are_not_are_refused() -> None:
    with pytest.raises(ValueError, match="no such bounds: craches"):
        bounds_of("craches=1")


def test_the_guarantees_tell_every_case() -> None:
    text = GUARANTEES.read_text(encoding="utf-8")
    assert [] == [row for case in (*HOLDS, *BELT_AND_BRACES) if (row := row_of_holds(case)) not in text]
    assert [] == [row for one in LEFT_OUT if (row := row_of_left_out(one)) not in text]
