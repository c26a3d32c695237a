"""The demos' last step: what the workers told, archived and exported, and a report on it by the nightly job's own program.

The order of work: 1. the model version and the changes are written; 2. `streamer archive --once` writes history beside them; 3. `offline
report` reads all of it, as a program of its own: nothing of the stream imports the nightly job.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING

from streamer.core.declaration import DAY_MS
from streamer.core.errors import Corrupt

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rich.console import Console

    from streamer.app.config import Config

TIMEOUT_S = 180.0
ENDLESS_MS = 2**62
LOOK_AT = (
    "Look at `The segments, and what one might do`: who they are in plain words;",
    "`What sets them apart`: each segment's way through all features at a glance;",
    "`Who moved`: the latest of the changes that you saw go by, in one picture.",
)


@dataclass(frozen=True, slots=True)
class Report:
    """Where the report is, and how long it took."""

    page: Path
    took_s: float


def report(console: Console, config: Config, environment: Mapping[str, str], directory: Path, until_ms: int) -> Report | None:
    """Write the report into `directory`, as of a midnight; None where what it needs is not installed.

    What an earlier demo left there is replaced.

    Raises:
        Corrupt: one of the programs failed, with the last that it said.

    """
    if find_spec("jinja2") is None:
        return None
    begun_s = time.monotonic()
    with console.status("archiving the events, and writing a report on the segments"):
        history, models, changes = directory / "history", directory / "models", directory / "changes.parquet"
        for left in (history, models):
            shutil.rmtree(left, ignore_errors=True)
        _write_model(config, models)
        _write_changes(config, changes)
        own = {**environment, "STREAMER_HISTORY__URL": str(history.absolute())}
        _run(own, "streamer", "archive", "--once")
        day = datetime.fromtimestamp((until_ms - DAY_MS) / 1000, UTC).strftime("%Y-%m-%d")
        arguments = ["--models", str(models), "--name", config.model.name, "--changes", str(changes), "--out", str(directory)]
        declaration = [] if config.features.declaration is None else ["--features", str(config.features.declaration)]
        _run(own, "offline", "report", str(history), *arguments, *declaration, "--as-of", day, "--whole-log")
    return Report((directory / "report.html").absolute(), time.monotonic() - begun_s)


def show(console: Console, found: Report | None) -> None:
    """Tell where the report is, and what to look at."""
    if found is None:
        console.print("For a report on these segments: pip install 'segment-streamer\\[report]'", highlight=False)
        return
    console.print(f"\n[b]And a report on the segments[/b], made in {found.took_s:.0f} s; open it in a browser:", highlight=False)
    console.print(f"   {found.page}", soft_wrap=True, highlight=False)
    console.print("\n".join(f"   {line}" for line in LOOK_AT), highlight=False)


def _write_model(config: Config, directory: Path) -> None:
    """Write the version in force as the nightly job keeps versions: its body, as it stands on the topic."""
    from streamer.adapters.avro import codec  # noqa: PLC0415  # slow to import
    from streamer.app.wiring import current_model  # noqa: PLC0415

    model = current_model(config)
    if model is None:
        message = "no model was made: this is a fault of the demo, please report it"
        raise Corrupt(message)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{model.name}-{model.version:06d}.avro").write_bytes(codec.encode("model_version", model.record()))


def _write_changes(config: Config, file: Path) -> None:
    from streamer.adapters.exports import exported  # noqa: PLC0415  # slow to import
    from streamer.app.exporting import CHANGES, changes  # noqa: PLC0415
    from streamer.app.wiring import kafka_tail  # noqa: PLC0415

    tail = kafka_tail(config)
    try:
        with exported(file, CHANGES) as take:
            for part in changes(tail, config.topics.changes, -ENDLESS_MS, ENDLESS_MS):
                take(part)
    finally:
        tail.close()


def _run(environment: Mapping[str, str], module: str, *arguments: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", module, *arguments], env=dict(environment), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    if ended.returncode:
        message = f"`{module} {' '.join(arguments)}` ended with status {ended.returncode}: {ended.stderr[-2000:].strip()}"
        raise Corrupt(message)
