"""`offline models`: the versions in a directory, and those on the topic of models."""

from __future__ import annotations

import json
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offline.session import session_of
from offline.showing import day, number, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from offline.publishing import ModelTopic, Published
    from offline.session import Session
    from offline.shelf import Kept, Shelf
    from offline.stream import Stream
    from streamer.adapters.avro.model_records import OnTopic
    from streamer.adapters.kafka import KafkaSettings
    from streamer.adapters.registry import SchemaSource
    from streamer.core.declaration import Declaration
    from streamer.core.model import ModelVersion

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Look at model versions, and say which is to be in force.")

MODELS = typer.Option("--models", help="The directory of versions, or its URL.", metavar="PLACE")
NAME = typer.Option("--name", help="The model's name.")
REASON = typer.Option("--reason", help="Why, for whoever looks later.", metavar="TEXT")
JSON = typer.Option("--json", help="Print one JSON object.")

SHA256_MIN = 6  # digits that name a version
TIMEOUT_S = 30.0
LIST_TIMEOUT_S = 10.0


@app.command("list")
def list_versions(
    context: typer.Context,
    models: Annotated[str, MODELS],
    name: Annotated[str, NAME] = "segments",
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """List the versions, and the candidates that the gate refused, and mark which is in force.

    Where Kafka is said to be nowhere, or does not answer, none is marked.
    """
    from rich.console import Console

    from offline.shelf import Shelf

    shelf = Shelf(models, name)
    found = [*shelf.versions(), *shelf.refused()]
    standing = standing_of(session_of(context), name)
    listed = [{**summary(kept), "in_force": None if standing.sha256 is None else kept.sha256 == standing.sha256} for kept in found]
    if as_json:
        typer.echo(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    rows = table(
        ("version", ""),
        ("last day", "whole"),
        ("segments", ""),
        ("customers", ""),
        ("fit", ""),
        ("gate", ""),
        ("in force", ""),
        ("SHA-256", "whole"),
    )
    for kept, one in zip(found, listed, strict=True):
        figures = (str(one["version"]), one["day"], str(one["segments"]), number(one["customers"]), one["fit"])
        mark = "" if one["in_force"] is None else "yes" if one["in_force"] else "no"
        rows.add_row(*figures, one["gate"], mark, kept.sha256[:12], style="dim" if kept.refused else None)
    console = Console()
    console.print(rows)
    if standing.sha256 is not None and not any(one["in_force"] for one in listed):
        console.print(f"What is in force (SHA-256 {standing.sha256[:12]}) is not in {models}: `offline models fetch` takes it there.")
    if standing.unknown:
        console.print(f"Which one is in force can't be told: {standing.unknown}", soft_wrap=True, markup=False)


@dataclass(frozen=True, slots=True)
class Standing:
    """The SHA-256 of the version in force by the topic of models; None where nothing is, or where that is not known, and why."""

    sha256: str | None = None
    unknown: str = ""


def standing_of(session: Session, name: str) -> Standing:
    """Look on the topic of models which version is in force, where anybody said where Kafka is."""
    from offline.publishing import body_in_force
    from offline.stream import load
    from streamer.core.errors import Corrupt, Misconfigured, Unavailable
    from streamer.core.model import digest

    stream = load(session.file, os.environ)
    if not stream.named:
        return Standing(unknown="say where Kafka is, by `--settings` or `KAFKA_BOOTSTRAP`.")
    try:
        body = body_in_force(on_topic_of(stream, name))
    except (Corrupt, Misconfigured, Unavailable) as error:
        return Standing(unknown=str(error))
    return Standing(None if body is None else digest(body).hex(), "" if body is not None else f"no version of {name} is on the topic yet.")


def on_topic_of(stream: Stream, name: str) -> OnTopic:
    """Read what is on the topic of models, as one who writes nothing. Raises as `topic_of` does, and `Corrupt`."""
    from contextlib import closing

    from offline.publishing import read_topic
    from streamer.adapters.kafka import KafkaSettings, KafkaTopicReader
    from streamer.core.ports import Topic

    def settings(own: Mapping[str, str]) -> KafkaSettings:
        return KafkaSettings(stream.bootstrap, {**stream.properties, **own}, "segment-streamer-offline", LIST_TIMEOUT_S)

    partitions = _partitions(stream, settings({}))
    with closing(KafkaTopicReader(settings(stream.consumer), {Topic.MODELS: stream.topic})) as reader:
        return read_topic(reader, name, partitions, LIST_TIMEOUT_S)


def _partitions(stream: Stream, settings: KafkaSettings) -> int:
    from streamer.adapters.kafka import KafkaAdmin
    from streamer.core.errors import Misconfigured

    partitions = KafkaAdmin(settings).partitions(stream.topic)
    if partitions is None:
        message = f"there is no topic {stream.topic} at {stream.bootstrap}: let `streamer run` make it, or name it in `topics.models`"
        raise Misconfigured(message)
    return partitions


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


@app.command()
def promote(
    context: typer.Context,
    version: Annotated[str, typer.Argument(help="The version's number, the first digits of its SHA-256, or `latest`.")],
    models: Annotated[str, MODELS],
    name: Annotated[str, NAME] = "segments",
    reason: Annotated[str, REASON] = "",
    force: Annotated[
        str | None, typer.Option(help="Promote a version that the gate refused, for this reason, which is kept.", metavar="REASON")
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Publish a version and say that it is to be in force: the stream adopts it within seconds."""
    from offline.publishing import Wish
    from offline.shelf import Shelf, body_of
    from offline.tracking import Tracker
    from streamer.core.errors import Misconfigured

    if force is not None and not force.strip():
        message = "--force: give the reason, which is kept with the version"
        raise Misconfigured(message)
    shelf = Shelf(models, name)
    kept = chosen(shelf, version)
    if kept.refused:
        kept = accepted(shelf, kept, force)
    wish = Wish(kept.version, body_of(kept.version), reason or force or "", forced=force is not None)
    with topic_of(session_of(context), name) as topic:
        published = topic.publish(lambda _present: wish, declaration_of(session_of(context)), now_ms())
    Tracker(session_of(context).settings().mlflow).promoted(name, published.promotion.sha256)
    told(published, name, as_json=as_json)


@app.command()
def rollback(
    context: typer.Context,
    to: Annotated[int | None, typer.Argument(help="The version to go back to; by default the one that was in force before.")] = None,
    models: Annotated[
        str | None, typer.Option(help="The directory of versions, or its URL, for one that is not on the topic.", metavar="PLACE")
    ] = None,
    name: Annotated[str, NAME] = "segments",
    reason: Annotated[str, REASON] = "",
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Say that an older version is to be in force again. Done twice without a number, it is done once."""
    from offline.publishing import back
    from offline.shelf import Shelf, body_of
    from offline.tracking import Tracker
    from streamer.core.errors import Misconfigured

    def kept(number: int) -> bytes:
        if models is None:
            message = f"version {number} of {name} is not on the topic of models: name the directory that has it (`--models`)"
            raise Misconfigured(message)
        return body_of(Shelf(models, name).get(number).version)

    with topic_of(session_of(context), name) as topic:
        published = topic.publish(lambda present: back(present, to, reason, kept), declaration_of(session_of(context)), now_ms())
    Tracker(session_of(context).settings().mlflow).promoted(name, published.promotion.sha256)
    told(published, name, as_json=as_json)


@app.command()
def fetch(
    context: typer.Context,
    models: Annotated[str, MODELS],
    name: Annotated[str, NAME] = "segments",
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Keep what is on the topic of models in the directory too: the stream's own first model among it."""
    from offline.shelf import Shelf

    shelf = Shelf(models, name)
    with topic_of(session_of(context), name) as topic:
        bodies = topic.read().bodies
    found = [kept for number in sorted(bodies) if (kept := shelf.fetch(bodies[number])) is not None]
    if as_json:
        typer.echo(json.dumps([summary(kept) for kept in found], indent=2, ensure_ascii=False))
        return
    typer.echo(f"{len(bodies)} versions of {name} are on the topic, {len(found)} were not in {models} and are now")


def chosen(shelf: Shelf, wanted: str) -> Kept:
    """Find a version by its number, the first digits of its SHA-256, or `latest`.

    Raises:
        Misconfigured: there is none, or more than one.

    """
    from streamer.core.errors import Misconfigured

    versions, refused = shelf.versions(), shelf.refused()
    if wanted == "latest":
        if not versions:
            message = f"there is no version in {shelf.url} yet: make one with `offline reseed`"
            raise Misconfigured(message)
        return versions[-1]
    found = [kept for kept in versions if str(kept.version.version) == wanted]
    found = found or [kept for kept in refused if str(kept.version.version) == wanted]
    if not found and len(wanted) >= SHA256_MIN:
        found = [kept for kept in (*versions, *refused) if kept.sha256.startswith(wanted.lower())]
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(kept.sha256[:12] for kept in found)
        message = f"the gate refused {len(found)} candidates for version {wanted} ({several}): name one by its SHA-256"
        raise Misconfigured(message)
    known = ", ".join(str(kept.version.version) for kept in versions) or "none"
    message = f"there is no version {wanted} in {shelf.url}: there are {known}"
    raise Misconfigured(message)


def accepted(shelf: Shelf, kept: Kept, force: str | None) -> Kept:
    """Make a refused candidate a version, for a reason.

    Raises:
        Misconfigured: there is no reason.

    """
    from streamer.core.errors import Misconfigured

    if force is None:
        reasons = "; ".join(kept.details.get("gate", {}).get("reasons", ())) or "it is among the refused"
        message = f"the gate refused version {kept.version.version} ({reasons}): promote it with `--force REASON` all the same, or re-seed"
        raise Misconfigured(message)
    return shelf.accept(kept, force)


def declaration_of(session: Session) -> Declaration:
    """Load the declaration that the stream runs by, as the settings name it."""
    from streamer.adapters.declaration_file import load

    return load(session.settings().declaration)


@contextmanager
def topic_of(session: Session, name: str) -> Iterator[ModelTopic]:
    """Connect to the topic of models, as the settings say.

    Raises:
        Misconfigured: there is no such topic, or the settings have faults.
        Unavailable: Kafka or the registry does not answer.

    """
    import schemas
    from offline.publishing import ModelTopic
    from offline.stream import load
    from streamer.adapters.avro.model_records import MODEL
    from streamer.adapters.kafka import KafkaSettings, KafkaTopicReader, KafkaTransactions
    from streamer.adapters.registry import PackagedSchemas, Registry, RegistrySettings
    from streamer.core.ports import Topic

    stream = load(session.file, os.environ)

    def settings(own: Mapping[str, str]) -> KafkaSettings:
        return KafkaSettings(stream.bootstrap, {**stream.properties, **own}, "segment-streamer-offline", TIMEOUT_S)

    partitions = _partitions(stream, settings({}))
    source: SchemaSource = PackagedSchemas()
    if stream.registry is not None:
        source = Registry(RegistrySettings(url=stream.registry, properties=stream.registry_properties))
    schema_id = source.register(f"{stream.topic}-value", schemas.text(MODEL, schemas.latest(MODEL)))
    topics = {Topic.MODELS: stream.topic}
    transactional_id = f"offline.{stream.topic}.{name}"
    transactions = KafkaTransactions(settings(stream.producer), topics, stream.topic, transactional_id)
    reader = KafkaTopicReader(settings(stream.consumer), topics)
    try:
        yield ModelTopic(name, transactions, reader, partitions, schema_id, TIMEOUT_S)
    finally:
        reader.close()
        transactions.close()


def told(published: Published, name: str, *, as_json: bool) -> None:
    """Say what is to be in force, and what was."""
    promotion, before = published.promotion, published.promotion.before
    if as_json:
        facts = {
            "name": name,
            "version": promotion.version.version,
            "sha256": promotion.sha256,
            "before": before or None,
            "reason": promotion.reason,
            "forced": promotion.forced,
            "back": promotion.back,
            "changed": published.changed,
        }
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    instead = f", after version {before}" if before else ""
    said = "is to be in force" if published.changed else "is to be in force already"
    typer.echo(f"version {promotion.version.version} of {name} {said}{instead} (SHA-256 {promotion.sha256[:12]})")


def now_ms() -> int:
    """Read the wall clock."""
    return time.time_ns() // 1_000_000


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
