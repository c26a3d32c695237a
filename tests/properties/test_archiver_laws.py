"""Any log, any batches, any number of archivers, whatever stops them: history holds each valid event once, in order, and nothing else."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from streamer.adapters.history import Kind, day_of
from streamer.app.journal import EPOCH, QUARANTINE
from tests.fakes.archive import DAY_MS, JOURNAL, T0, Archive, event
from tests.fakes.history_store import Crash, CrashingStore
from tests.fakes.job import INPUT

PARTITIONS = 2
STEP = st.one_of(
    st.tuples(st.just("send"), st.integers(0, PARTITIONS - 1), st.lists(st.integers(0, 3 * DAY_MS), min_size=1, max_size=8)),
    st.tuples(st.just("bad"), st.integers(0, PARTITIONS - 1), st.just(None)),
    st.tuples(st.just("skip"), st.integers(0, PARTITIONS - 1), st.integers(1, 15)),
    st.tuples(st.just("decide"), st.integers(0, PARTITIONS - 1), st.booleans()),
    st.tuples(st.just("step"), st.integers(0, 1), st.integers(1, 6)),
    st.tuples(st.just("usurp"), st.integers(0, 1), st.booleans()),
    st.tuples(st.just("all"), st.just(0), st.just(None)),
    st.tuples(st.just("start"), st.integers(0, 1), st.none() | st.tuples(st.integers(0, 6), st.booleans())),
    st.tuples(st.just("expel"), st.integers(0, 1), st.just(None)),
    st.tuples(st.just("finish"), st.integers(0, 1), st.just(None)),
    st.tuples(st.just("later"), st.sampled_from([1, 61, 2_000, 90_000]), st.just(None)),
    st.tuples(st.just("compact"), st.just(0), st.none() | st.tuples(st.integers(0, 4), st.booleans())),
)


class World:
    """Archivers that come, go and crash over one log."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.archive = Archive(PARTITIONS, settings)
        self.archivers: dict[int, Any] = {}
        self.names: dict[int, str] = {}
        self.lives = 0
        self.quarantined: set[tuple[int, int]] = set()

    def send(self, partition: int, times: list[int]) -> None:
        for at in times:
            number = len(self.archive.sent)
            self.archive.send(partition, event(number, f"c{number % 4}", properties={"n": str(number)}), T0 + at)

    def bad(self, partition: int, _: None) -> None:
        self.archive.send_bad(partition)

    def skip(self, partition: int, offsets: int) -> None:
        self.archive.broker.skip(INPUT, partition, offsets)

    def decide(self, partition: int, passes_over: bool) -> None:
        at = self.archive.broker.topics[INPUT][partition].high // 2
        self.archive.decide(partition, QUARANTINE if passes_over else EPOCH, at)
        if passes_over:
            self.quarantined.add((partition, at))

    def start(self, which: int, crash: tuple[int, bool] | None) -> None:
        self.expel(which, None)
        self.lives += 1
        self.names[which] = f"{which}-{self.lives}"
        store = CrashingStore(self.archive.store, None if crash is None else crash[0], done=crash is not None and crash[1])
        self.archivers[which] = self.archive.archiver(self.names[which], store)

    def step(self, which: int, rounds: int) -> None:
        for _ in range(rounds):
            self._do(which, lambda working: working._attempt(working.step))

    def finish(self, which: int, _: None) -> None:
        self._do(which, lambda working: working._attempt(working.finish))

    def expel(self, which: int, _: None) -> None:
        """Its session is over; if it lives it does not know."""
        if which in self.names:
            self.archive.gone(self.names[which])

    def usurp(self, which: int, knows: bool) -> None:
        """Let the other archive what one holds and believes to own still; then let that one write, or go on first."""
        self.step(which, 4)
        self.expel(which, None)
        self.start(1 - which, None)
        self.step(1 - which, 6)
        self.finish(1 - which, None)
        if knows:
            self.step(which, 1)
        self.finish(which, None)

    def all(self, _: int, __: None) -> None:
        """Let another archive all that there is."""
        for which in (0, 1):
            self.expel(which, None)
        self.lives += 1
        self.archive.finish(f"all-{self.lives}")

    def later(self, seconds: int, _: None) -> None:
        self.archive.later(seconds)

    def compact(self, _: int, crash: tuple[int, bool] | None) -> None:
        store = CrashingStore(self.archive.store, None if crash is None else crash[0], done=crash is not None and crash[1])
        writer = self.archive.writer(store)
        try:
            for kind in Kind:
                for partition in range(PARTITIONS):
                    writer.compact(kind, partition, day_of(T0 + 2 * DAY_MS), self.archive.clock.now_ms())
            writer.clean(range(PARTITIONS), self.archive.clock.now_ms())
        except Crash:
            pass

    def _do(self, which: int, work: Any) -> None:
        if which in self.archivers:
            try:
                work(self.archivers[which])
            except Crash:
                del self.archivers[which]


@given(
    st.lists(STEP, max_size=25),
    st.fixed_dictionaries({"file_offsets": st.sampled_from([1, 5, 12, 1000]), "records_max": st.sampled_from([1, 4, 50])}),
)
def test_history_is_the_log_whatever_befalls(steps: list[Any], settings: dict[str, Any]) -> None:
    world = World(settings)
    archive = world.archive
    for which in range(PARTITIONS):
        world.send(which, [0, 1, DAY_MS, 2])
        world.start(which, None)
    for name, which, what in steps:
        getattr(world, name)(which, what)
        for state in (archive.writer().state(Kind.EVENTS, partition) for partition in range(PARTITIONS)):
            assert state.paths <= archive.store.held.keys()
    for name in world.names.values():
        archive.gone(name)
    archive.finish()
    assert archive.expected(without=sorted(world.quarantined)) == archive.rows()
    for partition in range(PARTITIONS):
        told = [record.offset for record in archive.history().journal(partition)]
        assert [record.offset for record in archive.broker.topics[JOURNAL][partition].records] == told
        log = archive.broker.topics[INPUT][partition]
        read = archive.writer().state(Kind.EVENTS, partition).next_offset
        assert (log.records[-1].offset + 1 if log.records else None) == read
    archive.history().verify()
    for as_of in (T0, T0 + DAY_MS, T0 + DAY_MS + DAY_MS // 2):
        cutoff = archive.history().manifest().cutoff(as_of)
        assert all(row[2] < as_of for row in archive.rows(cutoff))
