"""Write `kafka.lock` anew: `python -m streamer.adapters.servers.relock [VERSION]`.

Resolves Apache Kafka's broker and a logger with jgo, fetches every jar, and records coordinates, SHA-256 and size. The result depends on
the repository that was asked: review it before it is committed. `write` makes other lock files in the same way.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamer.adapters.servers.jars import LOCK_FILE, sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterable

KAFKA_VERSION = "4.1.1"
SCALA_VERSION = "2.13"
LOGGER = ("org.slf4j", "slf4j-simple", "1.7.36")  # the broker logs through SLF4J 1.7 and brings no logger


def resolve(wanted: Iterable[tuple[str, str, str]], repository: Path) -> list[dict[str, str | int]]:
    """Resolve and fetch group, artifact and version; the rows of the lock file, sorted by coordinate."""
    maven: Any = importlib.import_module("jgo.maven")
    dependency: Any = importlib.import_module("jgo.maven._core").Dependency
    context = maven.MavenContext(resolver=maven.PythonResolver(), repo_cache=repository)
    inputs = [dependency(context.project(group, name).at_version(number).artifact()) for group, name, number in wanted]
    chosen, transitive = context.resolver.resolve(inputs)
    rows: list[dict[str, str | int]] = []
    for artifact in [found.artifact for found in (*chosen, *transitive)]:
        path = Path(artifact.resolve())
        coordinate = f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}"
        rows.append({"coordinate": coordinate, "sha256": sha256_of(path), "size_bytes": path.stat().st_size})
    return sorted(rows, key=lambda row: str(row["coordinate"]))


def write(path: Path, version: str, wanted: Iterable[tuple[str, str, str]]) -> None:
    """Write a lock file: Kafka's version, and the jars that the wanted ones come to."""
    with tempfile.TemporaryDirectory(prefix="relock-") as repository:
        rows = resolve(wanted, Path(repository))
    path.write_text(json.dumps({"kafka": version, "jars": rows}, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Write the packaged lock file."""
    version = arguments[0] if arguments else KAFKA_VERSION
    write(LOCK_FILE, version, [("org.apache.kafka", f"kafka_{SCALA_VERSION}", version), LOGGER])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
