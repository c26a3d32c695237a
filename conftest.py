"""What holds for every test: Hypothesis's profiles, who shares servers, the uncompiled run, and servers that are required."""

from __future__ import annotations

import gc
import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

ROOT = Path(__file__).parent
SERVER_FIXTURES = {"servers", "kafka_bootstrap", "redis_url", "own_kafka", "own_redis", "servers_cache"}
FIRST_SERVERS = {
    *("test_chaos", "test_event_log", "test_publisher", "test_state_store", "test_transactions"),
    *("test_dashboard", "test_dlq", "test_ingest", "test_looking", "test_nights", "test_promotion", "test_retail", "test_time"),
}
"""Under pytest-xdist these modules share servers, in one process, and all others share some in another: half of the time each."""
COLLECT_AFTER = 50_000
USES_CORE = re.compile(r"^\s*(?:from|import) streamer\.core", re.MULTILINE)

# How fast a machine is says nothing about a law, so neither deadline nor slowness fails an example.
hypothesis.settings.register_profile("default", deadline=None, max_examples=100, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("ci", hypothesis.settings.get_profile("default"), derandomize=True, print_blob=True)
hypothesis.settings.register_profile("uncompiled", hypothesis.settings.get_profile("ci"), max_examples=25)
hypothesis.settings.register_profile("long", hypothesis.settings.get_profile("default"), max_examples=5_000, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@cache
def uses_core(path: Path) -> bool:
    """Tell whether a test module imports the core."""
    return USES_CORE.search(path.read_text(encoding="utf-8")) is not None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what can be known from where a test is, what it asks for and what its module imports."""
    for item in items:
        place = item.path.relative_to(ROOT).parts[:2] if item.path.is_relative_to(ROOT) else ()
        asks = SERVER_FIXTURES & set(getattr(item, "fixturenames", ()))
        if asks or (place == ("tests", "integration") and not item.get_closest_marker("in_memory")):
            item.add_marker("servers")
        if place in {("tests", "unit"), ("tests", "properties")} and uses_core(item.path):
            item.add_marker("uncompiled")
        if item.get_closest_marker("servers"):
            first = item.path.stem in FIRST_SERVERS
            item.add_marker(pytest.mark.xdist_group("servers-1" if first else "servers-2"))


def pytest_collection_finish() -> None:
    """Spare what is loaded by now from the garbage collector, and have it look less often: schedules allocate much and leave little."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 10, 10)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail tests that share servers where pytest-xdist would spread them over its processes."""
    if getattr(item.config.option, "loadgroup", False) and item.get_closest_marker("servers") and "@servers-" not in item.nodeid:
        pytest.fail("this pytest-xdist does not keep a group in one process: install the releases of requirements/dev.txt", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that was skipped for want of a server where servers are required; data that a clone lacks may be missing."""
    report = yield
    if (
        os.environ.get("REQUIRE_SERVERS") == "1"
        and report.skipped
        and item.get_closest_marker("servers")
        and not item.get_closest_marker("data")
    ):
        report.outcome = "failed"
        report.longrepr = f"REQUIRE_SERVERS=1, and this test was skipped: {report.longrepr}"
    return report
