"""`offline report HISTORY`: a page on the segments of a model version, for people who read pages and not logs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offline.session import end_of, session_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from offline.report.page import Written
    from offline.report.study import Study
    from offline.report.told import Told
    from offline.reseed_command import History
    from offline.settings import Settings
    from offline.shelf import Kept, Shelf

END_MS = 2**62


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to report of: a version by its number, else the latest; an instant, else the version's own."""

    version: int | None = None
    as_of: int | None = None
    declaration: Path | None = None
    whole_log: bool = False


def report(
    context: typer.Context,
    history: Annotated[str, typer.Argument(help="The history: a directory, or the URL of an object store.")],
    models: Annotated[str, typer.Option(help="The directory of versions, or its URL.", metavar="PLACE")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Where report.html and figures/ go.")] = Path("report"),
    version: Annotated[int | None, typer.Option(help="Which version; the latest.", metavar="N")] = None,
    as_of: Annotated[str | None, typer.Option(help="The last day that counts (UTC); that of the version.", metavar="DATE")] = None,
    changes: Annotated[
        Path | None,
        typer.Option(
            help="A file of `streamer export changes`: segments are then those that subscribers were told.", metavar="FILE", dir_okay=False
        ),
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="The declaration of features; that of the settings, else the packaged one.", metavar="FILE")
    ] = None,
    whole_log: Annotated[
        bool,
        typer.Option("--whole-log", help="Count what happened before the instant whenever it was recorded: for old data loaded later."),
    ] = False,
    name: Annotated[str, typer.Option(help="The model's name.")] = "segments",
    title: Annotated[str | None, typer.Option(help="The page's title; Customer segments.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write a report on the segments: one HTML file that needs nothing else, and its figures as SVG and PNG."""
    from rich.console import Console

    from offline.report import page
    from offline.report.told import read_told
    from offline.shelf import Shelf
    from streamer.adapters.history import open_history

    settings = session_of(context).settings()
    told = read_told(changes) if changes is not None else None
    until = end_of(as_of) if as_of is not None else None
    with Console(stderr=True).status("reading the history") as status:
        wanted = Wanted(version, until, features, whole_log)
        study = studied(open_history(history), Shelf(models, name), settings, wanted, told, status.update)
        written = page.write(study, title or page.TITLE, out, status.update)
    show(written, as_json=as_json)


def studied(
    history: History,
    shelf: Shelf,
    settings: Settings,
    wanted: Wanted,
    told: Told | None,
    progress: Callable[[str], None],
) -> Study:
    """Study a version of the shelf by the history.

    Raises:
        Misconfigured: there is no such version, or it is of other features.
        BadInput: no event is valid.

    """
    from offline.commands import events_of
    from offline.events import Reading
    from offline.report.ledger import ledger_of
    from offline.report.study import Subject, of_log
    from offline.report.words import described
    from streamer.adapters.declaration_file import load

    declaration = load(wanted.declaration or settings.declaration)
    kept, previous = _chosen(shelf, wanted.version)
    until = wanted.as_of or kept.version.as_of
    reading = Reading(declaration)
    progress("reading the events")
    cutoff = history.manifest().cutoff(END_MS if wanted.whole_log else until)
    ledger = ledger_of(reading, events_of(history, cutoff, reading.columns), until)
    about, words = described(declaration)
    subject = Subject(kept.version, about, words, kept.details | {"sha256": kept.sha256}, previous.version if previous else None)
    progress("counting")
    return of_log(subject, ledger, until, told, settings)


def _chosen(shelf: Shelf, number: int | None) -> tuple[Kept, Kept | None]:
    """Find a version and the one before it."""
    from streamer.core.errors import Misconfigured

    versions = shelf.versions()
    if not versions:
        message = f"there is no version in {shelf.url}: `offline reseed` makes one"
        raise Misconfigured(message)
    kept = versions[-1] if number is None else shelf.get(number)
    before = [one for one in versions if one.version.version < kept.version.version]
    return kept, before[-1] if before else None


def show(written: Written, *, as_json: bool) -> None:
    """Tell where the report is."""
    from offline.report.page import FIGURES

    figures = written.page.parent / FIGURES
    if as_json:
        typer.echo(json.dumps({"report": str(written.page), "figures": [str(path) for path in written.figures]}, indent=2))
        return
    typer.echo(f"{written.page} ({written.page.stat().st_size / 1e6:.1f} MB), and its figures in {figures}")
    if not written.pictures:
        typer.echo("Figures are SVG alone: for PNG too, pip install 'segment-streamer[report]'")
