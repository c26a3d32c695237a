"""Reconciling on real servers: everybody is told again on demand, and subscribers hear that those left whom nothing brings back."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from streamer.app import wiring
from tests.integration.kit import Job
from tests.integration.test_job import COUNTING, LEARNING, shop

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.adapters.servers import Running

PARTITIONS = 2
CUSTOMERS = 400
TIMEOUT_S = 90.0


def reconcile(job: Job, *arguments: str) -> list[dict[str, Any]]:
    """Run the command as a user does; gives what it printed, line by line."""
    command = [sys.executable, "-m", "streamer", "reconcile", "--json", *arguments]
    done = subprocess.run(command, env=job.environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert (0, "") == (done.returncode, done.stderr), done
    return [json.loads(line) for line in done.stdout.splitlines()]


def cut_short(job: Job) -> None:
    """Delete the first half of each partition's events, and everything in Redis."""
    with wiring.Watcher(job.config) as watcher:
        ends = watcher.ends()
    job.forget([end // 2 for end in ends])
    wiring.state_store(job.config).drop()


def test_everybody_is_told_again_and_of_strays_that_they_left(servers: Running, tmp_path: Path) -> None:
    declaration = tmp_path / "counting.yaml"
    declaration.write_text(COUNTING)
    job = Job(servers.kafka_bootstrap, servers.redis_url, tmp_path, PARTITIONS, LEARNING, declaration=declaration).create()
    early = [{**event, "customer_id": f"early-{i % 20:02d}"} for i, event in enumerate(shop(200, 20, seed=1))]
    job.send([*early, *shop(4000, CUSTOMERS, seed=2)])
    with job.worker("a"):
        with wiring.Watcher(job.config) as watcher:
            job.wait("the first model", lambda: watcher.settled(watcher.states(), least=1))
        job.wait_done()
        before = job.changes()
        lines = reconcile(job)
    assert lines[-1]["done"]
    assert len(job.profiles()) == sum(p["customers"] for p in lines[-1]["partitions"])
    again = [change for change in job.changes() if change["status"] == "existing"]
    told = {change["customer_id"]: change for change in before}
    assert sorted(told) == sorted(change["customer_id"] for change in again)
    for change in again:
        was = told[change["customer_id"]]
        assert [was[name] for name in ("change_id", "version", "segment_id", "occurred_at")] == [
            change[name] for name in ("change_id", "version", "segment_id", "occurred_at")
        ]
    cut_short(job)
    with job.worker("b"):
        job.wait("the rebuild", lambda: len(job.states()) == PARTITIONS and not any(d.rebuilding or d.strays for d in job.states()))
        job.wait_done()
        [asked] = reconcile(job, "--no-wait")
        job.wait("the second request", lambda: all(d.reconcile == asked["request"] and not d.reconciling for d in job.states()))
    left = [change for change in job.changes() if change["status"] == "exited"]
    assert {f"early-{i:02d}" for i in range(20)} <= {change["customer_id"] for change in left}
    assert len(left) == len({change["customer_id"] for change in left})
    assert {"reconcile"} == {change["cause"] for change in left}
    known = {change["customer_id"]: change["status"] for change in job.changes()}
    assert job.profiles().keys() == {customer for customer, status in known.items() if status != "exited"}
