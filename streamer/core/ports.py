"""What the worker needs of the outside, as protocols: each has an adapter for the real system and a fake, and both pass one contract suite.

Law: ports carry decisions, they don't make them. Every call is bounded in time and raises `Unavailable` when its bound is reached.
Commit ids and owner tokens are short ASCII strings; an empty string means that there is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from streamer.core.errors import StreamerError
from streamer.core.errors import Unavailable as Unavailable  # noqa: PLC0414  # re-exported: it is part of every port

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from streamer.core.columns import I64, U8, Fetched, Headers


class Topic(Enum):
    """The topics the worker writes; the value is the key of the name in `topics` of the configuration."""

    CHANGES = "changes"
    JOURNAL = "journal"
    MODELS = "models"
    DEAD_LETTERS = "dead_letters"
    EVENTS = "events"


class ClientFailed(StreamerError):  # noqa: N818  # as all errors: named after what happened
    """A client of a server can't go on and says so: only a new one can, so begin the worker anew."""


class MustAbort(StreamerError):  # noqa: N818
    """A transaction can't be committed: abort it, and nothing of it is seen. What it held may be sent again in another one."""


class Unclear(Unavailable):
    """Nobody knows whether a transaction was committed: run the assignments of its partitions anew, and never send again on a guess."""


class CursorLost(Unavailable):
    """A walk can't go on: another server answers, or another process of it, than gave its cursor, and counts otherwise. Begin it anew."""


class OffsetOutOfRange(StreamerError):  # noqa: N818
    """The log does not hold the offset that a partition was started at: retention took it, or the topic was made anew."""

    def __init__(self, partition: int, offset: int) -> None:
        """Name the partition and the offset that was asked for."""
        super().__init__(f"partition {partition} of the input does not hold offset {offset} any more: rebuild from history")
        self.partition = partition
        self.offset = offset


class OutRecord(NamedTuple):
    """One record of an outbox. `partition` is None where the key decides (models, dead letters)."""

    topic: Topic
    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One record read back from a topic."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(frozen=True, slots=True)
class Packed:
    """`u` customers' packed profiles: id i is `ids[id_bounds[i]:id_bounds[i + 1]]`, its profile likewise; an empty profile is none."""

    ids: U8
    id_bounds: I64  # (u + 1,)
    values: U8
    bounds: I64  # (u + 1,)


@dataclass(frozen=True, slots=True)
class PartitionState:
    """What Redis holds for one input partition beside its profiles. `state` and `attempts` are opaque to the store.

    `claims` counts the claims since the last commit.
    """

    owner: str
    commit_id: str
    previous_commit_id: str
    next_offset: int
    state: bytes
    outbox: bytes
    claims: int = 0
    attempts: bytes = b""


@dataclass(frozen=True, slots=True)
class Commit:
    """One atomic step of one partition.

    `expected` is the commit id that the batch began at. `announce` holds values of the application, not of the partition (the announced
    model, a model version by its number), which only the owner of partition 0 may write, in the same step. One that `clears` deletes every
    profile of the partition first. `erased` is what is kept of erased customers, `redirects` of who was merged, both opaque to the store;
    None leaves it as it is.
    """

    partition: int
    owner: str
    expected: str
    commit_id: str
    next_offset: int
    state: bytes
    outbox: bytes
    profiles: Packed
    announce: Mapping[str, bytes]
    clears: bool = False
    erased: bytes | None = None
    redirects: bytes | None = None


class Outcome(Enum):
    """What became of a commit. Anything but APPLIED wrote nothing."""

    APPLIED = "applied"
    OTHER_OWNER = "another owner"
    OTHER_COMMIT = "another commit"


class StateStore(Protocol):
    """Redis: profiles and partition states, one hash slot a partition."""

    def check(self) -> tuple[str, ...]:
        """Raise `Misconfigured` where the server evicts keys or is too old, `Unavailable` where it doesn't answer; returns warnings."""

    def claim(self, partition: int, owner: str) -> PartitionState:
        """Write the owner token and count the claim, then read the state; a new partition's has empty ids and offset 0."""

    def read(self, partitions: Sequence[int]) -> list[PartitionState]:
        """Read states without claiming."""

    def erased(self, partition: int) -> bytes:
        """Read what is kept of a partition's erased customers; empty where nothing is."""

    def redirects(self, partition: int) -> bytes:
        """Read whose events a partition sends on; empty where nobody's."""

    def note_attempts(self, partition: int, attempts: bytes) -> None:
        """Keep what is about to be attempted, beside the state."""

    def owners(self, partitions: Sequence[int]) -> list[str]:
        """Read each partition's owner token, and nothing else."""

    def load(self, partitions: Sequence[int], ids: Sequence[tuple[U8, I64]], commit_ids: Sequence[str] | None = None) -> list[Packed]:
        """Read the profiles of each partition's customers: `ids` gives (joined ids, bounds) for each.

        With `commit_ids`, raises `Unavailable` where a partition is not at its commit as it is read: a state that is lost for a moment,
        and is back when what was made of it is committed, would be seen by no guard.
        """

    def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        """Apply each commit if its owner and expected commit id are the stored ones, else write nothing of it.

        After `Unavailable` a commit may still be under way. Read its commit id back; where it isn't there, send the very same commit again
        (at most one of the two is applied), or claim with a new token (a late one is then refused).
        """

    def scan(self, partition: int, cursor: int, count: int, commit_id: str | None = None) -> tuple[int, Packed]:
        """Walk about `count` of the partition's profiles; the walk ends when the cursor returned is 0. A profile may come twice.

        Whoever is there from the beginning of a walk to its end is met, as long as the same process of the same server answers: its hash
        has a seed of its own. A cursor names the one that gave it, and anybody may go on with it; raises `CursorLost` where another one
        answers. With `commit_id`, raises `Unavailable` as `load` does.
        """

    def count(self, partitions: Sequence[int]) -> list[int]:
        """Count each partition's customers."""

    def announced(self, name: str) -> bytes | None:
        """Read a value of the application that partition 0's owner announced."""

    def ask(self, name: str, value: bytes) -> None:
        """Write a value of the application that a person gives, beside those that partition 0's owner announces."""

    def record_partitions(self, count: int) -> int:
        """Record the input's partition count at the first start; returns the count on record."""

    def drop(self) -> int:
        """Delete every key of this application in this namespace; returns how many."""


