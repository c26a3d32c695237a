"""`streamer archive` on real servers: killed again and again, two at a time, history is what was sent."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from streamer.adapters.history import open_history
from streamer.app import wiring
from streamer.core.ports import Topic
from tests.integration.kit import Job
from tests.integration.prometheus import ended
from tests.integration.test_job import LEARNING, shop
from tests.integration.test_metrics import port_of, ready, scraped

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.adapters import servers as real_servers


def shown(history: Any) -> list[dict[str, Any]]:
    """All events of history, without where they were."""
    found = []
    for batch in history.events(history.manifest().cutoff(2**62)):
        for row in batch.to_pylist():
            found.append({**row, "properties": dict(row["properties"])})
            del found[-1]["partition"], found[-1]["offset"], found[-1]["kafka_timestamp"]
    return found


def number_of(row: dict[str, Any]) -> int:
    return int(row["properties"]["n"])


def work(job: Job) -> None:
    """Let a worker take in all that there is."""
    with job.worker("w", "--until-idle-s", "2") as process:
        assert 0 == process.wait(120), job.logs()


def once(job: Job) -> None:
    process = job.archiver("once", "--once")
    assert 0 == process.wait(120), job.logs()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_history_is_what_was_sent_through_kills_and_rebalances(servers: real_servers.Running, tmp_path: Path) -> None:
    root = tmp_path / "history"
    settings = {"STREAMER_HISTORY__URL": str(root), "STREAMER_HISTORY__FILE_ROWS": "1000", "STREAMER_HISTORY__ROLL_S": "500ms"}
    job = Job(servers.kafka_bootstrap, servers.redis_url, tmp_path, settings={**LEARNING, **settings}).create()
    events = [{**one, "properties": {"n": str(n)}} for n, one in enumerate(shop(12_000, 450, seed=5))]
    job.send(events[:4000])
    job.send_raw([(b"x", b"no event at all")] * 3)
    running = [job.archiver("a"), job.archiver("b")]
    try:
        for round_ in range(4):
            job.send(events[4000 + 2000 * round_ : 6000 + 2000 * round_])
            time.sleep(3)
            victim = running[round_ % 2]
            victim.kill()
            victim.wait()
            running[round_ % 2] = job.archiver("ab"[round_ % 2])
        time.sleep(3)
        for process in running:
            process.send_signal(signal.SIGTERM)
        assert [0, 0] == [process.wait(60) for process in running], job.logs()
    finally:
        for process in running:
            process.kill()
            process.wait()
    once(job)
    history = open_history(str(root))
    history.verify()
    assert sorted(events, key=number_of) == sorted(shown(history), key=number_of)
    digest = history.manifest().digest
    once(job)
    assert digest == open_history(str(root)).manifest().digest
    work(job)
    once(job)
    archived = [record for partition in range(job.partitions) for record in open_history(str(root)).journal(partition)]
    told = job.read(Topic.JOURNAL, "journal_entry")
    assert told
    assert [(one["commit_id"], one["at_offset"]) for one in told] == [(one.commit_id, one.at_offset) for one in archived]


@pytest.mark.timeout(300)
def test_an_archiver_is_scraped_and_probed_as_a_worker_is(servers: real_servers.Running, tmp_path: Path) -> None:
    root = tmp_path / "history"
    settings = {"STREAMER_HISTORY__URL": str(root), "STREAMER_HISTORY__ROLL_S": "500ms", "STREAMER_METRICS__PORT": "0"}
    job = Job(servers.kafka_bootstrap, servers.redis_url, tmp_path, settings={**LEARNING, **settings}).create()
    events = shop(600, 60, seed=5)
    job.send(events)
    with ended(job.archiver("a")) as process:
        port = port_of(job, "a")
        job.wait("all events in history", lambda: len(events) == scraped(port)["streamer_archive_rows_total"][("events",)])
        job.wait("nothing left", lambda: [0.0] * job.partitions == [*scraped(port)["streamer_archive_lag_records"].values()])
        job.wait("a ready archiver", lambda: ready(port)["ready"])
        found = scraped(port)
        assert [0.0] * job.partitions == [*found["streamer_archive_lag_seconds"].values()]
        history = open_history(str(root)).manifest()
        assert {(str(p),): one.next_offset for p, one in history.events.items()} == dict(found["streamer_archive_next_offset"])
        assert len([one for one in history.entries if one.path]) == found["streamer_archive_files_total"][("events",)]
        assert 0 <= time.time() - found["streamer_archive_last_file_timestamp_seconds"][()] < 300
        assert found["process_cpu_seconds_total"][()] > 0
        process.send_signal(signal.SIGTERM)
        assert 0 == process.wait(60), job.logs()


@pytest.mark.timeout(300)
def test_a_rebuild_needs_no_more_of_kafka_than_history_lacks(servers: real_servers.Running, tmp_path: Path) -> None:
    settings = {**LEARNING, "STREAMER_HISTORY__URL": str(tmp_path / "history")}
    job = Job(servers.kafka_bootstrap, servers.redis_url, tmp_path, settings=settings).create()
    job.send(shop(6000, 450, seed=6))
    work(job)
    once(job)
    profiles, changes = job.profiles(), job.changes()
    assert len(changes) >= 450
    for before in (700, -1):  # then all of it
        job.forget([before] * job.partitions)
        wiring.state_store(job.config).drop()
        work(job)
        assert profiles == job.profiles()
        assert changes == job.changes()
    job.send(shop(500, 450, seed=7))
    work(job)
    assert len(changes) < len(job.changes())
    assert len(job.changes()) == len({change["change_id"] for change in job.changes()})
