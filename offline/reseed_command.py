"""`offline reseed HISTORY`: a new model version from the full history, judged by the gate.

The order of work: 1. the settings, the shelf and the history's manifest are read; 2. where there is a version of the same night, or a
refused candidate of the very same files, it is shown and nothing is done; 3. features are computed as of the cut-off; 4. a candidate is
fitted and judged; 5. it is put on the shelf.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from offline.parity_command import METRICS_FILE, PUSH_GATEWAY
from offline.session import end_of, last_midnight, number_of_segments, session_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from rich.console import Console

    from offline.cluster import Pool
    from offline.job_metrics import JobMetrics
    from offline.reseed import Before, K
    from offline.settings import Settings
    from offline.shelf import Kept, Shelf

REFUSED_STATUS = 1
LEADER = 0  # the partition whose owner leads
VERSION, EPOCH = "version", "epoch"  # kinds of decisions


class Manifest(Protocol):
    """What a history says of itself."""

    @property
    def digest(self) -> str:
        """Name what is in it: equal digests, equal events."""

    def cutoff(self, as_of_ms: int) -> dict[int, int]:
        """Give, for each partition, the first offset that is not before an instant."""


class Decided(Protocol):
    """What a journal says: which epoch of which version was adopted at which offset."""

    @property
    def kafka_timestamp(self) -> int:
        """Give when it was written, in milliseconds."""

    @property
    def kind(self) -> str:
        """Tell what was decided."""

    @property
    def at_offset(self) -> int:
        """Give the offset before which it was."""

    @property
    def model_version(self) -> int:
        """Give the version."""

    @property
    def epoch(self) -> int:
        """Give the epoch."""

    @property
    def payload(self) -> bytes:
        """Give an epoch's centroids, or a version's SHA-256."""


class History(Protocol):
    """A history of events."""

    def manifest(self) -> Manifest:
        """Give its manifest."""

    def events(
        self, cutoff: Mapping[int, int], columns: Sequence[str] | None = None, *, first: Mapping[int, int] | None = None
    ) -> Iterator[Any]:
        """Give the events before a cut-off, in batches, in the order of partition and offset."""

    def journal(self, partition: int) -> Sequence[Decided]:
        """Give what a partition's owners decided, in order."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the command was asked."""

    as_of: int
    name: str = "segments"
    k: K = None
    declaration: Path | None = None
    dry_run: bool = False
    forced: str | None = None
    again: bool = False
    new_scale: bool = False
    scheduler: str | None = None  # of a Dask cluster


@dataclass(frozen=True, slots=True)
class InForce:
    """What customers were judged by at a cut-off, by the journal. `centroids` are packed; none where nothing was learned yet."""

    version: int
    epoch: int
    centroids: bytes | None


def reseed(
    context: typer.Context,
    history: Annotated[str, typer.Argument(help="The history: a directory, or the URL of an object store.")],
    models: Annotated[str, typer.Option(help="The directory of versions, or its URL.", metavar="PLACE")],
    as_of: Annotated[
        str | None, typer.Option(help="The last day that counts (UTC); by default the last complete one.", metavar="DATE")
    ] = None,
    k: Annotated[
        str | None,
        typer.Option("--k", help="How many segments, or `auto`; by default as many as the version before.", metavar="K|auto"),
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="The declaration of features; that of the settings, else the packaged one.", metavar="FILE")
    ] = None,
    name: Annotated[str, typer.Option(help="The model's name.")] = "segments",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge and show, write nothing.")] = False,
    force: Annotated[
        str | None, typer.Option(help="Keep the version although the gate refuses it; the reason is kept with it.", metavar="REASON")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Fit although there is a version of this very night: the history was mended.")
    ] = False,
    new_scale: Annotated[
        bool, typer.Option("--new-scale", help="Choose clip and scale anew, instead of keeping those of the version before.")
    ] = False,
    scheduler: Annotated[
        str | None, typer.Option(help="Compute features on the Dask cluster of this scheduler (needs the extra `dask`).", metavar="ADDRESS")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    metrics_file: Annotated[Path | None, METRICS_FILE] = None,
    push_gateway: Annotated[str | None, PUSH_GATEWAY] = None,
) -> None:
    """Fit a new model version to the full history and let the gate judge it.

    The exit status is 0 where the gate passes it or it was forced, and 1 where the gate refuses it.
    """
    from rich.console import Console

    from offline.shelf import Shelf
    from offline.tracking import Tracker
    from streamer.adapters.history import open_history
    from streamer.core.errors import Misconfigured

    if force is not None and not force.strip():
        message = "--force: give the reason, which is kept with the version"
        raise Misconfigured(message)
    began_s = time.time()
    until = last_midnight(began_s) if as_of is None else end_of(as_of)
    request = Request(until, name, number_of_segments(k), features, dry_run, force, again, new_scale, scheduler)
    err = Console(stderr=True)
    with err.status("opening the history") as status:

        def told(step: str, done: int, of: int) -> None:
            status.update(f"{step} {done:,}{f' of {of:,}' if of else ''}" if done else step)

        settings = session_of(context).settings()
        tracker = Tracker(settings.mlflow)
        kept = run(request, open_history(history), Shelf(models, name), settings, told)
        if not dry_run:
            tracker.night(kept)
    figures(kept, began_s, time.time(), dry_run=dry_run).leave(metrics_file, push_gateway)
    if as_json:
        typer.echo(json.dumps({"refused": kept.refused, **kept.details}, indent=2, ensure_ascii=False))
    else:
        show(kept, Console(), dry_run=dry_run)
    if kept.refused:
        raise typer.Exit(REFUSED_STATUS)


