"""`streamer features`: what is measured and computed, and the feature version that it makes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamer.app.session import session_of

if TYPE_CHECKING:
    from streamer.core.declaration import Declaration, Feature, Measure

app = typer.Typer(add_completion=False)


@app.command()
def features(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="A declaration to check; without it, the configured one.", metavar="FILE")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the measures and features of a declaration, and its feature version; a wrong one is refused with each line and reason."""
    from streamer.adapters.declaration_file import PACKAGED, load

    path = file if file is not None else session_of(context).config().features.declaration
    declaration = load(path)
    name = f"{PACKAGED} (packaged)" if path is None else str(path)
    if as_json:
        typer.echo(json.dumps(described(declaration), indent=2))
    else:
        _print(declaration, name)


def described(declaration: Declaration) -> dict[str, Any]:
    """Describe a declaration in JSON's types: its parts in their order, and all limits in force."""
    return {
        "feature_version": declaration.version,
        "money": {"currency": declaration.currency, "others": "refuse" if declaration.refuse_other_currencies else "ignore"},
        "duplicates": {"ids_max": declaration.ids_max, "age_ms": declaration.ids_age_ms},
        "measures": {m.name: measure_words(m) for m in _measures(declaration)},
        "features": {
            f.name: {**asdict(f), "kind": feature_kind(declaration, f), "transform": f.transform.name.lower()} for f in declaration.features
        },
        "eligibility": dict(declaration.eligibility),
    }


def feature_kind(declaration: Declaration, feature: Feature) -> str:
    """Name what a feature computes as the declaration does."""
    from streamer.core.declaration import Kind

    if feature.kind != Kind.WINDOW:
        return feature.kind.name.lower()
    return next(m.tiling.name.lower() for m in declaration.tiles if m.name == feature.measures[0])


def measure_words(measure: Measure) -> dict[str, Any]:
    """Say what a measure keeps, of what, and of which event types."""
    from streamer.core.declaration import ANY, DistinctMeasure, LifetimeMeasure

    types = list(measure.of) or [ANY]
    if isinstance(measure, DistinctMeasure):
        return {"kind": "distinct", "of": measure.field, "types": types}
    source = ""
    if measure.source is not None:
        source = measure.source.field + (f", {measure.source.decimals} decimals" if measure.source.decimals else "")
    if isinstance(measure, LifetimeMeasure):
        kind = measure.lifetime.name.lower()
        return {"kind": f"lifetime_{kind}" if kind in {"count", "sum"} else kind, "of": source, "types": types}
    return {"kind": measure.tiling.name.lower() if measure.source is not None else "count", "of": source, "types": types}


def _measures(declaration: Declaration) -> tuple[Measure, ...]:
    return (*declaration.tiles, *declaration.lifetimes, *declaration.distincts)


def _settings(feature: Feature) -> str:
    from streamer.core.declaration import DAY_MS, HOUR_MS, Kind

    words = []
    if feature.window:
        words.append(f"window {feature.window}{'h' if feature.hourly else 'd'}")
    if feature.cap_ms:
        words.append(f"cap {feature.cap_ms // DAY_MS}d" if feature.cap_ms % DAY_MS == 0 else f"cap {feature.cap_ms // HOUR_MS}h")
    if feature.kind == Kind.RATIO and feature.weight:
        words.append(f"prior {feature.prior:g}, weight {feature.weight:g}")
    if feature.default:
        words.append(f"default {feature.default:g}")
    return ", ".join(words)


def _print(declaration: Declaration, name: str) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(soft_wrap=True)
    console.print(f"[bold]{escape(name)}[/]: feature version [bold]{declaration.version}[/]", highlight=False)
    others = "refused" if declaration.refuse_other_currencies else "counted without their amounts"
    console.print(f"money in {declaration.currency}, events in other currencies {others}", highlight=False)
    console.print(f"{declaration.ids_max} event ids remembered per customer, against duplicates", highlight=False)
    measures = Table("measure", "keeps", "of", "event types", title="Measures", title_justify="left")
    for measure in _measures(declaration):
        words = measure_words(measure)
        measures.add_row(measure.name, words["kind"], escape(words["of"]), escape(", ".join(words["types"])))
    table = Table("feature", "computes", "from", "with", "transform", title="Features, in the order of the vector", title_justify="left")
    for feature in declaration.features:
        kind = feature_kind(declaration, feature)
        table.add_row(feature.name, kind, ", ".join(feature.measures), _settings(feature), feature.transform.name.lower())
    console.print(measures, table)
    if declaration.eligibility:
        rules = ", ".join(f"{measure} of {count} or more" for measure, count in declaration.eligibility)
        console.print(f"A customer is segmented with {rules}.", highlight=False)
