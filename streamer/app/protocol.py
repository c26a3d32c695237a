"""The exactly-once protocol across Kafka and Redis: its steps by number, and the decision that every assignment begins with.

Kafka's transactions don't cover Redis, and its fencing doesn't either. So every commit of a partition has an id; Redis holds the id of the
last commit (R) and of the one before it beside the state, and Kafka holds an id (C) in the metadata of the group's position. Each commit's
records are kept in Redis, its outbox, until Kafka holds its id. An id begins with a number, which counts the commits at one offset: many
move none, and the end of the output has to say which of them came last.

Working:

1. Redis commit, one guarded call: if the owner token is mine and the commit id is the one at which this batch began, write profiles, sums,
   position, outbox and a fresh commit id; else write nothing and say which check failed. The outbox holds all that the commit publishes.
2. Kafka transaction: the outboxes of one or several partitions, then their positions with commit ids as metadata, under the membership
   that the consumer had as of the last poll.
3. The owner tokens are read again before the transaction is committed. Where one is not mine all is aborted, and the others are published
   again without that partition. The successor does the mirror image (5), so one of the two must see the other.
4. Only when the transaction has committed may the next Redis commit replace the outboxes.

9. A commit whose outbox names customers who were erased, or may, says so in the state, until another commit has taken the outbox's place:
   the next batch's, or where none comes one that publishes nothing. No byte of an id stays in Redis.
10. A commit that sends something on because of a merge, to other partitions of the input, writes a line of its own partition's journal, so
   that the end of the output (6e, 6f) tells of it. A rebuild sends nothing on.

Assignment:

5. End what an earlier client under this transactional id left open; write a new owner token; read C once it is stable, which waits out a
   predecessor's transaction; then read R.
6. Go by what C and R say:
   a. R is C: go on.
   b. The commit before R is C: R was not published. Publish its outbox, then go on.
   c. Neither: Redis lost writes, or was rolled back. Rebuild (7) up to C; from R's state if it is not beyond C's offset and the journal
      leads to it, else from nothing: an owner that was none any more may have committed a decision to the Redis that was rolled back, be
      it an adoption or a record that it passed over, or did not (`journal.leads_to`). From nothing, too, if R let customers go and was not
      published: they have no profile, so nothing that 7d compares would tell of them.
   d. There is no R: rebuild from nothing up to C.
   e. There is no C: the group's positions expired or were reset. Publish R's outbox unless the output holds it, then go on from R. But
      where the output speaks of a commit not before R, by offset and number, that R knows nothing of, Redis lost writes too: that commit
      is C (c).
   f. There is neither: a first start if nothing was ever published, else a rebuild from nothing up to what the output says of itself.
   g. C has no id: somebody moved the position by hand. Refuse.
7. A rebuild:
   a. publishes nothing, and its commits have ids of their own, whose number is 0: the output's are later;
   b. follows the journal at its offsets, and leaves the last adoption's sweep for afterwards;
   c. ends exactly at C's offset;
   d. there reads what was published to the end, and in one guarded call takes C's id and makes the state agree with it: what subscribers
      were told wins. What was judged and not told is judged again by the sweep, which tells it;
   e. then says, in ordinary commits, that those left who were told to be in a segment and are not found again. The state says that there
      are some from d to the last of these, so the next owner goes on. Events wait until then.

When something fails:

8. a. A failed check in 1 or 3: run the assignment anew, with back-off; if the partition is no longer assigned, the next poll says so.
   b. A lost reply of Redis is no failure: read the commit id back and see.
   c. A lost reply of the transaction's commit is neither success nor failure: run the assignments of its partitions anew.
   d. A membership that is out of date is refused by the broker: abort, poll, and run the assignments anew.
   e. An idle worker looks at owner and commit id now and then, or a loss would go unseen.

With `transactions: off` there is no 3, and 2 sends records and positions one after the other: what was published may be published again,
under the same `change_id` and `version`. Positions then may lag by more than a commit, so 6b holds for every R that is not behind C; and
an outbox of which the output holds something may not be there whole, so 6e publishes it in any case. Nor need R be what was told last:
whoever goes on from it takes the decisions that the journal holds beyond it at their offsets, as in 7b, and decides nothing at an offset
below which the output speaks of events.

`tests/simulation/model` explores every state that this can come to within bounds, and what happens without each rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection

    from streamer.core.ports import Committed, PartitionState


def numbered(number: int, token: str) -> str:
    """Make a commit id of a commit's number among those at its offset, and a token that no other has."""
    return f"{number}.{token}"


def number_of(commit_id: str) -> int:
    """Read a commit's number from its id; 0 where it has none."""
    number, dot, _ = commit_id.partition(".")
    return int(number) if dot and number.isdecimal() else 0


def _place(commit: Committed | PartitionState) -> tuple[int, int]:
    """Order commits: adoptions, ticks and sweeps move no offset."""
    return commit.next_offset, number_of(commit.commit_id)


class Seen(NamedTuple):
    """What an assignment finds. `told` is the latest commit that the output speaks of, `outbox_told` whether it holds R's outbox.

    Both are looked for only where there is no C: `looked_back` makes this of what is found.
    """

    redis: PartitionState
    kafka: Committed | None
    told: Committed | None = None
    outbox_told: bool = False


def looked_back(redis: PartitionState, told: Collection[Committed], *, exactly_once: bool) -> Seen:
    """Take in all commits that the end of the output speaks of; of several alike, one that R knows nothing of is the latest.

    Without transactions the latest of all may not be there whole, so it counts for nothing.
    """
    known = {redis.commit_id, redis.previous_commit_id}

    def latest(commits: Collection[Committed]) -> Committed | None:
        return max(commits, default=None, key=lambda one: (*_place(one), one.commit_id not in known))

    last = latest(told)
    whole = last if exactly_once or last is None else latest([one for one in told if one.commit_id != last.commit_id])
    return Seen(redis, None, whole, any(one.commit_id == redis.commit_id for one in told))


class Base(Enum):
    """What an owner begins from."""

    STATE = "what Redis holds"
    NOTHING = "the start of the log"


@dataclass(frozen=True, slots=True)
class Recovery:
    """How an assignment begins: from where, whether the outbox is published first, and up to where it is a rebuild."""

    base: Base
    publishes: bool = False
    until: Committed | None = None


class MovedByHand(Exception):  # noqa: N818  # says what happened
    """Kafka's position bears no commit id (6g)."""


def recover(seen: Seen, *, exactly_once: bool) -> Recovery:
    """Decide by step 6.

    Raises:
        MovedByHand: the position is none that this program committed.

    """
    redis, kafka = seen.redis, seen.kafka
    if kafka is None and not redis.commit_id:
        return Recovery(Base.NOTHING, until=seen.told)  # f
    if kafka is None:
        told = seen.told
        known = {redis.commit_id, redis.previous_commit_id}
        if told is None or _place(told) < _place(redis) or told.commit_id in known:
            return Recovery(Base.STATE, publishes=not (seen.outbox_told and exactly_once))  # e
        kafka = told  # e, as c
    if not kafka.commit_id:
        raise MovedByHand  # g
    if not redis.commit_id:
        return Recovery(Base.NOTHING, until=kafka)  # d
    if redis.commit_id == kafka.commit_id:
        return Recovery(Base.STATE)  # a
    lags = redis.next_offset >= kafka.next_offset and not exactly_once
    if redis.previous_commit_id == kafka.commit_id or lags:
        return Recovery(Base.STATE, publishes=True)  # b
    base = Base.STATE if redis.next_offset <= kafka.next_offset else Base.NOTHING
    return Recovery(base, until=kafka)  # c
