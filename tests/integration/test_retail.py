"""The retail data through the whole job: its features equal the oracle's, exactly, in whatever order it came."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from sklearn.cluster import KMeans

from streamer.adapters.declaration_file import load as load_declaration
from streamer.adapters.files.load import events_from
from streamer.adapters.files.mappings import load_mapping
from streamer.app import wiring
from streamer.app.samples import WHOLE, retail_path, sample_path
from streamer.core.fold import VOTE_ONE
from streamer.core.model import votes
from tests import oracle
from tests.integration.kit import Job

if TYPE_CHECKING:
    import pandas as pd

    from streamer.adapters.servers import Running

RETAIL_FEATURES = Path(wiring.__file__).parent / "samples" / "retail_features.yaml"
# The packaged declaration asks for pounds and remembers more ids here, for a shuffle brings a copy months after its first.
PACKAGED = Path(load_declaration.__code__.co_filename).parents[1] / "core" / "default_features.yaml"


def events_of(path: Path) -> list[dict[str, Any]]:
    return [dict(record) for batch in events_from(path, load_mapping("online_retail")) for record in batch]


def declared(directory: Path, source: Path, **duplicates: Any) -> Path:
    """Write a declaration in pounds, with another window for duplicates."""
    tree = yaml.safe_load(source.read_text())
    tree["money"] = {"currency": "GBP", "others": "refuse"}
    tree["duplicates"] |= duplicates
    path = directory / "features.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def expected(events: list[dict[str, Any]], declaration: Path, as_of: int) -> pd.DataFrame:
    return oracle.features(oracle.frame(events), yaml.safe_load(declaration.read_text()), as_of)


def assert_equal_to_the_bit(one: pd.DataFrame, other: pd.DataFrame) -> None:
    assert list(one.columns) == list(other.columns)
    assert list(one.index) == list(other.index)
    different = one.to_numpy().view(np.int64) != other.to_numpy().view(np.int64)
    rows = different.any(axis=1)
    assert not rows.any(), f"{different.sum()} values differ, the first: {one[rows].head(3)} {other[rows].head(3)}"


def run_through(job: Job, events: list[dict[str, Any]], workers: int = 2) -> None:
    job.create().send(events)
    processes = [job.start(f"w{n}") for n in range(workers)]
    try:
        job.wait_done()
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            assert process.wait(20) == 0, job.logs()


def found(data: str) -> Path:
    path = sample_path() if data == "sample" else retail_path(os.environ)
    if data == "whole" and path.name != WHOLE.name:
        pytest.skip(f"the whole retail data is not here: put it into {WHOLE.parent} beside the checkout, or name it in STREAMER_RETAIL")
    return path


EACH = pytest.mark.parametrize("data", ["sample", pytest.param("whole", marks=[pytest.mark.long, pytest.mark.data])])


@EACH
def test_features_in_redis_equal_the_oracles_whatever_the_order(data: str, servers: Running, tmp_path: Path) -> None:
    events = events_of(found(data))
    as_of = max(e["occurred_at"] for e in events) + 12_345
    for kind, source in (("in order", RETAIL_FEATURES), ("shuffled", PACKAGED)):
        directory = tmp_path / kind.replace(" ", "-")
        directory.mkdir()
        sent, duplicates = list(events), {}
        if kind == "shuffled":
            rng = random.Random(7)
            sent += rng.sample(events, len(events) // 20)
            rng.shuffle(sent)
            duplicates = {"ids_max": 512, "age": "400d"}
        declaration = declared(directory, source, **duplicates)
        job = Job(
            servers.kafka_bootstrap,
            servers.redis_url,
            directory,
            settings={"STREAMER_BATCH__RECORDS_MAX": "173" if kind == "shuffled" else "1000"},
            declaration=declaration,
        )
        run_through(job, sent)
        assert_equal_to_the_bit(expected(events, declaration, as_of), job.features(as_of))


@EACH
def test_segments_at_the_first_model_are_as_good_as_a_batch_fit_on_the_same_vectors(data: str, servers: Running, tmp_path: Path) -> None:
    events = events_of(found(data))
    declaration_file = declared(tmp_path, RETAIL_FEATURES)
    settings = {
        "STREAMER_MODEL__FIRST_FIT__CUSTOMERS_MIN": "200",
        "STREAMER_MODEL__K": "5",
        "STREAMER_MODEL__EPOCH_INTERVAL_S": "1h",  # no learning after the fit
        "STREAMER_MODEL__FIRST_FIT__ENABLED": "false",
    }
    job = Job(servers.kafka_bootstrap, servers.redis_url, tmp_path, settings=settings, declaration=declaration_file)
    run_through(job, events)
    fitting = job.with_settings(STREAMER_MODEL__FIRST_FIT__ENABLED="true")
    with fitting.worker("fitter"), wiring.Watcher(job.config) as watcher:
        job.wait("the first model", lambda: watcher.settled(watcher.states(), least=1))
    model = wiring.current_model(job.config)
    assert model is not None
    declaration = load_declaration(declaration_file)
    features = job.features(model.as_of)
    points = votes(tuple(f.transform for f in declaration.features), model.scaling, features.to_numpy()) / VOTE_ONE
    place = {segment.segment_id: k for k, segment in enumerate(model.segments)}
    told = {change["customer_id"]: change["segment_id"] for change in job.changes()}
    assert set(told) == set(features.index)
    rows = [i for i, customer in enumerate(features.index) if told[customer] != "new"]
    chosen = np.array([place[told[features.index[i]]] for i in rows])
    ours = ((points[rows] - model.centroids[chosen]) ** 2).sum()
    best = KMeans(n_clusters=5, n_init=10, random_state=1).fit(points[rows])
    assert len(rows) == model.quality["customers"]
    print(f"{data}: {len(rows)} customers, within-cluster squares {ours / best.inertia_:.4f} of the batch fit's")  # noqa: T201  # shown by -s
    assert ours <= 1.02 * best.inertia_
