"""A Dask cluster computes what this process computes, to the byte."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from offline import cluster as clustering
from offline.cluster import Cluster, bucket_of, cluster, packed
from offline.events import Reading
from offline.features import BUCKETS, bucket, compute
from offline.reseed_command import Request, run
from offline.settings import Settings
from offline.shelf import Shelf, body_of
from streamer.adapters.declaration_file import load
from streamer.core.errors import Misconfigured, Unavailable
from tests.offlinekit import FakeHistory, batches, end_of, shop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

distributed = pytest.importorskip("distributed")

ROWS = shop(40, 90)
READING = Reading(load(None))


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """Two worker processes, without a dashboard."""
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, protocol="tcp://") as running:
        yield running.scheduler_address


def quiet(_step: str, _done: int, _of: int) -> None:
    """Tell nobody."""


@pytest.mark.filterwarnings("ignore")  # Dask's own, of the environment that it runs in
def test_a_version_made_on_a_cluster_is_the_same_to_the_byte(scheduler: str, tmp_path: Path) -> None:
    made = {}
    for name, address in (("here", None), ("there", scheduler)):
        shelf = Shelf(str(tmp_path / name), "segments")
        made[name] = run(Request(end_of(ROWS), k=3, scheduler=address), FakeHistory(ROWS), shelf, Settings(), quiet)
    assert body_of(made["here"].version) == body_of(made["there"].version)
    files = {path.name for path in (tmp_path / "here").iterdir()}
    assert {path.name for path in (tmp_path / "there").iterdir()} == files
    assert {name: (tmp_path / "here" / name).read_bytes() for name in files} == {
        name: (tmp_path / "there" / name).read_bytes() for name in files
    }


@pytest.mark.filterwarnings("ignore")
def test_features_of_every_customer_are_the_same_to_the_bit(scheduler: str) -> None:
    told: list[tuple[str, int, int]] = []
    here = compute(READING, batches(ROWS), end_of(ROWS), rows_in_memory=500)
    with cluster(scheduler) as pool:
        there = compute(READING, batches(ROWS), end_of(ROWS), pool=pool, progress=lambda *step: told.append(step))
        empty = compute(READING, [], end_of(ROWS), pool=pool)
    pd.testing.assert_frame_equal(here.features, there.features, check_exact=True)
    assert here.features.to_numpy().tobytes() == there.features.to_numpy().tobytes()
    pd.testing.assert_frame_equal(here.facts, there.facts, check_exact=True)
    pd.testing.assert_frame_equal(here.days, there.days, check_exact=True)
    assert list(here.counts.items()) == list(there.counts.items())
    assert ("computing", BUCKETS, BUCKETS) == told[-1]
    assert 0 == len(empty.features)


@pytest.mark.filterwarnings("ignore")
def test_other_code_on_the_workers_is_refused(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with cluster(scheduler) as pool:
        monkeypatch.setattr(clustering, "code_version", _other_code)
        with pytest.raises(Misconfigured, match="another release"):
            list(pool.computed(READING, [], 0))


def _other_code() -> str:
    """Differ from process to process."""
    import os  # noqa: PLC0415

    return str(os.getpid())


@pytest.mark.filterwarnings("ignore")
def test_nobody_at_the_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "CONNECT_S_MAX", 1)
    with pytest.raises(Unavailable, match="no Dask scheduler answers at"), cluster("tcp://127.0.0.1:9"):
        pass


def test_a_cluster_without_workers_is_named() -> None:
    class Client:
        def nthreads(self) -> dict[str, int]:
            return {}

    with pytest.raises(Unavailable, match="has no workers"):
        list(Cluster(Client()).computed(READING, [], 0))


def test_a_bucket_travels_as_bytes_and_comes_back_whole() -> None:
    pieces = batches(ROWS[:500], 100)
    here, there = bucket(READING, pieces, end_of(ROWS)), bucket_of(pickle.loads(pickle.dumps(READING)), packed(pieces), end_of(ROWS))
    assert np.array_equal(here.features, there.features)
    nothing: list[Any] = []
    assert b"" == packed(nothing)
