"""Publishing at least once: whose positions are committed when partitions are given up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from streamer.app.publishing import AtLeastOnce, Publication
from streamer.core import outbox
from streamer.core.errors import Unavailable
from streamer.core.ports import Committed, OutRecord, Topic
from tests.fakes.broker import FakeBroker, FakePublisher

if TYPE_CHECKING:
    from collections.abc import Mapping


class OvertakenLog:
    """A log whose commits are overtaken by a rebalance unless they are waited for."""

    def __init__(self, *, away: bool = False) -> None:
        self.committed: dict[int, Committed] = {}
        self.away = away

    def commit(self, positions: Mapping[int, Committed], *, wait: bool = False) -> None:
        if wait and self.away:
            raise Unavailable
        if wait:
            self.committed |= positions


def publishing(log: Any) -> AtLeastOnce:
    return AtLeastOnce(FakePublisher(FakeBroker(), {}), log, 1.0)


def publication(partition: int, offset: int) -> Publication:
    return Publication(partition, "t", outbox.pack([]), Committed(offset, f"c{offset}"))


def test_positions_that_a_rebalance_overtook_are_committed_when_partitions_are_given_up() -> None:
    """A rolling restart on real servers told their changes again."""
    log = OvertakenLog()
    out = publishing(log)
    out.send([publication(0, 5), publication(1, 7)])
    out.finish()
    out.send([publication(0, 6)])
    out.handed_over()
    assert {0: Committed(6, "c6"), 1: Committed(7, "c7")} == log.committed


def test_a_position_of_somebody_elses_is_never_committed_again() -> None:
    log = OvertakenLog()
    out = publishing(log)
    out.send([publication(0, 5), publication(1, 7), publication(2, 9)])
    out.finish()
    out.withdraw(2)
    out.handed_over()
    log.committed = {}
    out.handed_over()
    assert {} == log.committed


def test_what_could_not_be_handed_over_is_not_committed_later() -> None:
    log = OvertakenLog(away=True)
    out = publishing(log)
    out.send([publication(0, 5)])
    with pytest.raises(Unavailable):
        out.handed_over()
    log.away = False
    out.finish()
    out.handed_over()
    assert {} == log.committed


def test_what_a_rebalance_could_not_hand_over_is_not_taken_for_sent_afterwards() -> None:
    """The failure is told while partitions are revoked, where nobody hears it; the client has forgotten the records by then."""
    broker, log = FakeBroker(), OvertakenLog()
    broker.create("dead", 1)
    out: Any = AtLeastOnce(FakePublisher(broker, {Topic.DEAD_LETTERS: "dead"}), log, 1.0)  # type: ignore[arg-type]  # it only commits
    letter = OutRecord(Topic.DEAD_LETTERS, 0, b"key", b"nonsense", ())
    out.send([Publication(0, "t", outbox.pack([letter]), Committed(5, "c5"))])
    broker.down = True
    with pytest.raises(Unavailable):
        out.handed_over()
    broker.down = False
    assert out.pending
    for goes_on in (out.finish, out.handed_over):
        with pytest.raises(Unavailable, match="not acknowledged"):
            goes_on()
    assert {} == log.committed
    out.give_up()
    assert not out.pending
    assert frozenset() == out.finish()
