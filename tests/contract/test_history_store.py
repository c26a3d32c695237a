"""Where history is kept: one suite over memory, a local directory, an S3 server, and a file system of fsspec's."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

from streamer.adapters.history.store import LocalStore, open_store
from streamer.core.errors import Misconfigured, Unavailable
from tests.fakes.clock import FakeClock
from tests.fakes.history_store import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from streamer.adapters.history.store import Store

BUCKET = "shop"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """An S3 server with one bucket: the URL of a place in it."""
    given = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s", "AWS_EC2_METADATA_DISABLED": "true"}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        options = f"endpoint_override={host}:{port}&scheme=http&region=us-east-1"
        filesystem, _ = fs.FileSystem.from_uri(f"s3://{BUCKET}?{options}&allow_bucket_creation=true")
        filesystem.create_dir(BUCKET)
        yield f"s3://{BUCKET}/history?{options}"
    finally:
        server.stop()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@pytest.fixture(params=["memory", "local", "s3", "fsspec"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "memory":
        return MemoryStore(FakeClock())
    if request.param == "local":
        return open_store(str(tmp_path / "history"))
    own = uuid.uuid4().hex
    if request.param == "fsspec":
        return open_store(f"memory://{own}/history")
    return open_store(request.getfixturevalue("s3").replace("/history", f"/history/{own}"))


def test_what_is_written_is_read_listed_and_opened_anywhere(store: Store) -> None:
    store.write("events/day=1/a.parquet", b"one" * 1000)
    store.write("events/day=2/b.parquet", b"two")
    store.write("manifest/m.json", b"{}")
    assert b"two" == store.read("events/day=2/b.parquet")
    assert [("events/day=1/a.parquet", 3000), ("events/day=2/b.parquet", 3)] == [(f.path, f.size_bytes) for f in store.files("events")]
    with store.open("events/day=1/a.parquet") as file:
        assert 3000 == file.size()
        file.seek(1)
        assert b"neo" == file.read(3)


def test_what_is_not_there_is_none(store: Store) -> None:
    assert store.read("manifest/none.json") is None
    assert [] == store.files("events")
    store.delete("events/none.parquet")
    with pytest.raises(FileNotFoundError):
        store.open("events/none.parquet").size()


def test_a_file_is_written_over_and_deleted(store: Store) -> None:
    store.write("events/a", b"a longer one")
    store.write("events/a", b"short")
    assert b"short" == store.read("events/a")
    store.delete("events/a")
    assert store.read("events/a") is None
    assert [] == store.files("events")


def test_a_file_is_replaced_only_as_it_was_read(store: Store) -> None:
    assert not store.replace("manifest/m", b"1", b"0")
    assert store.read("manifest/m") is None
    assert store.replace("manifest/m", b"1", None)
    assert not store.replace("manifest/m", b"2", None)
    assert store.replace("manifest/m", b"2", b"1")
    assert b"2" == store.read("manifest/m")


def test_files_tell_when_they_were_written(store: Store) -> None:
    store.write("events/a", b"a")
    [found] = store.files("events")
    assert found.changed_ms > 1_600_000_000_000


def test_nothing_unfinished_is_left_where_a_write_fails(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}")
    with pytest.raises(TypeError):
        store.write("events/a", "no bytes")
    assert [] == store.files("events")


def test_a_store_that_can_not_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "history").write_text("a file in the way")
    store = open_store(str(tmp_path / "history"))
    with pytest.raises(Unavailable, match="may read and write it"):
        store.write("events/a", b"a")
    with pytest.raises(Unavailable):
        store.read("events/a")


def test_an_s3_server_that_is_away_is_unavailable(s3: str) -> None:
    store = open_store(s3.replace("/history?", "/nowhere?").replace(f"s3://{BUCKET}", "s3://no-such-bucket"))
    with pytest.raises(Unavailable, match="history at s3://no-such-bucket/nowhere: "):
        store.write("events/a", b"a")


def test_the_lock_of_a_manifest_is_waited_for_and_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.adapters.history.store.LOCK_S_MAX", 0.1)
    store = LocalStore(tmp_path)
    with store._locked("manifest/m"), pytest.raises(Unavailable, match="another process has held"):
        store.replace("manifest/m", b"1", None)
    assert store.replace("manifest/m", b"1", None)


@pytest.mark.parametrize("url", ["nosuch://bucket/history", "s3://bucket/history?no_such_option=1"])
def test_a_url_that_no_client_knows_is_a_wrong_configuration(url: str) -> None:
    with pytest.raises(Misconfigured, match="can't be opened"):
        open_store(url)
