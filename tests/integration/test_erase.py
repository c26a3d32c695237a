"""Erasing on real servers: afterwards no byte of the id is in any key of Redis, in scrubbed history, or in compacted changes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import redis
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from streamer.app import wiring
from streamer.core.ports import Topic
from tests.integration.kit import READ_TIMEOUT_S, Job
from tests.integration.test_job import COUNTING, LEARNING, shop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from streamer.adapters.servers import Running

PARTITIONS = 2
TIMEOUT_S = 90.0
WHO = "anna-of-arendelle"


def erase(job: Job, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run the command as a user does."""
    command = [sys.executable, "-m", "streamer", "erase", WHO, "--json", *arguments]
    done = subprocess.run(command, env=job.environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert not done.stderr, done
    return done.returncode, json.loads(done.stdout)


def archive(job: Job, *arguments: str) -> None:
    command = [sys.executable, "-m", "streamer", "archive", *arguments]
    subprocess.run(command, env=job.environment, capture_output=True, timeout=TIMEOUT_S, check=True)


def held(job: Job) -> Iterator[bytes]:
    """Give every key of Redis, and all that it holds, but those of other jobs."""
    client = redis.Redis.from_url(job.redis_url)
    for key in client.scan_iter(count=1000):
        if job.name.encode() in key:
            yield key
            kept: dict[bytes, bytes] = client.hgetall(key)  # type: ignore[assignment]  # nothing is decoded
            yield from (*kept.keys(), *kept.values())
    client.close()


def compact(job: Job) -> None:
    """Let the broker compact changes as soon as it can: a segment is closed by the first record after a second."""
    admin = AdminClient({"bootstrap.servers": job.bootstrap})
    settings = {
        "cleanup.policy": "compact",
        "min.compaction.lag.ms": "0",
        "max.compaction.lag.ms": "1000",
        "segment.ms": "1000",
        "min.cleanable.dirty.ratio": "0.001",
        "delete.retention.ms": "0",
    }
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in settings.items()]
    resource = ConfigResource(ConfigResource.Type.TOPIC, job.config.topics.changes, incremental_configs=entries)
    [future] = admin.incremental_alter_configs([resource]).values()
    future.result(TIMEOUT_S)


def named(job: Job) -> int:
    """Count the records of changes that name the customer, tombstones aside."""
    reader = wiring.topic_reader(job.config)
    found = [record for p in range(PARTITIONS) for record in reader.read(Topic.CHANGES, p, 0, READ_TIMEOUT_S)]
    reader.close()
    return sum(WHO.encode() in (record.value or b"") for record in found)


def test_nothing_is_left_of_who_is_erased(servers: Running, tmp_path: Path) -> None:
    declaration = tmp_path / "counting.yaml"
    declaration.write_text(COUNTING)
    settings = {**LEARNING, "STREAMER_HISTORY__URL": str(tmp_path / "history"), "STREAMER_ERASURE__KEY": "a secret"}
    job = Job(servers.kafka_bootstrap, servers.redis_url, tmp_path, PARTITIONS, settings, declaration=declaration).create()
    compact(job)
    events = shop(4000, 400, seed=2)
    mine = [{**event, "customer_id": WHO, "event_id": f"anna-{i}"} for i, event in enumerate(events[:50])]
    job.send([*mine, *events])
    with job.worker("a"):
        with wiring.Watcher(job.config) as watcher:
            job.wait("the first model", lambda: watcher.settled(watcher.states(), least=1))
        job.wait_done()
        archive(job, "--once")
        status, left = erase(job, "--status")
        assert (1, {"not found"}, 1) == (status, {p["command"] for p in left["partitions"]}, sum(p["profile"] for p in left["partitions"]))
        assert len(mine) == sum(p["history_rows"] for p in left["partitions"])
        assert any(WHO.encode() in text for text in held(job))
        assert named(job)
        assert (0, {"topic": job.config.topics.events, "partitions": PARTITIONS}) == erase(job)
        job.wait("the erasure", lambda: not any(WHO.encode() in text for text in held(job)))
        job.wait_done()
        job.send([{**event, "event_id": f"late-{i}"} for i, event in enumerate(mine)])
        job.wait_done()
        assert not any(WHO.encode() in text for text in held(job))
        archive(job, "--once")
        archive(job, "--compact")
        files = list((tmp_path / "history").rglob("*.parquet"))
        assert len(files) > PARTITIONS
        assert not any(WHO in str(pq.read_table(path, partitioning=None).to_pylist()) for path in files)
        assert not any(WHO.encode() in path.read_bytes() for path in (tmp_path / "history").rglob("*.json"))
        pulse = iter(range(10**6))

        def compacted() -> bool:
            job.send(shop(200, 400, seed=1000 + next(pulse)))  # their changes close segments
            return not named(job)

        job.wait("compaction", compacted)
        job.wait_done()
        status, left = erase(job, "--status")
    assert (0, True, True) == (status, left["clean"], left["complete"]), left
    assert [0] * PARTITIONS == [p["history_rows"] for p in left["partitions"]]
    assert wiring.check_all(job.config, lambda _: None).clean
    exits = [change for change in job.changes() if change["cause"] == "erased"]
    assert len(exits) <= 1  # compacted away, or not yet