class Committed(NamedTuple):
    """The group's committed position of a partition and the commit id in its metadata."""

    next_offset: int
    commit_id: str


class Membership(Protocol):
    """What a member was in its group at one moment; only the adapter looks inside."""


class Rebalanced(NamedTuple):
    """What the group did since it was last asked. A lost partition may already have another owner; a revoked one has not."""

    assigned: tuple[int, ...]
    revoked: tuple[int, ...]
    lost: tuple[int, ...]


class EventLog(Protocol):
    """Kafka's consumer side of the input topic: one thread owns it."""

    def fetch(self, records_max: int, wait_s: float, gather_s: float) -> Fetched:
        """Take what is there, up to `records_max`; where nothing is, wait up to `wait_s` for a record, then take what comes in `gather_s`.

        Serves the group's callbacks, so call it often, also while nothing is started. Raises `OffsetOutOfRange` for a started partition
        whose position the log doesn't hold (after the records already fetched; it is silent until started again), `Unavailable`,
        `Misconfigured`.
        """

    def rebalanced(self) -> Rebalanced:
        """Tell, and forget, what the group did, as of the last fetch.

        What was revoked or lost comes before what was assigned: a partition in both is owned again. A newly assigned partition is paused
        until `start` is called for it.
        """

    def start(self, partition: int, offset: int) -> None:
        """Deliver the partition's records from exactly this offset on."""

    def pause(self, partitions: Sequence[int]) -> None:
        """Deliver nothing from these until `start`."""

    def before_revoked(self, call: Callable[[Sequence[int]], None]) -> None:
        """Have `call` called, within `fetch` or `close`, while partitions about to be revoked are still owned; what it raises is logged.

        Nothing is called for partitions that are lost.
        """

    def membership(self) -> Membership:
        """Give what this member was in the group as of the last `fetch`, for `Transactions.positions`; never newer than that.

        What is called before partitions are revoked is given what the member is then: nobody else can have them yet.
        """

    def committed(self, partitions: Sequence[int]) -> dict[int, Committed]:
        """Read the group's stable positions; a partition without one is left out.

        Waits until no transaction that holds a position of these is open; raises `Unavailable` where that takes too long.
        """

    def commit(self, positions: Mapping[int, Committed], *, wait: bool = False) -> None:
        """Send positions with their commit ids on their way (at-least-once mode); a failure is raised by a later `fetch` or `commit`.

        With `wait`, return when they are committed, and raise `Unavailable` if they are not.
        """

    def bounds(self, partition: int) -> tuple[int, int]:
        """Read the partition's first offset and high watermark."""

    def end(self, partition: int) -> int | None:
        """Give the high watermark that came with the partition's latest records, without asking; None before there was one.

        Where nothing but marks of transactions is left below it, it is the position.
        """

    def close(self) -> None:
        """Leave the group (a static member stays in it)."""


class Publisher(Protocol):
    """Kafka's producer side."""

    def send(self, records: Sequence[OutRecord]) -> None:
        """Queue records, in order."""

    def wait(self, timeout_s: float) -> None:
        """Return once everything queued is acknowledged; raises `Unavailable` at the bound, and then nothing stays queued."""

    def close(self) -> None:
        """End; waits for nothing."""


class Transactions(Protocol):
    """Kafka's producer side under one transactional id: what is sent between `begin` and `commit` is seen whole or not at all.

    `ClientFailed` is raised where another client uses the same id and keeps on taking it.
    """

    def settle(self, timeout_s: float) -> None:
        """End what an earlier client under this id left open: committed if that was decided, else aborted. Then the id is ours.

        Called before the first transaction and after `Unclear`; costs nothing where there is nothing to settle. Raises `Unavailable`.
        """

    def begin(self) -> None:
        """Begin a transaction. Raises `Unavailable`."""

    def send(self, records: Sequence[OutRecord]) -> None:
        """Queue records of the transaction, in order. Raises `MustAbort`."""

    def positions(self, positions: Mapping[int, Committed], membership: Membership, timeout_s: float) -> None:
        """Make the group's positions part of the transaction; with it they become stable.

        Raises `MustAbort`, also where the broker refuses a membership that is out of date, and `Unclear` where the transaction is gone.
        """

    def commit(self, timeout_s: float) -> None:
        """Commit; returns once it is decided. Raises `MustAbort`: nothing was committed; `Unclear`: nobody knows."""

    def abort(self, timeout_s: float) -> None:
        """Abort the transaction, if there is one. What can't be aborted now is ended by the next `settle`, or by the broker."""

    def close(self) -> None:
        """End; waits for nothing."""


class TopicReader(Protocol):
    """Reads a topic back, for the journal, the models and what was published."""

    def bounds(self, topic: Topic, partition: int) -> tuple[int, int]:
        """Read a partition's first offset and high watermark, whatever transactions are open. Raises `Unavailable`."""

    def read(self, topic: Topic, partition: int, first: int, timeout_s: float, end: int | None = None) -> list[LogRecord]:
        """Read committed records from offset `first` (or the earliest later one) to `end`, or to the high watermark of now.

        Waits until no transaction below that offset is open. Raises `Unavailable`.
        """
