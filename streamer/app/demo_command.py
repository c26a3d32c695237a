"""`streamer demo`: real servers, real orders, two workers, the first segments; all of it started here and ended here."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from streamer.app.session import session_of
from streamer.core.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.console import RenderableType

    from streamer.app.config import Config
    from streamer.app.ingest.load import Loaded
    from streamer.app.ingest.sending import Channel

app = typer.Typer(add_completion=False)

WORKERS = 2
PARTITIONS = 8
SHOWN_CHANGES = 8
PACED_SLICES = 40
PACE_S = 0.05
FEED_TIMEOUT_S = 30.0
MODEL_WAIT_S = 5.0
TIMEOUT_S = 300.0
SETTINGS = {
    "STREAMER_TOPICS__PARTITIONS": str(PARTITIONS),
    "STREAMER_MODEL__K": "5",
    "STREAMER_MODEL__FIRST_FIT__CUSTOMERS_MIN": "100",
    "STREAMER_MODEL__FIRST_FIT__HISTORY_DAYS_MIN": "60d",
    "STREAMER_MODEL__EPOCH_INTERVAL_S": "0.3s",
    "STREAMER_LOG__LEVEL": "warning",
    "STREAMER_METRICS__ENABLED": "false",
}


@dataclass(slots=True)
class Seen:
    """What a subscriber to `segment-changes` has seen so far."""

    next_offsets: list[int] = field(default_factory=lambda: [0] * PARTITIONS)
    segment: dict[str, str] = field(default_factory=dict)
    version: dict[str, int] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    causes: Counter[str] = field(default_factory=Counter)
    latest: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=SHOWN_CHANGES))
    repeated: int = 0

    def apply(self, change: dict[str, Any]) -> None:
        """Take a change in, as every subscriber should: if its version is greater than the one at hand."""
        customer = change["customer_id"]
        if change["version"] <= self.version.get(customer, -1):
            self.repeated += 1
            return
        self.version[customer] = change["version"]
        self.segment[customer] = change["segment_id"]
        self.names[change["segment_id"]] = change["segment_name"]
        self.causes[change["cause"]] += 1
        self.latest.append(change)


@app.command()
def demo(context: typer.Context) -> None:
    """Run the whole job on real servers started for it: retail orders in, segments out."""
    from streamer.app.wiring import ensure_topics

    session = session_of(context)
    console = Console()
    begun_s = time.monotonic()
    with ExitStack() as stack:
        environment = dict(session.environment) | SETTINGS | stack.enter_context(_servers(console, session.environment))
        environment["STREAMER_FEATURES__DECLARATION"] = str(Path(__file__).parent / "samples" / "retail_features.yaml")
        environment.setdefault("STREAMER_APP__NAME", f"demo-{os.getpid()}")
        config = _config(environment)
        _compile(console, config)
        loaded = _read(console, environment)
        ensure_topics(config)
        errors = stack.enter_context(_workers(environment))
        seen, burst_s, customers = _watch(console, config, loaded, errors)
        _segments(console, config, seen)
        _checked(console, config)
    burst = len(loaded.events) // 3
    console.print(
        f"\n{len(loaded.events):,} events, {sum(seen.causes.values()):,} changes for {customers:,} customers: {_counted(seen.causes)}; "
        f"{seen.repeated} of them told twice.\nThe first {burst:,} events came at once and were in their profiles {burst_s:.2f} s later "
        f"({burst / burst_s:,.0f} events/s, sending included); the rest came little by little, to be watched."
    )
    console.print(f"The whole demo took {time.monotonic() - begun_s:.0f} s; the servers and workers it started are stopped.\n")
    console.print("[b]What to do next[/b]")
    console.print('  eval "$(streamer servers up)"                        servers of your own, until `streamer servers down`')
    console.print("  streamer ingest orders.csv --mapping mapping.yaml    your own data (docs/ingest.md)")
    console.print("  streamer run                                         a worker; start more to scale")
    console.print("  streamer features, streamer config, streamer check   what is computed, how it is set, whether sums and profiles agree")


@contextmanager
def _servers(console: Console, environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    from streamer.adapters import servers

    console.print("[b]1. Real servers[/b]")
    begun_s = time.monotonic()
    with servers.progress_bar(console) as report:
        running = servers.start(environment, progress=report)
    with running:
        took_s = time.monotonic() - begun_s
        console.print(f"   Kafka at {running.kafka_bootstrap}, Redis at {running.redis_url} ({running.source}), {took_s:.1f} s")
        yield running.environment


def _config(environment: Mapping[str, str]) -> Config:
    from streamer.app.config import load

    return load(None, environment)


def _compile(console: Console, config: Config) -> None:
    """Compile once, so that the workers find it done."""
    from streamer.app.wiring import compile_all

    begun_s = time.monotonic()
    with console.status("compiling the decoder and the fold, a minute or so the first time"):
        compile_all(config)
    console.print(f"   compiled code at hand, {time.monotonic() - begun_s:.1f} s")


def _read(console: Console, environment: Mapping[str, str]) -> Loaded:
    """Read the retail orders as events."""
    from streamer.app.ingest.account import account
    from streamer.app.ingest.load import load
    from streamer.app.mappings import load_mapping
    from streamer.app.samples import retail_path

    path = retail_path(environment)
    mapping = load_mapping("online_retail")
    console.print(f"[b]2. Orders to events[/b]\n   {path.name} (UCI Online Retail, CC BY 4.0)")
    with console.status("reading"):
        loaded = load(path, mapping)
    console.print(account(loaded.totals, mapping))
    return loaded


class Feed:
    """Sends a third of the events at once and, when the first model is there or long in coming, the rest little by little."""

    def __init__(self, channel: Channel, loaded: Loaded) -> None:
        """Prepare; nothing is sent yet."""
        self._channel = channel
        self._events = loaded.events
        self.total = len(loaded.events)
        self.burst = self.total // 3
        self._slice = max(1, self.total // PACED_SLICES)
        self._sent = 0

    def feed(self, *, onward: bool) -> None:
        """Send what is due; called again and again."""
        from streamer.adapters.kafka.events_producer import EventRecord

        wanted = self.burst if self._sent < self.burst else self._sent + self._slice if onward else self._sent
        records = self._events.records(self._sent, min(wanted, self.total))
        self._channel.sink.send(EventRecord(record["customer_id"].encode(), self._channel.encode(record)) for record in records)
        self._channel.sink.wait(FEED_TIMEOUT_S)
        self._sent = min(wanted, self.total)


@contextmanager
def _workers(environment: Mapping[str, str]) -> Iterator[list[Path]]:
    """Run workers as processes of their own; they end with the block."""
    with tempfile.TemporaryDirectory() as directory:
        processes, errors = [], []
        for n in range(WORKERS):
            errors.append(Path(directory) / f"worker-{n}.log")
            own = {**environment, "STREAMER_APP__INSTANCE": f"demo-{n}"}
            with errors[-1].open("wb") as log:
                command = [sys.executable, "-m", "streamer", "run"]
                processes.append(subprocess.Popen(command, env=own, stderr=log, stdout=log))
        try:
            yield errors
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                try:
                    process.wait(timeout=15)
                except subprocess.TimeoutExpired:
                    process.kill()


def _watch(console: Console, config: Config, loaded: Loaded, errors: list[Path]) -> tuple[Seen, float, int]:
    """Feed the workers and follow the changes until every event is in.

    Returns what was seen, how long the burst took, and how many customers there are.
    """
    from streamer.app.ingest.channel import event_channel
    from streamer.app.wiring import Watcher, schema_source

    console.print(f"[b]3. {WORKERS} workers, and a subscriber to their changes[/b]")
    seen = Seen()
    progress = Progress(TextColumn("   events"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console)
    bar = progress.add_task("events", total=len(loaded.events))
    burst_s = 0.0
    deadline_s = time.monotonic() + TIMEOUT_S
    with (
        event_channel(config, schema_source(config)) as channel,
        Watcher(config) as watcher,
        Live(console=console, refresh_per_second=8, transient=True) as live,
    ):
        feed = Feed(channel, loaded)
        while not all(state.owner for state in watcher.states()) and time.monotonic() < deadline_s:
            time.sleep(PACE_S)
        begun_s = time.monotonic()
        while time.monotonic() < deadline_s:
            judged = watcher.settled(watcher.states(), least=1)
            feed.feed(onward=judged or time.monotonic() - begun_s > MODEL_WAIT_S)
            states = watcher.states()
            done = sum(state.next_offset for state in states)
            if not burst_s and done < feed.burst:
                continue
            burst_s = burst_s or time.monotonic() - begun_s
            for partition in range(PARTITIONS):
                seen.next_offsets[partition], changes = watcher.changes(partition, seen.next_offsets[partition])
                for change in changes:
                    seen.apply(change)
            progress.update(bar, completed=done)
            live.update(_screen(progress, seen))
            if done >= feed.total and judged:
                return seen, burst_s, watcher.customers()
    said = "\n".join(path.read_text(errors="replace")[-2000:] for path in errors)
    message = f"the workers did not finish within {TIMEOUT_S:.0f} s:\n{said}"
    raise Unavailable(message)


def _screen(progress: Progress, seen: Seen) -> RenderableType:
    from rich.console import Group

    table = Table(box=None, pad_edge=True, padding=(0, 1), expand=True)
    for column, width in (("customer", 9), ("from", 9), ("to", None), ("why", 12), ("when", 10)):
        table.add_column(column, no_wrap=True, width=width, ratio=None if width else 1)
    for change in seen.latest:
        when = time.strftime("%Y-%m-%d", time.gmtime(change["occurred_at"] / 1000))
        table.add_row(change["customer_id"], change["previous_segment_id"] or "", change["segment_name"], change["cause"], when)
    return Group(progress, table)


def _segments(console: Console, config: Config, seen: Seen) -> None:
    """Show the segments as a subscriber knows them, and what sets each apart by the model."""
    from streamer.app.wiring import current_model

    model = current_model(config)
    sizes = Counter(seen.segment.values())
    table = Table(title=f"Segments of {sum(sizes.values()):,} customers")
    table.add_column("segment")
    table.add_column("customers", justify="right")
    table.add_column("share", justify="right")
    table.add_column("what sets it apart (standard deviations from the mean)")
    apart = {} if model is None else {s.segment_id: _apart(model.features, model.centroids[k]) for k, s in enumerate(model.segments)}
    for segment, size in sizes.most_common():
        share = size / sum(sizes.values())
        table.add_row(segment, f"{size:,}", f"{share:.1%}", apart.get(segment, "too little behind them to say"))
    console.print(table)


def _apart(features: tuple[str, ...], centroid: Any) -> str:  # noqa: ANN401  # (f,) array
    order = sorted(range(len(features)), key=lambda f: -abs(centroid[f]))[:4]
    return ", ".join(f"{features[f]} {centroid[f]:+.1f}" for f in order)


def _checked(console: Console, config: Config) -> None:
    from streamer.app.wiring import check_all

    report = check_all(config, lambda _: None)
    verdict = "sums and profiles agree" if report.clean else f"NOT as it should be: {report}"
    console.print(f"streamer check: {report.customers:,} customers, {report.votes:,} votes, {verdict}")


def _counted(causes: Counter[str]) -> str:
    return ", ".join(f"{count:,} {cause}" for cause, count in causes.most_common())
