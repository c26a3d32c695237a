"""The DAGs of deploy/airflow in a real Airflow: parsed, and run with the real program on a history on disk. `make airflow` installs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from offline.shelf import Shelf
from tests.offlinekit import shop
from tests.unit.test_offline_history import archive

ROOT = Path(__file__).parents[2]
AIRFLOW = ROOT / ".venv" / "airflow" / "bin" / "python"
RUN_S_MAX = 900

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not AIRFLOW.exists(), reason="no Airflow: `make airflow` installs it into an environment of its own, and runs these"
    ),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new Airflow, with a database of its own."""
    found = tmp_path_factory.mktemp("airflow")
    migrate = [str(AIRFLOW), "-m", "airflow", "db", "migrate"]
    subprocess.run(migrate, env=environment(found), check=True, capture_output=True, timeout=RUN_S_MAX)
    return found


def environment(home: Path, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "deploy/airflow"),
        "PYTHONPATH": "",
        **more,
    }


def run(home: Path, dag: str, instant: str, **more: str) -> Any:
    call = [str(AIRFLOW), str(ROOT / "tests/airflow/run_dag.py"), str(ROOT / "deploy/airflow"), dag, instant]
    done = subprocess.run(call, env=environment(home, **more), capture_output=True, text=True, check=False, timeout=RUN_S_MAX)
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert results, (done.stdout[-3000:], done.stderr[-3000:])
    return json.loads(results[-1].removeprefix("RESULT "))


def program(place: Path) -> str:
    """The program `offline` of this checkout, as a file that can be run."""
    file = place / "offline"
    call = f"PYTHONPATH={ROOT} exec {sys.executable} -c 'from offline.cli import main; main()' \"$@\""
    file.write_text(f"#!/bin/sh\n{call}\n", encoding="utf-8")
    file.chmod(0o755)
    return str(file)


@pytest.mark.timeout(RUN_S_MAX)
def test_the_dags_are_parsed_and_never_overlap(home: Path) -> None:
    found = run(home, "none", "2026-01-02T01:30:00+00:00")
    assert {} == found["errors"]
    assert {"segments_nightly", "segments_parity"} == set(found["dags"])
    for dag in found["dags"].values():
        assert (False, 1) == (dag["catchup"], dag["max_active_runs"])
        assert dag["deadline_s"] > 0
        assert all(retries >= 2 and timeout_s < dag["deadline_s"] for retries, timeout_s in dag["tasks"].values())


@pytest.mark.timeout(RUN_S_MAX)
def test_a_night_makes_the_version_of_the_day_before_it(home: Path, tmp_path: Path) -> None:
    history = archive(tmp_path / "history", shop(60, 90))
    models = tmp_path / "models"
    settings = tmp_path / "settings.yaml"
    settings.write_text("offline: {fit: {k: 3}}\n", encoding="utf-8")
    places = {
        "SEGMENTS_HISTORY": history,
        "SEGMENTS_MODELS": str(models),
        "SEGMENTS_SETTINGS": str(settings),
        "SEGMENTS_OFFLINE": program(tmp_path),
    }
    first = run(home, "segments_nightly", "2024-12-02T01:30:00+00:00", **places)
    assert "success" == first["tasks"]["reseed"], first
    second = run(home, "segments_nightly", "2024-12-03T01:30:00+00:00", **places)
    assert {"drift": "success", "reseed": "success"} == second["tasks"], second
    versions = [kept.version for kept in Shelf(str(models), "segments").versions()]
    assert [1_733_097_600_000, 1_733_184_000_000] == [version.as_of for version in versions]  # the ends of 2024-12-01 and -02


@pytest.mark.timeout(RUN_S_MAX)
def test_what_is_refused_fails_at_once_and_makes_nothing(home: Path, tmp_path: Path) -> None:
    refuses = tmp_path / "offline"
    refuses.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    refuses.chmod(0o755)
    places = {"SEGMENTS_HISTORY": "history", "SEGMENTS_MODELS": "models", "SEGMENTS_OFFLINE": str(refuses)}
    found = run(home, "segments_nightly", "2024-12-04T01:30:00+00:00", **places)
    assert {"drift": "failed", "reseed": "failed"} == found["tasks"]
    assert "failed" == found["state"]
