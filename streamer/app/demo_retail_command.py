"""`streamer demo-retail`: real servers, real orders, two workers, the first segments, a report; all of it started and ended here."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from streamer.app.session import session_of
from streamer.core.declaration import DAY_MS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamer.adapters.files.load import Loaded
    from streamer.app.config import Config
    from streamer.app.demo.subscriber import Subscriber
    from streamer.app.demo.watch import Watch
    from streamer.app.ingest.sending import Channel

app = typer.Typer(add_completion=False)

PACED_SLICES = 40
FEED_TIMEOUT_S = 30.0
MODEL_WAIT_S = 5.0
APART_FEATURES = 4
REPORT = Path("demo-retail-report")
SETTINGS = {
    "STREAMER_MODEL__K": "5",
    "STREAMER_MODEL__FIRST_FIT__CUSTOMERS_MIN": "100",
    "STREAMER_MODEL__FIRST_FIT__HISTORY_DAYS_MIN": "90d",
}


@app.command("demo-retail")
def demo_retail(
    context: typer.Context,
    report: Annotated[Path, typer.Option(file_okay=False, help="Where a report on the segments goes, and what it is made of.")] = REPORT,
) -> None:
    """Run the whole job on real servers started for it: a shop's real orders in, segments out."""
    from streamer.app.demo import reporting, stage
    from streamer.app.demo.showing import show_next
    from streamer.app.demo.watch import Watch
    from streamer.app.ingest.channel import event_channel
    from streamer.app.wiring import ensure_topics, schema_source

    console = Console()
    begun_s = time.monotonic()
    declaration = {"STREAMER_FEATURES__DECLARATION": str(Path(__file__).parent / "samples" / "retail_features.yaml")}
    with ExitStack() as stack:
        console.print("[b]1. Real servers[/b]")
        environment = stack.enter_context(stage.servers_of(console, session_of(context).environment, SETTINGS | declaration))
        config = stage.configured(environment)
        stage.compile_first(console, config)
        loaded = _read(console, environment)
        ensure_topics(config)
        console.print(f"[b]3. {stage.WORKERS} workers, and a subscriber to their changes[/b]")
        workers = stack.enter_context(stage.workers_of(environment))
        channel = stack.enter_context(event_channel(config, schema_source(config)))
        with Watch(config, console, workers, len(loaded.events)) as watch:
            burst, burst_s = _play(watch, channel, loaded)
            workers.end()
            watch.look()
            repeats = len(watch.everything()) - sum(watch.subscriber.causes.values())
        _segments(console, config, watch.subscriber)
        _checked(console, config)
        until_ms = (int(loaded.events.occurred_at.max()) // DAY_MS + 1) * DAY_MS
        written = reporting.report(console, config, environment, report, until_ms)
    known = watch.subscriber
    console.print(
        f"\n{len(loaded.events):,} events, {sum(known.causes.values()):,} changes for {len(known.segment):,} customers:\n"
        f"{_counted(known.causes)}; {repeats} of them told twice.\n"
        f"The first {burst:,} events came at once and were in their profiles {burst_s:.2f} s later\n"
        f"({burst / burst_s:,.0f} a second, sending included); the rest came little by little."
    )
    console.print(f"The whole demo took {time.monotonic() - begun_s:.0f} s; the servers and workers it started are stopped.\n")
    show_next(
        console,
        ('eval "$(streamer servers up)"', "servers of your own"),
        ("streamer ingest FILE --mapping MAP", "your own data (docs/ingest.md)"),
        ("streamer run", "a worker; start more to scale"),
        ("streamer features", "what is computed"),
        ("streamer config", "how it is set"),
        ("streamer check", "whether sums and profiles agree"),
    )
    reporting.show(console, written)


def _read(console: Console, environment: Mapping[str, str]) -> Loaded:
    """Read the retail orders as events."""
    from streamer.adapters.files.load import load
    from streamer.adapters.files.mappings import load_mapping
    from streamer.app.ingest.account import account
    from streamer.app.samples import retail_path

    path = retail_path(environment)
    mapping = load_mapping("online_retail")
    console.print(f"[b]2. Orders to events[/b]\n   {path.name} (UCI Online Retail, CC BY 4.0)")
    with console.status("reading"):
        loaded = load(path, mapping)
    console.print(account(loaded.totals, mapping))
    return loaded


def _play(watch: Watch, channel: Channel, loaded: Loaded) -> tuple[int, float]:
    """Send a third of the events at once and, when the first model is there or long in coming, the rest little by little.

    Returns how many came at once, and how long it took until they were in their profiles.
    """
    total = len(loaded.events)
    burst, step = total // 3, max(1, total // PACED_SLICES)
    watch.until("the workers' first partitions", lambda: watch.owned)
    begun_s = time.monotonic()
    _send(channel, loaded, 0, burst)
    watch.until("the end of the first events", lambda: watch.done >= burst)
    burst_s = time.monotonic() - begun_s
    watch.until("the first model", lambda: watch.judged, MODEL_WAIT_S)
    for first in range(burst, total, step):
        _send(channel, loaded, first, min(first + step, total))
        watch.look()
    watch.until("the end of the events", lambda: watch.done >= total and watch.judged)
    return burst, burst_s


def _send(channel: Channel, loaded: Loaded, first: int, last: int) -> None:
    from streamer.adapters.kafka.events_producer import EventRecord

    records = loaded.events.records(first, last)
    channel.sink.send(EventRecord(record["customer_id"].encode(), channel.encode(record)) for record in records)
    channel.sink.wait(FEED_TIMEOUT_S)


def _segments(console: Console, config: Config, known: Subscriber) -> None:
    """Show the segments as a subscriber knows them, and what sets each apart by the model."""
    from streamer.app.wiring import current_model

    model = current_model(config)
    sizes = Counter(known.segment.values())
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
    order = sorted(range(len(features)), key=lambda f: -abs(centroid[f]))[:APART_FEATURES]
    return ", ".join(f"{features[f]} {centroid[f]:+.1f}" for f in order)


def _checked(console: Console, config: Config) -> None:
    from streamer.app.wiring import check_all

    report = check_all(config, lambda _: None)
    verdict = "sums and profiles agree" if report.clean else f"NOT as it should be: {report}"
    console.print(f"streamer check: {report.customers:,} customers, {report.votes:,} votes, {verdict}")


def _counted(causes: Counter[str]) -> str:
    return ", ".join(f"{count:,} {cause}" for cause, count in causes.most_common())
