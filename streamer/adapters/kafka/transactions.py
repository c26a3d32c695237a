"""`Transactions` on a transactional Kafka producer.

Laws:

- A client whose state can't be told is thrown away; the next one begins with `init_transactions`, which ends what is open under the id:
  committed if that was decided, else aborted. So nothing is ever asked of a client twice on a guess.
- The broker tells a client whose transaction it timed out and one whose id another client took the same thing: fenced, fatal. What is
  fenced before its transaction's time was over was taken by another; two clients that take an id from each other for ever are told so.
- A record that the client refuses leaves its transaction ready to be committed without it: so we refuse that.

Measured with librdkafka 2.16 and a broker of version 4.1 (orders of magnitude): a transaction of one record takes 4 ms; `init_transactions`
20 ms, and up to 1 s where it has to abort another transaction; `send_offsets_to_transaction` heeds `socket.timeout.ms`, not the time-out
it is given, and where the group's coordinator goes away under it may never return (librdkafka's issues 5456 and 5511).
"""

from __future__ import annotations

import time
from enum import Enum
from typing import TYPE_CHECKING

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from streamer.adapters.kafka.client import POLL_S, answered, error_of, explain
from streamer.adapters.kafka.event_log import NO_MEMBER
from streamer.adapters.kafka.outgoing import Outgoing
from streamer.core.errors import Misconfigured, StreamerError, Unavailable
from streamer.core.ports import ClientFailed, MustAbort, Unclear

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from streamer.adapters.kafka.client import KafkaSettings, Value
    from streamer.core.ports import Committed, Membership, OutRecord, Topic

TIMEOUT_MS = 10_000
"""After which the broker aborts a transaction, and up to 10 s later: it looks every 10 s."""
TAKEN_MAX = 3
TAKEN_WITHIN_S = 60.0

SOCKET_MS = 5_000
_FENCED = (
    KafkaError._FENCED,  # noqa: SLF001  # librdkafka's own codes begin so
    KafkaError._FATAL,  # noqa: SLF001
    KafkaError.INVALID_PRODUCER_EPOCH,
    90,  # PRODUCER_FENCED, which the stubs lack
)


class _State(Enum):
    NEW = "not settled"
    READY = "no transaction is open"
    OPEN = "a transaction is open"
    FAILED = "a transaction must be aborted"