def run(request: Request, history: History, shelf: Shelf, settings: Settings, progress: Callable[[str, int, int], None]) -> Kept:
    """Do what the command was asked and give the version, kept or refused.

    Raises a `StreamerError` where the history, the settings or the shelf can't be used.
    """
    from offline.commands import events_of
    from offline.events import Reading
    from offline.features import compute
    from offline.reseed import Wanted, reseed
    from offline.shelf import Kept, body_of, details_of
    from streamer.adapters.declaration_file import load
    from streamer.core.model import Decision, digest

    declaration = load(request.declaration or settings.declaration)
    manifest = history.manifest()
    cutoff = manifest.cutoff(request.as_of)
    versions = shelf.versions()
    retention_ms = (versions[-1].version.decision if versions else Decision()).retention_ms
    lineage = _lineage(request, manifest, cutoff, settings, {"features": declaration.version, "retention_ms": retention_ms})
    made = [] if request.dry_run else _made(shelf, lineage, again=request.again)
    if made:
        return made[0]
    judging = in_force(history.journal(LEADER), cutoff.get(LEADER, 0), request.as_of)
    before = _before(shelf, lineage, judging, again=request.again)
    if judging is not None:
        lineage["in_force"] = f"{judging.version}.{judging.epoch}"
    reading = Reading(declaration, retention_ms=retention_ms)
    with _pool(request) as pool:
        computed = compute(
            reading,
            events_of(history, cutoff, reading.columns),
            request.as_of,
            buckets=settings.fit.buckets,
            rows_in_memory=settings.fit.rows_in_memory,
            progress=progress,
            pool=pool,
        )
    wanted = Wanted(request.name, declaration, request.as_of, request.k, request.forced, lineage, request.new_scale)
    candidate = reseed(wanted, computed, before, settings, lambda step: progress(step, 0, 0))
    if not request.dry_run:
        return shelf.put(candidate)
    sha256 = digest(body_of(candidate.version)).hex()
    return Kept(candidate.version, sha256, details_of(candidate, sha256), refused=not candidate.verdict.passed)


def _pool(request: Request) -> AbstractContextManager[Pool | None]:
    from contextlib import nullcontext

    if request.scheduler is None:
        return nullcontext()
    from offline.cluster import cluster

    return cluster(request.scheduler)


def figures(kept: Kept, began_s: float, now_s: float, *, dry_run: bool) -> JobMetrics:
    """Give what came out as metrics: the run is a success where it kept a version, or found that of the night."""
    from offline.job_metrics import JobMetrics

    found = JobMetrics("reseed")
    found.set("offline_reseed_version", kept.version.version)
    found.set("offline_reseed_refused", float(kept.refused))
    found.ended(began_s, now_s, success=not (kept.refused or dry_run))
    return found


