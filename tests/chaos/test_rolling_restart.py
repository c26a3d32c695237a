"""Three workers under load, each stopped and started again, five rounds: nothing is told twice, and survivors keep their partitions."""

from __future__ import annotations

import subprocess
import sys
import time
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka.admin import AdminClient

from streamer.adapters.avro import codec, wire
from streamer.adapters.kafka.client import retried
from streamer.adapters.kafka.events_producer import EventRecord
from streamer.app import wiring
from tests.chaos.campaign import LEARNING, SESSION_TIMEOUT, ChaosJob, end, subscribe
from tests.chaos.cluster import Cluster
from tests.chaos.verdict import judge
from tests.conftest import or_skip
from tests.integration.test_job import COUNTING, shop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.long, pytest.mark.servers, pytest.mark.timeout(600), pytest.mark.compiled]

ROUNDS = 5
NAMES = ("a", "b", "c")
PARTITIONS = 6
EVENTS = 12_000
DESCRIBED_S = 60.0
SESSION = {SESSION_TIMEOUT: "20000", "STREAMER_KAFKA__CONSUMER__HEARTBEAT.INTERVAL.MS": "500"}  # longer than a restart takes


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with or_skip():
        started = Cluster(tmp_path_factory.mktemp("cluster")).start()
    yield started
    started.close()


class Workers:
    """The three, and the events that keep coming."""

    def __init__(self, job: ChaosJob, *, static: bool) -> None:
        self.job = job
        self.static = static
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.log_begins: dict[str, int] = {}
        self.producer = wiring.event_producer(job.config)
        self.events = iter(shop(EVENTS, 800, seed=11))
        self.admin: Any = AdminClient({"bootstrap.servers": job.bootstrap})

    def start(self, name: str) -> None:
        environment = {**self.job.environment, "STREAMER_APP__INSTANCE": f"{self.job.name}-{name}"}
        if not self.static:
            del environment["STREAMER_APP__INSTANCE"]
        with (self.job.directory / f"{name}.log").open("ab") as log:
            self.log_begins[name] = log.tell()
            command = [sys.executable, "-m", "streamer", "run"]
            self.processes[name] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def stop(self, name: str) -> int:
        self.processes[name].terminate()
        return self.processes[name].wait(30)

    def feed(self, count: int) -> None:
        body = ((e["customer_id"].encode(), codec.encode("behaviour_event", e)) for e in islice(self.events, count))
        self.producer.send([EventRecord(key, wire.framed(value, 1)) for key, value in body])

    def until(self, what: str, holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Wait under load."""
        deadline = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}\n{self.job.logs()}"
            self.feed(20)
            time.sleep(0.1)

    def shared(self) -> dict[str, frozenset[int]]:
        """Tell who has which partitions, as the group says."""
        group = self.job.name
        described = retried(
            f"the group {group}",
            DESCRIBED_S,  # a coordinator that is still reading its group says so
            lambda left_s: self.admin.describe_consumer_groups([group], request_timeout=min(left_s, 10.0))[group].result(left_s + 1),
        )
        ids = {f"segment-streamer-{self.job.name}-{name}" for name in NAMES} if self.static else set()
        by_process = {f"-{process.pid}": name for name, process in self.processes.items()}
        found = {}
        for member in described.members:
            name = (
                member.client_id[-1]
                if member.client_id in ids
                else next((n for s, n in by_process.items() if member.client_id.endswith(s)), "")
            )
            found[name] = frozenset(where.partition for where in member.assignment.topic_partitions)
        return found

    def settled(self) -> bool:
        """Tell whether every partition is somebody's, each worker has some, and each was claimed by who has it."""
        shared = self.shared()
        whole = set(NAMES) == shared.keys() and all(shared.values()) and sum(map(len, shared.values())) == PARTITIONS
        return whole and shared == self.claimed()

    def claimed(self) -> dict[str, frozenset[int]]:
        """Tell who claimed each partition last, as the logs of the processes that are there now say."""
        last: dict[int, tuple[str, str]] = {}
        for name in NAMES:
            log = (self.job.directory / f"{name}.log").read_bytes()[self.log_begins[name] :]
            for line in log.decode().splitlines():
                if ": from offset " in line:
                    partition = int(line.split(" partition ")[1].split(":")[0])
                    last[partition] = max(last.get(partition, ("", "")), (line[:23], name))
        return {name: frozenset(p for p, (_, who) in last.items() if who == name) for name in NAMES}

    def tokens(self) -> list[str]:
        with wiring.Watcher(self.job.config) as watcher:
            return [state.owner for state in watcher.states()]


@pytest.mark.parametrize(
    ("transactions", "protocol", "static"),
    [("off", "classic", True), ("off", "classic", False), ("on", "consumer", False)],
    ids=["at least once, static members", "at least once", "exactly once, the new group protocol"],
)
def test_a_rolling_restart_under_load_doubles_nothing_and_survivors_keep_their_partitions(
    cluster: Cluster, tmp_path: Path, transactions: str, protocol: str, static: bool
) -> None:
    declaration = tmp_path / "counting.yaml"
    declaration.write_text(COUNTING)
    group = SESSION if protocol == "classic" else {"STREAMER_KAFKA__CONSUMER__GROUP.PROTOCOL": "consumer"}
    settings = {**LEARNING, **group, "STREAMER_TRANSACTIONS": transactions, "STREAMER_BATCH__RECORDS_MAX": "200"}
    job = ChaosJob(cluster.kafka.address, cluster.redis.address, tmp_path, PARTITIONS, settings, declaration=declaration)
    job.create()
    subscriber = subscribe(job)
    workers = Workers(job, static=static)
    try:
        workers.feed(2000)
        for name in NAMES:
            workers.start(name)
        workers.until("all have their part", workers.settled, 300.0)  # where nothing is compiled yet
        for name in NAMES * ROUNDS:
            before, tokens = workers.shared(), workers.tokens()
            assert workers.stop(name) == 0, job.logs()
            workers.start(name)
            workers.until(f"{name} has its part again", workers.settled)
            after, moved = workers.shared(), [a != b for a, b in zip(tokens, workers.tokens(), strict=True)]
            kept = {other: before[other] & after[other] for other in NAMES if other != name}
            assert all(kept.values()), (before, after)
            if transactions == "off":  # a rebalance may overtake a transaction, which is then aborted, and its partitions claimed again
                assert not any(moved[p] for partitions in kept.values() for p in partitions), (before, after, moved)
            if static:
                assert before == after
        workers.feed(EVENTS)
        workers.producer.wait(60.0)
        job.wait_done()
        assert [0, 0, 0] == [workers.stop(name) for name in NAMES], job.logs()
        verdict = judge(job, end(subscriber, tmp_path))
    finally:
        for process in workers.processes.values():
            process.kill()
            process.wait()
        subscriber.kill()
        subscriber.wait()
        workers.producer.close()
    assert verdict.changes > 500
