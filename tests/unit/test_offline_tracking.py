"""What MLflow is told: against a store of MLflow's own in files, where MLflow is installed."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from offline import tracking
from offline.settings import Mlflow
from offline.shelf import Kept, body_of
from offline.tracking import CHALLENGER, CHAMPION, Tracker
from streamer.core.declaration import declare
from streamer.core.errors import Misconfigured
from streamer.core.model import digest
from tests.corekit import version_of
from tests.fakes.job import FEATURES

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")  # MLflow's own

DECLARATION = declare(FEATURES)
NAME = "segments"


def kept(number: int, *, refused: bool = False) -> Kept:
    plain = version_of(DECLARATION, [[0, 0, 0], [1, 2, 3]], number)
    version = replace(plain, name=NAME, as_of=1000 * number, quality={"inertia": 2.5, "wcss_ratio": 1.01}, provenance={"fit": "warm"})
    details: dict[str, Any] = {"gate": {"reasons": ["it moves too many"] if refused else []}}
    return Kept(version, digest(body_of(version)).hex(), details, refused=refused)


def test_without_an_address_nobody_is_told() -> None:
    Tracker(Mlflow()).night(kept(1))
    Tracker(Mlflow()).promoted(NAME, "ab")


def test_an_address_without_mlflow_is_told_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda _name: None)
    with pytest.raises(Misconfigured, match=r"pip install 'segment-streamer\[mlflow\]'"):
        Tracker(Mlflow("sqlite:///nowhere.db"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)  # where artifacts go
    return f"sqlite:///{tmp_path}/mlflow.db"


def client(place: str) -> Any:
    return pytest.importorskip("mlflow").MlflowClient(tracking_uri=place, registry_uri=place)


def test_a_night_is_a_run_and_what_passed_is_the_challenger_until_it_is_the_champion(place: str) -> None:
    tracker, mlflow = Tracker(Mlflow(place)), client(place)
    for one in (kept(1), kept(1), kept(2)):  # twice is once
        tracker.night(one)
    [experiment] = [one for one in mlflow.search_experiments() if one.name == "segments"]
    runs = {run.info.run_name: run for run in mlflow.search_runs([experiment.experiment_id])}
    assert {"segments-1", "segments-2"} == runs.keys()
    run = runs["segments-2"]
    assert {"inertia": 2.5, "wcss_ratio": 1.01} == run.data.metrics
    assert ("warm", "2000") == (run.data.params["fit"], run.data.params["as_of"])
    assert ("passed", kept(2).sha256) == (run.data.tags["gate"], run.data.tags["sha256"])
    assert {"segments-000002.avro", "segments-000002.json"} == {one.path for one in mlflow.list_artifacts(run.info.run_id)}
    assert "2" == mlflow.get_model_version_by_alias(NAME, CHALLENGER).tags["version"]
    tracker.promoted(NAME, kept(2).sha256)
    assert {CHAMPION} == mlflow.get_registered_model(NAME).aliases.keys()
    assert "2" == mlflow.get_model_version_by_alias(NAME, CHAMPION).tags["version"]
    tracker.promoted(NAME, kept(1).sha256)
    assert "1" == mlflow.get_model_version_by_alias(NAME, CHAMPION).tags["version"]


def test_what_the_gate_refused_is_a_run_and_no_version(place: str) -> None:
    Tracker(Mlflow(place)).night(kept(3, refused=True))
    mlflow = client(place)
    [run] = mlflow.search_runs([one.experiment_id for one in mlflow.search_experiments() if one.name == "segments"])
    assert ("refused", "it moves too many") == (run.data.tags["gate"], run.data.tags["reasons"])
    assert [] == list(mlflow.search_registered_models())


def test_an_mlflow_that_can_not_be_told_stops_nobody(place: str, caplog: pytest.LogCaptureFixture) -> None:
    tracker = Tracker(Mlflow("nowhere://at/all"))
    with caplog.at_level(logging.WARNING):
        tracker.night(kept(1))
        Tracker(Mlflow(place)).promoted(NAME, "ab" * 32)
    assert "could not be told of the night" in caplog.text
    assert "it was made before MLflow was told" in caplog.text
