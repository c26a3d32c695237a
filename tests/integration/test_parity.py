"""`offline parity` on real servers, beside a running worker: what is altered by hand is found and named, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import redis

from streamer.adapters.declaration_file import load as load_declaration
from streamer.core.plan import plan
from streamer.core.profile import pack
from tests.corekit import opened
from tests.integration.kit import Job
from tests.integration.test_archive import once, work
from tests.integration.test_job import LEARNING, shop
from tests.unit.test_offline_job_metrics import read

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.adapters import servers as real_servers


def parity(job: Job, history: Path, *arguments: str, status: int = 0) -> Any:
    """Run the command as its user does."""
    environment = {**job.environment, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    call = [sys.executable, "-c", "from offline.cli import main; main()", "parity", str(history), *arguments]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert status == done.returncode, (done.stdout[-3000:], done.stderr[-3000:])
    return json.loads(done.stdout) if "--json" in arguments else done.stdout


@pytest.mark.long
@pytest.mark.timeout(400)
def test_what_is_altered_by_hand_is_named_and_nothing_else(servers: real_servers.Running, tmp_path: Path) -> None:
    history = tmp_path / "history"
    settings = {**LEARNING, "STREAMER_HISTORY__URL": str(history)}
    job = Job(servers.kafka_bootstrap, servers.redis_url, tmp_path, settings=settings).create()
    job.send(shop(6000, 450, seed=8))
    job.send_raw([(b"x", b"no event at all")] * 3)
    work(job)
    once(job)
    job.send(shop(2000, 450, seed=9))  # beyond the history's end
    work(job)
    clean = parity(job, history, "--json", "--metrics-file", str(tmp_path / "parity.prom"))
    assert clean["clean"], clean
    assert (450, 450) == (clean["compared"], clean["equal"])
    assert clean["from_kafka"] >= 2000
    assert 450.0 == read(tmp_path / "parity.prom")["offline_parity_customers", "equal"]

    client: Any = redis.Redis.from_url(servers.redis_url)
    keys = {name: key for key in client.scan_iter(f"live:{{{job.name}:*:profiles") for name in client.hkeys(key)}
    altered, deleted, beside = sorted(keys)[:3]
    planned = plan(load_declaration(None))
    profile = opened(planned, [client.hget(keys[altered], altered)])
    names = [measure.name for measure in load_declaration(None).lifetimes]
    profile.life[0, len(names) - 1] += 1
    client.hset(keys[altered], altered, pack(planned, profile, np.arange(1))[0].tobytes())
    client.hdel(keys[deleted], deleted)
    client.hset(keys[beside], "somebody", client.hget(keys[beside], beside))
    found = parity(job, history, "--json", "--named", "100", "--metrics-file", str(tmp_path / "parity.prom"), status=1)
    assert {"mismatch": 1, "missing": 1, "extra": 1} == found["differing"]
    assert {(altered.decode(), "mismatch"), (deleted.decode(), "missing"), ("somebody", "extra")} == {
        (one["customer"], one["kind"]) for one in found["findings"]
    }
    assert names[-1] in {one["what"] for one in found["findings"]}
    assert 448 == found["equal"]
    assert 1.0 == read(tmp_path / "parity.prom")["offline_parity_differences", names[-1]]
    shown = parity(job, history, status=1)
    assert altered.decode() in shown
    assert names[-1] in shown


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_stream_under_load_differs_in_nothing(servers: real_servers.Running, tmp_path: Path) -> None:
    history = tmp_path / "history"
    settings = {**LEARNING, "STREAMER_HISTORY__URL": str(history), "STREAMER_HISTORY__ROLL_S": "2s"}
    job = Job(servers.kafka_bootstrap, servers.redis_url, tmp_path, settings=settings).create()
    events = shop(14_000, 450, seed=10)
    job.send(events[:6000])
    archiving = job.archiver("archive")
    try:
        with job.worker("w"):
            job.wait_done()
            job.wait("history", (history / "manifest").exists)  # the archiver may begin later
            sent = 6000
            compared = 0
            for _ in range(4):
                call = subprocess.Popen(
                    [sys.executable, "-c", "from offline.cli import main; main()", "parity", str(history), "--json"],
                    env={**job.environment, "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                while call.poll() is None and sent < len(events):
                    job.send(events[sent : sent + 100])
                    sent += 100
                    time.sleep(0.05)
                out, err = call.communicate(timeout=120)
                assert 0 == call.returncode, (out[-3000:], err[-3000:], job.logs())
                compared += json.loads(out)["compared"]
            assert 4 * 450 == compared
            assert sent > 6500
    finally:
        archiving.terminate()
        archiving.wait(30)
