"""The demo, as a newcomer runs it: on the sample that a clone ships."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from streamer.app.samples import VARIABLE, sample_path

if TYPE_CHECKING:
    from streamer.adapters.servers import Running


def test_the_demo_ends_with_segments_that_agree_with_the_profiles(servers: Running) -> None:
    topics = {f"STREAMER_TOPICS__{name}": f"demo.{name.lower()}" for name in ("EVENTS", "CHANGES", "MODELS", "JOURNAL", "DEAD_LETTERS")}
    environment = {**os.environ, **servers.environment, **topics, VARIABLE: str(sample_path()), "COLUMNS": "200"}
    ended = subprocess.run(
        [sys.executable, "-m", "streamer", "demo"], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert "599 customers, 354 votes, sums and profiles agree" in ended.stdout
    assert "0 of them told twice" in ended.stdout
    assert "seg_0005" in ended.stdout
