"""`python -m tests.simulation.model [RULE ...] [BOUND=N ...]`: explore the protocol, less rules, within bounds, and say what breaks.

Rules and bounds are those of `left_out.py`. A rule without bounds has those of its case; nothing at all is every case, in tables.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from tests.simulation.model.explore import LAWS, Explored, explore
from tests.simulation.model.left_out import BELT_AND_BRACES, HOLDS, LEFT_OUT, bounds_of, row_of_holds, row_of_left_out, rules_of
from tests.simulation.model.steps import Protocol
from tests.simulation.model.telling import told

if TYPE_CHECKING:
    from collections.abc import Iterable


def main() -> int:
    """Explore what the command line asks for."""
    parser = argparse.ArgumentParser("python -m tests.simulation.model", description="Explore the protocol, less rules, within bounds.")
    parser.add_argument("word", nargs="*", metavar="RULE|BOUND=N", help=f"for example {LEFT_OUT[0].rules} {LEFT_OUT[0].bounds}")
    parser.add_argument("--seeking", choices=LAWS, default="", help="go on until this law is broken, whatever else is")
    given = parser.parse_args()
    if not given.word:
        return _tables()
    rules = {word for word in given.word if "=" not in word}
    words = " ".join(word for word in given.word if "=" in word)
    case = next((one for one in LEFT_OUT if rules_of(one.rules) == rules), None)
    if case and not words:
        words, given.seeking = case.bounds, given.seeking or case.breaks
    protocol = Protocol(bounds_of(words), frozenset(rules))
    began = time.monotonic()
    found = explore(protocol, given.seeking)
    _say([*told(protocol.initial, found.trace), f"{_verdict(found)}, {time.monotonic() - began:.0f} s"])
    return int(bool(found.broken))


def _tables() -> int:
    """Explore every case, and print the tables of docs/guarantees.md."""
    wrong = 0
    for case in (*HOLDS, *BELT_AND_BRACES):
        found = explore(Protocol(bounds_of(case.bounds), rules_of(case.rules)))
        _say([row_of_holds(case._replace(states=found.states, depth=found.depth)) + (f" {found.broken}" if found.broken else "")])
        wrong += bool(found.broken)
    for one in LEFT_OUT:
        found = explore(Protocol(bounds_of(one.bounds), rules_of(one.rules)), one.breaks)
        _say([row_of_left_out(one._replace(breaks=found.broken))])
        wrong += found.broken != one.breaks
    return int(bool(wrong))


def _verdict(found: Explored) -> str:
    said = f"breaks: {found.broken}" if found.broken else "holds"
    return f"{said}; {found.states:,} states, the farthest {found.depth} steps away"


def _say(lines: Iterable[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


sys.exit(main())
