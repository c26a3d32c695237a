"""What is explored: the protocol within bounds, and the protocol less one rule after another, by the steps of `streamer/app/protocol.py`.

Law: a case says all that it takes to repeat it, as `python -m tests.simulation.model` reads it.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.simulation.model.explore import DIFFERS, DOUBLED, LOST, STALE, STUCK, VERSIONS
from tests.simulation.model.values import FAULTS, Bounds

SIZES = ("events", "partitions", "workers", "letter")


class Holds(NamedTuple):
    """Bounds within which every law holds, also without some rules; how many states there are, and how many steps off the farthest is."""

    bounds: str
    states: int
    depth: int
    long: bool = False
    rules: str = ""


class LeftOut(NamedTuple):
    """Rules without which a law breaks within bounds."""

    rules: str
    says: str
    breaks: str
    bounds: str


def bounds_of(words: str) -> Bounds:
    """Read bounds, such as `crash=1 move=1 adopts=0,1 transactions=off`; raises ValueError for what is none."""
    given = dict(word.split("=") for word in words.split())
    faults = tuple(int(given.pop(name, "0")) for name in FAULTS)
    adopts = tuple(int(offset) for offset in given.pop("adopts", "").split(",") if offset)
    exactly_once = given.pop("transactions", "on") == "on"
    if not set(given) <= set(SIZES):
        message = f"no such bounds: {', '.join(sorted(set(given) - set(SIZES)))}"
        raise ValueError(message)
    return Bounds(faults, adopts=adopts, exactly_once=exactly_once, **{name: int(value) for name, value in given.items()})


def rules_of(names: str) -> frozenset[str]:
    """Read rules, such as `fetched, no_reread`."""
    return frozenset(names.split(", ")) - {""}


def row_of_holds(case: Holds) -> str:
    """Write a case as a row of docs/guarantees.md."""
    return f"| `{' '.join(filter(None, (case.rules.replace(', ', ' '), case.bounds)))}` | {case.states:,} | {case.depth} |"


def row_of_left_out(case: LeftOut) -> str:
    """Write a case as a row of docs/guarantees.md."""
    return f"| `{case.rules}` | {case.says} | {case.breaks} | `{case.bounds}` |"


HOLDS = (
    Holds("crash=1 move=1 lost=1", 39_110, 41),
    Holds("crash=1 move=1 adopts=1 letter=0 events=3", 79_184, 55),
    Holds("move=1 rollback=1 adopts=1 events=1", 34_114, 55),
    Holds("crash=1 rollback=1 adopts=1 letter=1 events=3", 51_531, 59),
    Holds("crash=1 move=1 wipe=1", 26_516, 40),
    Holds("crash=1 move=1 expire=1", 10_563, 35),
    Holds("crash=1 rollback=1 expire=1 adopts=1", 46_494, 56),
    Holds("crash=1 wipe=1 expire=1 adopts=1", 13_743, 59),
    Holds("move=2 workers=3", 24_350, 40),
    Holds("move=1 partitions=2 events=1", 37_973, 38),
    Holds("crash=1 lost=1 partitions=2 events=1", 19_326, 31),
    Holds("crash=1 move=1 adopts=1 transactions=off", 22_301, 33),
    Holds("crash=1 move=1 lost=1 transactions=off", 26_210, 33),
    Holds("crash=1 wipe=1 expire=1 transactions=off", 3_720, 31),
    Holds("move=1 rollback=1 transactions=off", 28_021, 42),
    Holds("rollback=1 adopts=1 transactions=off", 1_936, 32),
    Holds("move=1 rollback=1 adopts=1", 146_981, 62, long=True),
    Holds("move=1 rollback=1 events=3", 64_855, 46, long=True),
    Holds("crash=1 move=1 rollback=1", 76_425, 42, long=True),
    Holds("crash=1 move=1 lost=1 adopts=1", 328_427, 56, long=True),
    Holds("crash=1 move=1 wipe=1 adopts=1", 144_389, 64, long=True),
    Holds("crash=1 move=1 wipe=1 expire=1", 58_702, 41, long=True),
    Holds("crash=2 move=2", 30_952, 38, long=True),
    Holds("move=2 rollback=1 workers=3 events=1", 64_873, 36, long=True),
    Holds("move=1 rollback=2 events=1", 11_368, 33, long=True),
    Holds("crash=1 move=1 partitions=2 events=1", 182_985, 40, long=True),
    Holds("crash=1 move=1 rollback=1 transactions=off", 108_140, 42, long=True),
    Holds("crash=1 move=1 wipe=1 transactions=off", 78_212, 44, long=True),
    Holds("crash=1 move=1 expire=1 adopts=1 transactions=off", 47_389, 44, long=True),
)

BELT_AND_BRACES = (
    Holds("move=1 rollback=1", 22_919, 39, rules="no_owner_check", long=True),
    Holds("move=1 lost=1", 9_838, 41, rules="no_owner_check"),
    Holds("move=1 rollback=1", 22_003, 42, rules="no_reread", long=True),
    Holds("crash=1 move=1", 6_041, 32, rules="no_reread"),
    Holds("crash=1 move=1", 7_288, 38, rules="no_previous"),
)
"""Rules that may be left out alone, within these bounds: another one catches it, or they only save work. All are kept."""

# fmt: off
LEFT_OUT = (
    LeftOut("unstable_read", "C is read once it is stable (5)", DOUBLED, "crash=1 move=1"),
    LeftOut("offsets_only", "commits are told apart by id: adoptions and sweeps move no offset (6)", LOST, "crash=1 adopts=1 events=1"),
    LeftOut("drop_on_other", "after a failed check the assignment is run anew; only the group takes a partition away (8a)",
            STUCK, "move=1 events=1"),
    LeftOut("no_idle_check", "an idle worker looks at Redis now and then (8e)", STUCK, "rollback=1 events=1"),
    LeftOut("letters_in_memory", "dead letters are in the outbox too (1)", LOST, "crash=1 events=1 letter=0"),
    LeftOut("republish", "after a lost reply of the transaction's commit nothing is published again on a guess (8c)",
            DOUBLED, "lost=1 events=1"),
    LeftOut("reapply_reloaded", "after a lost reply of Redis the commit id is read back (8b)", LOST, "lost=1 adopts=1"),
    LeftOut("no_id_check", "a Redis commit checks the commit id at which its batch began (1)", DOUBLED, "rollback=1 adopts=1"),
    LeftOut("kafka_first", "Redis first, then Kafka (1, 2)", DOUBLED, "rollback=1 adopts=1"),
    LeftOut("loud_rebuild", "a rebuild publishes nothing below C (7a)", DOUBLED, "rollback=1"),
    LeftOut("trust_beyond_c", "a state beyond C's offset is not built upon (6c)", STALE, "move=1 rollback=1"),
    LeftOut("not_led_to", "a state that the journal does not lead to is not built upon (6c)",
            DIFFERS, "move=1 rollback=1 adopts=0,1 events=1"),
    LeftOut("beyond_batch", "a rebuild ends exactly at C's offset (7c)", LOST, "rollback=1"),
    LeftOut("id_first", "C's id is taken last (7a)", DOUBLED, "crash=1 rollback=1"),
    LeftOut("settle_after_id", "taking C's id and agreeing with what was told is one call (7d)", DOUBLED, "crash=1 rollback=1 adopts=1"),
    LeftOut("state_wins", "what was told wins over what was found again (7d)", DOUBLED, "rollback=1 adopts=1"),
    LeftOut("told_beyond", "what was told beyond C does not count (7d)", DIFFERS, "move=1 rollback=1 events=3"),
    LeftOut("read_to_lso", "what was told is read to the high watermark, once no transaction is open (7d)",
            DOUBLED, "rollback=1 adopts=1"),
    LeftOut("journal_not_followed", "a rebuild takes the journal's decisions (7b)", DOUBLED, "wipe=1 adopts=1"),
    LeftOut("fetched", "the membership is that of the last poll, never fetched at commit time (2)", DOUBLED, "move=1 rollback=1"),
    LeftOut("fetched, no_reread", "the owners are read again before a transaction is committed (3)", DOUBLED, "crash=1 move=1"),
    LeftOut("fetched, reread_first", "the owners are read again after the positions were sent (3)", DOUBLED, "crash=1 move=1"),
    LeftOut("fetched, token_last", "a new owner writes its token, then reads Kafka (5)", DOUBLED, "crash=1 move=1"),
    LeftOut("early_outbox", "the next Redis commit waits until the transaction has committed (4)", LOST, "crash=1"),
    LeftOut("keeps_publication", "a transaction gives up what is assigned anew (8a)", DOUBLED, "move=1"),
    LeftOut("withdraws_all", "when one partition is withdrawn from a transaction, the others are published again (3)",
            LOST, "move=1 partitions=2 events=1"),
    LeftOut("publishes_nothing_left", "a commit that was not published is published by the next owner (6b)", LOST, "crash=1"),
    LeftOut("no_look_back", "without C the output is searched for the last commit (6e, 6f)", DOUBLED, "crash=1 expire=1"),
    LeftOut("behind_output", "without C an R that the output is ahead of is rebuilt (6e)", DOUBLED, "crash=1 wipe=1 expire=1"),
    LeftOut("sent_in_part", "without transactions an outbox may be there in part, and is sent again (6e)",
            LOST, "crash=1 transactions=off"),
    LeftOut("last_is_whole", "without transactions a rebuild takes no commit that may be there in part to be published (6f)",
            LOST, "crash=1 wipe=1 transactions=off"),
    LeftOut("journal_unread", "without transactions whoever goes on from R takes the decisions that the journal holds beyond it",
            DIFFERS, "rollback=1 adopts=1 transactions=off"),
    LeftOut("decides_below", "without transactions nothing is decided below what the output speaks of",
            VERSIONS, "rollback=1 adopts=1 transactions=off"),
)
# fmt: on
