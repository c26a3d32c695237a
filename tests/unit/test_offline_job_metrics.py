"""What the nightly job leaves for Prometheus: code and page say the same; a failure lets the last success stand."""

from __future__ import annotations

import re
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from offline.job_metrics import DEFINED, DURATION, LAST_RUN, LAST_SUCCESS, METRICS, JobMetrics
from streamer.core.errors import Misconfigured, Unavailable

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(offline_\w+)` \|([^|]*)\| ([^|]*) \|", re.MULTILINE)


def read(file: Path) -> dict[tuple[str, ...], float]:
    """Read the samples of a file by name and values of labels."""
    families = text_string_to_metric_families(file.read_text(encoding="utf-8"))
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


def run(now_s: float, *, success: bool) -> JobMetrics:
    found = JobMetrics("parity")
    found.set("offline_parity_customers", 12, "equal")
    found.ended(now_s - 3, now_s, success=success)
    return found


def test_the_page_and_the_code_list_the_same_metrics_in_the_same_words() -> None:
    page = [(name, tuple(re.findall(r"`(\w+)`", labels)), meaning) for name, labels, meaning in ROW.findall(PAGE)]
    assert [tuple(metric) for metric in METRICS] == page


def test_alerts_ask_for_metrics_that_are_left() -> None:
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    asked = {name for rule in rules for name in re.findall(r"\boffline_\w+", rule["expr"])}
    assert set() == asked - set(DEFINED)
    assert {LAST_SUCCESS, "offline_parity_customers", "offline_reseed_refused", "offline_drift_limits_passed"} <= asked


def test_a_run_is_written_as_the_textfile_collector_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "parity.prom"
    run(1000.0, success=True).write(file)
    assert {
        (LAST_RUN, "parity"): 1000.0,
        (LAST_SUCCESS, "parity"): 1000.0,
        (DURATION, "parity"): 3.0,
        ("offline_parity_customers", "equal"): 12.0,
    } == read(file)
    assert [file] == list(tmp_path.iterdir())


def test_a_run_without_success_lets_the_time_of_the_last_one_stand(tmp_path: Path) -> None:
    file = tmp_path / "parity.prom"
    run(1000.0, success=True).write(file)
    run(2000.0, success=False).write(file)
    assert (2000.0, 1000.0) == (read(file)[LAST_RUN, "parity"], read(file)[LAST_SUCCESS, "parity"])


def test_a_file_that_cannot_be_written_is_an_error_of_the_option(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="--metrics-file"):
        run(1.0, success=True).write(tmp_path / "none" / "parity.prom")


def test_labels_are_those_that_are_declared() -> None:
    with pytest.raises(ValueError, match="has the labels"):
        JobMetrics("parity").set("offline_parity_customers", 1)


def test_a_push_keeps_what_the_gateway_has_of_other_names() -> None:
    asked: list[tuple[str, str, str]] = []

    class Gateway(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            asked.append((self.command, self.path, body))
            self.send_response(202)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Gateway) as server:
        thread = Thread(target=server.handle_request, daemon=True)
        thread.start()
        run(5.0, success=False).push(f"http://127.0.0.1:{server.server_port}")
        thread.join(30)
    [(method, path, body)] = asked
    assert ("POST", "/metrics/job/segment-streamer-offline-parity") == (method, path)  # POST adds, PUT would take the last success away
    assert LAST_RUN in body
    assert LAST_SUCCESS not in body


def test_a_gateway_that_does_not_answer_is_named() -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        run(5.0, success=True).push("http://127.0.0.1:1")
