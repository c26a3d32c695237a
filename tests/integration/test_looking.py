"""Looking on as a user does: every command on an empty system, on a running one, and with a server that is down."""

from __future__ import annotations

import json
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from streamer.app import wiring
from streamer.core.partitioning import partition_of
from tests.integration.kit import Job
from tests.integration.test_job import COUNTING, DAY_MS, LEARNING, shop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from streamer.adapters.servers import Running

PARTITIONS = 4
EVENTS = 4000
CUSTOMERS = 450
COMMANDS = (["status"], ["segments"], ["customer", "customer-00001"], ["tail"])
UNAVAILABLE, MISCONFIGURED = 69, 78
TIMEOUT_S = 90.0


def streamer(job: Job, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user does."""
    environment = {**job.environment, "COLUMNS": "250", **settings}
    command = [sys.executable, "-m", "streamer", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def parsed(job: Job, *arguments: str) -> Any:
    """Run a command that prints JSON."""
    done = streamer(job, *arguments, "--json")
    assert (0, "") == (done.returncode, done.stderr), done
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def job(servers: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """A job that has done its work; its worker is still there."""
    directory = tmp_path_factory.mktemp("looking")
    declaration = directory / "counting.yaml"
    declaration.write_text(COUNTING)
    made = Job(servers.kafka_bootstrap, servers.redis_url, directory, PARTITIONS, LEARNING, declaration=declaration).create()
    made.send(shop(EVENTS, CUSTOMERS, seed=11))
    with made.worker("a"):
        with wiring.Watcher(made.config) as watcher:
            made.wait("the first model", lambda: watcher.settled(watcher.states(), least=1))
        made.wait_done()
        yield made


@pytest.fixture
def empty(servers: Running, tmp_path: Path) -> Job:
    return Job(servers.kafka_bootstrap, servers.redis_url, tmp_path, PARTITIONS)


def test_the_status_is_that_of_the_profiles_and_of_the_topic(job: Job) -> None:
    seen = parsed(job, "status")
    assert ("running", 0, []) == (seen["state"], seen["lag_records"], seen["advice"])
    assert len(job.profiles()) == seen["customers"] == sum(s["customers"] for s in seen["segments"]) + seen["not_judged"]
    with wiring.Watcher(job.config) as watcher:
        assert watcher.ends() == [p["end_offset"] for p in seen["partitions"]] == [p["next_offset"] for p in seen["partitions"]]
    assert [state.watermark for state in job.states()] == [p["watermark_ms"] for p in seen["partitions"]]
    assert {(1, "done", True)} == {(p["model"], p["sweep"], p["owned"]) for p in seen["partitions"]}
    table = streamer(job, "status")
    assert (0, "") == (table.returncode, table.stderr)
    assert all(segment["segment_id"] in table.stdout for segment in seen["segments"])
    assert f"{seen['end_offset']:,}" in table.stdout


def test_a_watched_status_is_shown_again_and_again_until_interrupted(job: Job) -> None:
    command = [sys.executable, "-m", "streamer", "status", "--watch", "--interval", "0.2", "--json"]
    with subprocess.Popen(command, env=job.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=TIMEOUT_S)
    with wiring.Watcher(job.config) as watcher:
        assert [sum(watcher.ends())] * 3 == [json.loads(line)["end_offset"] for line in lines]
    assert (0, "") == (process.returncode, told)


def test_segments_are_as_big_as_subscribers_were_told(job: Job) -> None:
    told = {change["customer_id"]: change["segment_id"] for change in job.changes()}
    seen = parsed(job, "segments")
    assert Counter(told.values()) == Counter({s["segment_id"]: s["customers"] for s in seen["segments"] if s["customers"]})
    assert "new" == seen["segments"][-1]["segment_id"]
    assert all(1 <= len(s["apart"]) for s in seen["segments"][:-1])
    table = streamer(job, "segments")
    assert 0 == table.returncode
    assert all(s["name"] in table.stdout for s in seen["segments"])


def test_murmur2_finds_every_customer_where_the_producer_put_it(job: Job) -> None:
    store = wiring.state_store(job.config)
    for partition in range(PARTITIONS):
        cursor, begun = 0, False
        while cursor or not begun:
            begun = True
            cursor, packed = store.scan(partition, cursor, 1000)
            whole = packed.ids.tobytes()
            ids = [whole[a:b] for a, b in zip(packed.id_bounds[:-1], packed.id_bounds[1:], strict=True)]
            assert {partition} >= {partition_of(customer, PARTITIONS) for customer in ids}
    store.close()


def test_a_customer_is_shown_with_features_segment_and_the_reasons(job: Job) -> None:
    changes = job.changes()
    customer = Counter(change["customer_id"] for change in changes).most_common(1)[0][0]
    own = [change for change in changes if change["customer_id"] == customer]
    seen = parsed(job, "customer", customer)
    assert seen["partition"] == seen["partition_expected"] == partition_of(customer.encode(), PARTITIONS)
    features = job.features(seen["clock_ms"]).loc[customer]
    assert np.array_equal(features.to_numpy(), [feature["value"] for feature in seen["features"]])
    assert (own[-1]["segment_id"], own[-1]["segment_name"]) == (seen["segment_id"], seen["segment_name"])
    assert own[-1]["occurred_at"] == seen["since_ms"]
    assert own[::-1][:10] == seen["recent_changes"]["changes"]
    assert seen["recent_changes"]["complete"]
    assert 4 == len(seen["distances"])
    assert own[-1]["cause"] in streamer(job, "customer", customer).stdout
    later = parsed(job, "customer", customer, "--now")
    assert ("now", later["as_of_ms"] > seen["clock_ms"] + DAY_MS) == (later["as_of"], True)
    short = parsed(job, "customer", customer, "-n", "1", "--scan", "1")["recent_changes"]
    assert short["end"] - short["first"] == 1


def test_an_unknown_customer_is_a_clear_line_and_a_status(job: Job) -> None:
    done = streamer(job, "customer", "nobody")
    assert (1, "") == (done.returncode, done.stdout)
    assert 1 == len(done.stderr.splitlines())
    assert "customer nobody is not known" in done.stderr


def test_a_tail_from_the_beginning_shows_each_change_once(job: Job) -> None:
    changes = job.changes()
    done = streamer(job, "tail", "--from-beginning", "-n", str(len(changes)), "--json")
    assert (0, "") == (done.returncode, done.stderr)
    assert Counter(c["change_id"] for c in changes) == Counter(json.loads(line)["change_id"] for line in done.stdout.splitlines())
    customer = changes[0]["customer_id"]
    lines = streamer(job, "tail", "--from-beginning", "--customer", customer, "--cause", "first_seen", "-n", "1").stdout.splitlines()
    assert 1 == len(lines)
    assert f"{customer}  first_seen: to" in lines[0]


def test_a_tail_shows_what_comes_and_ends_cleanly(job: Job) -> None:
    latest = max(state.watermark for state in job.states())
    command = [sys.executable, "-m", "streamer", "tail", "--segment", "new", "--cause", "first_seen", "--json"]
    with subprocess.Popen(command, env=job.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for n in range(60):  # what comes before it follows isn't shown
            customer = {"event_id": f"somebody-{n}", "customer_id": f"somebody-{n}", "occurred_at": latest}
            job.send([shop(1, 1, seed=99)[0] | customer])
            if select.select([process.stdout], [], [], 1.0)[0]:
                break
        change = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=TIMEOUT_S)
    assert ("first_seen", "new") == (change["cause"], change["segment_id"])
    assert change["customer_id"].startswith("somebody-")
    assert (0, "") == (process.returncode, told)


def test_a_tail_ends_when_nobody_reads_it_any_more(job: Job) -> None:
    command = [sys.executable, "-m", "streamer", "tail", "--from-beginning"]
    with subprocess.Popen(command, env=job.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert 0 == process.wait(TIMEOUT_S)
        assert process.stderr is not None
        assert "" == process.stderr.read()


def test_an_empty_system_says_what_to_do(empty: Job) -> None:
    seen = parsed(empty, "status")
    assert "no_topic" == seen["state"]
    assert "streamer ingest" in seen["advice"][0]
    assert seen["advice"] == parsed(empty, "segments")["advice"]
    assert f"There is no topic {empty.name}.events" in streamer(empty, "status").stdout
    for command in (["customer", "c"], ["tail"]):
        done = streamer(empty, *command)
        assert (MISCONFIGURED, "") == (done.returncode, done.stdout)
        assert "there is no topic" in done.stderr
        assert 1 == len(done.stderr.splitlines())
    empty.create()
    assert "nothing" == parsed(empty, "status")["state"]
    assert "start `streamer run`" in streamer(empty, "segments").stdout
    assert 1 == streamer(empty, "customer", "c").returncode


def test_without_a_model_it_is_said_what_is_missing(empty: Job) -> None:
    empty.create().send(shop(200, 20, seed=3))
    with empty.worker("a"):
        empty.wait("the events", lambda: sum(state.at_offset >= 0 for state in empty.states()) == PARTITIONS)
        empty.wait("the customers", lambda: len(empty.profiles()) == 20)
        seen = parsed(empty, "segments")
        assert ("no_model", [], 20) == (seen["state"], seen["segments"], seen["customers"])
        assert (20, 1000) == (seen["waiting"]["customers"], seen["waiting"]["customers_min"])
        assert "There is no model yet" in streamer(empty, "status").stdout
        assert "in no segment" in streamer(empty, "customer", "customer-00001").stdout


@pytest.mark.parametrize(
    ("down", "command"),
    [
        *(("KAFKA_BOOTSTRAP", command) for command in (*COMMANDS, ["check"], ["dlq", "list"], ["merge", "a", "into", "b"], ["erase", "a"])),
        *(("REDIS_URL", command) for command in (*COMMANDS, ["reconcile"]) if command != ["tail"]),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_server_that_is_down_is_one_clear_line_within_the_time_out(empty: Job, down: str, command: list[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nowhere = {"KAFKA_BOOTSTRAP": f"127.0.0.1:{port}", "REDIS_URL": f"redis://127.0.0.1:{port}/0"}[down]
    begun_s = time.monotonic()
    done = streamer(empty, *command, **{down: nowhere}, STREAMER_KAFKA__TIMEOUT_S="3s", STREAMER_REDIS__TIMEOUT_S="1s")
    assert time.monotonic() - begun_s < 3 + 15  # the time-out, and an interpreter's start on a busy machine
    assert (UNAVAILABLE, "") == (done.returncode, done.stdout)
    assert 1 == len(done.stderr.splitlines()), done.stderr
    assert f"127.0.0.1:{port}" in done.stderr
    assert "does not answer" in done.stderr
    assert "see that it runs and that `" in done.stderr


def test_segments_and_their_changes_are_exported_for_others_to_read(job: Job, tmp_path: Path) -> None:
    members, changes = tmp_path / "members.parquet", tmp_path / "changes.csv"
    done = streamer(job, "export", "membership", str(members))
    assert (0, "") == (done.returncode, done.stderr)
    frame = pd.read_parquet(members)
    sizes = {s["segment_id"]: s["customers"] for s in parsed(job, "segments")["segments"] if s["customers"]}
    assert sizes == frame["segment_id"].value_counts().to_dict()
    assert frame["customer_id"].is_unique
    done = streamer(job, "export", "changes", str(changes))
    assert f"{len(job.changes()):,} changes written to {changes}\n" == done.stdout
    told = pd.read_csv(changes)
    latest = told.sort_values("version").groupby("customer_id")["segment_id"].last()
    assert latest.to_dict() == frame.set_index("customer_id")["segment_id"].to_dict()
    middle = pd.to_datetime(told["occurred_at"]).median().strftime("%Y-%m-%dT%H:%M:%S")
    counts = []
    for period in (["--to", middle], ["--from", middle]):
        assert 0 == streamer(job, "export", "changes", str(changes), *period).returncode
        counts.append(len(pd.read_csv(changes)))
    assert len(told) == sum(counts)
    assert all(counts)
    assert MISCONFIGURED == streamer(job, "export", "changes", str(changes), "--from", "yesterday").returncode
