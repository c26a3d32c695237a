"""`streamer simulate`: what is sent, written and said."""

from __future__ import annotations

import io
import json
import re
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
import typer.main
from rich.console import Console
from typer.testing import CliRunner

from streamer import cli
from streamer.app import simulate_command
from streamer.app.config import load as load_config
from streamer.app.session import Session
from streamer.app.simulate_command import Request, run
from streamer.app.simulation import PERSONAS, Options, traffic, truth
from streamer.app.simulation.rhythm import DAY_MS, midnight_ms
from streamer.app.simulation.sending import Feed
from streamer.app.simulation.traffic import packaged_schema_id
from streamer.core.errors import Misconfigured, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from streamer.adapters.kafka.events_producer import EventRecord
    from streamer.app.config import Config
    from streamer.app.simulation import Counts

START = midnight_ms(date(2026, 3, 2))
OPTIONS = Options(customers=40, days=3, start_ms=START, malformed=0.05)
PAGE = Path(__file__).parents[2] / "docs" / "simulate.md"


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

    @contextmanager
    def connect(self, _config: Config) -> Iterator[Feed]:
        yield Feed(self, packaged_schema_id())


class StillClock:
    """A clock that only sleeping moves."""

    def __init__(self, now_ms: int = START + 400 * DAY_MS) -> None:
        self.begun_ms = now_ms
        self.slept_s = 0.0

    def now_ms(self) -> int:
        return self.begun_ms + int(self.slept_s * 1000)

    def monotonic_s(self) -> float:
        return self.slept_s

    def sleep(self, seconds: float) -> None:
        self.slept_s += seconds

    def token(self) -> str:
        return "token"


def ran(
    request: Request, sink: MemorySink, clock: StillClock | None = None, stopped: Callable[[], bool] = lambda: False
) -> tuple[Counts, str]:
    out = Console(file=io.StringIO(), width=100)
    counts = run(request, load_config(None, {}), out, Console(file=io.StringIO()), sink.connect, clock or StillClock(), stopped)
    return counts, out.file.getvalue()  # type: ignore[attr-defined]


def test_all_the_traffic_is_sent_in_order_and_acknowledged_and_told_by_persona() -> None:
    sink = MemorySink()
    counts, said = ran(Request(OPTIONS), sink)
    batches = list(traffic(OPTIONS))
    assert [key for batch in batches for key in batch.record_keys()] == [event.key for event in sink.events]
    assert [value for batch in batches for value in batch.values(packaged_schema_id())] == [event.value for event in sink.events]
    assert counts.records() == len(sink.events) == sink.acknowledged
    assert f"{counts.records():,} records sent to customer-events" in said
    assert "window_shopper" in said


def test_the_truth_and_the_counts_are_written_beside_each_other(tmp_path: Path) -> None:
    for name in ("truth.parquet", "truth.csv"):
        counts, said = ran(Request(OPTIONS, truth=tmp_path / name), MemorySink())
        assert counts.as_tree() == json.loads((tmp_path / f"{name}.counts.json").read_text())
        assert f"{name}.counts.json" in said
    pd.testing.assert_frame_equal(truth(OPTIONS), pd.read_parquet(tmp_path / "truth.parquet"))
    read = pd.read_csv(tmp_path / "truth.csv", parse_dates=["from", "until"])
    assert truth(OPTIONS)["from"].tolist() == read["from"].tolist()
    assert ["customer_id", "persona", "from", "until"] == list(read.columns)


def test_a_dry_run_writes_the_same_records_to_a_file_and_sends_none(tmp_path: Path) -> None:
    sink, path = MemorySink(), tmp_path / "events.parquet"
    counts, said = ran(Request(OPTIONS, dry_run=path, count=500), sink)
    frame = pd.read_parquet(path)
    batches = list(traffic(OPTIONS, 500))
    assert [] == sink.events
    assert 500 == len(frame) == counts.records()
    assert [value for batch in batches for value in batch.values(packaged_schema_id())] == frame["value"].tolist()
    assert [record["event_id"] for batch in batches for record in batch.records()] == frame["event_id"].tolist()
    assert counts.malformed.total() == frame["reason"].notna().sum() == (frame["fate"] == "malformed").sum()
    assert f"written to {path}" in said


def test_records_go_at_the_rate_asked_for() -> None:
    clock, sink = StillClock(), MemorySink()
    ran(Request(OPTIONS, rate=100.0, count=500), sink, clock)
    assert 500 == len(sink.events)
    assert clock.slept_s == pytest.approx(5.0, abs=0.1)


def test_followed_traffic_happens_now_until_told_to_stop() -> None:
    clock, sink = StillClock(), MemorySink()
    options = replace(OPTIONS, follow=True, malformed=0, late=0, start_ms=clock.now_ms())
    counts, _ = ran(Request(options, rate=1000.0), sink, clock, lambda: clock.slept_s > 2)
    assert len(sink.events) == sink.acknowledged == counts.records() == pytest.approx(2_000, abs=100)


def test_what_was_sent_before_a_failure_is_told_in_the_counts(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        ran(Request(OPTIONS, rate=1000.0, truth=tmp_path / "t.csv"), MemorySink(events_max=100))
    assert 100 == json.loads((tmp_path / "t.csv.counts.json").read_text())["records"]


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (Request(replace(OPTIONS, start_ms=START + 399 * DAY_MS)), "--start"),
        (Request(replace(OPTIONS, follow=True), dry_run=Path("x.parquet")), "--follow"),
        (Request(OPTIONS, truth=Path("x.xlsx")), ".parquet or .csv"),
        (Request(OPTIONS, truth=Path("/no/such/x.csv")), "cannot be written"),
        (Request(OPTIONS, truth=Path("/no/such/x.parquet")), "cannot be written"),
        (Request(OPTIONS, dry_run=Path("/no/such/x.parquet")), "cannot be written"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_remedy_before_anything_is_sent(request_: Request, says: str) -> None:
    sink = MemorySink()
    with pytest.raises(Misconfigured, match=re.escape(says)):
        ran(request_, sink)
    assert [] == sink.events


def test_the_command_line_simulates_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    arguments = ["simulate", "--customers", "30", "--days", "2", "--start", "2026-11-24", "--sales", "none", "--dry-run", str(path)]
    shown = CliRunner().invoke(cli.app, arguments, obj=Session(environment={}))
    assert 0 == shown.exit_code, shown.output
    expected = sum(len(batch) for batch in traffic(Options(30, 2, midnight_ms(date(2026, 11, 24)))))
    assert expected == len(pd.read_parquet(path))
    wrong = CliRunner().invoke(cli.app, [*arguments, "--start", "soon"], obj=Session(environment={}))
    assert isinstance(wrong.exception, Misconfigured)


def test_every_option_is_on_the_page_and_no_other() -> None:
    page = PAGE.read_text(encoding="utf-8")
    options = {o for p in typer.main.get_command(simulate_command.app).params for o in p.opts if o != "--help"}
    assert options == set(re.findall(r"^\| `(--[a-z-]+)", page, re.MULTILINE))


def test_every_persona_is_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [persona.name for persona in PERSONAS] == re.findall(r"^\| `([a-z_]+)` \|", page, re.MULTILINE)