class KafkaTransactions:
    """Writes outboxes and the group's positions, both or neither. Not for several threads at a time."""

    def __init__(
        self, settings: KafkaSettings, topics: Mapping[Topic, str], input_topic: str, transactional_id: str, timeout_ms: int = TIMEOUT_MS
    ) -> None:
        """Prepare; connects with `settle`.

        Args:
            settings: the brokers, and properties for the producer.
            topics: each topic's name.
            input_topic: the topic that positions are of.
            transactional_id: this worker instance's own, the same after a restart.
            timeout_ms: after which the broker aborts a transaction.

        Raises:
            Misconfigured: a property is unknown, or contradicts a guarantee.

        """
        self._topics = dict(topics)
        self._input = input_topic
        self._id = transactional_id
        self._timeout_s = settings.timeout_s
        self._transaction_s = timeout_ms / 1_000
        fixed: dict[str, Value] = {"transactional.id": transactional_id, "transaction.timeout.ms": timeout_ms}
        socket_ms = min(SOCKET_MS, timeout_ms - 100)  # the client wants it to be less by so much
        self._outgoing = Outgoing(settings, "publishing", {"socket.timeout.ms": socket_ms}, fixed)
        self._state = _State.NEW
        self._began_s = 0.0
        self._taken_s: list[float] = []

    def settle(self, timeout_s: float) -> None:
        """End what an earlier client under this id left open: committed if that was decided, else aborted.

        Raises:
            Unavailable: not within `timeout_s`.
            Misconfigured: this user may not use the id, or write idempotently.

        """
        if self._state is _State.READY:
            return
        if self._state is not _State.NEW:
            self._throw_away()
        self._began_s = time.monotonic()
        self._ask("taking the transactional id", timeout_s, self._outgoing.client.init_transactions, Unavailable)
        self._state = _State.READY

    def begin(self) -> None:
        """Begin a transaction; settles first where that is still to be done.

        Raises:
            Unavailable: it can't be settled within the settings' time-out.

        """
        if self._state not in {_State.NEW, _State.READY}:
            message = f"{self._state.value}: commit or abort it first"
            raise RuntimeError(message)
        self.settle(self._timeout_s)
        self._began_s = time.monotonic()
        self._ask("beginning a transaction", 0.0, lambda _: self._outgoing.client.begin_transaction(), Unavailable)
        self._state = _State.OPEN

    def send(self, records: Sequence[OutRecord]) -> None:
        """Queue records of the transaction, in order; waits, within the settings' time-out, while the queue is full.

        Raises:
            MustAbort: the client refuses a record, or the transaction is gone.
            Misconfigured: a record is larger than the client may send.

        """
        self._must_be_open()
        try:
            self._outgoing.send(records, self._topics)
        except StreamerError as error:  # whatever it was, the client has been replaced
            self._state = _State.NEW
            if isinstance(error, Misconfigured):
                raise
            if isinstance(error, ClientFailed) and self._is_taken_too_often():
                raise self._taken() from error
            raise MustAbort(str(error)) from error

    def positions(self, positions: Mapping[int, Committed], membership: Membership, timeout_s: float) -> None:
        """Make the group's positions part of the transaction.

        Raises:
            MustAbort: no answer, or the membership is out of date.
            Unclear: the transaction is gone.

        """
        self._must_be_open()
        if membership == NO_MEMBER:
            self._state = _State.FAILED
            message = "sending positions: this worker is not in the group"
            raise MustAbort(message)
        offsets = [TopicPartition(self._input, p, at.next_offset, metadata=at.commit_id) for p, at in positions.items()]
        if offsets:
            send = self._outgoing.client.send_offsets_to_transaction
            try:
                self._ask("sending positions", timeout_s, lambda left: answered(left, lambda: send(offsets, membership, left)), MustAbort)
            except TimeoutError:
                self._throw_away()  # nobody asked for a commit, so the next client's first call aborts
                message = f"sending positions: the client did not return within {timeout_s} s"
                raise MustAbort(message) from None

    def commit(self, timeout_s: float) -> None:
        """Commit; returns once it is decided.

        Raises:
            MustAbort: nothing was committed.
            Unclear: nobody knows.

        """
        self._must_be_open()
        deadline = time.monotonic() + timeout_s
        client = self._outgoing.client
        self._ask("sending records", timeout_s, lambda left: self._flushed(client.flush(left)), MustAbort)
        self._ask("committing a transaction", deadline - time.monotonic(), client.commit_transaction, Unclear)
        self._state = _State.READY

    def abort(self, timeout_s: float) -> None:
        """Abort the transaction, if there is one; where that fails the next `settle` does it, or the broker."""
        if self._state not in {_State.OPEN, _State.FAILED}:
            return
        try:
            self._ask("aborting a transaction", timeout_s, self._outgoing.client.abort_transaction, Unavailable)
        except (Unavailable, ClientFailed):
            return  # the client was thrown away
        self._state = _State.READY

    def close(self) -> None:
        """End; waits for nothing."""
        self._state = _State.NEW
        self._outgoing.close()

    def _must_be_open(self) -> None:
        if self._state is _State.FAILED:
            raise MustAbort(self._state.value)
        if self._state is not _State.OPEN:
            message = f"{self._state.value}: begin one first"
            raise RuntimeError(message)

    def _flushed(self, left: int) -> None:
        if left:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{left} records are not acknowledged"))  # noqa: SLF001

    def _ask(self, what: str, timeout_s: float, call: Callable[[float], object], late: type[Unavailable | MustAbort]) -> None:
        """Call with the seconds that are left, again while the failure passes; `late` is what it means that there is no answer."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                call(max(deadline - time.monotonic(), 0.001))
            except (KafkaException, SystemError) as raised:
                error = error_of(raised)
                if error.retriable() and not error.txn_requires_abort() and time.monotonic() + POLL_S < deadline:
                    time.sleep(POLL_S)
                    continue
                raise self._meaning(error, what, late) from raised
            return

    def _meaning(self, error: KafkaError, what: str, late: type[Unavailable | MustAbort]) -> StreamerError:
        meaning = explain(error, what)
        if error.fatal() or error.code() in _FENCED:
            self._throw_away()
            if isinstance(meaning, Misconfigured):
                return meaning
            return self._taken() if self._is_taken_too_often() else (Unclear if late is MustAbort else late)(str(meaning))
        if late is not Unavailable and (error.txn_requires_abort() or late is MustAbort):
            self._state = _State.FAILED
            return meaning if isinstance(meaning, Misconfigured) else MustAbort(str(meaning))
        self._throw_away()
        return meaning if isinstance(meaning, Misconfigured) else late(str(meaning))

    def _is_taken_too_often(self) -> bool:
        """Note that the client was fenced; the broker does it to one whose transaction's time is over, and else only for another client."""
        now = time.monotonic()
        if now - self._began_s < self._transaction_s:
            self._taken_s = [at for at in self._taken_s if now - at < TAKEN_WITHIN_S] + [now]
        return len(self._taken_s) >= TAKEN_MAX

    def _taken(self) -> ClientFailed:
        return ClientFailed(
            f"another client keeps on taking the transactional id {self._id}: see that each worker has its own name and runs once"
        )

    def _throw_away(self) -> None:
        self._state = _State.NEW
        self._outgoing.renew()