def _lineage(
    request: Request, manifest: Manifest, cutoff: Mapping[int, int], settings: Settings, more: Mapping[str, object]
) -> dict[str, str]:
    """Say where a version comes from.

    `inputs` is a hash of all that it depends on but the version before. `night` is one of all but the files: what is archived later, or put
    together anew, changes the manifest, and not what is before the cut-off.
    """
    from dataclasses import asdict

    from offline.versions import code_version, inputs_digest
    from streamer import __version__

    found = {
        "manifest": manifest.digest,
        "cutoff": json.dumps({str(partition): offset for partition, offset in sorted(cutoff.items())}),
        "program": f"segment-streamer {__version__}",
        "code": code_version(),
        "seed": str(settings.fit.seed),
        "k": str(request.k or "as before"),
    }
    night = {
        **{key: value for key, value in found.items() if key != "manifest"},
        "name": request.name,
        "as_of": request.as_of,
        **more,
        "gate": asdict(settings.gate),
        "fit": (settings.fit.k, settings.fit.k_min, settings.fit.k_max),
        "names": dict(settings.names),
        **({"new_scale": True} if request.new_scale else {}),
    }
    inputs = {**night, "manifest": manifest.digest, "forced": request.forced}
    return {**found, "inputs": inputs_digest(inputs), "night": inputs_digest(night)}


def _made(shelf: Shelf, lineage: Mapping[str, str], *, again: bool) -> list[Kept]:
    """Find what was made already: a version of the same night, or, of the very same files, what the gate refused."""
    key = "inputs" if again else "night"
    found = [kept for kept in shelf.versions() if kept.version.provenance.get(key) == lineage[key]]
    return [*found, *(kept for kept in shelf.refused() if kept.version.provenance.get("inputs") == lineage["inputs"])]


def in_force(decisions: Sequence[Decided], cutoff: int, as_of: int) -> InForce | None:
    """Find what customers were judged by before an offset; None where the journal says nothing of it.

    What was decided at the very offset, after the last event of the day, counts if it was written before the instant `as_of`.
    """
    adopted = [one for one in decisions if one.kind in (VERSION, EPOCH)]
    taken = [one for one in adopted if one.at_offset < cutoff or (one.at_offset == cutoff and one.kafka_timestamp < as_of)]
    last = max(taken, key=lambda one: one.epoch, default=None)
    return None if last is None else InForce(last.model_version, last.epoch, last.payload if last.kind == EPOCH else None)


def _before(shelf: Shelf, lineage: Mapping[str, str], judging: InForce | None, *, again: bool) -> Before | None:
    """Find the version to build upon: what was in force at the cut-off, else the latest that is not what would be made.

    Raises:
        Misconfigured: what was in force is not on the shelf.

    """
    import numpy as np

    from offline.reseed import Before
    from streamer.core.errors import Misconfigured
    from streamer.core.fold import CENTROID_ONE

    key = "inputs" if again else "night"
    others = [kept for kept in shelf.versions() if kept.version.provenance.get(key) != lineage[key]]
    found = others[-1:] if judging is None else [kept for kept in others if kept.version.version == judging.version]
    if judging is not None and not found:
        message = (
            f"by the journal, customers were judged by version {judging.version} at the cut-off, which is not in {shelf.url}: "
            "take it there with `offline models fetch`"
        )
        raise Misconfigured(message)
    if not found:
        return None
    [kept], centroids = found, None
    if judging is not None and judging.centroids is not None:
        shape = len(kept.version.active), len(kept.version.features)
        centroids = np.frombuffer(judging.centroids, "<i4").astype(np.float64).reshape(shape) / CENTROID_ONE
    segments_taken = max(segment.number for one in others for segment in one.version.segments)
    return Before(kept.version, kept.spreads, others[-1].version.version, segments_taken, centroids)


def show(kept: Kept, console: Console, *, dry_run: bool) -> None:
    """Show a version with all that was seen on the way."""
    from rich.text import Text

    from offline.showing import choice_table, data_table, gate_table, segments_table

    details, version = kept.details, kept.version
    if details.get("data"):
        console.print(data_table(details["data"]))
    if details.get("k_table"):
        console.print(choice_table(details["k_table"]))
    console.print(segments_table(version.record()))
    matching = details.get("matching")
    if matching and (matching["born"] or matching["retired"]):
        told = [f"{word}: {', '.join(f'seg_{n:04d}' for n in matching[word])}" for word in ("born", "retired") if matching[word]]
        console.print("; ".join(told), highlight=False)
    for line in details.get("audit", ()):
        console.print(Text(line, style="yellow"))
    if details.get("gate"):
        console.print(gate_table(details["gate"]))
    state = "a dry run: nothing was written" if dry_run else "kept among the refused" if kept.refused else "kept"
    said = f"{version.name} version {version.version}, {version.provenance.get('fit', '')}, SHA-256 {kept.sha256}: {state}"
    console.print(Text(said), soft_wrap=True)
