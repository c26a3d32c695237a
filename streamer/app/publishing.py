"""Publishing what was committed to Redis: in a transaction with the positions, or at least once. Steps are those of `protocol.py`.

Law: what is on its way is finished, or given up, before the next Redis commit may replace an outbox (4). Who publishes never guesses: a
partition of which it is not known whether it was published is handed back, to be assigned anew.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, Protocol

from streamer.core import outbox
from streamer.core.errors import Unavailable
from streamer.core.ports import Committed, MustAbort

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from streamer.core.ports import EventLog, OutRecord, Publisher, StateStore, Transactions

log = logging.getLogger(__name__)


class Publication(NamedTuple):
    """A partition's commit on its way to Kafka."""

    partition: int
    token: str
    outbox: bytes
    position: Committed


class Publishing(Protocol):
    """Sends publications on their way, and finishes them."""

    @property
    def pending(self) -> bool:
        """Tell whether anything is on its way."""

    def ready(self) -> None:
        """Make sure that nothing of an earlier life is still under way (5). Raises `Unavailable`."""

    def send(self, publications: Sequence[Publication], records: Sequence[OutRecord] | None = None) -> None:
        """Send publications on their way; `records` are those of their outboxes, where they are at hand."""

    def finish(self) -> frozenset[int]:
        """Wait until all on its way is published; returns the partitions to be assigned anew (8a, 8c, 8d).

        Raises `Unavailable` where none of it is known.
        """

    def handed_over(self) -> None:
        """Wait until the group knows the positions of all that was published: a partition is about to be given up."""

    def give_up(self) -> None:
        """Forget what is on its way: every partition is assigned anew."""

    def withdraw(self, partition: int) -> None:
        """Publish nothing of a partition that is assigned anew, or that another member may have by now."""

    def close(self) -> None:
        """End; waits for nothing."""


class AtLeastOnce:
    """Records first, then positions; what was under way when something failed is published again."""

    def __init__(self, publisher: Publisher, log_: EventLog, timeout_s: float) -> None:
        """Publish with `publisher`, and commit positions with `log_`."""
        self._publisher = publisher
        self._log = log_
        self._timeout_s = timeout_s
        self._unacknowledged = False
        self._lost = False  # something may not have arrived, and nobody can tell whose it was
        self._positions: dict[int, Committed] = {}
        self._sent: dict[int, Committed] = {}  # on their way since partitions were last given up: a rebalance may overtake them

    @property
    def pending(self) -> bool:
        """Tell whether anything is on its way."""
        return self._unacknowledged or self._lost or bool(self._positions)

    def ready(self) -> None:
        """Wait for what may still arrive, so that who reads the output next sees it."""
        if self._unacknowledged:
            try:
                self._publisher.wait(self._timeout_s)
            except Unavailable:
                self._lost = True
                raise
            self._unacknowledged = False

    def send(self, publications: Sequence[Publication], records: Sequence[OutRecord] | None = None) -> None:
        """Queue the records; the positions follow when they are acknowledged."""
        sent = _records(publications) if records is None else records
        if sent:
            self._publisher.send(sent)
            self._unacknowledged = True
        self._positions |= _positions(publications)

    def finish(self) -> frozenset[int]:
        """Wait until everything is acknowledged, then send the positions on their way."""
        self._arrived()
        if self._positions:
            self._log.commit(self._positions)
            self._sent |= self._positions
            self._positions = {}
        return frozenset()

    def handed_over(self) -> None:
        """Commit the latest positions, also those that are on their way, and wait until they are.

        Nothing is kept of them, whatever comes of it: they may be another member's from now on.
        """
        self._arrived()
        positions, self._positions, self._sent = self._sent | self._positions, {}, {}
        self._log.commit(positions, wait=True)

    def _arrived(self) -> None:
        """Raise `Unavailable` unless everything sent has arrived: a failure that somebody else took in, as a rebalance does, counts too."""
        self.ready()
        if self._lost:
            message = "what was sent earlier was not acknowledged"
            raise Unavailable(message)

    def give_up(self) -> None:
        """Forget positions; what is queued arrives all the same, and before the output is read."""
        self._positions.clear()
        self._sent.clear()
        with suppress(Unavailable):
            self.ready()
        self._unacknowledged = self._lost = False

    def withdraw(self, partition: int) -> None:
        """Commit no position of it."""
        self._positions.pop(partition, None)
        self._sent.pop(partition, None)

    def close(self) -> None:
        """End; waits for nothing."""
        self._publisher.close()


