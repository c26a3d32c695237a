"""`offline drift HISTORY`: how far the customers have drifted from those that a version was fitted to."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offline.parity_command import METRICS_FILE, PUSH_GATEWAY
from offline.session import end_of, last_midnight, session_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from offline.drift import Drift, Reference
    from offline.events import Reading
    from offline.features import Computed
    from offline.job_metrics import JobMetrics
    from offline.reseed_command import History
    from offline.settings import Settings
    from offline.shelf import Kept

DRIFTED = 1


def drift(
    context: typer.Context,
    history: Annotated[str, typer.Argument(help="The history: a directory, or the URL of an object store.")],
    models: Annotated[str, typer.Option(help="The directory of versions, or its URL.", metavar="PLACE")],
    version: Annotated[int | None, typer.Option(help="The version's number; by default the latest.")] = None,
    as_of: Annotated[
        str | None, typer.Option(help="The last day that counts (UTC); by default the last complete one.", metavar="DATE")
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="The declaration of features; that of the settings, else the packaged one.", metavar="FILE")
    ] = None,
    name: Annotated[str, typer.Option(help="The model's name.")] = "segments",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    metrics_file: Annotated[Path | None, METRICS_FILE] = None,
    push_gateway: Annotated[str | None, PUSH_GATEWAY] = None,
) -> None:
    """Compare the customers of now with those that a version was fitted to.

    The exit status is 0 where all limits of the settings are kept, and 1 where one is passed.
    """
    from rich.console import Console

    from offline.shelf import Shelf
    from streamer.adapters.history import open_history
    from streamer.core.errors import Misconfigured

    began_s = time.time()
    until = last_midnight(began_s) if as_of is None else end_of(as_of)
    shelf = Shelf(models, name)
    versions = shelf.versions() if version is None else [shelf.get(version)]
    if not versions:
        message = f"there is no version of {name} in {models}: `offline reseed` makes one"
        raise Misconfigured(message)
    err = Console(stderr=True)
    with err.status("opening the history") as status:

        def told(step: str, done: int, of: int) -> None:
            status.update(f"{step} {done:,}{f' of {of:,}' if of else ''}" if done else step)

        found = run(versions[-1], open_history(history), session_of(context).settings(), until, features, told)
    figures(found, began_s, time.time()).leave(metrics_file, push_gateway)
    if as_json:
        typer.echo(json.dumps(found.record(), indent=2, ensure_ascii=False))
    else:
        show(found, Console())
    if found.reasons:
        raise typer.Exit(DRIFTED)


def run(
    kept: Kept, history: History, settings: Settings, as_of: int, features: Path | None, progress: Callable[[str, int, int], None]
) -> Drift:
    """Measure the drift since a version's fit. Raises a `StreamerError` where the history or the version can't be used."""
    from offline.drift import drift, measured, reference_of
    from offline.events import Reading
    from streamer.adapters.declaration_file import load

    version, declaration = kept.version, load(features or settings.declaration)
    reading = Reading(declaration, retention_ms=version.decision.retention_ms)
    before = reference_of(version, kept.spreads)
    if before is None:  # a version that was not fitted here says less: its customers are measured again
        before = _reference(kept, history, reading, settings, progress)
    now, values = measured(version, declaration, _computed(history, reading, settings, as_of, progress), as_of)
    return drift(version, before, now, values, as_of, settings.drift)


def _reference(kept: Kept, history: History, reading: Reading, settings: Settings, progress: Callable[[str, int, int], None]) -> Reference:
    from offline.drift import measured

    computed = _computed(history, reading, settings, kept.version.as_of, progress)
    return measured(kept.version, reading.declaration, computed, kept.version.as_of)[0]


def _computed(history: History, reading: Reading, settings: Settings, as_of: int, progress: Callable[[str, int, int], None]) -> Computed:
    from offline.commands import events_of
    from offline.features import compute

    events = events_of(history, history.manifest().cutoff(as_of), reading.columns)
    fit = settings.fit
    return compute(reading, events, as_of, buckets=fit.buckets, rows_in_memory=fit.rows_in_memory, progress=progress)


def figures(found: Drift, began_s: float, now_s: float) -> JobMetrics:
    """Give it as metrics."""
    from offline.job_metrics import JobMetrics

    metrics = JobMetrics("drift")
    for feature, value in found.psi.items():
        metrics.set("offline_drift_psi", value, feature)
    metrics.set("offline_drift_quantisation_error", found.error)
    metrics.set("offline_drift_quantisation_error_ratio", found.error_ratio)
    metrics.set("offline_drift_limits_passed", len(found.reasons))
    for one in found.segments:
        metrics.set("offline_drift_segment_share", one.now, one.segment_id)
        metrics.set("offline_drift_segment_share_shift", one.shift, one.segment_id)
    metrics.ended(began_s, now_s, success=True)
    return metrics


def show(found: Drift, console: Console) -> None:
    """Show it to people."""
    from rich.markup import escape
    from rich.text import Text

    from offline.showing import day, table

    features = table(("feature", ""), ("PSI since the fit", "right"))
    for name, value in sorted(found.psi.items(), key=lambda one: -one[1]):
        features.add_row(escape(name), f"{value:.3f}")
    console.print(features)
    segments = table(("segment", "whole"), ("name", ""), ("share at the fit", "right"), ("now", "right"), ("shift", "right"))
    for one in found.segments:
        segments.add_row(one.segment_id, escape(one.name), f"{one.before:.1%}", f"{one.now:.1%}", f"{one.shift:+.1%}")
    console.print(segments)
    fitted = f"version {found.version}, fitted to {found.customers_before:,} customers as of the end of {day(found.fitted_as_of)}"
    console.print(f"{fitted}; {found.customers:,} customers as of the end of {day(found.as_of)}", highlight=False)
    error = f"quantisation error {found.error:.3f}, at the fit {found.error_before:.3f}: {found.error_ratio:.3f} times"
    console.print(error, highlight=False)
    words = Text("\n".join(["Drifted:", *(f"- {reason}" for reason in found.reasons)]), style="yellow")
    console.print(words if found.reasons else Text("All limits are kept.", style="green"), soft_wrap=True)
