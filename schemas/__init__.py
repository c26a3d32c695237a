"""The Avro schemas of the project's topics: the working copies, and every published version of each.

Law: a published version never changes. What is written is always a published version, the latest; what is read is resolved to the
working copy `<name>.avsc`, which equals the latest published version or is about to become the next.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

NAMES = ("behaviour_event", "segment_change", "model_version", "journal_entry")
"""The schemas, by file name; append only, since packaged ids count by position."""

DIRECTORY = Path(__file__).parent

VERSIONS_MAX = 999


class NoSuchSchema(LookupError):  # noqa: N818  # named after what is wrong, as all errors here
    """A schema or version that the package does not have was asked for."""


def text(name: str, version: int | None = None) -> str:
    """Read the text of a published version, or of the working copy where `version` is None.

    Raises:
        NoSuchSchema: `name` is not in `NAMES`, or it has no such version.

    """
    if name not in NAMES:
        message = f"there is no schema {name!r}: choose one of {', '.join(NAMES)}"
        raise NoSuchSchema(message)
    path = DIRECTORY / f"{name}.avsc" if version is None else DIRECTORY / "published" / name / f"{version}.avsc"
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        message = f"schema {name} has no version {version}: it has {', '.join(map(str, versions(name)))}"
        raise NoSuchSchema(message) from None


def load(name: str, version: int | None = None) -> dict[str, Any]:
    """Read and parse as `text` does: a new JSON object each time.

    >>> load("behaviour_event")["name"]
    'BehaviourEvent'
    """
    schema: dict[str, Any] = json.loads(text(name, version))
    return schema


def versions(name: str, directory: Path = DIRECTORY) -> tuple[int, ...]:
    """List the published versions of a schema, ascending."""
    return tuple(sorted(int(path.stem) for path in (directory / "published" / name).glob("*.avsc") if path.stem.isdigit()))


@functools.cache
def latest(name: str) -> int:
    """Name the latest published version: the one that is written."""
    return versions(name)[-1]


def packaged_id(name: str, version: int) -> int:
    """Name the fixed id that stands for a published version where there is no registry: 1,000 times the schema's position plus the version.

    >>> packaged_id("behaviour_event", 1), packaged_id("segment_change", 1)
    (1, 1001)
    """
    return (VERSIONS_MAX + 1) * NAMES.index(name) + version


def packaged() -> dict[int, str]:
    """Read every published version's text by its fixed id."""
    return {packaged_id(name, version): text(name, version) for name in NAMES for version in versions(name)}
