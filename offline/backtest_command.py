"""`offline backtest`: a period of history replayed day by day, under several policies side by side."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offline.session import end_of, session_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from offline.backtest import Outcome, Period
    from offline.policies import Policy
    from offline.replaying import Log
    from offline.settings import Settings

LATEST_MS = 1 << 60


def backtest(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="A file of events or orders, or a history: a directory or the URL of an object store.")],
    first_model: Annotated[str, typer.Option(help="The first model is fitted as of the end of this day (UTC).", metavar="DATE")],
    until: Annotated[str | None, typer.Option(help="The last day that is replayed; the last one with events.", metavar="DATE")] = None,
    mapping: Annotated[
        str | None, typer.Option("--mapping", "-m", help="For orders: a mapping file, or the name of a packaged one: online_retail.")
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="The declaration of features; that of the settings, else the packaged one.", metavar="FILE")
    ] = None,
    k: Annotated[int | None, typer.Option("--k", help="How many segments; `fit.k` of the settings.", min=2, max=256)] = None,
    policy: Annotated[
        list[str] | None, typer.Option(help="Run this policy, may be given again; a handful unless there is a grid.", metavar="NAME")
    ] = None,
    margin: Annotated[str | None, typer.Option(help="Grid: these margins, in percent.", metavar="0,10,20")] = None,
    dwell: Annotated[str | None, typer.Option(help="Grid: these dwells, in days.", metavar="0,3,7")] = None,
    margin_large: Annotated[str | None, typer.Option(help="Grid: margins that need no dwell, in percent.", metavar="30,100")] = None,
    refit_days: Annotated[int, typer.Option(help="Compare with the best refit every so many days.", min=1)] = 14,
    jobs: Annotated[int, typer.Option(help="Policies run at a time, each in a process of its own.", min=1, max=64)] = 2,
    out: Annotated[
        Path | None, typer.Option(help="Write backtest.json and the plots, PNG and SVG, into this directory.", file_okay=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Replay a period through the stream's own core, without servers, under several policies, and measure each of them every day.

    Events before the first model's day build profiles up. Figures are as of each midnight (UTC).
    """
    import json

    from rich.console import Console

    from offline.backtest import Case, Period, first_version
    from offline.backtest import backtest as ran
    from offline.policies import USUAL, chosen, grid

    if out is not None:
        _need_plots()
    gridded = bool(margin or dwell or margin_large)
    policies = list(chosen(policy or ([] if gridded else USUAL)))
    if gridded:
        policies += grid(_shares("--margin", margin), _days(dwell), _shares("--margin-large", margin_large))
    settings, err = session_of(context).settings(), Console(stderr=True)
    with err.status("reading"):
        log, warnings = read(source, mapping, features, settings)
        period = Period(end_of(first_model), end_of(until) if until is not None else _last_midnight(log), refit_days)
        version = first_version(log, period.begin, k or settings.fit.k, settings.fit.seed)
    begun = time.monotonic()
    with _progress(err, policies, period) as told:
        outcomes = ran(Case(log, version, period, settings.fit.seed), policies, jobs, told)
    body = described(outcomes, period, {"source": source, "features": version.feature_version, "k": len(version.active)})
    text = json.dumps(body, indent=1, ensure_ascii=False)
    if out is not None:
        _write(out, text, outcomes)
    if as_json:
        typer.echo(text)
        return
    console = Console()
    console.print(table(outcomes))
    console.print(
        f"{period.days} days, {log.customers:,} customers, {len(log.rows.time):,} events, {len(version.active)} segments; "
        f"{time.monotonic() - begun:.0f} s."
    )
    for warning in warnings:
        console.print(warning, style="yellow", markup=False)
    if out is not None:
        console.print(f"Figures and plots: {out}", soft_wrap=True, markup=False)


def read(source: str, mapping: str | None, features: Path | None, settings: Settings) -> tuple[Log, tuple[str, ...]]:
    """Read a file, or all of a history, since what is spent after the period counts, too; also gives what should be known of it."""
    from offline.commands import events_of
    from offline.event_files import read_events
    from offline.events import Reading
    from offline.replaying import log_of
    from streamer.adapters.declaration_file import load
    from streamer.adapters.history import open_history

    declaration = features or settings.declaration
    if Path(source).is_file():
        found = read_events(Path(source), mapping, declaration)
        return log_of(Reading(found.declaration), found.batches), found.warnings
    reading, history = Reading(load(declaration)), open_history(source)
    cutoff = history.manifest().cutoff(LATEST_MS)
    return log_of(reading, events_of(history, cutoff, reading.columns)), ()


