"""Versions promoted on real servers while workers run, are killed and come back: everybody judged by them, and told truly why."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

from offline.shelf import Shelf
from streamer.adapters.avro.model_records import encoded
from streamer.adapters.declaration_file import load as load_declaration
from streamer.app import wiring
from streamer.core.columns import read_only
from streamer.core.plan import plan
from streamer.core.profile import MODEL, unpack
from tests.fakes.promoting import renewed
from tests.integration.adoption import assert_causes
from tests.integration.kit import Job
from tests.integration.test_job import COUNTING, DAY_MS, LEARNING, comparable, shop

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

    from streamer.adapters.servers import Running

NAME = "segments"
PARTITIONS = 8


@pytest.fixture
def job(servers: Running, tmp_path: Path) -> Job:
    declaration = tmp_path / "counting.yaml"
    declaration.write_text(COUNTING)
    settings = LEARNING | {"STREAMER_BATCH__RECORDS_MAX": "200"}
    return Job(servers.kafka_bootstrap, servers.redis_url, tmp_path, PARTITIONS, settings, declaration=declaration)


class Offline:
    """The command line of the nightly job, beside a stream."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.models = job.directory / "models"
        self.file = job.directory / "offline.yaml"
        self.file.write_text(
            yaml.safe_dump({"features": {"declaration": str(job.declaration)}, "topics": {"models": f"{job.name}.models"}})
        )
        self.shelf = Shelf(str(self.models), NAME)

    def start(self, *arguments: str, group: tuple[str, ...] = ("models",)) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "from offline.cli import main; main()", "--settings", str(self.file), *group, *arguments, "--json"]
        return subprocess.Popen(command, env=self.job.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *arguments: str, status: int = 0) -> Any:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=120)
        assert status == process.returncode, err
        return json.loads(out) if status == 0 else err

    def in_force(self) -> list[tuple[int, bool]]:
        """List the versions that are kept, and whether each is in force."""
        return [(one["version"], one["in_force"]) for one in self.run("list", "--models", str(self.models))]

    def reseed(self, history: str, day: date, *more: str) -> Any:
        """Re-seed as of the end of a day; a version that the gate refused is told too."""
        process = self.start(history, "--models", str(self.models), "--as-of", str(day), *more, group=("reseed",))
        out, err = process.communicate(timeout=300)
        assert process.returncode in {0, 1}, err
        return json.loads(out)


def judged_by(job: Job) -> Counter[int]:
    """Count customers by the version that judged them last."""
    planned, found = plan(load_declaration(job.declaration)), Counter[int]()
    for ids, _, packed in job._scan():
        work = unpack(planned, read_only(packed.values), packed.bounds, np.zeros(len(ids), np.int64))
        found.update(work.head[:, MODEL].tolist())
    return found


def settled(job: Job, version: int) -> None:
    """Wait until everybody is judged by a version."""
    job.wait(f"version {version} everywhere", lambda: {(s.model, s.swept) for s in job.states()} == {(version, True)})
    job.wait_done()


def test_versions_are_promoted_and_taken_back_while_workers_are_killed(job: Job) -> None:  # noqa: PLR0915  # one run, for it takes minutes
    events = shop(20_000, 1500, seed=11)
    offline = Offline(job.create())
    job.send(events[:8000])
    workers = {name: job.start(name) for name in ("a", "b")}
    try:
        with wiring.Watcher(job.config) as watcher:
            job.wait("the first model", lambda: watcher.settled(watcher.states(), least=1))
        job.wait_done()
        fetched = offline.run("fetch", "--models", str(offline.models))
        assert [1] == [one["version"] for one in fetched]
        first = offline.shelf.get(1).version
        second = renewed(first, 2, "night")
        offline.shelf.fetch(encoded(second))
        at_once = [offline.start("promote", "2", "--models", str(offline.models)) for _ in range(2)]
        answers = [json.loads(process.communicate(timeout=120)[0]) for process in at_once]
        assert [0, 0] == [process.returncode for process in at_once]
        assert [False, True] == sorted(answer["changed"] for answer in answers)
        assert [(1, False), (2, True)] == offline.in_force()
        job.send(events[8000:12_000])
        job.wait("the second version", lambda: any(state.model == 2 for state in job.states()))
        workers["a"].send_signal(signal.SIGKILL)  # in the midst of it
        workers["a"].wait(5)
        workers["a"] = job.start("a")
        settled(job, 2)
        assert {2} == judged_by(job).keys()
        assert wiring.check_all(job.config, lambda _: None).clean
        causes = assert_causes(job, {"money": {"currency": "EUR"}, **yaml.safe_load(COUNTING)}, events[:12_000], second)
        assert causes["model_reseed"] > 10
        job.wait("learning", lambda: all(state.epoch > state.first_epoch for state in job.states()))

        back = offline.run("rollback", "--reason", "too many moved")
        assert (1, 2, True, True) == (back["version"], back["before"], back["back"], back["changed"])
        assert not offline.run("rollback")["changed"]
        assert [(1, True), (2, False)] == offline.in_force()
        job.send(events[12_000:])
        job.wait("the first version again", lambda: any(state.model == 1 for state in job.states()))
        workers["b"].send_signal(signal.SIGKILL)
        workers["b"].wait(5)
        workers["b"] = job.start("b")
        settled(job, 1)
        assert {1} == judged_by(job).keys()
        assert wiring.check_all(job.config, lambda _: None).clean
        refused = offline.shelf.get(1).version
        offline_error = Offline(job)
        offline_error.models = job.directory / "others"
        offline_error.shelf = Shelf(str(offline_error.models), NAME)
        offline_error.shelf.fetch(encoded(replace(refused, as_of=1)))
        assert "has the SHA-256" in offline_error.run("promote", "1", "--models", str(offline_error.models), status=78)
    finally:
        for process in workers.values():
            process.terminate()
        codes = [process.wait(20) for process in workers.values()]
    assert [0, 0] == codes, job.logs()
    told = job.changes()
    versions = defaultdict(list)
    for change in told:
        versions[change["customer_id"]].append(change["version"])
    assert all(a < b for path in versions.values() for a, b in pairwise(path))
    counted = job.features(events[-1]["occurred_at"] + DAY_MS)["events_ever"].astype(int).to_dict()
    assert Counter(event["customer_id"] for event in events) == counted

    again = Job(job.bootstrap, job.redis_url, job.directory, PARTITIONS, dict(job.settings), declaration=job.declaration, input_of=job.name)
    again = again.with_settings(STREAMER_BATCH__RECORDS_MAX="3001", STREAMER_JOURNAL__FOLLOW="true").create()
    with again.worker("follower"):
        ends = [(state.model, state.epoch) for state in job.states()]
        again.wait("the end of the journal", lambda: [(state.model, state.epoch) for state in again.states()] == ends)
        again.wait_done()
    assert comparable(told) == comparable(again.changes())
    assert job.profiles() == again.profiles()
