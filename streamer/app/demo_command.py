"""`streamer demo`: simulated customers whose truth is known, two workers on real servers, one of them killed, and the count afterwards.

The order of the play: 1. servers; 2. customers are drawn; 3. two thirds of the days come at once, and the first model is made of them;
4. the other days follow one by one, and in their middle a worker is killed with SIGKILL and started again; 5. the workers end, and what
they told is held against the profiles and against the truth.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from streamer.app.session import session_of
from streamer.core.errors import Corrupt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamer.app.config import Config
    from streamer.app.demo.stage import Workers
    from streamer.app.demo.subscriber import Audit
    from streamer.app.demo.truth import Silence, Truth, Verdict
    from streamer.app.demo.watch import Watch
    from streamer.app.simulation import Batch, Counts, Options
    from streamer.app.simulation.sending import Feed

app = typer.Typer(add_completion=False)

FIRST_DAY = date(2025, 3, 3)  # a Monday, in no sale
HISTORY = 0.7  # of the days lie behind the first model
KILLED = 1
AWAY_DAYS = 2  # days of traffic that come before the killed worker is started again
DAY_S = 0.5  # how long a day lasts at least, once there are segments
FEED_TIMEOUT_S = 60.0
REPORT = Path("demo-report")


@dataclass(frozen=True, slots=True)
class Played:
    """What came of the play."""

    burst: int
    burst_s: float
    backlog: int  # records that were sent and not yet committed when the worker was killed


@app.command()
def demo(
    context: typer.Context,
    customers: Annotated[int, typer.Option(min=200, max=100_000, help="How many customers.")] = 3_000,
    days: Annotated[int, typer.Option(min=10, max=365, help="How many days of traffic.")] = 30,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal traffic.")] = 1,
    report: Annotated[Path, typer.Option(file_okay=False, help="Where a report on the segments goes, and what it is made of.")] = REPORT,
) -> None:
    """Run the whole job on real servers started for it: simulated customers in, segments out, a worker killed on the way.

    Thirty days of a made-up shop's customers, of eight sorts, go through two workers, one of which is killed in the middle and started
    again. What the workers found is then held against the truth, and all that they told is counted by somebody who trusts nobody.
    """
    from streamer.app.demo import reporting, stage
    from streamer.app.demo.showing import show_next, show_segments, show_silence, show_story
    from streamer.app.demo.truth import Truth, told_best
    from streamer.app.demo.watch import Watch
    from streamer.app.simulate_command import connected
    from streamer.app.simulation import Counts, Options, expected_events
    from streamer.app.simulation.rhythm import midnight_ms
    from streamer.app.wiring import check_all, ensure_topics

    options = Options(customers, days, midnight_ms(FIRST_DAY), seed)
    console = Console()
    begun_s = time.monotonic()
    with ExitStack() as stack:
        console.print("[b]1. Real servers[/b]")
        environment = stack.enter_context(stage.servers_of(console, session_of(context).environment, _settings(options)))
        config = stage.configured(environment)
        stage.compile_first(console, config)
        ensure_topics(config)
        counts, truth = Counts(), Truth.of(options)
        _introduce(console, options)
        console.print(f"[b]3. {stage.WORKERS} workers, and a subscriber to the changes they tell[/b]")
        workers = stack.enter_context(stage.workers_of(environment))
        feed = stack.enter_context(connected(config))
        with Watch(config, console, workers, expected_events(options)) as watch:
            played = _play(watch, workers, feed, options, counts)
            workers.end()
            watch.look()
            changes = watch.everything()
        audited, verdict, silence = _held_against(config, options, truth, changes)
        checked = check_all(config, lambda _: None)
        written = reporting.report(console, config, environment, report, options.until_ms)
    show_segments(console, verdict, watch.subscriber.names)
    show_story(console, told_best(truth, verdict, changes), options.start_ms)
    show_silence(console, silence)
    _sum_up(console, counts, played, audited)
    whole = "agree with the model's sums" if checked.clean else f"do NOT agree with the model's sums: {checked}"
    console.print(f"   streamer check: {checked.customers:,} profiles and {checked.votes:,} votes {whole}.")
    console.print(f"\nAll of it took {time.monotonic() - begun_s:.0f} s; the servers and workers it started are stopped.\n")
    show_next(
        console,
        ("make demo-retail", "the same on a shop's real orders"),
        ('eval "$(streamer servers up)"', "servers of your own"),
        ("streamer run", "a worker; start more to scale"),
        ("streamer simulate", "such customers again, into your servers"),
        ("streamer segments", "who is who"),
        ("streamer tail", "changes as they come"),
    )
    reporting.show(console, written)


def _settings(options: Options) -> dict[str, str]:
    """Set the job for the demo: as many segments as there are personas, and a first model once most of the days lie behind."""
    from streamer.app.simulation import PERSONAS

    return {
        "STREAMER_MODEL__K": str(len(PERSONAS)),
        "STREAMER_MODEL__FIRST_FIT__CUSTOMERS_MIN": str(options.customers // 2),
        "STREAMER_MODEL__FIRST_FIT__HISTORY_DAYS_MIN": f"{_history_days(options)}d",
    }


def _history_days(options: Options) -> int:
    return int(options.days * HISTORY)


def _introduce(console: Console, options: Options) -> None:
    """Tell who the customers are."""
    from streamer.app.simulation import PERSONAS

    names = [persona.name for persona in PERSONAS]
    console.print("[b]2. Customers whose truth is known[/b] (docs/simulate.md)")
    console.print(f"   {options.customers:,} customers over {options.days} days. Each is one of {len(names)} personas:")
    console.print(f"   {', '.join(names[:6])},\n   {', '.join(names[6:])}.")
    console.print(
        f"   {options.changes:.0%} of them become another on the way. Among the records, {options.late:.1%} come late,\n"
        f"   {options.duplicates:.1%} come twice, and {options.malformed:.1%} are malformed. The workers are told none of this."
    )


def _days(options: Options) -> Iterator[list[Batch]]:
    """Give the traffic day by day; what is late on the last day comes after it."""
    from streamer.app.simulation import traffic
    from streamer.app.simulation.rhythm import day_of

    for _, batches in groupby(traffic(options), key=lambda batch: day_of(int(batch.rows["sent"][0]))):
        yield list(batches)


def _play(watch: Watch, workers: Workers, feed: Feed, options: Options, counts: Counts) -> Played:
    """Send the traffic, kill a worker in its middle and start it again; returns when every event is in a profile."""
    history = _history_days(options)
    kill_on = history + (options.days - history) // 2
    backlog, killed_s, back_s = 0, 0.0, 0.0
    days = _days(options)
    watch.until("the workers' first partitions", lambda: watch.owned)
    begun_s = time.monotonic()
    for _ in range(history):
        _send(next(days), feed, counts)
    watch.until("the end of the first events", lambda: watch.done >= counts.records())
    burst, burst_s = counts.records(), time.monotonic() - begun_s
    watch.say(f"   {history} days at once: {burst:,} events in {burst_s:.1f} s ({burst / burst_s:,.0f} a second, sending included)")
    for day, batches in enumerate(days, history):
        _send(batches, feed, counts)
        if day == kill_on - 1:
            continue  # two days at once, so that the worker has its hands full when it is killed
        if day == kill_on:
            watch.look()
            backlog, killed_s = counts.records() - watch.done, time.monotonic()
            workers.kill(KILLED)
            watch.say(f"   [red]kill -9[/red] of worker {KILLED}, with {backlog:,} events in flight")
        if killed_s and not back_s and day >= min(kill_on + AWAY_DAYS, options.days - 1):
            workers.start(KILLED)
            back_s = time.monotonic()
            watch.say(f"   worker {KILLED} is started again {back_s - killed_s:.1f} s later")
        if not watch.judged and not killed_s:
            watch.until("the first model", lambda: watch.judged)
            watch.say(f"   day {day + 1}: the first model is there, and everybody gets a segment")
        watch.follow(DAY_S)
    watch.until("the end of the events", lambda: watch.done >= counts.records() and watch.judged)
    watch.say(f"   all {counts.records():,} records are in the profiles {time.monotonic() - back_s:.1f} s after that")
    return Played(burst, burst_s, backlog)


def _send(batches: list[Batch], feed: Feed, counts: Counts) -> None:
    from streamer.app.clock import SystemClock
    from streamer.app.simulation.sending import Pace, send

    send(batches, feed, Pace(SystemClock()), counts, lambda _: None, FEED_TIMEOUT_S)


def _held_against(config: Config, options: Options, truth: Truth, changes: list[dict[str, Any]]) -> tuple[Audit, Verdict, Silence | None]:
    """Hold the changes against the profiles, and the segments against the truth."""
    from streamer.adapters.clustering import KMeansFitter
    from streamer.app.demo.subscriber import audit
    from streamer.app.demo.truth import judged, longest_silence
    from streamer.app.standing import standing
    from streamer.app.wiring import current_model, sources

    model = current_model(config)
    if model is None:
        message = "no model was made: this is a fault of the demo, please report it"
        raise Corrupt(message)
    with sources(config) as found:
        stand = standing(found.store, range(config.topics.partitions), found.declaration, found.plan, model, options.until_ms - 1)
        silence = longest_silence(found, changes)
    kept = dict(zip(stand.customers, zip(stand.segment, stand.version, strict=True), strict=True))
    verdict = judged(truth, stand, options.until_ms - 1, KMeansFitter(), len(model.active))
    return audit(changes, kept), verdict, silence


def _sum_up(console: Console, counts: Counts, played: Played, audited: Audit) -> None:
    """Tell what was promised and what came of it."""
    good = not audited.twice and not audited.lost
    console.print("\n[b]6. What was told, counted by somebody who trusts nobody[/b]")
    console.print(f"   [{'green' if good else 'yellow'}]{audited.words()}[/].")
    console.print(
        "   Counted from the beginning of the topic, with nothing taken out. What is told\n"
        "   twice has an old version; what is lost leaves a gap between two changes of a\n"
        "   customer, or between the last one and the profile."
    )
    console.print(
        f"   On the way, a worker was killed with {played.backlog:,} events in flight.\n"
        f"   {counts.events:,} events were sent, {counts.duplicates:,} of them twice, which counts once;\n"
        f"   {counts.malformed.total():,} malformed records went to the dead letters."
    )