def described(outcomes: Sequence[Outcome], period: Period, about: dict[str, Any]) -> dict[str, Any]:
    """Describe what came out in JSON's types: of each policy its summary, and its figures by day."""
    from dataclasses import asdict

    from offline.showing import day

    shown = {"first_model": day(period.begin), "until": day(period.end), "refit_days": period.refit_days}
    return {
        **about,
        **shown,
        "policies": [
            {
                **asdict(one.policy),
                "summary": summary(one),
                "days": [{**asdict(figures), "day": day(figures.at)} for figures in one.days],
            }
            for one in outcomes
        ],
    }


def summary(one: Outcome) -> dict[str, Any]:
    """Sum a policy up; a figure that no day has is None."""
    return {
        "wcss_ratio": one.mean("wcss_ratio"),
        "wcss_ratio_max": one.most("wcss_ratio"),
        "wcss_ratio_told": one.mean("wcss_ratio_told"),
        "changes": one.changes,
        "customer_days": one.customer_days,
        "changes_per_customer_day": one.churn,
        "returned_within_7_days": one.flapping,
        "causes": one.causes,
        "separation": one.mean("separation"),
        "relabelled_a_night": one.mean("relabelled"),
        "relabelled_a_night_max": one.most("relabelled"),
        "share": dict(one.days[-1].share),
    }


def table(outcomes: Sequence[Outcome]) -> Table:
    """Lay policies out side by side."""
    from offline.showing import table as laid_out

    found = laid_out(
        ("policy", "whole"),
        ("squares / refit", "right"),
        ("worst", "right"),
        ("as told", "right"),
        ("changes a customer-day", "right"),
        ("A-B-A in 7 days", "right"),
        ("behaviour, decay, model", "right"),
        ("spend explained", "right"),
        ("relabelled a night", "right"),
        ("shares at the end", ""),
    )
    for one in outcomes:
        causes = one.causes
        model = causes.get("model_drift", 0) + causes.get("model_reseed", 0)
        of = max(one.changes, 1)
        found.add_row(
            one.policy.name,
            _ratio(one.mean("wcss_ratio")),
            _ratio(one.most("wcss_ratio")),
            _ratio(one.mean("wcss_ratio_told")),
            f"{one.churn:.2%}",
            f"{one.flapping:.1%}",
            ", ".join(f"{part / of:.0%}" for part in (causes.get("behaviour", 0), causes.get("decay", 0), model)),
            "" if (found_share := one.mean("separation")) is None else f"{found_share:.1%}",
            "" if (moved := one.mean("relabelled")) is None else f"{moved:.2%}",
            " ".join(f"{share:.0%}" for share in one.days[-1].share.values()),
        )
    return found


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _numbers(option: str, given: str | None) -> list[float]:
    from streamer.core.errors import Misconfigured

    try:
        found = [float(part) for part in given.split(",")] if given else []
    except ValueError:
        message = f"{option}: {given!r} is no list of numbers such as 0,10,20"
        raise Misconfigured(message) from None
    return found


def _shares(option: str, given: str | None) -> list[float]:
    from streamer.core.errors import Misconfigured

    found = _numbers(option, given)
    if not all(0 <= one <= 100 for one in found):  # noqa: PLR2004  # percent
        message = f"{option}: {given!r}: a margin is from 0 to 100 percent"
        raise Misconfigured(message)
    return [one / 100 for one in found]


def _days(given: str | None) -> list[float]:
    from streamer.core.errors import Misconfigured

    found = _numbers("--dwell", given)
    if not all(0 <= one <= 3650 for one in found):  # noqa: PLR2004  # ten years
        message = f"--dwell: {given!r}: a dwell is from 0 to 3650 days"
        raise Misconfigured(message)
    return found


def _last_midnight(log: Log) -> int:
    from streamer.core.profile import DAY_MS

    return (int(log.rows.time[-1]) // DAY_MS + 1) * DAY_MS


def _progress(console: Any, policies: Sequence[Policy], period: Period) -> Any:  # noqa: ANN401
    """Show how far each policy is; gives what is told of each day."""
    from contextlib import contextmanager

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    @contextmanager
    def shown() -> Any:  # noqa: ANN401
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:
            tasks = [bars.add_task(policy.name, total=period.days) for policy in policies]
            yield lambda n: bars.advance(tasks[n])

    return shown()


def _need_plots() -> None:
    from importlib.util import find_spec

    from streamer.core.errors import Misconfigured

    if find_spec("matplotlib") is None:
        message = "--out: plots need matplotlib: pip install 'segment-streamer[report]', or use --json"
        raise Misconfigured(message)


def _write(out: Path, text: str, outcomes: Sequence[Outcome]) -> None:
    from offline.backtest_plots import plot
    from streamer.core.errors import Misconfigured

    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "backtest.json").write_text(text + "\n", encoding="utf-8")
        plot(outcomes, out)
    except OSError as error:
        message = f"{out} can't be written ({error.strerror or error}): name another place with --out"
        raise Misconfigured(message) from error
