"""`offline models`: the versions in a directory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offline.showing import day, number, table

if TYPE_CHECKING:
    from offline.shelf import Kept
    from streamer.core.model import ModelVersion

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Look at the model versions in a directory.")

MODELS = typer.Option("--models", help="The directory of versions, or its URL.", metavar="PLACE")
NAME = typer.Option("--name", help="The model's name.")
JSON = typer.Option("--json", help="Print one JSON object.")


@app.command("list")
def list_versions(
    models: Annotated[str, MODELS],
    name: Annotated[str, NAME] = "segments",
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """List the versions, and the candidates that the gate refused."""
    from rich.console import Console

    from offline.shelf import Shelf

    shelf = Shelf(models, name)
    found = [*shelf.versions(), *shelf.refused()]
    if as_json:
        typer.echo(json.dumps([summary(kept) for kept in found], indent=2, ensure_ascii=False))
        return
    rows = table(
        ("version", ""), ("last day", "whole"), ("segments", ""), ("customers", ""), ("fit", ""), ("gate", ""), ("SHA-256", "whole")
    )
    for kept in found:
        one = summary(kept)
        figures = (str(one["version"]), one["day"], str(one["segments"]), number(one["customers"]), one["fit"])
        rows.add_row(*figures, one["gate"], kept.sha256[:12], style="dim" if kept.refused else None)
    Console().print(rows)


@app.command()
def show(
    version: Annotated[int, typer.Argument(help="The version's number.")],
    models: Annotated[str, MODELS],
    name: Annotated[str, NAME] = "segments",
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Show a version: its segments, figures and lineage, and what the gate saw."""
    from rich.console import Console

    from offline import reseed_command
    from offline.shelf import Shelf

    kept = Shelf(models, name).get(version)
    if as_json:
        typer.echo(json.dumps({"version": kept.version.record(), **kept.details}, indent=2, ensure_ascii=False))
        return
    console = Console()
    reseed_command.show(kept, console, dry_run=False)
    for title, body in (("quality", kept.version.quality), ("provenance", kept.version.provenance)):
        for key, value in body.items():
            console.print(f"{title}.{key}: {number(value) if isinstance(value, float) else value}", highlight=False, soft_wrap=True)


@app.command()
def diff(
    one: Annotated[int, typer.Argument(help="A version's number.")],
    other: Annotated[int, typer.Argument(help="A later version's number.")],
    models: Annotated[str, MODELS],
    name: Annotated[str, NAME] = "segments",
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Show what changed between two versions, segment by segment."""
    from rich.console import Console
    from rich.markup import escape

    from offline.shelf import Shelf

    shelf = Shelf(models, name)
    found = differences(shelf.get(one).version, shelf.get(other).version)
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    rows = table(("segment", "whole"), ("", ""), ("name", ""), ("customers", "whole"), ("moved by", ""), ("most in", ""))
    for row in found:
        named = row["name"] if row["name"] == row["name_before"] or not row["name_before"] else f"{row['name_before']} -> {row['name']}"
        members = f"{row['customers_before']:,} -> {row['customers']:,}"
        moved = "" if row["moved"] is None else f"{row['moved']:.2f}"
        rows.add_row(row["segment_id"], row["state"], escape(named), members, moved, row["most_in"] or "")
    Console().print(rows, "Centroids are compared in the later version's standard deviations.")


def summary(kept: Kept) -> dict[str, Any]:
    """Sum a version up in JSON's types."""
    version, gate = kept.version, kept.details.get("gate")
    passed = "not judged" if gate is None else "refused" if kept.refused else "forced" if gate["reasons"] else "passed"
    return {
        "version": version.version,
        "as_of": version.as_of,
        "day": day(version.as_of),
        "segments": len(version.active),
        "customers": version.quality.get("customers", 0.0),
        "fit": version.provenance.get("fit", ""),
        "gate": passed,
        "reasons": [] if gate is None else gate["reasons"],
        "sha256": kept.sha256,
    }


def differences(one: ModelVersion, other: ModelVersion) -> list[dict[str, Any]]:
    """Compare two versions segment by segment, in JSON's types."""
    import numpy as np

    from offline.identity import moved

    comparable = (one.features, one.transforms) == (other.features, other.transforms)
    carried = moved(one, one.centroids, other.scaling) if comparable else None
    before = {segment.number: (place, segment) for place, segment in enumerate(one.segments)}
    rows = []
    for place, segment in enumerate(other.segments):
        old_place, old = before.get(segment.number, (None, None))
        gap = other.centroids[place] - carried[old_place] if carried is not None and old_place is not None else None
        was = "" if old is None else "retired" if old.retired else "active"
        now = "retired" if segment.retired else "born" if not was else "goes on"
        rows.append(
            {
                "segment_id": segment.segment_id,
                "state": now,
                "name": segment.name,
                "name_before": "" if old is None else old.name,
                "customers": segment.members,
                "customers_before": 0 if old is None else old.members,
                "moved": None if gap is None else float(np.sqrt((gap**2).sum())),
                "most_in": None if gap is None or not gap.any() else other.features[int(np.abs(gap).argmax())],
            }
        )
    return rows
