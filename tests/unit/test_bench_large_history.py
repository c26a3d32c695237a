"""The large history of the benchmarks: as an archiver leaves it, the same again from the same seed, and compared in earnest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamer.adapters.history import open_history
from tests.bench import bench_reseed, large_history
from tests.bench.large_history import DAY_MS, SUMS, Size

if TYPE_CHECKING:
    from pathlib import Path

SIZE = Size(20_000, 700, days=5, partitions=3)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("large") / "history"
    large_history.make(made, SIZE)
    return made


def rows(place: Path) -> pa.Table:
    history = open_history(str(place))
    return pa.Table.from_batches(list(history.events(history.manifest().cutoff(SIZE.as_of))))


def test_the_same_seed_gives_the_same_files_and_another_one_others(place: Path, tmp_path: Path) -> None:
    large_history.make(tmp_path / "again", SIZE)
    large_history.make(tmp_path / "other", Size(20_000, 700, days=5, partitions=3, seed=2))
    digests = [open_history(str(one)).manifest().digest for one in (place, tmp_path / "again", tmp_path / "other")]
    assert digests[0] == digests[1] != digests[2]


def test_a_history_is_as_large_as_it_was_asked_for_and_goes_on_after_the_cut_off(place: Path) -> None:
    open_history(str(place)).verify()
    found = rows(place)
    assert SIZE.events == len(found)
    assert SIZE.events + SIZE.events // large_history.LATER == sum(entry.rows for entry in open_history(str(place)).manifest().entries)
    assert SIZE.customers == len(found.column("customer_id").unique())
    assert SIZE.events == len(found.column("event_id").unique())
    assert SIZE.days == len(np.unique(found.column("kafka_timestamp").to_numpy() // DAY_MS))


def test_a_customer_is_in_one_partition_and_its_records_are_in_order(place: Path) -> None:
    found = rows(place)
    homes = found.group_by("customer_id").aggregate([("partition", "count_distinct")])
    assert [1] == homes.column("partition_count_distinct").unique().to_pylist()
    for partition in range(SIZE.partitions):
        times = found.filter(pa.compute.equal(found.column("partition"), partition)).column("kafka_timestamp").to_numpy()
        assert (np.diff(times) >= 0).all()


def test_duckdb_s_sums_are_those_of_the_events_and_a_difference_is_an_error(place: Path, tmp_path: Path) -> None:
    relation: Any = duckdb.sql(large_history.statement(place, SIZE.as_of))
    sums = relation.to_arrow_table()
    found = rows(place)
    spent = pa.compute.sum(found.filter(pa.compute.equal(found.column("event_type"), "purchase")).column("amount")).as_py()
    assert spent == pa.compute.sum(sums.column("spend_90d")).as_py()
    assert all(pa.compute.sum(sums.column(name)).as_py() > 0 for name in SUMS)
    ours, theirs = tmp_path / "ours.parquet", tmp_path / "theirs.parquet"
    pq.write_table(sums, ours)
    bench_reseed.compared(ours, ours, SIZE.customers)
    views = sums.column("views_7d").to_numpy().copy()
    views[-1] += 1
    pq.write_table(sums.set_column(sums.schema.get_field_index("views_7d"), "views_7d", pa.array(views)), theirs)
    with pytest.raises(RuntimeError, match="the sums differ: views_7d"):
        bench_reseed.compared(ours, theirs, SIZE.customers)
    with pytest.raises(RuntimeError, match="should be the same 699"):
        bench_reseed.compared(ours, ours, 699)
