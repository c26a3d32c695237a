"""A transactional client of a `FakeBroker`.

Records go out as they are sent, so a process that dies leaves an open transaction with what it sent. A client that the broker fences is
thrown away. Was it fenced before its transaction's time was over, then another client took the id: the third time within a minute is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from streamer.core.errors import Unavailable
from streamer.core.ports import ClientFailed, MustAbort, Unclear
from tests.fakes.broker import TRANSACTION_TIMEOUT_MS, Fenced

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamer.core.ports import Committed, Membership, OutRecord, Topic
    from tests.fakes.broker import FakeBroker

TAKEN_MAX = 3
TAKEN_WITHIN_MS = 60_000


class FakeTransactions:
    """One client under a transactional id; a client with the same id takes it away."""

    def __init__(self, broker: FakeBroker, topics: Mapping[Topic, str], name: str) -> None:
        self.broker = broker
        self._topics = dict(topics)
        self._name = name
        self._state: Literal["new", "ready", "open", "failed"] = "new"
        self._epoch = 0
        self._began_ms = 0
        self._queued: list[OutRecord] = []
        self._taken_ms: list[int] = []

    def settle(self, timeout_s: float) -> None:  # noqa: ARG002  # a fake broker answers at once or not at all
        if self._state == "ready":
            return
        self.throw_away()
        self._epoch = self.broker.take(self._name)
        self._state = "ready"

    def begin(self) -> None:
        if self._state not in {"new", "ready"}:
            message = "a transaction is open: commit or abort it first"
            raise RuntimeError(message)
        self.settle(0.0)
        self._state = "open"
        self._began_ms = self.broker.now_ms

    def send(self, records: Sequence[OutRecord]) -> None:
        self._must_be_open()
        self._queued += records
        if self.broker.down:
            return  # it is told later
        try:
            self._flush()
        except Fenced:
            raise self._fenced(MustAbort) from None
        except Unavailable:
            return

    def positions(self, positions: Mapping[int, Committed], membership: Membership, timeout_s: float) -> None:  # noqa: ARG002
        self._must_be_open()
        try:
            self._flush()
            self.broker.write_positions(self._name, self._epoch, positions, membership)  # type: ignore[arg-type]  # a fake's own
        except Fenced:
            raise self._fenced(Unclear) from None
        except (MustAbort, Unavailable) as error:
            self.fail()
            raise MustAbort(*error.args) from error

    def commit(self, timeout_s: float) -> None:  # noqa: ARG002
        self._must_be_open()
        try:
            self._flush()
            self.broker.finish(self._name, self._epoch, committed=True)
        except Fenced:
            raise self._fenced(Unclear) from None
        except Unavailable as error:
            self.throw_away()
            raise Unclear(*error.args) from error
        self._state = "ready"

    def commit_midway(self, timeout_s: float) -> None:
        """Commit, and let only half of the markers arrive."""
        arrival, self.broker.arrival = self.broker.arrival, "held"
        try:
            self.commit(timeout_s)
        finally:
            self.broker.arrival = arrival
        markers = self.broker.producers[self._name].markers
        for marker in markers[: len(markers) // 2]:
            self.broker.arrive(marker)

    def abort(self, timeout_s: float) -> None:  # noqa: ARG002
        if self._state not in {"open", "failed"}:
            return
        self._queued.clear()
        try:
            self.broker.finish(self._name, self._epoch, committed=False)
        except Fenced:
            self._fenced(MustAbort)
        except Unavailable:
            self.throw_away()
        else:
            self._state = "ready"

    def close(self) -> None:
        self.throw_away()

    def throw_away(self) -> None:
        """Forget the client; the next one begins by settling."""
        self._state = "new"
        self._queued.clear()

    def fail(self) -> None:
        """Let nothing but an abort be possible."""
        self._state = "failed"

    def _must_be_open(self) -> None:
        if self._state == "failed":
            message = "the transaction has failed: abort it"
            raise MustAbort(message)
        if self._state != "open":
            message = "no transaction is open: begin one"
            raise RuntimeError(message)

    def _flush(self) -> None:
        while self._queued:
            self.broker.write(self._name, self._epoch, self._topics[self._queued[0].topic], self._queued[0])
            del self._queued[0]

    def _fenced(self, meaning: type[MustAbort | Unclear]) -> MustAbort | Unclear | ClientFailed:
        self.throw_away()
        now = self.broker.now_ms
        if now - self._began_ms < TRANSACTION_TIMEOUT_MS:
            self._taken_ms = [at for at in self._taken_ms if now - at < TAKEN_WITHIN_MS] + [now]
        if len(self._taken_ms) >= TAKEN_MAX:
            return ClientFailed(f"another client keeps on taking the transactional id {self._name}")
        return meaning("the transaction is gone: the broker ended it, or another client took its id")