class ExactlyOnce:
    """One transaction at a time: the outboxes of all partitions that committed, and their positions."""

    def __init__(self, transactions: Transactions, log_: EventLog, store: StateStore, timeout_s: float) -> None:
        """Publish with `transactions`, under the membership of `log_`, while `store` says that the partitions are ours."""
        self._transactions = transactions
        self._log = log_
        self._store = store
        self._timeout_s = timeout_s
        self._open: dict[int, Publication] = {}
        self._failed: set[int] = set()

    @property
    def pending(self) -> bool:
        """Tell whether a transaction is open, or something is to be handed back."""
        return bool(self._open or self._failed)

    def ready(self) -> None:
        """End what an earlier client under this transactional id left open; a transaction of our own is none."""
        if not self._open:
            self._transactions.settle(self._timeout_s)

    def send(self, publications: Sequence[Publication], records: Sequence[OutRecord] | None = None) -> None:
        """Begin a transaction with these, or add them to the one that is open (2)."""
        if not publications:
            return
        begun = bool(self._open)
        self._open |= {publication.partition: publication for publication in publications}
        try:
            if not begun:
                self._transactions.begin()
            self._transactions.send(_records(publications) if records is None else records)
        except (MustAbort, Unavailable) as error:
            self._hand_back(error)

    def finish(self) -> frozenset[int]:
        """Add the positions, read the owners again (3), commit (4)."""
        while self._open:
            try:
                others = self._finish()
            except (MustAbort, Unavailable) as error:
                self._hand_back(error)
            else:
                self._open = {}
                self.send(others)
        failed, self._failed = frozenset(self._failed), set()
        return failed

    def _finish(self) -> list[Publication]:
        """Commit the transaction, or abort it and return what is to be published without those that have another owner."""
        mine = list(self._open.values())
        self._transactions.positions(_positions(mine), self._log.membership(), self._timeout_s)
        owners = self._store.owners([publication.partition for publication in mine])
        foreign = {p.partition for p, owner in zip(mine, owners, strict=True) if owner != p.token}
        if not foreign:
            self._transactions.commit(self._timeout_s)
            return []
        log.warning("partitions %s have another owner: publishing without them", sorted(foreign))
        self._transactions.abort(self._timeout_s)
        self._failed |= foreign
        return [publication for publication in mine if publication.partition not in foreign]

    def _hand_back(self, error: Exception) -> None:
        """Abort, and have every partition of the transaction assigned anew."""
        log.warning("the transaction of partitions %s was not committed: %s", sorted(self._open), error)
        self._failed |= self._open.keys()
        self._open = {}
        self._transactions.abort(self._timeout_s)

    def handed_over(self) -> None:
        """Finish: a transaction's positions are stable when it is committed; what fails is handed back by the next `finish`."""
        self._failed |= self.finish()

    def give_up(self) -> None:
        """Abort."""
        self._open, self._failed = {}, set()
        self._transactions.abort(self._timeout_s)

    def withdraw(self, partition: int) -> None:
        """Abort the transaction that holds it, and publish the others again."""
        if partition not in self._open:
            return
        self._transactions.abort(self._timeout_s)
        others = [publication for publication in self._open.values() if publication.partition != partition]
        self._open = {}
        self.send(others)

    def close(self) -> None:
        """End; waits for nothing."""
        self._transactions.close()


def _records(publications: Iterable[Publication]) -> list[OutRecord]:
    return [record for publication in publications for record in outbox.unpack(publication.outbox)]


def _positions(publications: Iterable[Publication]) -> Mapping[int, Committed]:
    return {p.partition: p.position for p in publications}
