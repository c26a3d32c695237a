"""`offline segment FILE`: one file in, one segment for every customer out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offline.session import end_of, number_of_segments, session_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from offline.oneshot import Segmented
    from offline.settings import Settings

ENDINGS = (".csv", ".parquet")


def segment(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Events, orders or features of customers: CSV, Excel, Parquet or JSON Lines.")],
    k: Annotated[str, typer.Option("--k", help="How many segments, or `auto`.", metavar="K|auto")],
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Where customer_id, segment go, .csv or .parquet; FILE.segments.csv.")
    ] = None,
    mapping: Annotated[
        str | None, typer.Option("--mapping", "-m", help="For orders: a mapping file, or the name of a packaged one: online_retail.")
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            help="For events and orders: the declaration of features; that of the settings, else the packaged one.", metavar="FILE"
        ),
    ] = None,
    as_of: Annotated[
        str | None, typer.Option(help="For events and orders: features as of the end of this day; the last in the file.", metavar="DATE")
    ] = None,
    customer: Annotated[str | None, typer.Option(help="For a table of features: the column of ids; customer_id.", metavar="COLUMN")] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="For a table of features: leave this column out; may be given again.", metavar="COLUMN")
    ] = None,
    report: Annotated[Path | None, typer.Option(file_okay=False, help="Write a report on the segments into this directory.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Segment the customers of one file, once: no server, no history.

    A table of features has one row a customer. A file with the columns customer_id, event_type and occurred_at is one of events, with
    amounts in minor units. Any other file of events or orders needs a mapping, as `streamer ingest` does.
    """
    from rich.console import Console

    from offline.oneshot import Request
    from offline.oneshot import segment as segmented
    from streamer.core.errors import Misconfigured

    chosen = number_of_segments(k)
    target = out or file.with_name(f"{file.name}.segments.csv")
    if target.suffix.lower() not in ENDINGS:
        message = f"--out: {target}: the name ends in neither {' nor '.join(ENDINGS)}"
        raise Misconfigured(message)
    if target.resolve() == file.resolve():
        message = f"--out: {target} is the input"
        raise Misconfigured(message)
    until = None if as_of is None else end_of(as_of)
    request = Request(file, chosen or "auto", mapping, features, until, customer, tuple(without or ()))
    with Console(stderr=True).status("segmenting") as status:

        def told(step: str, done: int, of: int) -> None:
            status.update(f"{step} {done:,}{f' of {of:,}' if of else ''}")

        found = segmented(request, session_of(context).settings(), told)
        written(found, target)
        page = _reported(found, session_of(context).settings(), report, status.update) if report is not None else None
    if as_json:
        typer.echo(described(found, target, page))
    else:
        _print(found, target)
        if page is not None:
            typer.echo(f"The report: {page}")


def _reported(found: Segmented, settings: Settings, directory: Path, progress: Callable[[str], None]) -> Path:
    """Write the report; returns its page."""
    from offline.report import once, page

    progress("counting for the report")
    return page.write(once.study(found, settings), page.TITLE, directory, progress).page


def written(found: Segmented, target: Path) -> None:
    """Write the customers and their segments, whole or not at all; raises `Misconfigured` where that can't be done."""
    import pandas as pd

    from streamer.core.errors import Misconfigured

    frame = pd.DataFrame({"customer_id": found.segments.index.astype("str"), "segment": found.segments.to_numpy()})
    part = target.with_name(f"{target.name}.part")
    try:
        if target.suffix.lower() == ".csv":
            frame.to_csv(part, index=False)
        else:
            frame.to_parquet(part, index=False)
        part.replace(target)
    except OSError as error:
        message = f"{target} can't be written ({error.strerror or error}): name another place with --out"
        raise Misconfigured(message) from error


def described(found: Segmented, target: Path, report: Path | None = None) -> str:
    """Describe the answer in JSON."""
    import json
    from dataclasses import asdict

    table = None if found.choice is None else json.loads(found.choice.to_json(orient="records"))
    body: dict[str, Any] = {
        "out": str(target),
        "customers": len(found.segments),
        "new": found.new,
        "as_of": found.as_of,
        "segments": [asdict(profile) for profile in found.profiles],
        "k_table": table,
        "clipped_customers": found.clipped_rows,
        "clipped": dict(found.clipped),
        "warnings": list(found.warnings),
        **({"report": str(report)} if report is not None else {}),
    }
    return json.dumps(body, indent=2, ensure_ascii=False)


def _print(found: Segmented, target: Path) -> None:
    from rich.console import Console
    from rich.text import Text

    from offline.showing import choice_table, day, profiles_table

    console = Console()
    if found.choice is not None:
        console.print(choice_table(found.choice.to_dict("records")))  # type: ignore[arg-type]  # its columns are named by texts
    console.print(profiles_table(found.profiles, found.new, len(found.segments)))
    if found.as_of is not None:
        console.print(f"Features are as of the end of {day(found.as_of)}.", highlight=False)
    if found.clipped_rows:
        console.print(f"{found.clipped_rows:,} customers have a feature beyond the clipping quantiles; it counts as the quantile.")
    for warning in found.warnings:
        console.print(Text(warning, style="yellow"))
    console.print(Text(f"{len(found.segments):,} customers: {target}"), soft_wrap=True)
