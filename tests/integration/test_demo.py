"""The demos, as a newcomer runs them: the simulated one smaller, the other on the sample that a clone ships."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from streamer.app.samples import VARIABLE, sample_path

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.adapters.servers import Running


def ran(servers: Running, name: str, *arguments: str) -> str:
    """Run a demo, on topics of its own; returns what it showed."""
    topics = {f"STREAMER_TOPICS__{key}": f"{name}.{key.lower()}" for key in ("EVENTS", "CHANGES", "MODELS", "JOURNAL", "DEAD_LETTERS")}
    environment = {**os.environ, **servers.environment, **topics, VARIABLE: str(sample_path()), "COLUMNS": "200"}
    command = [sys.executable, "-m", "streamer", name, *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout


def assert_reported(shown: str, directory: Path) -> None:
    """The last that a demo shows is where its report is, which tells of the version and the changes that the stream made."""
    page = directory / "report.html"
    assert str(page) in shown[shown.index("What to do next") :]
    told = page.read_text(encoding="utf-8")
    assert "As subscribers were told" in told
    assert "The stream made this version itself" in told


def test_the_demo_finds_the_personas_and_tells_nothing_wrong_though_a_worker_is_killed(servers: Running, tmp_path: Path) -> None:
    shown = ran(servers, "demo", "--customers", "400", "--report", str(tmp_path))
    assert "kill -9 of worker 1" in shown
    assert "agree with the model's sums" in shown
    told = re.search(r"([\d,]+) changes on the topic: [\d,]+ of them told twice, (\d+) lost", shown)
    assert told is not None, shown[-3000:]
    assert "0" == told[2]
    index = re.search(r"Adjusted Rand index against the truth: (\d\.\d\d)", shown)
    assert index is not None, shown[-3000:]
    assert float(index[1]) >= 0.5
    assert "The story of c-" in shown
    assert_reported(shown, tmp_path)


@pytest.mark.long
def test_the_demo_on_retail_data_ends_with_segments_that_agree_with_the_profiles(servers: Running, tmp_path: Path) -> None:
    shown = ran(servers, "demo-retail", "--report", str(tmp_path))
    assert "599 customers, 354 votes, sums and profiles agree" in shown
    assert "0 of them told twice" in shown
    assert "seg_0005" in shown
    assert_reported(shown, tmp_path)


def test_a_demo_refuses_what_it_cannot_show_before_it_starts_anything() -> None:
    command = [sys.executable, "-m", "streamer", "demo", "--days", "3"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert 2 == ended.returncode
    assert "Real servers" not in ended.stdout


def test_a_demo_says_in_one_line_that_a_given_server_does_not_answer() -> None:
    given = {**os.environ, "KAFKA_BOOTSTRAP": "127.0.0.1:1", "REDIS_URL": "redis://127.0.0.1:1/0"}
    ended = subprocess.run([sys.executable, "-m", "streamer", "demo"], env=given, capture_output=True, text=True, timeout=60, check=False)
    assert 69 == ended.returncode
    assert "does not answer" in ended.stderr
    assert 1 == len(ended.stderr.splitlines())
