from __future__ import annotations

import io
import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

import schemas
from streamer.adapters.avro import codec, wire
from streamer.adapters.files.load import load as load_file
from streamer.adapters.files.mappings import load_mapping
from streamer.adapters.registry import PackagedSchemas
from streamer.app.config import load as load_config
from streamer.app.ingest.encoding import encoder
from streamer.app.ingest.sending import Channel
from streamer.app.ingest_command import Request, run
from streamer.app.samples import retail_path, sample_path
from streamer.core.errors import BadInput, Misconfigured, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from streamer.adapters.kafka.events_producer import EventRecord
    from streamer.app.config import Config

NOW_S = 1_800_000_000.0


class MemorySink:
    """An event sink that keeps what it was given, and fails once it holds `events_max`."""

    def __init__(self, events_max: int = 1_000_000) -> None:
        self.events: list[EventRecord] = []
        self.acknowledged = 0
        self.events_max = events_max

    def send(self, events: Iterable[EventRecord]) -> int:
        given = list(events)
        if len(self.events) + len(given) > self.events_max:
            message = "the broker is away"
            raise Unavailable(message)
        self.events += given
        return len(given)

    def wait(self, timeout_s: float) -> None:
        assert timeout_s > 0
        self.acknowledged = len(self.events)


class MemoryChannel:
    """Connects to a memory sink, events written as JSON, and tells whether it was closed."""

    def __init__(self, sink: MemorySink) -> None:
        self.sink = sink
        self.closed = False

    @contextmanager
    def connect(self, _config: Config) -> Iterator[Channel]:
        try:
            yield Channel(self.sink, lambda record: json.dumps(record).encode())
        finally:
            self.closed = True


def ran(request: Request, channel: MemoryChannel) -> tuple[int, str]:
    out = Console(file=io.StringIO(), width=200)
    sent = run(request, load_config(None, {}), out, Console(file=io.StringIO()), channel.connect, NOW_S)
    return sent, out.file.getvalue()  # type: ignore[attr-defined]


def test_the_sample_is_sent_in_the_order_of_time_keyed_by_customer_and_accounted_for(tmp_path: Path) -> None:
    channel = MemoryChannel(MemorySink())
    rejects = tmp_path / "rejects.jsonl"
    sent, said = ran(Request(sample_path(), "online_retail", rejects=rejects), channel)
    records = [json.loads(event.value or b"") for event in channel.sink.events]
    assert sent == len(records) == channel.sink.acknowledged
    assert [record["customer_id"].encode() for record in records] == [event.key for event in channel.sink.events]
    assert sorted(record["occurred_at"] for record in records) == [record["occurred_at"] for record in records]
    assert {0} == {event.timestamp for event in channel.sink.events}
    assert len(records) == len({record["event_id"] for record in records})
    assert 41_686 == sum(int(record["properties"]["lines"]) for record in records) + len(rejects.read_text().splitlines())
    assert "41,686" in said
    assert "no_customer" in said
    assert f"{sent:,} events sent to customer-events" in said
    assert channel.closed


def test_a_dry_run_sends_nothing_and_still_writes_the_rejects(tmp_path: Path) -> None:
    channel = MemoryChannel(MemorySink())
    sent, said = ran(Request(sample_path(), "online_retail", dry_run=True, rejects=tmp_path / "r"), channel)
    assert (0, []) == (sent, channel.sink.events)
    assert "nothing was sent" in said
    assert (tmp_path / "r").exists()


def test_a_limit_holds_back_the_later_events_and_says_so(tmp_path: Path) -> None:
    channel = MemoryChannel(MemorySink())
    sent, said = ran(Request(sample_path(), "online_retail", limit=10, rejects=tmp_path / "r"), channel)
    assert 10 == sent == len(channel.sink.events)
    assert "held back by --limit" in said


def test_a_second_run_after_a_failure_sends_the_same_events(tmp_path: Path) -> None:
    broken, whole = MemoryChannel(MemorySink(events_max=1_500)), MemoryChannel(MemorySink())
    request = Request(sample_path(), "online_retail", rejects=tmp_path / "r")
    with pytest.raises(Unavailable):
        ran(request, broken)
    assert broken.closed
    ran(request, whole)
    assert broken.sink.events == whole.sink.events[:1_000]


def test_a_file_of_which_nothing_is_usable_is_an_error_that_says_why(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("InvoiceNo,StockCode,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n1,A,1,someday,2,3,UK\n")
    channel = MemoryChannel(MemorySink())
    with pytest.raises(BadInput, match=r"bad_time, as row 1, InvoiceDate 'someday': .*set `format`"):
        ran(Request(path, "online_retail"), channel)
    assert [] == channel.sink.events
    assert {"row": 1, "reason": "bad_time"}.items() <= json.loads((tmp_path / "a.csv.rejects.jsonl").read_text()).items()


def test_the_rejects_file_never_replaces_the_input(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a\n1\n")
    with pytest.raises(Misconfigured, match="would replace the input"):
        ran(Request(path, "online_retail", rejects=path), MemoryChannel(MemorySink()))
    assert "a\n1\n" == path.read_text()


def test_the_retail_data_is_what_the_environment_names_else_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "whole.parquet"
    with pytest.raises(BadInput, match="unset it to use the packaged sample"):
        retail_path({"STREAMER_RETAIL": str(path)})
    path.touch()
    assert path == retail_path({"STREAMER_RETAIL": str(path)})
    assert retail_path({}).is_file()


def test_events_are_written_in_the_published_schema_with_its_id_before_them() -> None:
    events = load_file(sample_path(), load_mapping("online_retail")).events
    encode = encoder(PackagedSchemas(), "customer-events")
    for record in events.records(0, 50):
        value = encode(record)
        opening = wire.opening(value)
        assert schemas.packaged_id("behaviour_event", schemas.latest("behaviour_event")) == opening.schema_id
        assert dict(record) == codec.decode("behaviour_event", value[opening.body :])
