"""The dashboard and the alerts before a real Prometheus that scrapes real workers under load, and an archiver."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from streamer.adapters.servers.cache import free_port
from tests.integration.kit import Job
from tests.integration.prometheus import DASHBOARD, DEPLOY, ended, scraping

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.adapters.servers import Running

ALERTS: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
RATE_INTERVAL = "30s"  # what Grafana would put there
SETTINGS = {
    "STREAMER_MODEL__FIRST_FIT__CUSTOMERS_MIN": "200",
    "STREAMER_MODEL__FIRST_FIT__HISTORY_DAYS_MIN": "3d",
    "STREAMER_MODEL__EPOCH_INTERVAL_S": "1s",
    "STREAMER_MODEL__K": "4",
}

pytestmark = pytest.mark.timeout(600)

# Skipped as a module, so in one line, and where servers are required too: a Prometheus is nothing that a worker needs.
if shutil.which("prometheus") is None or shutil.which("promtool") is None:
    pytest.skip("no prometheus and promtool on the PATH (on Debian, the package prometheus)", allow_module_level=True)


def simulate(job: Job, *arguments: str) -> subprocess.Popen[bytes]:
    """Start to send simulated traffic."""
    with (job.directory / "simulate.log").open("ab") as log:
        command = [sys.executable, "-m", "streamer", "simulate", "--customers", "600", *arguments]
        return subprocess.Popen(command, env=job.environment, stdout=log, stderr=log)


@pytest.mark.parametrize(
    "arguments",
    [["check", "config", "prometheus.yml"], ["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]],
    ids=["configuration", "rules", "alerts"],
)
def test_prometheus_accepts_what_is_deployed(arguments: list[str]) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=DEPLOY / "prometheus", capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr


@pytest.mark.long
def test_every_panel_shows_something_and_no_alert_is_broken_while_workers_and_an_archiver_work(servers: Running, tmp_path: Path) -> None:
    job = Job(servers.kafka_bootstrap, servers.redis_url, tmp_path, settings=SETTINGS).create()
    archiving = {"STREAMER_HISTORY__URL": str(tmp_path / "history"), "STREAMER_HISTORY__ROLL_S": "1s"}
    *ports, of_archiver, of_prometheus = [free_port() for _ in range(4)]
    with ExitStack() as running:
        for number, port in enumerate(ports, 1):
            running.enter_context(job.worker(f"worker-{number}", STREAMER_METRICS__PORT=str(port)))
        running.enter_context(ended(job.archiver("archiver", STREAMER_METRICS__PORT=str(of_archiver), **archiving)))
        prometheus = running.enter_context(scraping(tmp_path, of_prometheus, [f"127.0.0.1:{port}" for port in (*ports, of_archiver)]))
        job.wait("an answer of Prometheus", prometheus.answers)
        job.wait("both workers with partitions", lambda: 2 == len(prometheus.query('streamer_partitions{state="owned"} > 0')))
        with ended(simulate(job, "--days", "10", "--malformed", "0.01")) as history:
            assert 0 == history.wait(120), job.logs()
        job.wait("a model that learns", lambda: prometheus.numbers("min(streamer_model_epoch) > 0") != [])
        running.enter_context(ended(simulate(job, "--follow", "--events-per-second", "200")))

        asked = {
            f"{panel['title']}: {target['legendFormat']}": target["expr"].replace("$__rate_interval", RATE_INTERVAL)
            for panel in DASHBOARD["panels"]
            for target in panel["targets"]
        }
        shown: dict[str, list[float]] = {}

        def all_shown() -> bool:
            shown.update({name: prometheus.numbers(query) for name, query in asked.items()})
            return all(shown.values())

        try:
            job.wait("a number in every panel", all_shown, 90.0)
        except TimeoutError as error:
            empty = {name: asked[name] for name, numbers in shown.items() if not numbers}
            pytest.fail(f"nothing is shown by {empty}\n{error}")
        assert {"ok"} == set(prometheus.rules().values())
        assert {alert["alert"] for alert in ALERTS} == set(prometheus.rules())
        for alert in ALERTS:
            prometheus.query(alert["expr"])
        (share,) = prometheus.numbers("sum(sum by (segment, name) (streamer_customers) / scalar(sum(streamer_customers)))")
        assert share == pytest.approx(1)
        for owned in ("streamer_partitions", "streamer_archive_partitions"):
            assert [4.0] == prometheus.numbers(f'sum({owned}{{state="owned"}})')
