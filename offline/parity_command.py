"""`offline parity HISTORY`: compare the profiles in Redis with what the history comes to."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offline.session import session_of

if TYPE_CHECKING:
    from rich.console import Console

    from offline.job_metrics import JobMetrics
    from offline.parity import Report, Sources
    from offline.servers import Servers
    from offline.settings import Settings
    from streamer.core.model import ModelVersion

DIFFERENT = 1
NOT_SETTLED = 75  # EX_TEMPFAIL: try again
SHOWN = 20
COPY = "version:{}"  # under which Redis has a model version
MODEL = "model_version"

METRICS_FILE = typer.Option("--metrics-file", help="Write figures for Prometheus' textfile collector.", metavar="FILE")
PUSH_GATEWAY = typer.Option("--push-gateway", help="Push figures to a Prometheus Pushgateway.", metavar="URL")


def parity(
    context: typer.Context,
    history: Annotated[str, typer.Argument(help="The history: a directory, or the URL of an object store.")],
    one_of: Annotated[
        int, typer.Option("--one-of", min=1, max=1_000_000, help="Compare one of so many customers, by their hash; 1: all.")
    ] = 1,
    part: Annotated[int, typer.Option("--part", min=0, help="Which of these parts, from 0.")] = 0,
    features: Annotated[
        Path | None, typer.Option(help="The declaration of features; that of the settings, else the packaged one.", metavar="FILE")
    ] = None,
    named: Annotated[int, typer.Option("--named", min=0, max=1000, help="How many differences are shown one by one.")] = SHOWN,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    metrics_file: Annotated[Path | None, METRICS_FILE] = None,
    push_gateway: Annotated[str | None, PUSH_GATEWAY] = None,
) -> None:
    """Compare the profiles in Redis with what the history, and the end of the log in Kafka, come to.

    The exit status is 0 where all are equal, 1 where one differs, and 75 where none does but some could not be compared for the load.
    """
    from rich.console import Console

    from offline.parity import Sample
    from offline.parity import parity as compare
    from offline.servers import servers
    from streamer.core.errors import Misconfigured

    if part >= one_of:
        message = f"--part: is {part}: parts of --one-of {one_of} are 0 to {one_of - 1}"
        raise Misconfigured(message)
    began_s = time.time()
    session = session_of(context)
    where = servers(session.file or _stream_file(), os.environ)
    err = Console(stderr=True)
    with err.status("opening the history") as status:

        def told(step: str, done: int, of: int) -> None:
            status.update(f"{step} {done:,} of {of:,}")

        report = compare(sources(history, where, session.settings(), features), Sample(one_of, part), told)
    figures(report, began_s, time.time()).leave(metrics_file, push_gateway)
    if as_json:
        typer.echo(json.dumps(record(report, named), indent=2, ensure_ascii=False))
    else:
        show(report, Console(), named)
    if report.found:
        raise typer.Exit(DIFFERENT)
    if not report.clean:
        raise typer.Exit(NOT_SETTLED)


def _stream_file() -> Path | None:
    given = os.environ.get("STREAMER_CONFIG")
    return Path(given) if given else None


def sources(history: str, where: Servers, settings: Settings, features: Path | None = None) -> Sources:
    """Connect what is compared. Raises a `StreamerError` where a server or the history can't be used."""
    from offline.events import Reading
    from offline.parity import Sources
    from offline.tail import Tail
    from streamer.adapters.avro import codec
    from streamer.adapters.declaration_file import load
    from streamer.adapters.history import open_history
    from streamer.adapters.kafka.tailing import KafkaTail
    from streamer.core.erasure import make_rule
    from streamer.core.errors import Corrupt
    from streamer.core.model import from_record

    store = where.store()
    versions: dict[int, ModelVersion] = {}

    def model(number: int) -> ModelVersion:
        if number not in versions:
            body = store.announced(COPY.format(number))
            if body is None:
                message = f"Redis has no copy of model version {number}, by which its profiles are judged: see `streamer status`"
                raise Corrupt(message)
            versions[number] = from_record(codec.decode(MODEL, body))
        return versions[number]

    tail = Tail(
        KafkaTail(where.kafka()),
        where.values["topics.events"],
        where.schemas(),
        where.whole("limits.items_max"),
        where.whole("limits.value_bytes_max"),
    )
    reading = Reading(load(features or settings.declaration), where.limits)
    rule = make_rule(where.values["erasure.key"] or None, refuse=True)
    return Sources(store, open_history(history), tail, reading, model, rule, settings.fit.buckets, settings.fit.rows_in_memory)


def record(report: Report, named: int) -> dict[str, Any]:
    """Give a report in JSON's types."""
    return {
        "clean": report.clean,
        "compared": report.compared,
        "equal": report.equal,
        "differing": dict(report.customers),
        "erased": report.erased,
        "unsettled": report.unsettled,
        "busy": report.busy,
        "features": dict(report.features.most_common()),
        "offsets": {str(partition): offset for partition, offset in report.offsets.items()},
        "from_kafka": report.from_kafka,
        "findings": [asdict(finding) for finding in report.findings[:named]],
    }


def figures(report: Report, began_s: float, now_s: float) -> JobMetrics:
    """Give a report as metrics: the run is a success where it could compare everybody, whatever it found."""
    from offline.job_metrics import JobMetrics
    from offline.parity import KINDS

    found = JobMetrics("parity")
    found.set("offline_parity_customers", report.equal, "equal")
    for kind in KINDS:
        found.set("offline_parity_customers", report.customers[kind], kind)
    found.set("offline_parity_customers", report.unsettled, "unsettled")
    for what, customers in report.features.most_common():
        found.set("offline_parity_differences", customers, what)
    found.ended(began_s, now_s, success=not (report.unsettled or report.busy))
    return found


def show(report: Report, console: Console, named: int) -> None:
    """Show a report to people; customers are named, for it answers whoever asks at a terminal."""
    from rich.markup import escape
    from rich.text import Text

    from offline.showing import table

    if report.features:
        by_feature = table(("feature or measure", ""), ("customers", "right"))
        for what, customers in report.features.most_common():
            by_feature.add_row(escape(what), f"{customers:,}")
        console.print(by_feature)
    if report.findings and named:
        one_by_one = table(
            ("customer", ""), ("partition", "right"), ("", ""), ("feature or measure", ""), ("Redis", "right"), ("history", "right")
        )
        for one in report.findings[:named]:
            numbers = ("" if value is None else f"{value:,.10g}" for value in (one.live, one.history))
            one_by_one.add_row(escape(one.customer), str(one.partition), one.kind, escape(one.what), *numbers)
        console.print(one_by_one)
        if len(report.findings) > named:
            console.print(f"and {len(report.findings) - named:,} more: --named shows them")
    for partition in report.busy:
        console.print(f"partition {partition}: is being rebuilt, or Redis loses it: run this again when that is over")
    if report.unsettled:
        console.print(f"{report.unsettled:,} customers could not be read at one offset, for the load: run this again")
    counts = ", ".join(f"{count:,} {kind}" for kind, count in report.customers.items())
    verdict = "equal to the history" if report.clean else f"NOT as the history has it: {counts}" if report.found else "not all compared"
    console.print(Text(f"{report.compared:,} customers compared, {report.from_kafka:,} offsets from Kafka: {verdict}"), soft_wrap=True)
